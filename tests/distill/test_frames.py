"""Frames without annotations: which are taken, how they are drawn, and what is learned there."""

import json
from pathlib import Path

import pytest
import torch
from networks import small
from torchvision.ops import box_iou

from detkd.cli.app import launch
from detkd.config import DistillConfig, ScheduleConfig, TermConfig
from detkd.data.dataset import CocoDataset
from detkd.data.frames import WithFrames, frames_of
from detkd.data.sampler import EpochBatches
from detkd.distill.distiller import Distiller, Seen, _task, build_distiller
from detkd.distill.frames import boxes_of_teacher, ignoring
from detkd.engine.run import RunFolder, read_log
from detkd.errors import DataError

TERMS = [TermConfig("kl", ["roi.logits"]), TermConfig("pkd", ["p3"])]


def unlabelled(targets):
    return [{**target, "unlabelled": torch.tensor(True)} for target in targets]


def test_frames_for_training_and_validation_are_left_out(scenes, tmp_path):
    document = json.loads((scenes / "all.json").read_text())
    part = {**document, "images": document["images"][:5]}
    ids = {image["id"] for image in part["images"]}
    part["annotations"] = [box for box in document["annotations"] if box["image_id"] in ids]
    (scenes / "part.json").write_text(json.dumps(part))
    train = CocoDataset(scenes / "part.json", image_size=96)
    (scenes / "scenes/JPEGImages/broken.png").write_bytes(b"no image")
    try:
        of_folder, root, unread = frames_of(train.image_root, [train])
        assert unread == ["JPEGImages/broken.png"]
        assert root == train.image_root
        assert len(of_folder["images"]) == 7
        of_file, *_ = frames_of(scenes / "all.json", [train])
        assert {i["file_name"] for i in of_file["images"]} == {
            i["file_name"] for i in of_folder["images"]
        }
        frames = CocoDataset("x", images=root, image_size=96, document=of_folder)
        both = WithFrames(train, frames)
        assert len(both) == 12
        assert "unlabelled" not in both[(4, 1)][1]
        image, target = both[(5, 1)]
        assert target["unlabelled"]
        assert not len(target["boxes"])
        assert torch.equal(image, frames[(0, 1)][0])
        whole = CocoDataset(scenes / "all.json", image_size=96)
        with pytest.raises(DataError, match="none of its 1 images beside those"):
            frames_of(root, [whole])
    finally:
        (scenes / "scenes/JPEGImages/broken.png").unlink()
    with pytest.raises(DataError, match="holds no image beside those"):
        frames_of(root, [whole])


def test_a_file_of_images_alone_is_enough_for_frames(scenes, tmp_path):
    images = json.loads((scenes / "all.json").read_text())["images"][:3]
    listed = scenes / "scenes/JPEGImages/listed.json"
    try:
        for broken, said in (("gone.png", 1), ("../all.json", None), ("a\0.png", None)):
            names = [Path(image["file_name"]).name for image in images] + [broken]
            listed.write_text(json.dumps({"images": [{"file_name": name} for name in names]}))
            if said is None:
                with pytest.raises(DataError, match="leaves the image root"):
                    frames_of(listed, [])
                continue
            document, _, unread = frames_of(listed, [])
            assert len(document["images"]) == 3 and unread == [broken]
        listed.write_text(json.dumps({"images": [{"file_name": "x/gone.png"}]}))
        with pytest.raises(DataError, match=r"none of its 1 images .* the first is .*gone\.png"):
            frames_of(listed, [])
        listed.write_text("[]")
        with pytest.raises(DataError, match="has no list 'images'"):
            frames_of(listed, [])
    finally:
        listed.unlink()


def test_every_frame_is_drawn_before_any_is_drawn_again():
    batches = EpochBatches(10, 2, seed=0, frames=7, frames_a_batch=3)
    drawn = []
    for epoch in range(4):
        batches.set_epoch(epoch)
        for batch in batches:
            keys = [index for index, _ in batch]
            assert len(keys) == 5
            assert all(index < 10 for index in keys[:2])
            drawn += keys[2:]
    assert len(drawn) == 60
    for turn in range(8):
        assert sorted(drawn[7 * turn : 7 * turn + 7]) == list(range(10, 17))
    batches.set_epoch(1, 2)  # gone on with in the middle, it draws the same
    later = [index for batch in batches for index, _ in batch if index >= 10]
    assert later == drawn[15 + 6 : 30]


def test_a_frame_that_comes_again_in_an_epoch_is_augmented_anew():
    for views in (0, 4):
        batches = EpochBatches(8, 2, seed=0, frames=3, frames_a_batch=2, views=views)
        batches.set_epoch(5)
        keys = [key for batch in batches for key in batch if key[0] >= 8]
        assert len(keys) == 8 and len(set(keys)) == 8


def test_two_processes_draw_what_one_with_twice_the_batch_draws():
    one = EpochBatches(8, 4, seed=0, frames=5, frames_a_batch=2)
    two = [
        EpochBatches(8, 2, seed=0, rank=r, world_size=2, frames=5, frames_a_batch=1) for r in (0, 1)
    ]
    for whole, a, b in zip(one, *two, strict=True):
        assert sorted(whole) == sorted(a + b)


def test_the_teachers_confident_boxes_stand_in(teacher, batch):
    teacher.roi_heads.score_thresh = 0.0
    images, _ = teacher.transform(batch[0])
    maps = teacher.maps_of(images)
    found = teacher(batch[0])
    scores = torch.cat([each["scores"] for each in found])
    sure, unsure = float(scores.quantile(0.9)), float(scores.quantile(0.5))
    targets, uncertain = boxes_of_teacher(teacher, batch[0], images, maps, sure, unsure)
    for each, target, band in zip(found, targets, uncertain, strict=True):
        kept = each["scores"] >= sure
        assert torch.allclose(target["boxes"], each["boxes"][kept])
        assert torch.equal(target["labels"], each["labels"][kept])
        assert len(band) == int(((each["scores"] >= unsure) & ~kept).sum())


def test_one_object_gets_one_label_where_classes_are_judged_alone(batch):
    torch.manual_seed(1)
    teacher = small(classifier="sigmoid").eval()
    with torch.no_grad():  # two classes are seen in each box
        teacher.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([1.0, 2.0]))
        teacher.roi_heads.box_predictor.bbox_pred.weight.zero_()
        teacher.roi_heads.box_predictor.bbox_pred.bias.zero_()
    images, _ = teacher.transform(batch[0])
    maps = teacher.maps_of(images)
    found = teacher(batch[0])
    targets, _ = boxes_of_teacher(teacher, batch[0], images, maps, 0.5, 0.2)
    for each, target in zip(found, targets, strict=True):
        assert {1, 2} == set(each["labels"].tolist()) and each["scores"].min() > 0.5
        assert len(target["boxes"]) == len(each["boxes"]) / 2 > 0
        overlaps = box_iou(target["boxes"], target["boxes"]).fill_diagonal_(0)
        assert overlaps.max() <= 0.5
        assert target["labels"].tolist() == [2] * len(target["labels"])  # the surer one


def test_anchors_and_proposals_beside_uncertain_boxes_are_no_background(student, batch):
    student.train()
    anchors = torch.tensor([[0.0, 60, 20, 80], [70, 70, 90, 90], [5, 8, 30, 40], [40, 20, 60, 60]])
    anchors = [anchors] * 2
    names = [target["labels"] for target in batch[1]]
    truth = [target["boxes"] for target in batch[1]]
    uncertain = [torch.tensor([[68.0, 70, 90, 92]]), torch.zeros(0, 4)]
    with ignoring(student, uncertain):
        labels, _ = student.rpn.assign_targets_to_anchors(anchors, batch[1])
        _, classes = student.roi_heads.assign_targets_to_proposals(anchors, truth, names)
    assert [label.tolist() for label in labels] == [[0, -1, 1, 1], [0, 0, 0, 0]]
    assert [each.tolist() for each in classes] == [[0, -1, 1, 2], [0, 0, 0, 0]]
    labels, _ = student.rpn.assign_targets_to_anchors(anchors, batch[1])
    assert labels[0].tolist() == [0, 0, 1, 1]


def test_a_proposal_is_left_where_all_lie_beside_uncertain_boxes(student):
    student.train()
    proposals = [torch.tensor([[10.0, 10, 50, 50], [12, 10, 52, 50]])]
    nothing, names = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    with ignoring(student, [torch.tensor([[10.0, 10, 50, 50]])]):
        _, (labels,) = student.roi_heads.assign_targets_to_proposals(proposals, nothing, names)
    assert labels.tolist() == [-1, 0]  # the one that touches it least


@pytest.mark.parametrize("classifier", ["softmax", "sigmoid"])
def test_boxes_of_the_teacher_are_not_rounded_to_half_precision(batch, classifier):
    torch.manual_seed(1)
    student, teacher = small(classifier=classifier), small(classifier=classifier).eval()
    teacher.roi_heads.score_thresh = 0.0
    images, _ = teacher.transform(batch[0])
    distiller = Distiller(student, teacher, TERMS, pseudo=0.1, ignore=0.05).train()
    with torch.autocast("cpu", torch.bfloat16):
        maps = teacher.maps_of(images)
        targets, uncertain = boxes_of_teacher(teacher, batch[0], images, maps, 0.1, 0.05)
        losses = distiller(batch[0], unlabelled(batch[1]))
    for boxes in (*(target["boxes"] for target in targets), *uncertain):
        assert boxes.dtype == torch.float32
    boxes = torch.cat([target["boxes"] for target in targets])
    inside = boxes[(boxes > 0).all(1)]  # those that are cut at the border lie on whole px
    assert len(inside) and not torch.equal(inside, inside.bfloat16().float())
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("pseudo", [None, 0.5])
def test_what_the_teacher_is_unsure_of_is_left_out_of_the_labels_alone(
    student, teacher, batch, monkeypatch, pseudo
):
    teacher.roi_heads.score_thresh = 0.0
    bands = []

    def look(net, uncertain):
        bands.extend(map(len, uncertain))
        return ignoring(net, uncertain)

    monkeypatch.setattr("detkd.distill.distiller.ignoring", look)
    distiller = Distiller(student, teacher, TERMS, pseudo=pseudo, ignore=0.0).train()
    distiller(batch[0], unlabelled(batch[1]))
    assert bool(sum(bands)) == (pseudo is not None)


def test_heads_rest_on_frames_where_maps_alone_are_compared(student, teacher, batch):
    distiller = Distiller(student, teacher, [TermConfig("pkd", ["p3"])]).train()
    ran = []
    student.roi_heads.box_predictor.register_forward_hook(lambda *_: ran.append("head"))
    losses = distiller(batch[0] * 2, batch[1] + unlabelled(batch[1]))
    assert ran == ["head"]  # on the annotated images
    assert losses["loss_classifier"] > 0 and "pkd@p3" in losses
    ran.clear()
    losses = distiller(batch[0], unlabelled(batch[1]))
    assert not ran and losses["loss_classifier"] == 0
    labels = Distiller(student, teacher, [TermConfig("pkd", ["p3"])], pseudo=0.5).train()
    labels(batch[0], unlabelled(batch[1]))
    assert ran == ["head"]


def test_only_the_terms_count_on_frames(student, teacher, batch):
    distiller = Distiller(student, teacher, TERMS).train()
    losses = distiller(batch[0], unlabelled(batch[1]))
    assert set(losses) == {"kl@roi.logits", "pkd@p3"}
    both = distiller(batch[0] * 2, batch[1] + unlabelled(batch[1]))
    assert "loss_classifier" in both


def test_annotated_images_and_frames_count_by_their_numbers(student, teacher, batch):
    student.requires_grad_(False)
    distiller = Distiller(student, teacher, [TermConfig("attention", ["c3"])]).train()
    student.backbone.eval()

    def loss(images, targets):
        return float(distiller(images, targets)["attention@c3"])

    images, targets = batch
    a, b = loss(images[:1], targets[:1]), loss(images[1:], unlabelled(targets[1:]))
    mixed = loss([images[0], images[1], images[1]], [targets[0], *unlabelled(targets[1:] * 2)])
    assert mixed == pytest.approx((a + 2 * b) / 3, rel=1e-4)


def test_the_teachers_boxes_are_labels_where_that_is_asked_for(student, teacher, batch):
    teacher.roi_heads.score_thresh = 0.0
    distiller = Distiller(student, teacher, TERMS, pseudo=0.1, ignore=0.05).train()
    losses = distiller(batch[0], unlabelled(batch[1]))
    assert {"loss_classifier", "loss_objectness"} < set(losses)


def test_the_task_counts_images_and_frames_alike():
    one, two = (
        Seen([torch.zeros(3, 8, 8)] * count, None, {"loss_x": torch.tensor(loss)})
        for count, loss in ((1, 1.0), (3, 5.0))
    )
    terms_alone = Seen([torch.zeros(3, 8, 8)] * 4, None, {})
    assert _task([one, two]) == {"loss_x": torch.tensor(4.0)}
    assert _task([one, terms_alone]) == {"loss_x": torch.tensor(1.0)}


def test_frames_rest_while_nothing_is_to_be_learned_on_them(student, teacher, batch):
    terms = [TermConfig("pkd", ["p3"], schedule=ScheduleConfig(every=2))]
    distiller = Distiller(student, teacher, terms, steps=4).train()
    ran = []
    teacher.backbone.body.register_forward_hook(lambda *_: ran.append("teacher"))
    student.backbone.body.register_forward_hook(lambda *_: ran.append("student"))
    images, targets = batch[0] * 2, batch[1] + unlabelled(batch[1])
    distiller(images, targets)
    assert sorted(ran) == ["student", "student", "teacher", "teacher"]
    ran.clear()
    distiller(images, targets)
    assert ran == ["student"]


def test_truth_of_proposals_is_unknown_on_frames(student, teacher, batch):
    seen = {}

    class Look(torch.nn.Module):
        reads = ("roi.logits",)

        def forward(self, s, t, view):
            seen["labels"] = view.truth["labels"]
            return s.sum() * 0.0

    from detkd.distill.losses import LOSSES

    LOSSES["look"] = Look
    try:
        distiller = Distiller(student, teacher, [TermConfig("look", ["roi.logits"])]).train()
    finally:
        del LOSSES["look"]
    distiller(batch[0], unlabelled(batch[1]))
    assert (seen["labels"] == -1).all()
    distiller(*batch)
    assert (seen["labels"] >= 0).all()


def test_a_training_with_frames(tiny, scenes, tmp_path, capsys):
    document = json.loads((scenes / "all.json").read_text())
    for name, chosen in (("few", document["images"][:4]), ("judged", document["images"][4:6])):
        ids = {image["id"] for image in chosen}
        boxes = [box for box in document["annotations"] if box["image_id"] in ids]
        part = {**document, "images": chosen, "annotations": boxes}
        (scenes / f"{name}.json").write_text(json.dumps(part))
    data = {
        "train": str(scenes / "few.json"), "val": str(scenes / "judged.json"), "image_size": 96
    }  # fmt: skip
    teacher = tiny("teacher", train__epochs=1)
    assert launch("train", ["--config", str(teacher), "--run", str(tmp_path / "t")]) == 0
    data["unlabelled"] = str(scenes / "scenes")
    losses = [{"name": "kl", "at": ["roi.logits"]}, {"name": "pkd", "at": ["p3"]}]
    distill = {"teacher": str(tmp_path / "t/best.pt"), "losses": losses, "pseudo": 0.3}
    config = tiny("student", data=data, distill=distill)
    assert launch("train", ["--config", str(config), "--run", str(tmp_path / "s")]) == 0
    assert "pkd@p3" in read_log(RunFolder(tmp_path / "s"))[0]

    # Hard labels alone, without a term; and a score that nothing is asked for.
    labels = tiny("labels", data=data, train__epochs=1, distill={**distill, "losses": []})
    assert launch("train", ["--config", str(labels), "--run", str(tmp_path / "l")]) == 0
    capsys.readouterr()
    idle = tiny("idle", distill=distill)
    assert launch("train", ["--config", str(idle), "--run", str(tmp_path / "i")]) == 2
    assert "data.unlabelled names none" in capsys.readouterr().err
    plain = tiny("plain", data=data)
    assert launch("train", ["--config", str(plain), "--run", str(tmp_path / "p")]) == 2
    assert "teach only through a teacher" in capsys.readouterr().err


def test_frames_with_a_teacher_that_is_trained_too(student, teacher, batch):
    config = DistillConfig("t.pt", "joint", TERMS)
    distiller = build_distiller(student, teacher, config).train()
    losses = distiller(batch[0] * 2, batch[1] + unlabelled(batch[1]))
    sum(losses.values()).backward()
    assert {"loss_classifier", "loss_teacher_classifier", "pkd@p3"} < set(losses)
    assert teacher.training
