"""The context enhancement module, by hand."""

import pytest
import torch

from detkd.models.backbones import Feature
from detkd.models.neck import build_neck

FEATURES = {"c3": Feature(2, 8), "c4": Feature(3, 16), "c5": Feature(4, 32)}


def stages():
    torch.manual_seed(0)
    return {
        "c3": torch.randn(2, 2, 8, 8),
        "c4": torch.randn(2, 3, 4, 4),
        "c5": torch.randn(2, 4, 2, 2),
    }


def lateral(neck, name, x):
    """A 1x1 convolution; the norm of a fresh network in evaluation divides by sqrt(1 + eps)."""
    weight = neck.lateral[name][0].weight[:, :, 0, 0]
    return torch.einsum("nchw,oc->nohw", x, weight) / (1 + 1e-5) ** 0.5


def frame(neck, x):
    weight, bias = neck.frame.weight[:, :, 0, 0], neck.frame.bias
    return (x.mean((2, 3)) @ weight.T + bias)[:, :, None, None]


def doubled(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_one_level_is_the_published_module():
    neck = build_neck("cem", FEATURES, 5, ["p4"]).eval()
    c = stages()
    expected = lateral(neck, "c4", c["c4"]) + doubled(lateral(neck, "c5", c["c5"]))
    expected = expected + frame(neck, c["c5"])
    assert list(neck.lateral) == ["c4", "c5"]
    found = neck(c)
    assert list(found) == ["p4"]
    assert torch.allclose(found["p4"], expected, atol=1e-6)


def test_several_levels_have_no_chain_and_the_deepest_stands_alone():
    neck = build_neck("cem", FEATURES, 5, ["p3", "p4", "p5", "p6"]).eval()
    c = stages()
    found = neck(c)
    own = {name: lateral(neck, name, x) for name, x in c.items()}
    whole = frame(neck, c["c5"])
    assert torch.allclose(found["p3"], own["c3"] + doubled(own["c4"]) + whole, atol=1e-6)
    assert torch.allclose(found["p4"], own["c4"] + doubled(own["c5"]) + whole, atol=1e-6)
    assert torch.allclose(found["p5"], own["c5"] + whole, atol=1e-6)
    assert torch.equal(found["p6"], found["p5"][:, :, ::2, ::2])
    assert {name: feature.stride for name, feature in neck.features.items()} == {
        **{"p3": 8, "p4": 16},
        **{"p5": 32, "p6": 64},
    }


@pytest.mark.parametrize("kind", ["fpn", "light_fpn", "bare_fpn", "cem"])
def test_odd_sizes_fit_and_a_batch_of_one_trains(kind):
    neck = build_neck(kind, FEATURES, 5, ["p3", "p4"])
    maps = {"c3": (5, 7), "c4": (3, 4), "c5": (2, 2)}
    found = neck({name: torch.randn(1, FEATURES[name].channels, *s) for name, s in maps.items()})
    assert [tuple(x.shape) for x in found.values()] == [(1, 5, 5, 7), (1, 5, 3, 4)]
    sum(x.square().sum() for x in found.values()).backward()
    assert all(p.grad is not None for p in neck.parameters())


def test_a_bare_pyramid_is_its_sums():
    neck = build_neck("bare_fpn", FEATURES, 5, ["p3", "p4"]).eval()
    c = stages()
    own = {name: lateral(neck, name, x) for name, x in c.items()}
    p4 = own["c4"] + doubled(own["c5"])
    found = neck(c)
    assert torch.allclose(found["p4"], p4, atol=1e-6)
    assert torch.allclose(found["p3"], own["c3"] + doubled(p4), atol=1e-6)


def test_what_the_frame_says_is_the_mean_of_the_images_own_cells():
    neck = build_neck("cem", FEATURES, 5, ["p4"]).eval()
    c = stages()
    sizes = [(64, 33), (30, 64)]  # of a batch of 64x64: 2x2 and 1x2 cells of stride 32
    own = torch.stack([c["c5"][0].mean((1, 2)), c["c5"][1, :, :1].mean((1, 2))])
    weight, bias = neck.frame.weight[:, :, 0, 0], neck.frame.bias
    expected = lateral(neck, "c4", c["c4"]) + doubled(lateral(neck, "c5", c["c5"]))
    expected = expected + (own @ weight.T + bias)[:, :, None, None]
    assert torch.allclose(neck(c, sizes)["p4"], expected, atol=1e-6)


def test_one_size_is_that_of_all_images():
    neck = build_neck("cem", FEATURES, 5, ["p4"]).eval()
    c = stages()
    assert torch.allclose(neck(c, [(64, 20)])["p4"], neck(c, [(64, 20)] * 2)["p4"], atol=1e-6)
    assert torch.equal(neck(c, [(64, 64)])["p4"], neck(c)["p4"])


@pytest.mark.parametrize("kind", ["fpn", "cem"])
def test_padding_deep_down_is_not_seen(kind):
    neck = build_neck(kind, FEATURES, 5, ["p5"]).eval()
    c = stages()
    changed = c | {"c5": c["c5"].clone()}
    changed["c5"][:, :, :, 1] = 1000.0
    one, other = (neck(maps, [(64, 32)] * 2)["p5"][..., 0] for maps in (c, changed))
    assert torch.allclose(one, other) == (kind == "cem")  # a convolution sees its neighbours
