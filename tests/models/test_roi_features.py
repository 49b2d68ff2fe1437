"""What the RoI head sees of a proposal, by hand and against torchvision's operators."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from detkd.config import ModelConfig
from detkd.models.backbones import Feature
from detkd.models.roi_features import build_roi_features

LEVELS = {"p3": Feature(6, 8), "p4": Feature(6, 16)}


def build(kind, **changes):
    torch.manual_seed(0)
    model = ModelConfig(roi_features=kind, **{"roi_size": 3, "roi_channels": 2, **changes})
    return build_roi_features(model, LEVELS)


def maps(batch=2):
    torch.manual_seed(1)
    return {"p3": torch.randn(batch, 6, 16, 16), "p4": torch.randn(batch, 6, 8, 8)}


# Of 112 px a side p4 is read, of half of that p3.
BOXES = [torch.tensor([[8.0, 8, 40, 40], [4, 4, 124, 124]]), torch.tensor([[60.0, 50, 100, 110]])]
SIZES = [(128, 128)] * 2


def test_plain_features_are_torchvisions():
    pool, values = build("plain")
    theirs = MultiScaleRoIAlign(list(LEVELS), 3, sampling_ratio=2, canonical_scale=112)
    found = pool(maps(), BOXES, SIZES)
    assert torch.equal(found, theirs(maps(), BOXES, SIZES))
    assert values == found[0].numel() == 6 * 9


def test_a_flat_first_frame_does_not_change_the_scale():
    pool, _ = build("plain")
    flat = {"p3": torch.randn(1, 6, 4, 32), "p4": torch.randn(1, 6, 2, 16)}  # padded to 32 rows
    pool(flat, [BOXES[0][:1]], [(12, 256)])
    fresh, _ = build("plain")
    assert torch.equal(pool(maps(), BOXES, SIZES), fresh(maps(), BOXES, SIZES))


def test_thin_features_are_plain_ones_of_fewer_channels():
    """The reduction and the sampling are linear: their order does not matter."""
    thin, values = build("thin")
    plain, _ = build("plain")
    weight, bias = thin.reduce.weight[:, :, 0, 0], thin.reduce.bias
    found = thin(maps(), BOXES, SIZES)
    expected = torch.einsum("rchw,tc->rthw", plain(maps(), BOXES, SIZES), weight)
    assert torch.allclose(found, expected + bias[:, None, None], atol=1e-5)
    assert values == found[0].numel() == 2 * 9


def test_each_cell_of_a_position_sensitive_feature_has_channels_of_its_own():
    pool, values = build("psroi")
    assert pool.reduce.out_channels == 2 * 9
    with torch.no_grad():
        pool.reduce.weight.zero_()
        pool.reduce.bias.copy_(torch.arange(18.0))  # every cell of channel k is k
    found = pool(maps(), BOXES, SIZES)
    numbers = torch.arange(18.0).view(2, 3, 3)  # (a * 3 + i) * 3 + j
    assert torch.equal(found, numbers.expand(3, -1, -1, -1))
    assert values == 18


def test_position_sensitive_features_are_read_at_the_right_place():
    """On a map that is its own column and row, a cell's mean is its centre, in cells of the map."""
    pool, _ = build("psroi", roi_channels=1, roi_size=2)
    with torch.no_grad():
        pool.reduce.weight.zero_()
        pool.reduce.bias.zero_()
        pool.reduce.weight[:2, 0] = 1.0  # the upper two cells read columns,
        pool.reduce.weight[2:, 1] = 1.0  # the lower two rows
    levels = {name: torch.zeros(2, 6, *each.shape[2:]) for name, each in maps().items()}
    levels["p3"][:, 0] = torch.arange(16.0)
    levels["p3"][:, 1] = torch.arange(16.0)[:, None]
    found = pool(levels, [BOXES[0][:1], BOXES[1][:0]], SIZES)
    # The box from 8 to 40 px is 1 to 5 cells of 8 px; the middle of a cell is its number + 0.5.
    assert torch.allclose(found[0, 0], torch.tensor([[1.5, 3.5], [3.5, 3.5]]))


@pytest.mark.parametrize("kind", ["plain", "thin", "psroi"])
def test_boxes_are_read_from_their_own_frame_and_level(kind):
    pool, _ = build(kind)
    before = pool(maps(), BOXES, SIZES)
    for frame, level, changed in ((0, "p3", 0), (0, "p4", 1), (1, "p3", 2)):
        levels = maps()
        levels[level][frame] += 1.0
        moved = (pool(levels, BOXES, SIZES) - before).abs().amax((1, 2, 3)) > 1e-4
        assert moved.nonzero().flatten().tolist() == [changed]


@pytest.mark.parametrize("kind", ["plain", "thin", "psroi"])
def test_no_proposals_give_no_features_and_mixed_precision_works(kind):
    pool, values = build(kind)
    nothing = [torch.zeros(0, 4)] * 2
    assert pool(maps(), nothing, SIZES).shape == (0, values // 9, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        low = pool({name: each.bfloat16() for name, each in maps().items()}, BOXES, SIZES)
    assert torch.allclose(low.float(), pool(maps(), BOXES, SIZES), atol=0.1)


@pytest.mark.parametrize("kind", ["thin", "psroi"])
def test_gradients_reach_the_levels_and_the_reduction(kind):
    pool, _ = build(kind)
    levels = {name: each.requires_grad_() for name, each in maps().items()}
    pool(levels, BOXES, SIZES).square().sum().backward()
    assert pool.reduce.weight.grad.any() and pool.reduce.bias.grad.any()
    assert all(each.grad.any() for each in levels.values())
