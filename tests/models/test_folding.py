"""Folded norms change nothing but the time that a backbone takes."""

import pytest
import torch
from torch import nn

from detkd.models.backbones import build_backbone
from detkd.models.folding import fold_norms, is_fixed_norm


def lively(norm):
    """A norm with statistics, scales and shifts of a training."""
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    return norm


def norms_of(backbone):
    return [module for module in backbone.eval().modules() if is_fixed_norm(module)]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "name", ["resnet18", "vgg11", "mobilenet_v3_small", "shufflenet_v2_x0_5", "timm/resnet10t"]
)
def test_every_norm_is_folded_and_the_maps_stay(name, frozen):
    torch.manual_seed(0)
    backbone = build_backbone(name, frozen_norm=frozen).eval().requires_grad_(False)
    norms = norms_of(backbone)
    for norm in norms:
        lively(norm)
    images = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        before = backbone(images)
        assert fold_norms(backbone) == len(norms) > 0
        after = backbone(images)
    assert norms_of(backbone) == []
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    for stage, was in before.items():
        assert (after[stage] - was).abs().max() < 1e-4 * was.abs().max()
    assert fold_norms(backbone) == 0


class Small(nn.Module):
    """One convolution and one norm, put together as each test wants."""

    def __init__(self, say):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.say = nn.Conv2d(3, 2, 1), lively(nn.BatchNorm2d(2)), say
        self.eval()

    def forward(self, x):
        return self.say(self, x)


def test_a_convolution_scales_and_shifts_as_worked_by_hand():
    small = Small(lambda m, x: {"y": m.norm(m.conv(x))})
    conv, norm = small.conv, small.norm
    assert fold_norms(small) == 1
    for at in range(2):
        s = norm.weight[at] / (norm.running_var[at] + 1e-5) ** 0.5
        assert torch.allclose(small.conv.weight[at], s * conv.weight[at])
        shift = s * (conv.bias[at] - norm.running_mean[at]) + norm.bias[at]
        assert torch.allclose(small.conv.bias[at], shift)


@pytest.mark.parametrize(
    "say",
    [
        lambda m, x: {"y": m.norm(y := m.conv(x)), "before": y},  # others read it as well
        lambda m, x: {"y": m.norm(m.conv(x)), "again": m.conv(x.flip(3))},
        lambda m, x: {"y": m.norm(m.conv(x).relu())},
        lambda m, x: {"y": m.conv(m.norm(x[:, :2]).repeat(1, 2, 1, 1)[:, :3])},
    ],
    ids=["read by others", "run twice", "not next to it", "the other way round"],
)
def test_what_would_change_the_maps_is_left(say):
    small, x = Small(say), torch.rand(1, 3, 4, 4)
    conv, norm, before = small.conv, small.norm, small(x)
    assert fold_norms(small) == 0
    assert small.conv is conv and small.norm is norm
    assert all(torch.equal(was, small(x)[name]) for name, was in before.items())


def test_a_norm_that_somebody_listens_to_and_one_that_learns_stay():
    small = Small(lambda m, x: {"y": m.norm(m.conv(x))})
    hook = small.norm.register_forward_hook(lambda *_: None)
    assert fold_norms(small) == 0
    hook.remove()
    small.norm.train()
    assert fold_norms(small) == 0
    small.norm.eval()
    assert fold_norms(small) == 1


def test_a_backbone_of_one_size_is_shown_images_of_it():
    torch.manual_seed(0)
    backbone = build_backbone("timm/levit_128s").eval().requires_grad_(False)
    norms = len([lively(norm) for norm in norms_of(backbone)])
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        before = backbone(images)
        assert fold_norms(backbone) == 0
        assert len(norms_of(backbone)) == norms
        folded = fold_norms(backbone, 224)
        after = backbone(images)
    assert len(norms_of(backbone)) == norms - folded
    for stage, was in before.items():
        assert (after[stage] - was).abs().max() < 1e-3 * was.abs().max()
