import math

import pytest
import torch

from detkd.distill.losses import LOSSES, build_loss
from detkd.distill.view import View
from detkd.errors import ConfigError

DENSE = [
    "hint", "attention", "nst", "cosine", "pkd", "cwd", "fgd", "mgd", "imitation", "defeat", "frs"
]  # fmt: skip
JOINT = ["fsp", "reviewkd"]
LOGITS = ["kl", "dkd", "dist", "decoupled_kl"]
BOXES = ["boxes", "bounded"]
ANCHORS = ["objectness", "proposal_boxes"]
TRAINED = ["mgd", "reviewkd"]  # their own convolutions stand between: not zero at equality


def whole(features, targets=(), **more):
    """A view of images without padding, 8 px a cell, with an anchor of 16 px a cell."""
    height, width = features.shape[-2:]
    size = (height * 8, width * 8)
    targets = list(targets) or [target()] * len(features)
    return View(
        [size] * len(features), size, targets, **{**heads(height, width, len(features)), **more}
    )


def heads(height, width, images):
    """What a view says besides: at p3, anchors, and a teacher that sees something everywhere."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = torch.stack([x, y, x, y], -1).reshape(-1, 4) * 8.0 + 4
    random = torch.Generator().manual_seed(9)
    logits = torch.randn(6, 3, generator=random, dtype=torch.float64)
    return {
        "at": "p3",
        "anchors": {"p3": centres + torch.tensor([-8.0, -8, 8, 8])},
        "teacher": {
            "rpn.objectness@p3": torch.randn(images, 1, height, width, generator=random),
            "roi.logits": logits,
            "rpn.logits": torch.tensor([2.0, -2, 1, -1, 3])[:, None],
        },
        "truth": {
            "labels": torch.tensor([1, 0, 2, 0, 0, 1]),
            "roi.boxes": torch.randn(6, 4, generator=random, dtype=torch.float64),
        },
    }


def build(name, channels=3, **options):
    """A loss for features of `channels`; those with convolutions always start alike."""
    torch.manual_seed(0)
    widths = [channels] * (2 if name in JOINT else 1)
    if name == "reviewkd":
        options = {"width": 4, **options}
    return build_loss(name, options, widths, widths).double()


def inputs(name, seed=0, dtype=torch.float64):
    """A tensor, or a list of them, as `name` compares."""
    if name in JOINT:
        return [maps(seed, dtype=dtype), maps(seed + 50, h=2, w=3, dtype=dtype)]
    if name in LOGITS:
        return maps(seed, n=1, c=1, h=6, w=3, dtype=dtype)[0, 0]
    if name in BOXES:
        return maps(seed, n=1, c=1, h=6, w=12, dtype=dtype)[0, 0]
    if name in ANCHORS:
        width = 1 if name == "objectness" else 4
        return maps(seed, n=1, c=1, h=5, w=width, dtype=dtype)[0, 0]
    return maps(seed, dtype=dtype)


def compare(name, s, t, view=None, loss=None):
    """The loss with its randomness held."""
    loss = loss or build(name)
    torch.manual_seed(1)
    first = s[0] if name in JOINT else s
    return loss(s, t, view or whole(first if first.ndim == 4 else maps()))


def maps(seed=0, n=2, c=3, h=4, w=5, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, c, h, w, generator=random, dtype=dtype)


def target(*boxes):
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)}


def test_hint_is_the_mean_squared_difference():
    s = torch.tensor([[[[1.0, 2.0]], [[0.0, 4.0]]]])
    t = torch.tensor([[[[0.0, 2.0]], [[3.0, 2.0]]]])
    # (1 + 0 + 9 + 4) / 4
    assert float(build_loss("hint", {})(s, t, whole(s))) == pytest.approx(3.5)


def test_hint_near_objects_sees_only_cells_in_boxes():
    s, t = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 5.0], [7.0, 9.0]]]])
    # The box covers the centre (12, 4) of the cell in row 0, column 1 alone.
    view = whole(s, [target([9.0, 1.0, 15.0, 7.0])])
    assert float(build_loss("hint", {"mask": "near_objects"})(s, t, view)) == pytest.approx(25.0)


def test_hint_near_objects_is_zero_without_objects():
    s = torch.ones(1, 1, 2, 2, requires_grad=True)
    loss = build_loss("hint", {"mask": "near_objects"})(s, s.detach() + 1, whole(s, [target()]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(s.grad, torch.zeros_like(s))


def test_attention_compares_maps_of_length_one():
    s = torch.tensor([[[[1.0, 0.0]]]])  # attention (1, 0)
    t = torch.tensor([[[[1.0, 1.0]]]])  # attention (1, 1)/√2
    expected = (1 - 1 / math.sqrt(2)) ** 2 + 0.5
    assert float(build_loss("attention", {})(s, t, whole(s))) == pytest.approx(expected)


def test_attention_takes_any_widths_and_ignores_a_factor():
    t = maps(c=7)
    assert torch.isfinite(build_loss("attention", {})(maps(c=2), t, whole(t)))
    assert float(build_loss("attention", {})(3 * t, t, whole(t))) == pytest.approx(0, abs=1e-12)


def test_pkd_is_one_minus_the_correlation():
    s = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    t = torch.tensor([[[[2.0, 1.0, 4.0, 3.0]]]])
    # Pearson's r of the two rows is 0.6.
    assert float(build_loss("pkd", {})(s, t, whole(s))) == pytest.approx(0.4)


def test_pkd_is_two_for_opposite_patterns_and_blind_to_mean_and_scale():
    t = maps()
    assert float(build_loss("pkd", {})(-t, t, whole(t))) == pytest.approx(2)
    assert float(build_loss("pkd", {})(5 * t + 3, t, whole(t))) == pytest.approx(0, abs=1e-9)


def test_pkd_leaves_constant_channels_out():
    s, t = maps(), maps(1)
    dead_s, dead_t = s.clone(), t.clone()
    dead_s[:, 1] = 0.5
    dead_t[:, 2] = 0
    loss = build_loss("pkd", {})
    alone = loss(s[:, :1], t[:, :1], whole(s))
    assert float(loss(dead_s, dead_t, whole(s))) == pytest.approx(float(alone))


@pytest.mark.parametrize("value", [150.7, 1e4, -3.3e5])
def test_pkd_takes_rounding_for_no_pattern(value):
    s, t = maps(dtype=torch.float32), maps(1, dtype=torch.float32)
    s[:, 1] = value
    s.requires_grad_()
    build_loss("pkd", {})(s, t, whole(s)).backward()
    assert not s.grad[:, 1].any()
    assert s.grad[:, 0].any()


def test_cwd_is_the_divergence_of_softmaxes_over_cells():
    s = torch.tensor([[[[0.0, 0.0]]]])
    t = torch.tensor([[[[0.0, math.log(3.0)]]]])  # (1/4, 3/4) against (1/2, 1/2)
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(build_loss("cwd", {})(s, t, whole(s))) == pytest.approx(expected, rel=1e-5)


def test_kl_is_the_mean_divergence_over_proposals():
    s = torch.zeros(2, 2)
    t = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)]])
    expected = (0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2
    assert float(build_loss("kl", {})(s, t, whole(maps()))) == pytest.approx(expected, rel=1e-5)
    assert float(build_loss("kl", {})(s[:0], t[:0], whole(maps()))) == 0


def test_kl_at_temperature_two_is_four_times_that_of_halved_logits():
    s, t = maps()[0, 0], maps(1)[0, 0]
    cold = build_loss("kl", {})(s / 2, t / 2, whole(maps()))
    assert float(build_loss("kl", {"temperature": 2.0})(s, t, whole(maps()))) == pytest.approx(
        4 * float(cold)
    )


def alone(**more):
    """A view of RoI heads that judge each class alone."""
    return whole(maps(), classifier="sigmoid", **more)


def test_kl_of_classes_judged_alone_is_a_sum_over_coins():
    s = torch.zeros(2, 2)
    t = torch.tensor([[0.0, math.log(3.0)], [-math.log(3.0), math.log(3.0)]])
    coin = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(build_loss("kl", {})(s, t, alone())) == pytest.approx(3 * coin / 2)
    warm = build_loss("kl", {"temperature": 2.0})
    assert float(warm(2 * s, 2 * t, alone())) == pytest.approx(4 * 3 * coin / 2)
    assert float(build_loss("kl", {})(t, t, alone())) == 0
    assert float(build_loss("kl", {})(s[:0], t[:0], alone())) == 0


def test_kl_of_one_class_is_the_same_by_sigmoid_and_by_softmax():
    s, t = inputs("kl"), inputs("kl", 1)
    one_s, one_t = (x[:, 1:2] - x[:, :1] for x in (s, t))
    expected = compare("kl", s[:, :2], t[:, :2])
    assert float(build("kl")(one_s, one_t, alone())) == pytest.approx(float(expected))


@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("name", ["kl", "decoupled_kl"])
def test_gradients_of_coins_are_the_students_error_and_finite(name, size):
    s, t = size * inputs("kl"), -size * inputs("kl", 1)
    s.requires_grad_()
    build(name)(s, t, alone()).backward()
    error = s.detach().sigmoid() - t.sigmoid()
    # Three of the six proposals are objects, and three are background.
    assert torch.allclose(s.grad, error / (6 if name == "kl" else 3))


def test_the_teacher_says_what_is_background_where_classes_are_judged_alone():
    s, t = torch.zeros(3, 2), torch.tensor([[1.0, -2.0], [-1.0, -0.5], [-3.0, 2.0]])
    unknown = alone(truth={"labels": torch.full((3,), -1)})
    chosen = alone(truth={"labels": torch.tensor([1, 0, 2])})
    loss = build_loss("decoupled_kl", {"objects": 2.0, "background": 5.0})
    assert float(loss(s, t, unknown)) == float(loss(s, t, chosen))
    objects, rest = (float(build_loss("kl", {})(s[r], t[r], alone())) for r in ([0, 2], [1]))
    assert float(loss(s, t, unknown)) == pytest.approx(2 * objects + 5 * rest)


def test_boxes_follow_the_surest_class_where_classes_are_judged_alone():
    teacher = {"roi.logits": torch.tensor([[math.log(3.0), 0.0], [-math.log(3.0), 0.0]])}
    s, t = torch.zeros(2, 12), torch.zeros(2, 12)
    t[0, 4:8], t[1, 8:12] = 1.0, torch.tensor([1.0, 2.0, 3.0, -6.0])  # class 1, then class 2
    t[:, :4] = 100.0  # background's box means nothing
    expected = (0.75 * 1 + 0.5 * 3) / (0.75 + 0.5)
    assert float(build_loss("boxes", {})(s, t, alone(teacher=teacher))) == pytest.approx(expected)


def test_cosine_is_the_mean_angle_and_blind_to_length():
    s = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])
    t = torch.tensor([[[[0.0, 6.0]], [[2.0, 8.0]]]])  # at right angles, then parallel
    assert float(build_loss("cosine", {})(s, t, whole(s))) == pytest.approx(0.5)


def test_nst_is_the_discrepancy_of_the_sets_of_patterns():
    s = torch.tensor([[[[2.0, 0.0]], [[0.0, 5.0]]]])  # patterns (1, 0) and (0, 1)
    t = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]])  # (1, 0) twice
    # mean k(t, t) = 1, mean k(s, s) = 1/2, mean k(s, t) = 1/2
    assert float(build_loss("nst", {})(s, t, whole(s))) == pytest.approx(0.5)
    swapped = s[:, [1, 0]]
    assert float(build_loss("nst", {})(s, swapped, whole(s))) == pytest.approx(0, abs=1e-6)


def test_fsp_is_the_distance_of_flow_matrices():
    ones = torch.ones(1, 1, 1, 2)
    s = [ones, torch.tensor([[[[1.0, 3.0]]]])]  # flow (1 + 3) / 2
    t = [ones, torch.tensor([[[[1.0, 1.0]]]])]  # flow 1
    assert float(build_loss("fsp", {})(s, t, whole(ones))) == pytest.approx(1.0)


def test_defeat_weighs_objects_and_background_apart():
    s = torch.zeros(1, 1, 2, 2)
    t = torch.tensor([[[[1.0, 5.0], [1.0, 1.0]]]])
    view = whole(s, [target([9.0, 1.0, 15.0, 7.0])])  # the cell in row 0, column 1
    loss = build_loss("defeat", {"objects": 2.0, "background": 3.0})
    assert float(loss(s, t, view)) == pytest.approx(2 * 25 + 3 * 1)


def test_imitation_sees_cells_whose_anchors_overlap_enough():
    s, t = torch.zeros(1, 1, 1, 3), torch.tensor([[[[1.0, 2.0, 7.0]]]])
    # Anchors of 16 px around x = 4, 12, 20; the object is the first one: overlaps 1, 1/3 and 0.
    view = whole(s, [target([-4.0, -4.0, 12.0, 12.0])])
    assert float(build_loss("imitation", {})(s, t, view)) == pytest.approx(1.0)
    assert float(build_loss("imitation", {"share": 0.3})(s, t, view)) == pytest.approx(2.5)


def test_imitation_leaves_an_object_to_the_level_that_suits_it():
    s, t = torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 1, 3)
    box = [0.0, 0.0, 100.0, 100.0]
    anchors = {**whole(s).anchors, "p5": torch.tensor([box])}
    view = whole(s, [target(box)], anchors=anchors)
    assert float(build_loss("imitation", {})(s, t, view)) == 0


def test_frs_weighs_cells_by_the_teachers_objectness():
    s, t = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 2.0]]]])
    objectness = torch.tensor([[[[0.0, -100.0]], [[-100.0, math.log(0.25 / 0.75)]]]])
    view = whole(s, teacher={"rpn.objectness@p3": objectness})  # richness 1/2 and 1/4
    assert float(build_loss("frs", {})(s, t, view)) == pytest.approx((0.5 * 1 + 0.25 * 4) / 0.75)


def test_mgd_compares_what_is_generated_with_the_teacher():
    loss = build("mgd", 1, mask=0.0)
    s, t = maps(c=1), maps(1, c=1)
    generated = loss.leave(loss.enter(s).relu())
    expected = float(((generated - t) ** 2).mean().detach())
    assert float(compare("mgd", s, t, loss=loss)) == pytest.approx(expected)


def test_mgd_drops_cells():
    loss = build("mgd", 1, mask=0.99)
    blind = loss.leave(loss.enter(torch.zeros_like(maps(c=1))).relu())
    expected = float(((blind - maps(1, c=1)) ** 2).mean().detach())
    torch.manual_seed(0)  # a seed under which every one of the 40 cells is dropped
    assert float(loss(maps(c=1), maps(1, c=1), whole(maps()))) == pytest.approx(expected)


def test_fgd_parts_by_hand():
    # One channel of equal size everywhere: both attentions are 1 in every cell.
    t = torch.tensor([[[[1.0, -1.0], [1.0, 1.0]]]], dtype=torch.float64)
    s = -t
    view = whole(s, [target([9.0, 1.0, 15.0, 7.0])])
    off = {"objects": 0.0, "background": 0.0, "spatial": 0.0, "channel": 0.0, "relations": 0.0}
    alone = {name: build("fgd", 1, **{**off, name: 1.0}) for name in off}
    parts = {name: float(loss(s, t, view).detach()) for name, loss in alone.items()}
    # The context blocks start as identities, so relations are plain squares.
    assert parts == pytest.approx(
        {"objects": 4, "background": 4, "spatial": 0, "channel": 0, "relations": 4}
    )


def test_fgd_attends_where_the_teacher_responds():
    t = torch.tensor([[[[0.5 * math.log(3.0), 0.0]]]], dtype=torch.float64)
    s = torch.zeros_like(t)
    loss = build("fgd", 1, objects=0.0, spatial=0.0, channel=0.0, relations=0.0, background=1.0)
    # softmax(|f| / 0.5) = (3/4, 1/4), times two cells: attention 1.5 where they differ.
    expected = 1.5 * float(t[0, 0, 0, 0]) ** 2 / 2
    assert float(loss(s, t, whole(s)).detach()) == pytest.approx(expected)


def test_reviewkd_by_hand_with_identity_convolutions():
    loss = build_loss("reviewkd", {"width": 1}, [1, 1], [1, 1])
    with torch.no_grad():
        for fuse in loss.fuse:
            for layer in (fuse.enter, fuse.leave):
                layer.bias.zero_(), layer.weight.zero_()
                layer.weight[0, 0, layer.weight.shape[2] // 2, layer.weight.shape[3] // 2] = 1
        attend = loss.fuse[0].attend
        attend.weight.zero_(), attend.bias.copy_(torch.tensor([100.0, -100.0]))  # itself alone
    fine, coarse = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)
    t = [torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]]), torch.tensor([[[[3.0]]]])]
    # Fine: mean square 1 and, pooled to one cell (weight 1/2), (1/2)²; coarse: 9 at full size.
    expected = ((1 + 0.25 / 2) / (1 + 1 / 2) + 9) / 2
    assert float(loss([fine, coarse], t, whole(fine)).detach()) == pytest.approx(expected)


def test_dkd_splits_kl_by_the_target():
    s, t = inputs("dkd"), inputs("dkd", 1)
    labels = torch.tensor([1, 0, 2, 0, 0, 1])
    p_s, p_t = s.softmax(1), t.softmax(1)
    sure, rest = 0.0, 0.0
    for row, y in enumerate(labels):
        for a, b in ((p_t[row, y], p_s[row, y]), (1 - p_t[row, y], 1 - p_s[row, y])):
            sure += float(a * (a / b).log()) / 6
        others = [k for k in range(3) if k != y]
        a, b = (p[row, others] / p[row, others].sum() for p in (p_t, p_s))
        rest += float((a * (a / b).log()).sum()) / 6
    assert float(compare("dkd", s, t)) == pytest.approx(sure + 0.25 * rest)


def test_dkd_with_the_teachers_own_weights_is_kl():
    # KL = TCKD + (1 - p_y) NCKD, here for one proposal.
    s, t = inputs("dkd")[:1], inputs("dkd", 1)[:1]
    view = whole(maps(), truth={"labels": torch.tensor([1])})
    beta = 1 - float(t.softmax(1)[0, 1])
    kl = float(compare("kl", s, t))
    assert float(compare("dkd", s, t, view, build("dkd", beta=beta))) == pytest.approx(kl)


def test_dkd_follows_the_teacher_where_there_is_no_truth():
    s, t = inputs("dkd"), inputs("dkd", 1)
    unknown = whole(maps(), truth={"labels": torch.full((6,), -1)})
    chosen = whole(maps(), truth={"labels": t.argmax(1)})
    assert float(compare("dkd", s, t, unknown)) == pytest.approx(
        float(compare("dkd", s, t, chosen))
    )


def test_dist_is_one_minus_the_correlations():
    s, t = inputs("dist"), inputs("dist", 1)
    p, q = s.softmax(1), t.softmax(1)
    rows = sum(float(torch.corrcoef(torch.stack([p[r], q[r]]))[0, 1]) for r in range(6)) / 6
    columns = (
        sum(float(torch.corrcoef(torch.stack([p[:, k], q[:, k]]))[0, 1]) for k in range(3)) / 3
    )
    loss = build("dist", beta=2.0, gamma=3.0)
    assert float(compare("dist", s, t, loss=loss)) == pytest.approx(
        2 * (1 - rows) + 3 * (1 - columns)
    )


def test_decoupled_kl_has_a_mean_for_each_group():
    s, t = inputs("kl"), inputs("kl", 1)
    is_object = torch.tensor([1, 0, 2, 0, 0, 1]) > 0
    objects, rest = (float(compare("kl", s[rows], t[rows])) for rows in (is_object, ~is_object))
    loss = build("decoupled_kl", objects=2.0, background=5.0)
    assert float(compare("decoupled_kl", s, t, loss=loss)) == pytest.approx(2 * objects + 5 * rest)


def test_boxes_follow_the_teachers_class_and_belief():
    teacher = {"roi.logits": torch.tensor([[0.0, 3.0, 1.0], [0.0, 1.0, 1.5]])}
    s, t = torch.zeros(2, 12), torch.zeros(2, 12)
    t[0, 4:8], t[1, 8:12] = 1.0, torch.tensor([1.0, 2.0, 3.0, -6.0])  # class 1, then class 2
    t[:, :4] = 100.0  # background's box means nothing
    weights = teacher["roi.logits"].softmax(1)[:, 1:].amax(1)
    expected = float((weights * torch.tensor([1.0, 3.0])).sum() / weights.sum())
    view = whole(maps(), teacher=teacher)
    assert float(build_loss("boxes", {})(s, t, view)) == pytest.approx(expected)


def test_bounded_boxes_count_while_they_are_worse_than_the_teachers():
    truth = {"labels": torch.tensor([1, 1, 0]), "roi.boxes": torch.zeros(3, 4)}
    s, t = torch.zeros(3, 8), torch.zeros(3, 8)
    s[0, 4], t[0, 4] = 2.0, 1.0  # worse: (2)² / 4
    s[1, 4], t[1, 4] = 1.0, 2.0  # better: nothing
    s[2, 4] = 9.0  # background: nothing
    view = whole(maps(), truth=truth)
    assert float(build_loss("bounded", {})(s, t, view)) == pytest.approx(1.0 / 2)
    assert float(build_loss("bounded", {"margin": 3.5})(s, t, view)) == pytest.approx(1.25 / 2)


def test_objectness_is_the_divergence_of_two_coins():
    s, t = torch.zeros(2, 1), torch.tensor([[0.0], [math.log(3.0)]])
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert float(build_loss("objectness", {})(s, t, whole(maps()))) == pytest.approx(expected)


def test_proposal_boxes_count_where_the_teacher_sees_an_object():
    s, t = torch.zeros(5, 4), torch.arange(5.0)[:, None].expand(5, 4)
    # The teacher's logits are 2, -2, 1, -1, 3: anchors 0, 2 and 4.
    assert float(build_loss("proposal_boxes", {})(s, t, whole(maps()))) == pytest.approx(2.0)
    loss = build_loss("proposal_boxes", {"threshold": 0.99})
    assert float(loss(s, t, whole(maps()))) == 0


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in TRAINED])
def test_it_is_zero_when_the_student_equals_the_teacher(name):
    x = inputs(name)
    view = whole(maps(), [target([0.0, 0, 20, 20]), target()])
    assert float(compare(name, x, x, view).detach()) == pytest.approx(0, abs=1e-9)


def test_mgd_is_zero_where_its_generator_hands_the_teachers_map_on():
    loss = build("mgd", mask=0.0)
    for conv in (loss.enter, loss.leave):
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    x = maps().abs()
    assert float(compare("mgd", x, x, loss=loss).detach()) == 0


def test_reviewkd_is_zero_where_its_fusions_hand_their_own_feature_on():
    loss = build("reviewkd")
    for fusion in loss.fuse:
        for conv in (fusion.enter, fusion.leave):
            torch.nn.init.dirac_(conv.weight)
            torch.nn.init.zeros_(conv.bias)
        if fusion.attend is not None:
            torch.nn.init.zeros_(fusion.attend.weight)
            fusion.attend.bias.data = torch.tensor([60.0, -60.0], dtype=torch.float64)
    s = inputs("reviewkd")
    assert float(compare("reviewkd", s, s, loss=loss).detach()) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name):
    s, t = inputs(name), inputs(name, 1)
    view = whole(maps(), [target([0.0, 0, 20, 20]), target([16.0, 8, 30, 31])])
    loss = build(name)
    if name in JOINT:
        first, second = (x.requires_grad_() for x in s)
        assert torch.autograd.gradcheck(
            lambda a, b: compare(name, [a, b], t, view, loss), (first, second)
        )
    else:
        assert torch.autograd.gradcheck(
            lambda x: compare(name, x, t, view, loss), s.requires_grad_()
        )


@pytest.mark.parametrize("name", [n for n in DENSE if n != "mgd"])
def test_padding_changes_nothing(name):
    s, t = maps(0), maps(1)
    boxes = [target([0.0, 0, 20, 20]), target([16.0, 8, 30, 31])]
    padded_s, padded_t = (
        torch.nn.functional.pad(x, (0, 3, 0, 2), value=value) for x, value in ((s, 9.0), (t, -4.0))
    )
    around = heads(6, 8, 2)
    objectness = around["teacher"]["rpn.objectness@p3"]
    view = View([(32, 40)] * 2, (48, 64), boxes, **around)
    alone = whole(s, boxes, teacher={"rpn.objectness@p3": objectness[..., :4, :5]})
    padded = compare(name, padded_s, padded_t, view)
    assert float(padded.detach()) == pytest.approx(float(compare(name, s, t, alone).detach()))


@pytest.mark.parametrize("name", DENSE + JOINT)
def test_what_padding_holds_never_counts(name):
    view = View([(24, 24), (32, 16)], (32, 40), [target([0.0, 0, 20, 20])] * 2, **heads(4, 5, 2))

    def filled(value, x):
        return x.masked_fill(~view.valid(x), value).requires_grad_()

    losses = []
    for value in (0.0, 7.0):
        s, t = inputs(name), inputs(name, 1)
        s, t = ([filled(v, m) for m in x] if name in JOINT else filled(v, x)
                for v, x in ((value, s), (-value, t)))  # fmt: skip
        loss = compare(name, s, t, view)
        loss.backward()
        for x in s if name in JOINT else [s]:
            assert not x.grad[(~view.valid(x)).expand_as(x)].any()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.parametrize("name", DENSE + JOINT)
@pytest.mark.parametrize(
    "kind",
    ["zeros", "constant", "constant teacher", "constant odd", "one image", "one cell", "huge"],
)
def test_odd_features_give_finite_losses_and_gradients(name, kind):
    s, t = {
        "zeros": (torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)),
        "constant": (torch.full((2, 3, 4, 5), 2.0), maps(1, dtype=torch.float32)),
        "constant odd": (torch.full((2, 3, 4, 5), 150.7), maps(1, dtype=torch.float32)),
        "constant teacher": (maps(1, dtype=torch.float32), torch.full((2, 3, 4, 5), 2.0)),
        "one image": (maps(n=1, dtype=torch.float32), maps(1, n=1, dtype=torch.float32)),
        "one cell": (maps(h=1, w=1, dtype=torch.float32), maps(1, h=1, w=1, dtype=torch.float32)),
        "huge": (1e6 * maps(dtype=torch.float32), maps(1, dtype=torch.float32)),
    }[kind]
    s.requires_grad_()
    view = whole(s)  # images without objects
    pair = ([s, s], [t, t]) if name in JOINT else (s, t)
    loss = compare(name, *pair, view, build(name).float())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(s.grad).all()


@pytest.mark.parametrize("name", LOGITS + BOXES + ANCHORS)
@pytest.mark.parametrize("kind", ["none", "equal", "huge", "no objects"])
def test_odd_rows_give_finite_losses_and_gradients(name, kind):
    s, t = inputs(name, dtype=torch.float32), inputs(name, 1, dtype=torch.float32)
    around = heads(4, 5, 2)
    if kind == "none":
        s, t = s[:0], t[:0]
        for part in ("teacher", "truth"):
            around[part] = {key: x[:0] for key, x in around[part].items()}
    elif kind == "equal":
        s, t = torch.zeros_like(s), torch.zeros_like(t)
    elif kind == "huge":
        s, t = 1e6 * s, -1e6 * t
    else:
        around["truth"]["labels"] = torch.zeros(6, dtype=torch.int64)
        around["teacher"]["rpn.logits"] = torch.full((5, 1), -50.0)
    s = s.clone().requires_grad_()
    loss = compare(name, s, t, View([(32, 40)] * 2, (32, 40), [], **around), build(name).float())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(s.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_features_are_compared_in_float32(name):
    s, t = inputs(name, dtype=torch.bfloat16), inputs(name, 1, dtype=torch.bfloat16)
    halves = [x.requires_grad_() for x in (s if name in JOINT else [s])]
    loss = compare(name, s, t, whole(maps(), [target([0.0, 0, 20, 20])] * 2), build(name).float())
    assert loss.dtype in (torch.float32, torch.float64)
    loss.backward()
    assert all(torch.isfinite(x.grad).all() and x.grad.any() for x in halves)


def test_an_unknown_loss_or_option_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="no loss 'pdk'; there are hint, attention, nst"):
        build_loss("pdk", {})
    with pytest.raises(ConfigError, match="'cwd' has no option 'temperature'; it takes tau"):
        build_loss("cwd", {"temperature": 2})
    with pytest.raises(ConfigError, match="'hint': mask is"):
        build_loss("hint", {"mask": "cells"})
    with pytest.raises(ConfigError, match="cannot be imported"):
        build_loss("no_such_module:Loss", {})


def test_every_loss_has_a_section_in_the_methods_page():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs/methods.md").read_text()
    assert all(f"\n## {name}: " in page for name in LOSSES)


def test_shapes_that_do_not_agree_are_caught_by_the_signature():
    with pytest.raises(Exception, match="Type-check error"):
        build_loss("hint", {})(maps(c=2), maps(c=3), whole(maps()))
