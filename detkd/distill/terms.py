"""A distillation term: a loss, the features it compares, its adapters, weight and schedule."""

from __future__ import annotations

from math import inf

from torch import Tensor, nn

from detkd.config import PublishedWeight, TermConfig
from detkd.distill.adapters import Adapter
from detkd.distill.losses import LOSSES, build_loss, find_loss
from detkd.distill.losses.reduction import full
from detkd.distill.losses.traits import Traits, traits_of
from detkd.distill.outputs import BothSay
from detkd.distill.schedule import factor
from detkd.distill.taps import HEAD_FEATURES, ONE_CELL, check_feature
from detkd.distill.view import View
from detkd.errors import ConfigError
from detkd.models.detector import Detector
from detkd.models.network import Network


class Term(nn.Module):
    """`term(outputs, view)` gives the unweighted loss of each of its features, by name.

    A joint loss sees all its features at once and gives one number, under the name of the term.
    The second term of one loss is called `hint#2`, so that it never hides the first.

    Args:
        config: the loss, its features, weight and schedule.
        student, teacher: whose features are compared.
        number: which of the terms of this loss it is, counted from 1.

    Raises:
        ConfigError: features that one of the two has not, or that the loss cannot compare.
    """

    def __init__(
        self, config: TermConfig, student: Network, teacher: Network, number: int = 1
    ) -> None:
        super().__init__()
        self.label = config.name if number == 1 else f"{config.name}#{number}"
        self.config, self.traits = config, traits_of(find_loss(config.name))
        _check(config, self.traits, student, teacher)
        self.weight = our_weight(config, self.traits)
        self.adapters = nn.ModuleDict()
        maps = [name for name in config.at if name not in (*HEAD_FEATURES, *self.traits.reads)]
        for name in maps:
            self.adapters[name] = Adapter(
                student.features[name],
                teacher.features[name],
                equal_width=self.traits.needs_equal_width,
            )
        widths = [
            [detector.features[name].channels for name in maps] for detector in (student, teacher)
        ]
        groups: list[list[list[int]]] = [widths]
        if maps and not self.traits.joint:
            groups = [[[ours], [theirs]] for ours, theirs in zip(*widths, strict=True)]
        # One loss a feature: those with convolutions of their own must not share them.
        self.losses = nn.ModuleList(
            build_loss(config.name, config.options, *group) for group in groups
        )

    def at_step(self, step: int, steps: int) -> float:
        """Its weight at this step of so many, by its schedule; 0 when it is off."""
        return self.weight * factor(self.config.schedule, step, steps)

    @property
    def reads_heads(self) -> bool:
        """Whether it compares what the RPN or the RoI head says."""
        return any(name in HEAD_FEATURES for name in self.config.at)

    def names(self) -> list[str]:
        """The names of its losses, as they appear in the log."""
        if self.traits.joint:
            return [self.label]
        return [f"{self.label}@{feature}" for feature in self.config.at]

    def forward(self, outputs: BothSay, view: View) -> dict[str, Tensor]:
        pairs = [self._pair(name, outputs) for name in self.config.at]
        if self.traits.joint:
            ours, theirs = zip(*pairs, strict=True)
            return {self.label: self.losses[0](list(ours), list(theirs), view)}
        found = {}
        for at, (feature, name) in enumerate(zip(self.config.at, self.names(), strict=True)):
            loss = self.losses[at % len(self.losses)]
            found[name] = loss(*pairs[at], view.of(feature))
        return found

    def _pair(self, name: str, outputs: BothSay) -> tuple[Tensor, Tensor]:
        ours, theirs = full(outputs.student[name]), full(outputs.teacher[name])
        if name in self.adapters:
            if ours.ndim == 2:  # a classifier's logits, as a map of one cell
                ours, theirs = ours[:, :, None, None], theirs[:, :, None, None]
            ours = self.adapters[name](ours, theirs)
        return ours, theirs


def our_weight(config: TermConfig, traits: Traits) -> float:
    """The weight in front of our means, converted if it is a published one."""
    if not isinstance(config.weight, PublishedWeight):
        return config.weight
    if traits.published is None:
        raise ConfigError(
            f"distill.losses: '{config.name}' has no published weight; give a number, such as what "
            "--suggest-weights measures."
        )
    features = len(config.at) if traits.sums_levels else 1
    return config.weight.published * traits.published * features


def _check(config: TermConfig, traits: Traits, student: Network, teacher: Network) -> None:
    if not config.at:
        raise ConfigError(f"distill.losses: '{config.name}' names no feature in 'at'.")
    if len(config.at) < traits.at_least:
        raise ConfigError(
            f"distill.losses: '{config.name}' compares {traits.at_least} features or more, "
            f"and 'at' names {', '.join(config.at)} alone."
        )
    typed = config.weight
    number = typed.published if isinstance(typed, PublishedWeight) else typed
    if not 0 <= number < inf:
        raise ConfigError(
            f"distill.losses: the weight of '{config.name}' is {number}; it is a number of 0 or "
            "more."
        )
    schedule = config.schedule
    if not 0 <= schedule.start < schedule.stop <= 1 or schedule.every < 1 or schedule.warmup < 0:
        raise ConfigError(
            f"distill.losses: the schedule of '{config.name}' needs 0 <= start < stop <= 1, "
            "every of 1 or more and warmup of 0 or more."
        )
    maps, levels = list(student.features), list[str]()
    heads: tuple[str, ...] = ("logits",)
    if isinstance(student, Detector):
        levels, heads = list(student.backbone.neck.features), HEAD_FEATURES
    kinds = {"map": f"a feature map ({', '.join(maps)})", "level": "a level of an RPN"}
    if levels:
        kinds["level"] = f"a level of the RPN ({', '.join(levels)})"
    for name in config.at:
        check_feature(name, student, "student")
        check_feature(name, teacher, "teacher")
        fits = name in traits.reads or (
            name in maps and ("map" in traits.reads or ("level" in traits.reads and name in levels))
        )
        if not fits:
            known = [kind for kind in traits.reads if kind in kinds or kind in heads]
            takes = " or ".join(kinds.get(kind, kind) for kind in known or traits.reads)
            raise ConfigError(f"distill.losses: '{config.name}' compares {takes}, not '{name}'.")
        if traits.needs_cells and name in ONE_CELL:
            others = ", ".join(each for each in maps if each not in ONE_CELL)
            raise ConfigError(
                f"distill.losses: '{config.name}' compares how cells differ, and '{name}' is one "
                f"cell; take {others}, or another loss."
            )
    strides = [student.features[name].stride for name in config.at if name in student.features]
    if traits.fine_to_deep and strides != sorted(strides):
        order = sorted(config.at, key=lambda name: student.features[name].stride)
        raise ConfigError(
            f"distill.losses: '{config.name}' goes from the finest feature to the deepest; write "
            f"at: [{', '.join(order)}]."
        )
    if isinstance(student, Detector) and isinstance(teacher, Detector):
        _check_heads(config, traits, student, teacher)


def _check_heads(config: TermConfig, traits: Traits, student: Detector, teacher: Detector) -> None:
    """Refuse what detectors' heads must have in common for this term, and have not."""
    heads = {name.partition(".")[0] for name in config.at if name in HEAD_FEATURES}
    if "cross" in heads and student.backbone.out_channels != teacher.backbone.out_channels:
        raise ConfigError(
            f"distill.losses: '{config.at[0]}' puts the student's levels through the teacher's "
            f"RoI head, and they have {student.backbone.out_channels} channels, not "
            f"{teacher.backbone.out_channels}; give both the same model.neck_channels."
        )
    ours, theirs = (list(net.backbone.neck.features) for net in (student, teacher))
    if "cross" in heads and not set(theirs) <= set(ours):
        raise ConfigError(
            f"distill.losses: '{config.at[0]}' puts the student's levels ({', '.join(ours)}) "
            f"through the teacher's RoI head, which reads {', '.join(theirs)}; give both the same "
            "model.levels."
        )
    if logits := [name for name in config.at if name in ("roi.logits", "cross.logits")]:
        _check_classifiers(config.name, logits, traits, student, teacher)
    anchors = [
        (net.rpn.anchor_generator.sizes, net.rpn.anchor_generator.aspect_ratios)
        for net in (student, teacher)
    ]
    others = anchors[0] != anchors[1] or ("rpn" in heads and ours != theirs)
    if ("rpn" in heads or "level" in traits.reads) and others:
        raise ConfigError(
            f"distill.losses: '{config.name}' compares anchors, and the two have others; give "
            "both the same levels, model.anchor_sizes and model.anchor_ratios, or name other terms "
            "in distill.losses."
        )


def _check_classifiers(
    name: str, logits: list[str], traits: Traits, student: Detector, teacher: Detector
) -> None:
    """Refuse class logits of two kinds, or of one that the loss has no form for."""
    ours, theirs = student.config.classifier, teacher.config.classifier
    # At cross.logits both sides are the teacher's head.
    if "roi.logits" in logits and ours != theirs:
        raise ConfigError(
            f"distill.losses: '{name}' compares class logits, and those of the teacher are of "
            f"model.classifier: {theirs}, the student's of {ours}; give both the same, or take "
            "another feature."
        )
    if theirs not in traits.classifiers:
        others = [known for known, loss in LOSSES.items() if _compares(loss, logits, theirs)]
        raise ConfigError(
            f"distill.losses: '{name}' has no form for model.classifier: {theirs}, which the "
            f"teacher has; take {' or '.join(others)}, or train with "
            f"{' or '.join(traits.classifiers)}."
        )


def _compares(loss: type[nn.Module], logits: list[str], classifier: str) -> bool:
    traits = traits_of(loss)
    return set(logits) <= set(traits.reads) and classifier in traits.classifiers
