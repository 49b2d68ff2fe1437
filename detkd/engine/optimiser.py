"""The optimiser and the course of its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from detkd.config import TrainConfig


def build_optimizer(trainable: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over what is trained; norms and biases are not decayed.

    A trainable may give parameters a factor on the learning rate by name, as `lr_factors`; those
    are included even while they are frozen. Each group keeps its full learning rate as `base_lr`;
    `set_lr` scales it at every step.
    """
    factors: dict[str, float] = getattr(trainable, "lr_factors", {})
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in trainable.named_parameters():
        if parameter.requires_grad or name in factors:
            lr = train.lr * factors.get(name, 1.0)
            if "backbone.body." in name or "backbone.stages." in name:
                lr *= train.backbone_lr
            groups.setdefault((lr, parameter.ndim > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": lr,
            "base_lr": lr,
            "weight_decay": train.weight_decay if decays else 0.0,
        }
        for (lr, decays), parameters in groups.items()
    ]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(settings)
    # torch knows no Nesterov's without a momentum.
    nesterov = train.momentum > 0
    return torch.optim.SGD(settings, lr=train.lr, momentum=train.momentum, nesterov=nesterov)


def lr_factor(step: int, steps: int, train: TrainConfig) -> float:
    """Share of the full learning rate at `step` of `steps` (both count from 0).

    After a linear warm-up: cosine falls to 0; step falls to a tenth at 2/3 and again at 8/9;
    one_cycle (Smith and Topin, 2018) climbs for 30 % of the way and falls to a 1,000th.
    """
    if train.schedule == "one_cycle":
        rise = max(1, round(0.3 * steps))
        if step < rise:
            return _cosine(1 - step / rise, low=0.04)
        return _cosine((step - rise) / max(1, steps - rise), low=1e-3)
    if step < train.warmup:
        return (step + 1) / (train.warmup + 1)
    if train.schedule == "cosine":
        return _cosine((step - train.warmup) / max(1, steps - train.warmup), low=0.0)
    if train.schedule == "step":
        return 0.1 ** ((step >= steps * 2 / 3) + (step >= steps * 8 / 9))
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def _cosine(progress: float, low: float) -> float:
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
