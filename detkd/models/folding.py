"""Batch norms of a backbone that is read only, folded into the convolutions before them.

With fixed statistics a norm scales and shifts each channel, which the convolution can do by itself:
the same maps, but for rounding, and a pass over each of them saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from detkd.models.backbones import WRONG_SIZE

CLOSE = 1e-3  # of a map's greatest value; rounding makes about a hundredth of it


@torch.no_grad()
def fold_norms(backbone: nn.Module, size: int = 64) -> int:
    """Fold the norms of a backbone in evaluation mode, in place; returns how many.

    Of a convolution with weights W and bias c, and a norm with mean m, variance v, scale g and
    shift b, becomes one with weights s·W and bias s·(c − m) + b, where s = g / sqrt(v + eps).
    Which norm reads which convolution is seen as an image of `size` px a side passes; should the
    backbone take none of this size, or give other maps afterwards, it is left as it was, and 0 is
    returned.
    """
    if not any(is_fixed_norm(module) for module in backbone.modules()):
        return 0
    parameter = next(backbone.parameters())
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(parameter)
    try:
        before, pairs = _watched(backbone, image)
    except WRONG_SIZE:
        return 0
    names = {module: name for name, module in backbone.named_modules()}
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for conv, norm in pairs:
        for old, new in ((conv, _folded(conv, norm)), (norm, _behind(norm))):
            path, _, name = names[old].rpartition(".")
            owner = backbone.get_submodule(path)
            setattr(owner, name, new.eval())
            replaced.append((owner, name, old))
    after: Mapping[str, Tensor] = backbone(image)
    for name, was in before.items():
        if not (after[name] - was).abs().max() <= CLOSE * was.abs().max():
            for owner, name, old in replaced:
                setattr(owner, name, old)
            return 0
    return len(pairs)


def _watched(
    backbone: nn.Module, image: Tensor
) -> tuple[Mapping[str, Tensor], list[tuple[nn.Conv2d, Any]]]:
    """Its maps of an image; and convolutions with the norms that read them.

    Of these each runs once, and nobody else listens.
    """
    runs: Counter[nn.Module] = Counter()
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds the map, so that its id is not reused
    found: list[tuple[nn.Conv2d, Any]] = []

    def begun(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if is_fixed_norm(module) and id(inputs[0]) in made:
            found.append((made[id(inputs[0])][0], module))

    def ended(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        runs[module] += 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)

    quiet = [
        module
        for module in backbone.modules()
        if not (module._forward_hooks or module._forward_pre_hooks)
    ]
    hooks = [
        hook
        for module in quiet
        for hook in (
            module.register_forward_pre_hook(begun),
            module.register_forward_hook(ended),
        )
    ]
    try:
        maps: Mapping[str, Tensor] = backbone(image)
    finally:
        for hook in hooks:
            hook.remove()
    return maps, [(conv, norm) for conv, norm in found if runs[conv] == runs[norm] == 1]


def is_fixed_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm, torch's, timm's or a frozen one, that goes by kept statistics."""
    return isinstance(getattr(module, "running_var", None), Tensor) and not module.training


def _folded(conv: nn.Conv2d, norm: Any) -> nn.Conv2d:
    """The convolution that scales and shifts as the norm does."""
    weight, bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    folded = deepcopy(conv)
    folded.weight = nn.Parameter(weight, requires_grad=False)
    folded.bias = nn.Parameter(bias, requires_grad=False)
    return folded


def _behind(norm: nn.Module) -> nn.Module:
    """What else a norm does: those of timm hold the activation that comes next."""
    return nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))
