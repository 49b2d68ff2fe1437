import copy
import gc

import pytest
import torch
from networks import small

from detkd.config import DistillConfig, TermConfig
from detkd.distill.distiller import Distiller, build_distiller
from detkd.errors import ConfigError

ALL_TERMS = [
    TermConfig("hint", ["c3"], 0.5, {"mask": "near_objects"}),
    TermConfig("attention", ["c4"], 1.0),
    TermConfig("pkd", ["p3", "p4"], 1.0),
    TermConfig("cwd", ["p4"], 2.0),
    TermConfig("kl", ["roi.logits"], 1.0),
]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_its_losses_are_the_students_and_one_for_each_term_and_feature(student, teacher, batch):
    distiller = Distiller(student, teacher, ALL_TERMS).train()
    losses = distiller(*batch)
    task = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    terms = {"hint@c3", "attention@c4", "pkd@p3", "pkd@p4", "cwd@p4", "kl@roi.logits"}
    assert set(losses) == task | terms
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())


def test_without_terms_it_is_the_plain_student(student, teacher, batch):
    plain = copy.deepcopy(student)
    torch.manual_seed(5)
    expected = plain.train()(*batch)
    torch.manual_seed(5)
    assert same(Distiller(student, teacher, []).train()(*batch), expected)


def test_weight_and_number_of_features_scale_a_term(student, teacher, batch):
    def pkd(weight, at):
        torch.manual_seed(0)
        terms = [TermConfig("pkd", at, weight)]
        return Distiller(copy.deepcopy(student), teacher, terms).train()(*batch)["pkd@p3"]

    assert torch.isclose(pkd(3.0, ["p3"]), 3 * pkd(1.0, ["p3"]))
    assert torch.isclose(pkd(1.0, ["p3", "p4"]), pkd(1.0, ["p3"]) / 2)


def test_warm_up_grows_the_weights_from_zero(student, teacher, batch):
    student.requires_grad_(False).backbone.body.eval()
    distiller = Distiller(student, teacher, [TermConfig("attention", ["c3"], 1.0)], warmup=2)
    first, second, third, fourth = (float(distiller(*batch)["attention@c3"]) for _ in range(4))
    assert first == 0
    assert second == pytest.approx(third / 2)
    assert third == fourth


def test_the_teacher_is_neither_trained_nor_moved_and_read_once_a_step(student, teacher, batch):
    before = copy.deepcopy(teacher.state_dict())
    calls = []
    teacher.backbone.body.register_forward_hook(lambda *_: calls.append(1))
    distiller = Distiller(student, teacher, ALL_TERMS).train()
    trained = [p for p in distiller.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for _ in range(2):
        sum(distiller(*batch).values()).backward()
        optimizer.step()
    assert len(calls) == 2
    assert same(before, teacher.state_dict())
    assert all(p.grad is None for p in teacher.parameters())
    assert not teacher.training


def test_a_step_leaves_no_tensor_behind(student, teacher, batch):
    distiller = Distiller(student, teacher, ALL_TERMS, warmup=3).train()
    optimizer = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=0.01)
    alive = []
    for _ in range(4):
        losses = distiller(*batch)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        del losses
        gc.collect()
        alive.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))
    assert alive[1] == alive[2] == alive[3]


def test_both_see_the_same_pixels_though_they_normalise_differently(student, teacher, batch):
    teacher.transform.image_mean, teacher.transform.image_std = [0.5] * 3, [0.25] * 3
    seen = {}
    for name, network in (("student", student), ("teacher", teacher)):

        def keep(module, inputs, name=name, network=network):
            mean = torch.tensor(network.transform.image_mean)[:, None, None]
            std = torch.tensor(network.transform.image_std)[:, None, None]
            seen[name] = inputs[0][0, :, :72, :96] * std + mean

        network.backbone.body.register_forward_pre_hook(keep)
    Distiller(student, teacher, [TermConfig("pkd", ["p3"])]).train()(*batch)
    assert torch.allclose(seen["student"], batch[0][0], atol=1e-6)
    assert torch.allclose(seen["teacher"], batch[0][0], atol=1e-6)


def test_teacher_logits_are_of_the_students_proposals_row_by_row(student, batch):
    # A student distilled from its own copy gets the same logits for the same boxes.
    twin = copy.deepcopy(student).eval()
    student.eval()
    distiller = Distiller(student, twin, [TermConfig("kl", ["roi.logits"])])
    distiller.train()
    student.backbone.eval()
    assert float(distiller(*batch)["kl@roi.logits"]) == pytest.approx(0, abs=1e-6)


def test_what_is_saved_for_use_is_a_plain_student(student, teacher, batch):
    distiller = Distiller(student, teacher, ALL_TERMS)
    plain = small()
    assert distiller.network.state_dict().keys() == plain.state_dict().keys()
    assert {k: v.shape for k, v in distiller.network.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    assert distiller.adapters, "widths differ, so there are adapters to leave behind"


def test_the_state_leaves_the_teacher_out_and_comes_back_whole(student, teacher, batch):
    distiller = Distiller(student, teacher, ALL_TERMS, warmup=5).train()
    distiller(*batch)
    state = copy.deepcopy(distiller.state_dict())
    assert not any(key.startswith("teacher") for key in state)
    other = Distiller(small(), teacher, ALL_TERMS, warmup=5)
    other.load_state_dict(state)
    assert same(state, other.state_dict())
    assert int(other.steps) == 1


def test_adapters_resample_where_strides_differ(teacher, batch):
    coarse = small(levels=["p4", "p5"])
    distiller = Distiller(coarse, teacher, [TermConfig("pkd", ["p4"])]).train()
    assert torch.isfinite(distiller(*batch)["pkd@p4"])


def test_inherited_heads_equal_the_teachers_and_go_on_training(student, teacher, batch):
    distiller = build_distiller(student, teacher, DistillConfig("t.pt", "inherit", ALL_TERMS))
    for part in ("rpn", "roi_heads"):
        assert same(getattr(student, part).state_dict(), getattr(teacher, part).state_dict())
    assert all(p.requires_grad for p in student.parameters())
    # Laterals start from other widths and stay the student's own; what follows is shared.
    assert same(
        student.backbone.neck.smooth.state_dict(), teacher.backbone.neck.smooth.state_dict()
    )
    lines = "\n".join(distiller.plan.lines())
    assert "neck" in lines
    assert "its own stay: lateral.c3" in lines


def test_frozen_heads_do_not_move(student, teacher, batch):
    distiller = build_distiller(student, teacher, DistillConfig("t.pt", "freeze", ALL_TERMS))
    before = {
        part: copy.deepcopy(getattr(student, part).state_dict()) for part in ("rpn", "roi_heads")
    }
    smooth = copy.deepcopy(student.backbone.neck.smooth.state_dict())
    body = copy.deepcopy(student.backbone.body.state_dict())
    distiller.train()
    optimizer = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=0.1)
    sum(distiller(*batch).values()).backward()
    optimizer.step()
    for part, state in before.items():
        assert same(state, getattr(student, part).state_dict())
    assert same(smooth, student.backbone.neck.smooth.state_dict())
    assert not same(body, student.backbone.body.state_dict())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ("a", "c")}, "missing 'b'"),
        ({"classes": ("b", "a")}, "in another order"),
        ({"neck_channels": 8}, "cannot share the RPN"),
        ({"anchor_sizes": [[16.0], [40.0]]}, "anchors are"),
        ({"head_width": 64}, "cannot share the roi_heads"),
        ({"size": 128}, "set image_size: 96"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(teacher, changes, said):
    with pytest.raises(ConfigError, match=said):
        build_distiller(small(**changes), teacher, DistillConfig("t.pt", "inherit"))


def test_a_feature_that_does_not_exist_is_refused_with_the_list(student, teacher):
    with pytest.raises(
        ConfigError, match=r"no feature 'c6' in the student .* c3 \(24 ch, stride 8\)"
    ):
        Distiller(student, teacher, [TermConfig("pkd", ["c6"])])


def test_no_hook_stays_behind(student, teacher, batch):
    Distiller(student, teacher, ALL_TERMS).train()(*batch)
    for network in (student, teacher):
        assert not any(m._forward_hooks for m in network.modules())


def test_bf16_networks_give_finite_losses_in_float32(student, teacher, batch):
    distiller = Distiller(student, teacher, ALL_TERMS).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = distiller(*batch)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["pkd@p3"].dtype == torch.float32
