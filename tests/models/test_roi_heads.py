"""RoI heads that judge each class alone, beside torchvision's, whose classes exclude each other."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads

from detkd.config import ModelConfig
from detkd.models.detector import build_detector, detector_from
from detkd.models.roi_heads import (
    BoxPredictor,
    SigmoidRoIHeads,
    class_loss,
    likeliest,
    object_scores,
)

SIZES = {"anchor_sizes": [[16.0], [32.0]], "levels": ["p3", "p4"]}
SMALL = {"neck_channels": 16, "head_width": 32, "roi_samples": 32, "proposals": 30, **SIZES}


def softmax_heads():
    """torchvision's, with settings that are not its defaults."""
    predictor = BoxPredictor(4, 3)
    return RoIHeads(
        *(torch.nn.Identity(), TwoMLPHead(4, 4), predictor),
        *(0.6, 0.4, 7, 0.5, (9.0, 9.0, 4.0, 4.0)),
        *(0.06, 0.4, 25),
    )


def test_its_loss_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, -math.log(3)], [math.log(3), 0.0]])
    labels = torch.tensor([2, 0, 1])  # of the second row no class is there
    three_quarters = -math.log(0.75)
    expected = (3 * math.log(2) + 3 * three_quarters) / 3
    assert float(class_loss(logits, labels, "sigmoid")) == pytest.approx(expected)
    wrong = class_loss(logits[:1], torch.tensor([0]), "sigmoid")
    assert float(wrong) == pytest.approx(math.log(2) - math.log(0.25))
    assert float(class_loss(logits[:0], labels[:0], "sigmoid")) == 0


def test_for_one_class_the_two_losses_are_one():
    z = torch.randn(9, 1, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(9) % 2
    both = torch.cat([torch.zeros_like(z), z], 1)
    assert torch.isclose(class_loss(z, labels, "sigmoid"), class_loss(both, labels, "softmax"))
    assert torch.allclose(object_scores(z, "sigmoid"), object_scores(both, "softmax"))


@pytest.mark.parametrize("classifier", ["softmax", "sigmoid"])
def test_the_gradient_of_a_logit_is_its_error_over_the_proposals(classifier):
    random = torch.Generator().manual_seed(0)
    columns = 4 if classifier == "softmax" else 3
    logits = torch.randn(5, columns, generator=random).requires_grad_()
    labels = torch.tensor([0, 3, 1, 0, 2])
    class_loss(logits, labels, classifier).backward()
    error = object_scores(logits, classifier) - F.one_hot(labels, 4)[:, 1:]
    assert torch.allclose(logits.grad[:, -3:], error / 5, atol=1e-6)


def test_background_is_where_no_class_is_likelier_than_not():
    logits = torch.tensor([[-1.0, -0.1, -3], [0.1, -2, 0.05], [-9, -9, 4]])
    assert likeliest(logits, "sigmoid").tolist() == [0, 1, 3]
    assert likeliest(logits, "softmax").tolist() == [1, 0, 2]


def test_its_detections_are_torchvisions_where_the_scores_are_the_same():
    """Sigmoids that add up to less than one are a softmax with the rest for background."""
    random = torch.Generator().manual_seed(0)
    theirs = softmax_heads()
    ours = SigmoidRoIHeads(theirs)
    logits = torch.randn(80, 3, generator=random) * 1.5 - 3
    scores = logits.sigmoid()
    logits[scores.sum(1) > 0.95] = -5.0
    scores = logits.sigmoid()
    of_all = torch.cat([1 - scores.sum(1, keepdim=True), scores], 1).log()
    deltas = torch.randn(80, 16, generator=random)
    deltas[:9, 4:] = torch.tensor([0.0, 0, -40, -40]).repeat(3)  # to no size
    corners = torch.rand(80, 2, 2, generator=random) * 70
    proposals = list((corners.sort(1).values.flatten(1)).split([50, 0, 30]))
    shapes = [(60, 64), (9, 9), (64, 50)]
    expected = theirs.postprocess_detections(of_all, deltas, proposals, shapes)
    found = ours.postprocess_detections(logits, deltas, proposals, shapes)
    assert [len(each) for each in expected[0]] == [25, 0, 25]  # as many as may be
    for part, theirs_part in zip(found, expected, strict=True):
        for image, theirs_image in zip(part, theirs_part, strict=True):
            assert image.shape == theirs_image.shape and image.dtype == theirs_image.dtype
            assert torch.allclose(image, theirs_image, atol=1e-5)
    assert set(torch.cat(found[2]).tolist()) == {1, 2, 3}


def test_two_classes_may_be_seen_in_one_box():
    heads = SigmoidRoIHeads(softmax_heads())
    box = [torch.tensor([[10.0, 10, 30, 40]])]
    found = heads.postprocess_detections(
        torch.tensor([[3.0, -9, 2]]), torch.zeros(1, 16), box, [(64, 64)]
    )
    assert found[2][0].tolist() == [1, 3]
    assert found[1][0].tolist() == pytest.approx([1 / (1 + math.exp(-z)) for z in (3, 2)])
    assert torch.equal(found[0][0], box[0].repeat(2, 1))


def test_no_proposal_at_all_is_no_detection():
    heads = SigmoidRoIHeads(softmax_heads())
    none = heads.postprocess_detections(
        torch.zeros(0, 3), torch.zeros(0, 16), [torch.zeros(0, 4)] * 2, [(9, 9)] * 2
    )
    assert [[each.shape for each in part] for part in none] == [
        [(0, 4)] * 2,
        [(0,)] * 2,
        [(0,)] * 2,
    ]


def test_it_takes_over_the_parts_and_settings():
    theirs = softmax_heads()
    ours = SigmoidRoIHeads(theirs)
    assert ours.box_head is theirs.box_head and ours.box_predictor is theirs.box_predictor
    matcher, sampler = ours.proposal_matcher, ours.fg_bg_sampler
    assert (matcher.high_threshold, matcher.low_threshold) == (0.6, 0.4)
    assert (sampler.batch_size_per_image, sampler.positive_fraction) == (7, 0.5)
    assert ours.box_coder.weights == (9.0, 9.0, 4.0, 4.0)
    assert (ours.score_thresh, ours.nms_thresh, ours.detections_per_img) == (0.06, 0.4, 25)


def scene():
    random = torch.Generator().manual_seed(1)
    image = torch.rand(3, 64, 96, generator=random) * 0.2
    image[0, 8:30, 10:34] += 0.7
    image[1, 24:48, 50:80] += 0.7
    boxes = torch.tensor([[10.0, 8, 34, 30], [50, 24, 80, 48]])
    return [image], [{"boxes": boxes, "labels": torch.tensor([1, 3])}]


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return build_detector(
        ModelConfig("shallow_x0.5_d1", classifier="sigmoid", **SMALL), ("a", "b", "c"), 96
    )


def test_each_class_starts_at_one_of_all_classes_and_background(detector):
    predictor = detector.roi_heads.box_predictor
    assert predictor(torch.zeros(2, 32))[0].sigmoid().flatten().tolist() == pytest.approx(
        [0.25] * 6
    )
    losses = detector(*scene())
    # Far from 3 log 2 = 2.1, that of ignorance.
    assert float(losses["loss_classifier"].detach()) < 1.6


def test_training_teaches_it_and_it_finds_what_it_was_taught(detector):
    optimizer = torch.optim.Adam(detector.parameters(), lr=3e-3)
    course = []
    for _ in range(60):
        losses = detector(*scene())
        course.append({name: float(loss.detach()) for name, loss in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert course[-1]["loss_classifier"] < 0.3 * course[0]["loss_classifier"]
    with torch.no_grad():
        for norm in (m for m in detector.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.momentum = 1.0  # of what is seen now
        detector(*scene())
        [found] = detector.eval()(scene()[0])
    assert set(found["labels"][:2].tolist()) == {1, 3}
    assert found["scores"][1] > 0.5


def test_a_checkpoint_from_before_the_key_holds_a_softmax():
    torch.manual_seed(0)
    older = build_detector(ModelConfig("shallow_x0.5_d1", **SMALL), ("a", "b"), 96).eval()
    said = {key: value for key, value in vars(older.config).items() if key != "classifier"}
    checkpoint = {
        "version": "0",
        "config": {"model": said, "data": {"image_size": 96}},
        "classes": ["a", "b"],
        "weights": older.state_dict(),
    }
    loaded = detector_from(checkpoint, "old.pt")
    assert type(loaded.roi_heads) is RoIHeads and loaded.config.classifier == "softmax"
    frames = scene()[0]
    with torch.no_grad():
        assert torch.equal(loaded(frames)[0]["scores"], older(frames)[0]["scores"])
