"""A detector whose RoI head teaches exits on its backbone's stages."""

import copy

import pytest
import torch
import torch.nn.functional as F
from networks import small
from torchvision.ops import box_iou, roi_align

from detkd.config import ExitsConfig
from detkd.distill.detector_exits import DetectorSelfDistiller
from detkd.distill.outputs import match_proposals
from detkd.distill.taps import read
from detkd.errors import ConfigError
from detkd.models.detector import Detector

STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
EXITS = ["c2", "c4"]


def taught(detector, exits=EXITS, **changes):
    torch.manual_seed(5)
    return DetectorSelfDistiller(detector, ExitsConfig(exits=list(exits), **changes)).train()


def losses_of(model, batch):
    torch.manual_seed(6)  # of the sampling
    return model(*batch)


def lessons(losses):
    return {name: loss for name, loss in losses.items() if "@" in name}


def test_its_losses_by_hand(student, batch):
    distiller = taught(student)
    whole = copy.deepcopy(distiller)
    losses = losses_of(distiller, batch)

    torch.manual_seed(6)
    with read(whole.student) as reading:
        own = whole.student(*batch)
    labels = []
    for boxes, target in zip(reading.proposals, reading.targets, strict=True):
        labels.append(torch.zeros(len(boxes), dtype=torch.int64))
        if len(target["boxes"]):
            overlap, at = box_iou(boxes, target["boxes"]).max(1)
            labels[-1] = torch.where(overlap >= 0.5, target["labels"][at], 0)
    labels = torch.cat(labels)
    assert set(labels.tolist()) == {0, 1, 2}  # background, and both of the truth

    def cut(name):
        maps = reading.features[name]
        return roi_align(maps, reading.proposals, 7, 1 / STRIDES[name], 2)

    z, deep = reading.features["roi.logits"], cut("c5")
    assert losses.keys() == {
        *own, *(f"{kind}@{name}" for kind in ("loss_label", "kl", "hint") for name in EXITS)
    }  # fmt: skip
    for name, loss in own.items():
        assert torch.equal(losses[name], loss)
    for name in EXITS:
        mapped = whole.exits[name].bottleneck(cut(name))
        q = whole.exits[name].classes(mapped.mean((2, 3)))
        assert mapped.shape == deep.shape
        assert q.shape == (len(labels), 3)
        close = {"rtol": 1e-4, "atol": 1e-7}
        label = 0.7 * F.cross_entropy(q, labels)
        assert torch.allclose(losses[f"loss_label@{name}"], label, **close)
        p = (z / 3).softmax(1)
        divergence = (p * (p.log() - (q / 3).log_softmax(1))).sum(1).mean()
        assert torch.allclose(losses[f"kl@{name}"], 0.3 * divergence, rtol=1e-3, atol=1e-7)
        distance = ((mapped - deep) ** 2).mean()
        assert torch.allclose(losses[f"hint@{name}"], 0.03 * distance, **close)


def test_its_losses_where_classes_are_judged_alone(batch):
    torch.manual_seed(0)
    distiller = taught(small(classifier="sigmoid"), ["c3"])
    whole = copy.deepcopy(distiller)
    losses = losses_of(distiller, batch)
    torch.manual_seed(6)
    with read(whole.student) as reading:
        whole.student(*batch)
    labels = torch.cat(match_proposals(whole.student, reading)[1])
    maps = whole.cut["c3"](reading.features, reading.proposals, reading.image_sizes)
    q = whole.exits["c3"](maps)[1]
    z = reading.features["roi.logits"]
    assert q.shape == z.shape == (len(labels), 2)
    targets = F.one_hot(labels, 3)[:, 1:].float()
    label = F.binary_cross_entropy_with_logits(q, targets) * 2  # the sum over both classes
    assert torch.allclose(losses["loss_label@c3"], 0.7 * label, rtol=1e-4)
    p, own = (z / 3).sigmoid(), (q / 3).sigmoid()
    coins = p * (p / own).log() + (1 - p) * ((1 - p) / (1 - own)).log()
    expected = 0.3 * coins.sum(1).mean()
    assert torch.allclose(losses["kl@c3"], expected, rtol=1e-2, atol=1e-6)


def test_temperature_squared_is_put_in_front_where_asked_for(student, batch):
    found = [
        losses_of(taught(copy.deepcopy(student), scale_by_temperature=scaled), batch)["kl@c2"]
        for scaled in (False, True)
    ]
    assert float(found[1].detach()) == pytest.approx(9 * float(found[0].detach()), rel=1e-5)


def test_the_exits_teach_the_stages_below_them_and_nothing_else(student, batch):
    distiller = taught(student, ["c2", "c3"])
    sum(lessons(losses_of(distiller, batch)).values()).backward()
    parts = [f"student.backbone.body.stages.{name}." for name in ("stem", "c2", "c3")]
    parts += ["exits.c2.", "exits.c3."]
    found = {name: p.grad for name, p in distiller.named_parameters()}
    for name, gradient in found.items():
        assert (gradient is not None) == name.startswith(tuple(parts)), name
    for part in parts:
        assert any(found[name].any() for name in found if name.startswith(part)), part


@pytest.mark.parametrize("which", ["some", "none"])
def test_images_without_boxes_give_finite_losses_and_gradients(student, batch, which):
    """The images are of other sizes, too, so that each is padded on another side."""
    images, targets = batch
    if which == "none":
        targets = [targets[1], targets[1]]
    distiller = taught(student)
    losses = losses_of(distiller, (images, targets))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in distiller.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in distiller.exits.parameters())


def test_the_detector_is_what_it_is_without_exits(student, batch):
    plain = copy.deepcopy(student).train()
    distiller = taught(student)
    found = losses_of(distiller, batch)
    for name, loss in losses_of(plain, batch).items():
        assert torch.equal(found[name], loss), name
    assert distiller.network is student
    assert isinstance(distiller.network, Detector)
    assert distiller.network.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        said, alone = (model.eval()(batch[0]) for model in (distiller, plain))
    assert sum(len(each["boxes"]) for each in said) > 0
    for one, other in zip(said, alone, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("boxes", "labels", "scores"))


def test_its_state_has_the_exits_and_comes_back_whole(student, batch):
    distiller = taught(student)
    state = copy.deepcopy(distiller.state_dict())
    assert {key.split(".")[0] for key in state} == {"student", "exits"}
    other = taught(small())
    other.load_state_dict(state)
    again, found = (losses_of(model, batch) for model in (other, distiller))
    assert all(torch.equal(again[name], found[name]) for name in found)


@pytest.mark.parametrize(
    "changes",
    [{"roi_features": "psroi"}, {"neck": "none", "levels": ["p4"], "anchor_sizes": [[16.0]]}],
)
def test_any_neck_and_roi_features_will_do(batch, changes):
    torch.manual_seed(0)
    losses = losses_of(taught(small(**changes), ["c3"]), batch)
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize(
    ("exits", "changes", "said"),
    [
        ([], {}, r"name stages in self_distill\.exits"),
        (["c7"], {}, r"self_distill\.exits: no exit can sit on 'c7'; there are c2, c3, c4\."),
        (["c5"], {}, "no exit can sit on 'c5'"),
        (["p3"], {}, "no exit can sit on 'p3'"),
        (["c2", "c3"], {"frozen_stages": 1}, r"'c2' is frozen \(model\.frozen_stages: 1\)"),
    ],
)
def test_exits_that_cannot_be_are_refused_in_a_sentence(exits, changes, said):
    with pytest.raises(ConfigError, match=said):
        taught(small(**changes), exits)
