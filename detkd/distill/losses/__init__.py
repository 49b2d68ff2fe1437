"""Distillation losses, one file a method. To add one, write its file and list it here.

A loss is a module `forward(student, teacher, view) -> scalar` on two tensors of one shape; what
else it needs it says in class attributes, all listed in `traits.py`.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from detkd.distill.losses.attention import AttentionTransfer
from detkd.distill.losses.bounded import BoundedBoxes
from detkd.distill.losses.boxes import TeacherBoxes
from detkd.distill.losses.cosine import CosineDistance
from detkd.distill.losses.cwd import ChannelWise
from detkd.distill.losses.decoupled_kl import GroupedKL
from detkd.distill.losses.defeat import DecoupledFeatures
from detkd.distill.losses.dist import PredictionRelations
from detkd.distill.losses.dkd import DecoupledLogits
from detkd.distill.losses.fgd import FocalGlobal
from detkd.distill.losses.frs import FeatureRichness
from detkd.distill.losses.fsp import SolutionFlow
from detkd.distill.losses.hint import Hint
from detkd.distill.losses.imitation import FineGrainedImitation
from detkd.distill.losses.kl import LogitsKL
from detkd.distill.losses.mgd import MaskedGeneration
from detkd.distill.losses.nst import NeuronSelectivity
from detkd.distill.losses.objectness import Objectness
from detkd.distill.losses.pkd import PearsonDistillation
from detkd.distill.losses.proposal_boxes import ProposalBoxes
from detkd.distill.losses.reviewkd import KnowledgeReview
from detkd.errors import ConfigError

LOSSES: dict[str, type[nn.Module]] = {
    # Feature maps
    "hint": Hint,
    "attention": AttentionTransfer,
    "nst": NeuronSelectivity,
    "fsp": SolutionFlow,
    "cosine": CosineDistance,
    "pkd": PearsonDistillation,
    "cwd": ChannelWise,
    "fgd": FocalGlobal,
    "mgd": MaskedGeneration,
    "reviewkd": KnowledgeReview,
    "imitation": FineGrainedImitation,
    "defeat": DecoupledFeatures,
    "frs": FeatureRichness,
    # RoI head
    "kl": LogitsKL,
    "dkd": DecoupledLogits,
    "dist": PredictionRelations,
    "decoupled_kl": GroupedKL,
    "boxes": TeacherBoxes,
    "bounded": BoundedBoxes,
    # RPN
    "objectness": Objectness,
    "proposal_boxes": ProposalBoxes,
}
TEMPERATURES = ("temperature", "tau")
GIVEN = ("channels", "student_channels", "teacher_channels")  # by the distiller, to who takes them


def build_loss(
    name: str,
    options: Mapping[str, Any],
    student_channels: Sequence[int] = (),
    teacher_channels: Sequence[int] = (),
) -> nn.Module:
    """The loss called `name`, or `my_module:MyLoss` from outside the package.

    A loss with convolutions of its own may take `channels` (of the teacher's feature), or the
    widths of all features of its term as `student_channels` and `teacher_channels`.

    Raises:
        ConfigError: no such loss, or an option that it does not take.
    """
    loss = find_loss(name)
    parameters = inspect.signature(loss.__init__).parameters
    taken = [key for key in parameters if key != "self"]
    known = [key for key in taken if key not in GIVEN]
    unknown = [key for key in options if key not in known]
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise ConfigError(f"distill.losses: '{name}' has no option '{unknown[0]}'; {takes}.")
    if name in LOSSES:
        _check_numbers(name, options, {key: parameters[key].default for key in options})
    given = {
        "channels": teacher_channels[0] if teacher_channels else 0,
        "student_channels": student_channels,
        "teacher_channels": teacher_channels,
    }
    try:
        return loss(**options, **{key: given[key] for key in taken if key in GIVEN})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"distill.losses: '{name}': {error}.") from error


def _check_numbers(name: str, options: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    """Refuse what is no number where the loss has one by itself, and temperatures of 0.

    Of our losses, whose whole numbers are counts; one from outside knows its own options.
    """
    for key, value in options.items():
        default = usual[key]
        if isinstance(default, bool) or not isinstance(default, int | float):
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise ConfigError(f"distill.losses: '{name}': {key} is a number, not {value!r}.")
        if isinstance(default, int) and (value != int(value) or value < 1):
            raise ConfigError(f"distill.losses: '{name}': {key} is a whole number from 1 on.")
        if key in TEMPERATURES and value <= 0:
            raise ConfigError(f"distill.losses: '{name}': {key} is above 0, not {value}.")


def find_loss(name: str) -> type[nn.Module]:
    """The class of a loss.

    Raises:
        ConfigError: there is none of this name.
    """
    loss = _from_outside(name) if ":" in name else LOSSES.get(name)
    if loss is None:
        raise ConfigError(
            f"distill.losses: no loss '{name}'; there are {', '.join(LOSSES)}, "
            "and my_module:MyLoss from outside."
        )
    return loss


def source_from_outside(name: str) -> Path | None:
    """The file of a loss from outside the package; None of ours, which a version stands for.

    Raises:
        ConfigError: there is none of this name.
    """
    if ":" not in name:
        return None
    file = inspect.getsourcefile(_from_outside(name))
    return Path(file) if file else None


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
