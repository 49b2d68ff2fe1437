"""Distillation losses, one file a method. To add one, write its file and list it here.

A loss is a module `forward(student, teacher, view) -> scalar` on two tensors of one shape; with
`needs_equal_width = False` the channels may differ, otherwise the student's are adapted first.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from detkd.distill.losses.attention import AttentionTransfer
from detkd.distill.losses.cwd import ChannelWise
from detkd.distill.losses.hint import Hint
from detkd.distill.losses.kl import LogitsKL
from detkd.distill.losses.pkd import PearsonDistillation
from detkd.errors import ConfigError

LOSSES: dict[str, type[nn.Module]] = {
    "hint": Hint,
    "attention": AttentionTransfer,
    "pkd": PearsonDistillation,
    "cwd": ChannelWise,
    "kl": LogitsKL,
}


def build_loss(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The loss called `name`, or `my_module:MyLoss` from outside the package.

    Raises:
        ConfigError: no such loss, or an option that it does not take.
    """
    loss = _from_outside(name) if ":" in name else LOSSES.get(name)
    if loss is None:
        raise ConfigError(
            f"distill.losses: no loss '{name}'; there are {', '.join(LOSSES)}, "
            "and my_module:MyLoss from outside."
        )
    known = [key for key in inspect.signature(loss.__init__).parameters if key != "self"]
    unknown = [key for key in options if key not in known]
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise ConfigError(f"distill.losses: '{name}' has no option '{unknown[0]}'; {takes}.")
    try:
        return loss(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"distill.losses: '{name}': {error}.") from error


def _from_outside(name: str) -> type[nn.Module]:
    module_name, _, class_name = name.partition(":")
    try:
        loss = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"distill.losses: '{name}' cannot be imported ({error}); is its folder on PYTHONPATH?"
        ) from error
    if not (isinstance(loss, type) and issubclass(loss, nn.Module)):
        raise ConfigError(f"distill.losses: '{name}' is no torch module.")
    return loss
