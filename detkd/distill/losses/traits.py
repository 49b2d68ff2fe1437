"""What the distiller has to know of a loss before it can serve it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import nn


@dataclass(frozen=True)
class Traits:
    """Class attributes that a loss may have; these are what it gets without them.

    Args:
        reads: features it can compare: 'map' (c2..c5, p2..p6, a classifier's pooled and logits as
            maps of one cell), 'level' (those that the RPN sees), or a head's output by name, such
            as roi.logits, or a classifier's logits as rows.
        classifiers: kinds of RoI heads (`model.classifier`) whose logits it knows how to compare.
        needs_equal_width: the student's channels are adapted to the teacher's first.
        needs_cells: it compares how cells differ, of which logits and pooled features have one.
        joint: it takes the lists of all features of its term at once, not one after the other.
        at_least: features that its term must name.
        fine_to_deep: it takes them in the order of their strides alone.
        published: factor from the paper's weight to ours, at the paper's setting; None where no
            paper has a weight for it.
        sums_levels: the paper sums over features, where a term of ours is their mean.
    """

    reads: tuple[str, ...] = ("map",)
    classifiers: tuple[str, ...] = ("softmax",)
    needs_equal_width: bool = True
    needs_cells: bool = False
    joint: bool = False
    at_least: int = 1
    fine_to_deep: bool = False
    published: float | None = 1.0
    sums_levels: bool = False


def traits_of(loss: type[nn.Module] | nn.Module) -> Traits:
    """The traits that a loss states."""
    return Traits(
        **{
            field.name: getattr(loss, field.name)
            for field in fields(Traits)
            if hasattr(loss, field.name)
        }
    )
