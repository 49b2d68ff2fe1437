import copy
import gc
import math

import pytest
import torch
from networks import small

from detkd.config import (
    DistillConfig,
    HeadsConfig,
    PublishedWeight,
    ScheduleConfig,
    TermConfig,
    TrainConfig,
)
from detkd.distill.distiller import Distiller, build_distiller
from detkd.distill.losses import LOSSES
from detkd.distill.schedule import factor
from detkd.distill.taps import read
from detkd.distill.teaching import of_task
from detkd.engine.optimiser import build_optimizer
from detkd.errors import ConfigError

ALL_TERMS = [
    TermConfig("hint", ["c3"], 0.5, {"mask": "near_objects"}),
    TermConfig("attention", ["c4"], 1.0),
    TermConfig("nst", ["c3"]),
    TermConfig("fsp", ["c3", "c4"]),
    TermConfig("cosine", ["p3"]),
    TermConfig("pkd", ["p3", "p4"], 1.0),
    TermConfig("cwd", ["p4"], 2.0),
    TermConfig("fgd", ["c3", "p4"], 0.1),
    TermConfig("mgd", ["c3", "p4"], 0.1),
    TermConfig("reviewkd", ["c3", "p3", "p4"], options={"width": 8}),
    TermConfig("imitation", ["p3", "p4"]),
    TermConfig("defeat", ["p3"]),
    TermConfig("frs", ["p4"]),
    TermConfig("kl", ["roi.logits", "cross.logits"], 1.0),
    TermConfig("dkd", ["roi.logits"]),
    TermConfig("dist", ["roi.logits"]),
    TermConfig("decoupled_kl", ["cross.logits"]),
    TermConfig("boxes", ["roi.boxes", "cross.boxes"]),
    TermConfig("bounded", ["roi.boxes"]),
    TermConfig("objectness", ["rpn.logits"]),
    TermConfig("proposal_boxes", ["rpn.boxes"], options={"threshold": 0.1}),
]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_its_losses_are_the_students_and_one_for_each_term_and_feature(student, teacher, batch):
    distiller = Distiller(student, teacher, ALL_TERMS).train()
    losses = distiller(*batch)
    task = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    terms = {
        term.name if term.name in ("fsp", "reviewkd") else f"{term.name}@{feature}"
        for term in ALL_TERMS
        for feature in term.at
    }
    assert {term.name for term in ALL_TERMS} == set(LOSSES)
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
    term = TermConfig("attention", ["c3"], 1.0, schedule=ScheduleConfig(warmup=2))
    distiller = Distiller(student, teacher, [term], steps=4)
    first, second, third, fourth = (float(distiller(*batch)["attention@c3"]) for _ in range(4))
    assert first == 0
    assert second == pytest.approx(third / 2)
    assert third == fourth


def test_the_teacher_is_neither_trained_nor_moved_and_read_once_a_step(student, teacher, batch):
    calls = []
    distiller = Distiller(student, teacher, ALL_TERMS).train()
    before = copy.deepcopy(teacher.state_dict())
    teacher.backbone.body.register_forward_hook(lambda *_: calls.append(1))
    trained = [p for p in distiller.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for _ in range(2):
        sum(distiller(*batch).values()).backward()
        optimizer.step()
    assert len(calls) == 2
    assert same(before, teacher.state_dict())
    assert all(p.grad is None for p in teacher.parameters())
    assert not teacher.training


def norms_of(network):
    return [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_the_teacher_s_norms_are_folded_which_changes_nothing_but_rounding(student, teacher, batch):
    own = copy.deepcopy(teacher)
    images, _ = own.transform(batch[0], None)
    Distiller(student, teacher, ALL_TERMS)
    with torch.no_grad():
        theirs, folded = own.maps_of(images), teacher.maps_of(images)
    assert len(norms_of(own.backbone.body)) > 10 and not norms_of(teacher.backbone.body)
    for name, value in theirs.items():
        assert (folded[name] - value).abs().max() < 1e-4 * value.abs().max(), name


def test_a_teacher_that_is_trained_keeps_its_norms(student, teacher):
    before = len(norms_of(teacher))
    config = DistillConfig("t.pt", "joint", [TermConfig("pkd", ["p3"])])
    build_distiller(student, teacher, config)
    assert len(norms_of(teacher)) == before > 10


def test_a_step_leaves_no_tensor_behind(student, teacher, batch):
    distiller = Distiller(student, teacher, ALL_TERMS, steps=9).train()
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
    assert list(distiller.terms.parameters()), (
        "widths differ, so there are adapters to leave behind"
    )


def test_the_state_leaves_the_teacher_out_and_comes_back_whole(student, teacher, batch):
    distiller = Distiller(student, teacher, ALL_TERMS, steps=9).train()
    distiller(*batch)
    state = copy.deepcopy(distiller.state_dict())
    assert not any(key.startswith("teacher") for key in state)
    other = Distiller(small(), teacher, ALL_TERMS, steps=9)
    other.load_state_dict(state)
    assert same(state, other.state_dict())
    assert int(other.step) == 1


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
    lines = "\n".join(distiller.lines())
    assert "neck" in lines
    assert "its own stay: lateral.c3" in lines
    widths = [net.features["c3"].channels for net in (student, teacher)]
    through = f"from {widths[0]} to the teacher's {widths[1]} channels"
    assert f"hint: the student's c3 goes through a 1x1 convolution {through}" in lines


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
        ({"neck_channels": 8}, "cannot share the neck and the RPN"),
        ({"levels": ["p4", "p5"]}, "strides of 8, 16 px, the student .*16, 32 px"),
        ({"anchor_sizes": [[16.0], [40.0]]}, r"anchors are \[16.0\], \[32.0\] px in ratios"),
        ({"anchor_ratios": [1.0]}, r"ratios \[0.5, 1.0, 2.0\], the student's .* ratios \[1.0\]"),
        ({"head_width": 64}, "cannot share the roi_heads"),
        ({"neck": "cem"}, "cannot share the neck: the teacher's is light_fpn, the student's cem"),
        ({"neck": "bare_fpn"}, "the teacher's is light_fpn, the student's bare_fpn"),
        ({"roi_features": "thin"}, "plain .16 x 7 x 7, .*, the student's thin .10 x 7 x 7, "),
        ({"roi_size": 5}, "plain .16 x 7 x 7, .*, the student's plain .16 x 5 x 5, "),
        ({"roi_scale": 56.0}, "objects of 112 px from p4., the student's .* of 56 px from p4"),
        ({"size": 128}, "set image_size: 96"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(teacher, changes, said):
    with pytest.raises(ConfigError, match=said):
        build_distiller(small(**changes), teacher, DistillConfig("t.pt", "inherit"))


def timed(start, stop):
    return TermConfig("pkd", ["p3"], schedule=ScheduleConfig(start=start, stop=stop))


def test_terms_that_take_turns_leave_no_step_idle(student, teacher):
    terms = [timed(0.3, 0.6), timed(0.0, 0.4)]
    config = DistillConfig("t.pt", losses=terms, task_from=0.6)
    assert build_distiller(student, teacher, config).task_from == 0.6


def test_no_published_weight_is_a_share_of_the_tasks_pull(student, teacher):
    terms = [TermConfig("pkd", ["p3"], PublishedWeight(6.0)), TermConfig("kl", ["roi.logits"], 4.0)]
    with pytest.raises(ConfigError, match=r"'pkd': with .* a weight is the term's pull"):
        Distiller(student, teacher, terms, balance="auto")
    told = Distiller(student, teacher, terms[1:], balance="auto").lines()
    assert "pulls 4 times as hard" in told[-1]


def test_parts_that_fit_are_shared_beside_parts_that_do_not(teacher):
    """The neck has no anchors, and the RoI head no levels."""
    other = small(anchor_sizes=[[16.0, 24.0], [32.0, 48.0]])
    build_distiller(
        other, teacher, DistillConfig("t.pt", HeadsConfig("inherit", "none", "none"), [])
    )
    assert same(other.backbone.neck.smooth.state_dict(), teacher.backbone.neck.smooth.state_dict())
    deeper = small(levels=["p3", "p4", "p5"], anchor_sizes=[[16.0], [32.0], [64.0]])
    build_distiller(
        deeper, teacher, DistillConfig("t.pt", HeadsConfig("none", "none", "inherit"), [])
    )
    heads = (net.roi_heads.box_head.state_dict() for net in (deeper, teacher))
    assert same(*heads)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task_from": 0.5, "losses": []}, "distill.task_from: .* and there are none"),
        (
            {"task_from": 0.6, "losses": [timed(0.0, 0.3), timed(0.4, 1.0)]},
            "from 0.3 on none of them does",
        ),
        ({"task_from": 0.6, "losses": [timed(0.1, 1.0)]}, "from 0 on none of them does"),
        ({"heads": "inherit", "freeze_until": 0.5}, "nothing is; set distill.heads: freeze"),
        ({"heads": "none", "freeze_until": 0.5}, "nothing is; set distill.heads: freeze"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(student, teacher, changes, said):
    with pytest.raises(ConfigError, match=said):
        build_distiller(student, teacher, DistillConfig("t.pt", **changes))


def test_heads_that_code_boxes_otherwise_are_not_shared(student, teacher):
    student.roi_heads.box_coder.weights = (1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ConfigError, match="code boxes with other weights"):
        build_distiller(student, teacher, DistillConfig("t.pt", "inherit"))


@pytest.mark.parametrize("kind", ["thin", "psroi"])
def test_what_reduces_the_levels_belongs_to_the_roi_head(kind, batch):
    torch.manual_seed(0)
    light = {"roi_features": kind, "roi_channels": 4, "roi_size": 3}
    student, teacher = small(**light), small("resnet18@c4", **light).eval()
    theirs = teacher.roi_heads.box_roi_pool.reduce.weight.detach().clone()

    def reduction():
        return student.roi_heads.box_roi_pool.reduce.weight

    heads = HeadsConfig(neck="none", rpn="none", roi_heads="none")
    build_distiller(student, teacher, DistillConfig("t.pt", heads))
    assert not torch.equal(reduction(), theirs)
    heads.roi_heads = "inherit"
    distiller = build_distiller(student, teacher, DistillConfig("t.pt", heads, ALL_TERMS))
    assert torch.equal(reduction(), theirs)
    sum(distiller.train()(*batch).values()).backward()
    assert reduction().grad.any()
    heads.roi_heads = "freeze"
    build_distiller(student, teacher, DistillConfig("t.pt", heads))
    assert torch.equal(reduction(), theirs) and not reduction().requires_grad
    heads.roi_heads = "joint"
    student = small(**light)
    build_distiller(student, teacher, DistillConfig("t.pt", heads))
    assert reduction() is teacher.roi_heads.box_roi_pool.reduce.weight
    other = small(**{**light, "roi_channels": 5})
    with pytest.raises(ConfigError, match=r"\(4 x 3 x 3, .*, the student's \w+ \(5 x 3 x 3, "):
        build_distiller(other, teacher, DistillConfig("t.pt", heads))


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


def test_a_published_weight_is_converted_to_ours(student, teacher):
    def weight(name, at, published):
        term = TermConfig(name, at, PublishedWeight(published))
        return Distiller(student, teacher, [term]).terms[0].weight

    assert weight("pkd", ["p3", "p4"], 6.0) == 12  # the paper sums over levels
    assert weight("hint", ["c3"], 100.0) == 100
    assert weight("attention", ["c3", "c4"], 1000.0) == 2 * weight("attention", ["c3"], 1000.0)
    assert weight("imitation", ["p3"], 0.01) == pytest.approx(0.01 * 512 / 2)
    assert weight("frs", ["p3", "p4"], 0.002) == pytest.approx(0.002 * 256 * 2)
    assert weight("fgd", ["p3"], 5e-5) == pytest.approx(5e-5 * 256 * 7.3)
    # Sums over 256 channels and the mean cells of p2 to p5 at 800x1344 px.
    assert weight("mgd", ["p3"], 5e-7) == pytest.approx(5e-7 * 256 * 22312)
    assert weight("defeat", ["p3"], 3.0) == 1.5  # a half stands in front
    assert weight("bounded", ["roi.boxes"], 0.5) == 2  # a sum over four coordinates
    assert weight("nst", ["c3", "c4"], 50.0) == 100
    assert weight("cwd", ["p3"], 10.0) == 10
    assert weight("reviewkd", ["p3", "p4"], 1.0) == 2
    assert weight("decoupled_kl", ["roi.logits"], 1.0) == 1
    with pytest.raises(ConfigError, match="'fsp' has no published weight"):
        weight("fsp", ["c3", "c4"], 7.0)
    with pytest.raises(ConfigError, match="'cosine' has no published weight"):
        weight("cosine", ["p3"], 7.0)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ScheduleConfig(), [1, 1, 1, 1, 1, 1]),
        (ScheduleConfig(start=0.5), [0, 0, 1, 1, 1, 1]),
        (ScheduleConfig(stop=0.5), [1, 1, 0, 0, 0, 0]),
        (ScheduleConfig(warmup=4), [0, 0.25, 0.5, 0.75, 1, 1]),
        (ScheduleConfig(decay="linear"), [1, 0.75, 0.5, 0.25, 0, 0]),
        (ScheduleConfig(decay="cosine"), [1, 0.853553, 0.5, 0.146447, 0, 0]),
        (ScheduleConfig(every=2), [2, 0, 2, 0, 2, 0]),
        (ScheduleConfig(start=0.25, stop=0.75, warmup=2), [0, 0, 0.5, 0, 0, 0]),
    ],
)
def test_schedules_by_hand(schedule, expected):
    found = [factor(schedule, step, steps=4) for step in range(6)]
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_teacher_rests_while_no_term_is_on(student, teacher, batch):
    calls = []
    terms = [TermConfig("mgd", ["p3"], schedule=ScheduleConfig(start=0.5, every=2))]
    distiller = Distiller(student, teacher, terms, steps=6).train()
    teacher.backbone.body.register_forward_hook(lambda *_: calls.append(1))
    ran = []
    for _ in range(6):
        losses = distiller(*batch)
        sum(losses.values()).backward()
        ran.append(len(calls))
        assert "mgd@p3" in losses
    assert ran == [0, 0, 0, 1, 1, 2]


def test_its_heads_run_only_for_terms_that_need_them(student, teacher, batch):
    ran = []
    teacher.roi_heads.box_head.register_forward_hook(lambda *_: ran.append("roi"))
    teacher.rpn.head.register_forward_hook(lambda *_: ran.append("rpn"))

    def heads(*terms):
        ran.clear()
        Distiller(copy.deepcopy(student), teacher, list(terms)).train()(*batch)
        return set(ran)

    assert heads(TermConfig("pkd", ["p3"])) == set()
    assert heads(TermConfig("kl", ["roi.logits"])) == {"roi"}
    assert heads(TermConfig("frs", ["p3"])) == {"rpn"}


def test_cross_logits_teach_the_students_features_and_not_the_teachers_head(
    student, teacher, batch
):
    distiller = Distiller(student, teacher, [TermConfig("kl", ["cross.logits"])]).train()
    distiller(*batch)["kl@cross.logits"].backward()
    assert any(p.grad is not None and p.grad.any() for p in student.backbone.parameters())
    assert all(p.grad is None for p in student.roi_heads.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_cross_logits_by_hand(student, teacher, batch):
    """The teacher's head on the student's levels, against the same head on its own."""
    distiller = Distiller(student, teacher, [TermConfig("kl", ["cross.logits"])]).train()
    images, targets = batch
    with read(student) as reading:
        torch.manual_seed(3)
        student.train()(images, targets)
    with torch.no_grad():
        said = teacher.transform(images, None)[0]
        maps = teacher.maps_of(said)
        heads, names = teacher.roi_heads, list(teacher.backbone.neck.features)
        logits = [
            heads.box_predictor(
                heads.box_head(
                    heads.box_roi_pool(
                        {name: levels[name] for name in names},
                        reading.proposals,
                        reading.image_sizes,
                    )
                )
            )[0].log_softmax(1)
            for levels in (reading.features, maps)
        ]
    ours, theirs = logits
    expected = (theirs.exp() * (theirs - ours)).sum(1).mean()
    for norm in student.modules():  # the second pass is to see what the first one saw
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.0
    torch.manual_seed(3)
    found = distiller(images, targets)["kl@cross.logits"]
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_terms_teach_no_teacher_that_learns_itself(batch):
    """Its own weights have the gradients that the annotations give them, whatever terms say."""

    def gradients(terms):
        torch.manual_seed(0)
        student, teacher = small(), small("resnet18@c4")
        heads = HeadsConfig("joint", "none", "none")
        distiller = build_distiller(student, teacher, DistillConfig("t.pt", heads, terms)).train()
        torch.manual_seed(1)
        losses = distiller(*batch)
        pulling = [name for name in losses if name.startswith("loss_teacher")]
        pulling += [name for name in losses if not of_task(name)]
        sum(losses[name] for name in pulling).backward()
        shared = {id(each) for each in student.parameters()}
        return {
            name: each.grad
            for name, each in teacher.named_parameters()
            if id(each) not in shared and each.requires_grad
        }

    alone, taught = gradients([]), gradients(ALL_TERMS)
    assert any("roi_heads" in name for name in alone)
    for name, gradient in alone.items():
        assert torch.allclose(gradient, taught[name], rtol=1e-4, atol=1e-6), name


def test_a_term_is_measured_against_the_students_task_alone(student, teacher, batch):
    config = DistillConfig("t.pt", "joint", [TermConfig("pkd", ["p3"])])
    distiller = build_distiller(student, teacher, config).train()
    losses = distiller(*batch)
    task = sum(
        float(loss.detach())
        for name, loss in losses.items()
        if name.startswith("loss_") and "teacher" not in name
    )
    size = distiller.report()["size/pkd@p3"]
    assert size == pytest.approx(float(losses["pkd@p3"].detach()) / task, rel=1e-5)


def test_a_step_may_be_of_several_batches(student, teacher, batch):
    term = TermConfig("pkd", ["p3"], schedule=ScheduleConfig(warmup=2))
    distiller = Distiller(student, teacher, [term], steps=4).train()
    weights, measured = [], []
    for batches in range(6):
        distiller.step.fill_(batches // 2)
        weights.append(distiller.at_step()[1][0])
        distiller(*batch)
        measured.append("pull/pkd" in distiller.report())
    assert weights == [0, 0, 0.5, 0.5, 1, 1]
    assert measured == [False, False, True, False, False, False]  # once a step, from its first on


def test_sampled_anchors_lie_in_the_images_and_hold_what_the_teacher_believes_in(
    student, teacher, batch
):
    from detkd.distill.outputs import Outputs
    from detkd.distill.taps import read

    student.train()
    with read(student) as reading:
        student(*batch)
    images, _ = teacher.transform(batch[0], None)
    outputs = Outputs(student, reading, teacher, teacher.maps_of(images))
    rows = outputs._sampled
    anchors = reading.anchors
    assert len(rows) == len(rows.unique())
    for at, (height, width) in enumerate(reading.image_sizes):
        mine = rows[(rows >= at * len(anchors)) & (rows < (at + 1) * len(anchors))]
        x, y = (anchors[mine - at * len(anchors)].reshape(-1, 2, 2).mean(1)).T
        assert 0 < len(mine) <= 256
        assert ((x >= 0) & (x < width) & (y >= 0) & (y < height)).all()
    both = outputs.student["rpn.logits"], outputs.teacher["rpn.logits"]
    assert both[0].shape == both[1].shape == (len(rows), 1)


def test_each_part_is_shared_as_it_is_asked_for(student, teacher):
    heads = HeadsConfig(neck="none", rpn="freeze", roi_heads="inherit")
    distiller = build_distiller(student, teacher, DistillConfig("t.pt", heads))
    assert not same(
        student.backbone.neck.smooth.state_dict(), teacher.backbone.neck.smooth.state_dict()
    )
    assert same(student.rpn.state_dict(), teacher.rpn.state_dict())
    assert not any(p.requires_grad for p in student.rpn.parameters())
    assert all(p.requires_grad for p in student.roi_heads.parameters())
    lines = distiller.plan.lines()
    assert [line.split(":")[0] for line in lines] == ["rpn", "roi_heads"]
    assert "frozen" in lines[0]
    assert "trained on" in lines[1]


def test_frozen_parts_thaw_at_a_lower_rate(student, teacher, batch):
    config = DistillConfig("t.pt", "freeze", ALL_TERMS, freeze_until=0.5, thawed_lr=0.1)
    distiller = build_distiller(student, teacher, config, steps=4).train()
    optimizer = build_optimizer(distiller, TrainConfig(lr=0.02, weight_decay=0.1))
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert all(rates[p] == pytest.approx(0.002) for p in student.rpn.parameters())
    assert {rates[p] for p in student.backbone.body.parameters()} == {0.02}
    moved = []
    for _ in range(4):
        before = copy.deepcopy(student.roi_heads.state_dict())
        sum(distiller(*batch).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        moved.append(not same(before, student.roi_heads.state_dict()))
    assert moved == [False, False, True, True]


def test_before_task_from_only_the_teacher_speaks(student, teacher, batch):
    config = DistillConfig("t.pt", "none", [TermConfig("pkd", ["p3"])], task_from=0.5)
    distiller = build_distiller(student, teacher, config, steps=2).train()
    first, second = distiller(*batch), distiller(*batch)
    assert float(first["loss_classifier"]) == 0
    assert float(first["pkd@p3"]) > 0
    assert float(second["loss_classifier"]) > 0


def test_heads_rest_while_only_maps_are_compared(student, teacher, batch):
    terms = [TermConfig("imitation", ["p3", "p4"]), TermConfig("hint", ["c4"])]
    config = DistillConfig("t.pt", "inherit", terms, task_from=0.5)
    distiller = build_distiller(student, teacher, config, steps=2).train()
    state = copy.deepcopy(distiller.state_dict())
    ran = []
    for head in (student.rpn.head, student.roi_heads.box_head):
        head.register_forward_hook(lambda *_: ran.append(1))
    images, targets = batch
    unlabelled = {**targets[1], "unlabelled": torch.tensor(True)}
    losses = distiller(images, [targets[0], unlabelled])
    assert not ran
    sum(losses.values()).backward()
    assert all(
        p.grad is not None and not p.grad.any()
        for part in (student.rpn, student.roi_heads)
        for p in part.parameters()
    )
    # The terms are what they are beside running heads.
    distiller.load_state_dict(state)
    distiller.task_from = 0.0
    beside = distiller(images, [targets[0], unlabelled])
    assert ran
    assert beside["loss_classifier"] > 0
    for name in ("imitation@p3", "imitation@p4", "hint@c4"):
        assert float(beside[name]) == pytest.approx(float(losses[name]), rel=1e-5)


@pytest.mark.parametrize(
    ("term", "said"),
    [
        (TermConfig("pkd", ["roi.logits"]), "'pkd' compares a feature map .* not 'roi.logits'"),
        (TermConfig("kl", ["p3"]), "'kl' compares roi.logits or cross.logits, not 'p3'"),
        (TermConfig("frs", ["c3"]), r"'frs' compares a level of the RPN \(p3, p4\), not 'c3'"),
        (TermConfig("fsp", ["c3"]), "'fsp' compares 2 features or more"),
        (TermConfig("pkd", []), "names no feature"),
        (TermConfig("pkd", ["p3"], math.nan), "the weight of 'pkd' is nan"),
        (TermConfig("pkd", ["p3"], -1.0), "the weight of 'pkd' is -1.0"),
        (
            TermConfig("kl", ["roi.logits"], options={"temperature": 0}),
            "'kl': temperature is above 0, not 0",
        ),
        (TermConfig("cwd", ["p3"], options={"tau": "hot"}), "'cwd': tau is a number, not 'hot'"),
        (
            TermConfig("reviewkd", ["p3", "p4"], options={"width": 0}),
            "'reviewkd': width is a whole number from 1 on",
        ),
        (TermConfig("reviewkd", ["p4", "p3"]), r"write at: \[p3, p4\]"),
        (
            TermConfig("pkd", ["p3"], schedule=ScheduleConfig(start=0.5, stop=0.4)),
            "the schedule of 'pkd'",
        ),
    ],
)
def test_terms_that_make_no_sense_are_refused(student, teacher, term, said):
    with pytest.raises(ConfigError, match=said):
        Distiller(student, teacher, [term])


def test_heads_that_cannot_be_crossed_or_compared_are_refused(student):
    wide = small(neck_channels=8)
    with pytest.raises(ConfigError, match=r"give both the same model\.neck_channels"):
        Distiller(student, wide, [TermConfig("kl", ["cross.logits"])])
    deeper = small(levels=["p3", "p4", "p5"], anchor_sizes=[[16.0], [32.0], [64.0]])
    with pytest.raises(ConfigError, match="RoI head, which reads p3, p4, p5"):
        Distiller(student, deeper, [TermConfig("kl", ["cross.logits"])])
    other = small(anchor_sizes=[[16.0], [40.0]])
    coarse = small(levels=["p4", "p5"])  # of the same sizes, on other levels
    for each in (other, coarse):
        with pytest.raises(ConfigError, match="compares anchors, and the two have others"):
            Distiller(student, each, [TermConfig("objectness", ["rpn.logits"])])


@pytest.mark.parametrize(("term", "at"), [("proposal_boxes", "rpn.boxes"), ("imitation", "p3")])
def test_anchors_of_other_cells_are_not_compared(teacher, batch, term, at):
    rounding = small("squeezenet")  # 11x11 cells of stride 8, where others have 12x12
    with pytest.raises(ConfigError, match="cells"):
        Distiller(rounding, teacher, [TermConfig(term, [at])]).train()(*batch)


def test_boxes_are_never_rounded_to_half_precision(student, batch):
    def seen():
        with read(student.train()) as reading:
            torch.manual_seed(0)
            student(*batch)
        return reading

    whole = seen()
    with torch.autocast("cpu", torch.bfloat16):
        low = seen()
    assert torch.equal(low.anchors, whole.anchors)
    images = student.transform(batch[0])[0]
    with torch.autocast("cpu", torch.bfloat16):  # asked alone, as where heads rest
        levels = list(student.levels_of(images).values())
        assert levels[0].dtype == torch.bfloat16
        assert torch.equal(student.rpn.anchor_generator(images, levels)[0], whole.anchors)
    for values in (*low.proposals, *low.deltas.values(), *low.objectness.values()):
        assert values.dtype == torch.float32
    # The truth is among the proposals, as it was written.
    boxes = low.targets[0]["boxes"]
    assert all((low.proposals[0] == box).all(1).any() for box in boxes)
    assert boxes.tolist() == whole.targets[0]["boxes"].tolist()


def test_pulls_are_gradients_at_the_backbones_outputs(student, teacher, batch):
    # A hint at c4 alone: its gradient there is 2 (A s - t) through the adapter, by hand.
    student.requires_grad_(True)
    term = TermConfig("attention", ["c4"], 3.0)
    distiller = Distiller(student, teacher, [term]).train()
    taps = {}
    student.backbone.body.register_forward_hook(lambda m, i, o: taps.update(o))
    losses = distiller(*batch)
    outputs = [taps[name] for name in student.backbone.body.features]

    def norm(loss):
        found = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
        return torch.cat([g.flatten() for g in found if g is not None]).norm()

    task = sum(loss for name, loss in losses.items() if name.startswith("loss_"))
    expected = float(norm(losses["attention@c4"]) / norm(task))
    size = float(losses["attention@c4"] / task)
    assert distiller.report() == {
        "size/attention@c4": pytest.approx(size, rel=1e-4),
        "pull/attention": pytest.approx(expected, rel=1e-4),
    }
    distiller(*batch)
    assert distiller.report() == {}  # not at each step


def test_auto_balance_makes_a_weight_the_share_of_the_tasks_pull(student, teacher, batch):
    terms = [TermConfig("hint", ["c3"], 0.5), TermConfig("pkd", ["p3"], 2.0)]
    distiller = Distiller(student, teacher, terms, balance="auto").train()
    losses = distiller(*batch)
    pulls = list(distiller.balance.pulls.values())
    # What the factors make of the weighted terms' pulls is the weights themselves.
    assert pulls[0] * float(distiller.balance.factors[0]) == pytest.approx(0.5, rel=1e-4)
    assert pulls[1] * float(distiller.balance.factors[1]) == pytest.approx(2.0, rel=1e-4)
    assert torch.isfinite(sum(losses.values()))
    assert "balance.factors" in distiller.state_dict()


@pytest.mark.parametrize(
    ("schedule", "measured"),
    [
        (ScheduleConfig(), [4, 9, 14, 19]),
        (ScheduleConfig(start=0.05, every=2), [5, 11, 17]),
        (ScheduleConfig(warmup=6), [4, 9, 14, 19]),
        (ScheduleConfig(stop=0.4), [4]),
    ],
)
def test_pulls_are_measured_when_the_task_counts_and_at_the_terms_own_steps(
    student, teacher, batch, schedule, measured
):
    terms = [TermConfig("hint", ["p3"], 0.5, schedule=schedule)]
    distiller = Distiller(student, teacher, terms, steps=20, task_from=0.2, balance="auto").train()
    distiller.balance.every = 5
    found = []
    for step in range(20):
        distiller(*batch)
        if distiller.report():
            found.append(step)
            assert 0 < distiller.report()["pull/hint"] < 1e4
    assert found == measured
    if schedule.warmup == 0:  # from the first measurement on, the weight is the share of the pull
        assert float(distiller.balance.factors[0]) != 1


@pytest.mark.parametrize("balance", ["fixed", "auto", "surgery"])
@pytest.mark.parametrize("heads", ["inherit", "freeze"])
@pytest.mark.parametrize("schedule", [ScheduleConfig(warmup=2), ScheduleConfig(every=2)])
def test_features_first_goes_through_whatever_is_at_rest(
    student, teacher, batch, balance, heads, schedule
):
    """Steps at which neither a term nor the task counts have a gradient, of zero."""
    # Equal widths: the term has no weights of its own that could carry a gradient.
    terms = [TermConfig("hint", ["p3", "p4"], 0.5, schedule=schedule)]
    config = DistillConfig("t.pt", heads, terms, balance=balance, task_from=0.5)
    distiller = build_distiller(student, teacher, config, steps=6).train()
    first = next(student.backbone.body.parameters())
    moved = []
    for _ in range(6):
        sum(distiller(*batch).values()).backward()
        moved.append(bool(first.grad.any()))
        distiller.zero_grad()
    term = [factor(schedule, step, 6) > 0 for step in range(6)]
    assert moved == [on or step >= 3 for step, on in enumerate(term)]


def test_two_terms_of_one_loss_are_told_apart(student, teacher, batch):
    first, second = ScheduleConfig(stop=0.5), ScheduleConfig(start=0.5)
    terms = [
        TermConfig("hint", ["c3"], 5.0, {"mask": "near_objects"}),
        TermConfig("hint", ["c3", "p3"], 0.1),
        TermConfig("kl", ["roi.logits"], schedule=first),
        TermConfig("kl", ["roi.logits"], 1.0, {"temperature": 3.0}, second),
    ]
    distiller = Distiller(student, teacher, terms, steps=2).train()
    losses = distiller(*batch)
    names = {"hint@c3", "hint#2@c3", "hint#2@p3", "kl@roi.logits", "kl#2@roi.logits"}
    assert names < set(losses)
    assert losses["kl@roi.logits"] > 0 and losses["kl#2@roi.logits"] == 0
    assert {"pull/hint", "pull/hint#2", "pull/kl"} < set(distiller.report())
    losses = distiller(*batch)
    assert losses["kl@roi.logits"] == 0 and losses["kl#2@roi.logits"] > 0


@pytest.mark.parametrize(
    ("name", "task"),
    [("loss_classifier", True), ("hint@p3", False), ("loss_mine:Mine@p3", False)],
)
def test_a_term_is_no_task_whatever_its_file_is_called(name, task):
    assert of_task(name) is task


def test_surgery_leaves_out_a_term_that_pulls_against_the_task(student, teacher, batch):
    class Against(torch.nn.Module):
        reads = ("roi.logits",)
        sign = -1.0

        def forward(self, s, t, view):
            # The task itself, or its opposite, seen from the logits of a proposal's true class.
            labels = view.truth["labels"]
            return self.sign * torch.nn.functional.cross_entropy(s, labels)

    def kept(sign):
        Against.sign = sign
        LOSSES["against"] = Against
        try:
            terms = [TermConfig("against", ["roi.logits"])]
            distiller = Distiller(copy.deepcopy(student), teacher, terms, balance="surgery")
            return float(distiller.train()(*batch)["against@roi.logits"].detach())
        finally:
            del LOSSES["against"]

    assert kept(1.0) > 0
    assert kept(-1.0) == 0


def test_joint_heads_are_one_and_both_train_them(student, teacher, batch):
    config = DistillConfig("t.pt", "joint", [TermConfig("kl", ["roi.logits"])])
    distiller = build_distiller(student, teacher, config).train()
    assert "trained on together" in distiller.plan.lines()[0]
    assert student.rpn.head.cls_logits is teacher.rpn.head.cls_logits
    assert student.roi_heads.box_predictor.cls_score is teacher.roi_heads.box_predictor.cls_score
    assert student.backbone.neck.smooth is not teacher.backbone.neck.smooth
    ours, theirs = (net.backbone.neck.smooth.parameters() for net in (student, teacher))
    assert all(a is b for a, b in zip(ours, theirs, strict=True))

    losses = distiller(*batch)
    assert {"loss_classifier", "loss_teacher_classifier", "kl@roi.logits"} < set(losses)
    shared = student.roi_heads.box_predictor.cls_score.weight
    grads = [
        torch.autograd.grad(losses[name], shared, retain_graph=True)[0]
        for name in ("loss_classifier", "loss_teacher_classifier")
    ]
    assert all(grad.any() for grad in grads)
    first = next(teacher.backbone.body.parameters())
    assert torch.autograd.grad(losses["loss_teacher_classifier"], first, retain_graph=True)[0].any()
    # The teacher learns from the annotations alone, the student's imitation does not pull at it.
    pulled = torch.autograd.grad(losses["kl@roi.logits"], first, allow_unused=True)[0]
    assert pulled is None


def test_a_joint_student_is_saved_as_a_plain_one_and_its_training_can_go_on(
    student, teacher, batch
):
    config = DistillConfig("t.pt", "joint", [TermConfig("pkd", ["p3"])])
    distiller = build_distiller(student, teacher, config).train()
    assert distiller.network.state_dict().keys() == small().state_dict().keys()
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05)
    sum(distiller(*batch).values()).backward()
    optimizer.step()
    state = copy.deepcopy(distiller.state_dict())
    other = build_distiller(small(), small("resnet18@c4"), config)
    other.load_state_dict(state)
    assert same(state, other.state_dict())
    assert other.student.rpn.head.cls_logits is other.teacher.rpn.head.cls_logits


@pytest.mark.parametrize("terms", [ALL_TERMS])
def test_a_teacher_in_lower_precision_says_nearly_the_same(student, teacher, batch, terms):
    both, seen, found = [], [], []
    for precision in ("same", "bf16"):
        torch.manual_seed(3)
        both.append(Distiller(copy.deepcopy(student), teacher, terms, precision=precision))
    teacher.backbone.body.register_forward_hook(lambda m, i, o: seen.append(o["c3"].dtype))
    for distiller in both:
        torch.manual_seed(4)
        found.append(distiller.train()(*batch))
    assert seen == [torch.float32, torch.bfloat16]
    for name, loss in found[0].items():
        assert float(found[1][name].detach()) == pytest.approx(
            float(loss.detach()), rel=0.1, abs=0.05
        )


def test_a_teacher_in_lower_precision_under_autocast(student, teacher, batch):
    terms = [TermConfig("kl", ["roi.logits"]), TermConfig("objectness", ["rpn.logits"])]
    distiller = Distiller(student, teacher, terms, precision="bf16").train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = distiller(*batch)
    assert all(torch.isfinite(loss) for loss in losses.values())


def judging_alone(backbone="shallow_x1", **changes):
    torch.manual_seed(3)
    return small(backbone, classifier="sigmoid", **changes)


SOFTMAX_ONLY = ("dkd", "dist")


@pytest.mark.parametrize("heads", ["none", "inherit", "freeze", "joint"])
def test_terms_teach_where_classes_are_judged_alone(batch, heads):
    terms = [term for term in ALL_TERMS if term.name not in SOFTMAX_ONLY]
    student, teacher = judging_alone(), judging_alone("resnet18@c4").eval()
    distiller = build_distiller(student, teacher, DistillConfig("t.pt", heads, terms)).train()
    images, targets = batch[0] * 2, [*batch[1], *({**each, "unlabelled": 1} for each in batch[1])]
    losses = distiller(images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["kl@roi.logits"] > 0 and losses["boxes@roi.boxes"] > 0
    sum(losses.values()).backward()
    assert any(p.grad is not None and p.grad.any() for p in student.backbone.parameters())


@pytest.mark.parametrize("name", SOFTMAX_ONLY)
def test_terms_of_softmax_alone_are_refused_for_sigmoids(name):
    said = f"'{name}' has no form for model.classifier: sigmoid.* take kl or decoupled_kl, or train"
    for feature in ("roi.logits", "cross.logits"):
        with pytest.raises(ConfigError, match=said):
            Distiller(judging_alone(), judging_alone(), [TermConfig(name, [feature])])


def test_a_head_of_softmax_and_one_of_sigmoids_share_and_compare_only_what_can_be(teacher, batch):
    student = judging_alone()
    with pytest.raises(ConfigError, match="ends in a softmax and the student's in a sigmoid"):
        build_distiller(student, teacher, DistillConfig("t.pt"))
    apart = HeadsConfig(roi_heads="none")
    kl = DistillConfig("t.pt", apart, [TermConfig("kl", ["roi.logits"])])
    with pytest.raises(ConfigError, match=r"'kl' compares class logits.* softmax.* sigmoid"):
        build_distiller(student, teacher, kl)
    # At cross.logits both say what the teacher's head says: by softmax.
    terms = [TermConfig("dkd", ["cross.logits"]), TermConfig("boxes", ["roi.boxes"])]
    distiller = build_distiller(student, teacher, DistillConfig("t.pt", apart, terms)).train()
    losses = distiller(*batch)
    assert losses["dkd@cross.logits"] > 0 and losses["boxes@roi.boxes"] > 0
    other = build_distiller(
        small(), judging_alone().eval(), DistillConfig("t.pt", apart, terms[1:])
    )
    assert other.train()(*batch)["boxes@roi.boxes"] > 0
