import math

import pytest
import torch

from detkd.distill.losses import LOSSES, build_loss
from detkd.distill.view import View
from detkd.errors import ConfigError

DENSE = ["hint", "attention", "pkd", "cwd"]


def whole(features, targets=()):
    """A view of images without padding, 8 px a cell."""
    size = (features.shape[-2] * 8, features.shape[-1] * 8)
    return View([size] * len(features), size, list(targets))


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


@pytest.mark.parametrize("name", [*DENSE, "kl"])
def test_it_is_zero_when_the_student_equals_the_teacher(name):
    x = maps() if name != "kl" else maps()[0, 0]
    view = whole(maps())
    assert float(build_loss(name, {})(x, x.clone(), view)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", [*DENSE, "kl"])
def test_gradients_equal_finite_differences(name):
    s, t = (maps(seed) if name != "kl" else maps(seed)[0, 0] for seed in (0, 1))
    view = whole(maps())
    loss = build_loss(name, {})
    assert torch.autograd.gradcheck(lambda x: loss(x, t, view), s.requires_grad_())


@pytest.mark.parametrize("name", DENSE)
def test_padding_never_counts(name):
    s, t = maps(0), maps(1)
    padded_s, padded_t = (
        torch.nn.functional.pad(x, (0, 3, 0, 2), value=value) for x, value in ((s, 9.0), (t, -4.0))
    )
    view = View([(32, 40)] * 2, (48, 64), [])
    loss = build_loss(name, {})
    assert float(loss(padded_s, padded_t, view)) == pytest.approx(float(loss(s, t, whole(s))))


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("kind", ["zeros", "constant", "one image", "one cell", "huge"])
def test_odd_features_give_finite_losses_and_gradients(name, kind):
    s, t = {
        "zeros": (torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)),
        "constant": (torch.full((2, 3, 4, 5), 2.0), maps(1, dtype=torch.float32)),
        "one image": (maps(n=1, dtype=torch.float32), maps(1, n=1, dtype=torch.float32)),
        "one cell": (maps(h=1, w=1, dtype=torch.float32), maps(1, h=1, w=1, dtype=torch.float32)),
        "huge": (1e6 * maps(dtype=torch.float32), maps(1, dtype=torch.float32)),
    }[kind]
    s.requires_grad_()
    loss = build_loss(name, {})(s, t, whole(s, [target()] * len(s)))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(s.grad).all()


@pytest.mark.parametrize("name", DENSE)
def test_half_precision_features_are_compared_in_float32(name):
    s, t = maps(dtype=torch.bfloat16), maps(1, dtype=torch.bfloat16)
    assert build_loss(name, {})(s, t, whole(s)).dtype == torch.float32


def test_the_teacher_gets_no_gradient_through_its_own_map():
    s, t = maps().requires_grad_(), maps(1)
    build_loss("hint", {})(s, t, whole(s)).backward()
    assert t.grad is None


def test_an_unknown_loss_or_option_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="no loss 'pdk'; there are hint, attention, pkd"):
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
