"""What of the teacher's neck, RPN and RoI head the student takes over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from detkd.config import HeadsConfig, ModelConfig, Take
from detkd.errors import ConfigError
from detkd.models.detector import Detector

PARTS = ("neck", "rpn", "roi_heads")


@dataclass
class Plan:
    """Which tensors are taken over, part by part, and what is left as it is; read it aloud.

    `frozen` names the parts that are kept as they are until the share `until` of the training,
    `joint` those that student and teacher have together, so that both train them.
    """

    copied: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[str, list[str]] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    until: float = 1.0
    joint: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One line a part."""
        said = []
        for part, names in self.copied.items():
            how = "trained on"
            if part in self.frozen:
                how = "frozen"
                if self.until < 1:
                    how += f" for {self.until:.0%} of the training, then trained on"
            if part in self.joint:
                how = "trained on together with the teacher"
            own = self.kept.get(part, [])
            rest = f"; its own stay: {', '.join(_modules(own))} (other widths)" if own else ""
            said.append(f"{part}: {len(names)} tensors taken over and {how}{rest}")
        return said


def plan_sharing(
    student: Detector, teacher: Detector, heads: Take | HeadsConfig, until: float = 1.0
) -> Plan:
    """What `heads` means for these two networks.

    Laterals of the neck whose input widths differ stay the student's own; everything behind them
    must fit.

    Raises:
        ConfigError: levels, widths, anchors, box coding or classes differ.
    """
    if not isinstance(heads, HeadsConfig):
        heads = HeadsConfig(heads, heads, heads)
    take = {part: getattr(heads, part) for part in PARTS}
    for part, word in take.items():
        if word not in ("none", "inherit", "freeze", "joint"):
            raise ConfigError(
                f"distill.heads: {part}: '{word}' is not none, inherit, freeze or joint."
            )
    if not 0 < until <= 1:
        raise ConfigError(f"distill.freeze_until: {until} is no share above 0 and up to 1.")
    if until < 1 and "freeze" not in take.values():
        raise ConfigError(
            f"distill.freeze_until: {until} says until when what is frozen stays so, and nothing "
            "is; set distill.heads: freeze, or leave it out."
        )
    shared = [part for part in PARTS if take[part] != "none"]
    if not shared:
        return Plan()
    _check(student, teacher, shared)
    frozen, joint = (
        tuple(part for part in shared if take[part] == word) for word in ("freeze", "joint")
    )
    plan = Plan(frozen=frozen, until=until, joint=joint)
    for part in shared:
        ours, theirs = _part(student, part).state_dict(), _part(teacher, part).state_dict()
        fits = {key for key in ours if key in theirs and ours[key].shape == theirs[key].shape}
        if part != "neck" and len(fits) != len(ours):
            key = sorted(set(ours) - fits)[0]
            theirs_shape = list(theirs[key].shape) if key in theirs else "nothing there"
            raise ConfigError(
                f"cannot share the {part}: '{key}' is {list(ours[key].shape)} in the student and "
                f"{theirs_shape} in the teacher. Give both the same model settings, or set "
                "distill.heads: none."
            )
        # A convolution and the norm behind it go together.
        cut = {key.rsplit(".", 2)[0] for key in ours if key not in fits}
        copied = [key for key in ours if key in fits and key.rsplit(".", 2)[0] not in cut]
        plan.copied[part] = copied
        plan.kept[part] = [key for key in ours if key not in copied]
    return plan


def apply_sharing(plan: Plan, student: Detector, teacher: Detector) -> None:
    """Copy the planned tensors into the student; freeze for good what is never thawed.

    Of a joint part the student gets the teacher's own modules.
    """
    for part in plan.joint:
        module, theirs_whole = _part(student, part), _part(teacher, part)
        for name, leaf in list(module.named_modules()):
            tensors = [f"{name}.{key}" for key in leaf.state_dict()]
            is_leaf = not list(leaf.children()) and tensors
            if is_leaf and all(key in plan.copied[part] for key in tensors):
                parent, _, last = name.rpartition(".")
                setattr(module.get_submodule(parent), last, theirs_whole.get_submodule(name))
    for part, names in plan.copied.items():
        if part in plan.joint:
            continue
        module, theirs = _part(student, part), _part(teacher, part).state_dict()
        module.load_state_dict({**module.state_dict(), **{key: theirs[key] for key in names}})
    if plan.until >= 1:
        for parameter in frozen_parameters(plan, student).values():
            parameter.requires_grad_(False)


def frozen_parameters(plan: Plan, student: Detector) -> dict[str, nn.Parameter]:
    """Parameters taken over and frozen, by their names in the student."""
    return {
        f"{PATHS[part]}.{name}": parameter
        for part in plan.frozen
        for name, parameter in _part(student, part).named_parameters()
        if name in plan.copied[part]
    }


def frozen_norms(plan: Plan, student: Detector) -> list[nn.Module]:
    """Batch norms taken over and frozen: they must stay in evaluation mode."""
    return [
        module
        for part in plan.frozen
        for name, module in _part(student, part).named_modules()
        if isinstance(module, nn.BatchNorm2d) and f"{name}.running_mean" in plan.copied[part]
    ]


PATHS = {"neck": "backbone.neck", "rpn": "rpn", "roi_heads": "roi_heads"}
NAMES = {"neck": "neck", "rpn": "RPN", "roi_heads": "RoI head"}


def _lists(levels: Sequence[Sequence[float]]) -> str:
    """Numbers of each level, as a config has them."""
    return ", ".join(str([round(float(each), 3) for each in level]) for level in levels)


def _part(detector: Detector, part: str) -> nn.Module:
    return detector.get_submodule(PATHS[part])


def _check(student: Detector, teacher: Detector, shared: list[str]) -> None:
    if student.classes != teacher.classes:
        missing = [name for name in teacher.classes if name not in student.classes]
        what = f"missing '{missing[0]}'" if missing else "in another order"
        raise ConfigError(
            f"the teacher knows {len(teacher.classes)} classes and the student "
            f"{len(student.classes)}: {what}. Train both on the same categories."
        )
    ours, theirs = student.backbone.neck.features, teacher.backbone.neck.features
    anchors = [
        (d.rpn.anchor_generator.sizes, d.rpn.anchor_generator.aspect_ratios)
        for d in (student, teacher)
    ]
    on_levels = [part for part in shared if part != "roi_heads"]
    if on_levels and ours != theirs:
        said = [
            f"{list(levels)} of {d.backbone.out_channels} channels and strides of "
            f"{', '.join(str(each.stride) for each in levels.values())} px"
            for levels, d in ((theirs, teacher), (ours, student))
        ]
        parts = " and the ".join(NAMES[part] for part in on_levels)
        raise ConfigError(
            f"cannot share the {parts}: the teacher has {said[0]}, the student {said[1]}. Give "
            "both the same levels and neck_channels, or set distill.heads: none."
        )
    if "rpn" in shared and anchors[0] != anchors[1]:
        said = [f"{_lists(sizes)} px in ratios {_lists(ratios[:1])}" for sizes, ratios in anchors]
        raise ConfigError(
            f"cannot share the RPN: the teacher's anchors are {said[1]}, the student's {said[0]}. "
            "Train both on the same data and image_size, or give both the same anchor_sizes and "
            "anchor_ratios, or set distill.heads: none."
        )
    if "neck" in shared and student.config.neck != teacher.config.neck:
        raise ConfigError(
            f"cannot share the neck: the teacher's is {teacher.config.neck}, the student's "
            f"{student.config.neck}: the weights of one mean nothing in the other. Give both the "
            "same model.neck, or set distill.heads.neck: none."
        )
    if "roi_heads" not in shared:
        return
    cut = [_roi_features(d.config) for d in (student, teacher)]
    if cut[0] != cut[1]:
        raise ConfigError(
            f"cannot share the RoI head: the teacher's RoI features are {cut[1]}, the student's "
            f"{cut[0]}. Give both the same model.roi_features, roi_channels, roi_size and "
            "roi_scale, or set distill.heads.roi_heads: none."
        )
    ends = [d.config.classifier for d in (student, teacher)]
    if ends[0] != ends[1]:
        raise ConfigError(
            f"cannot share the RoI head: the teacher's ends in a {ends[1]} and the student's in a "
            f"{ends[0]}. Give both the same model.classifier, or set distill.heads.roi_heads: none."
        )
    if student.roi_heads.box_coder.weights != teacher.roi_heads.box_coder.weights:
        raise ConfigError("cannot share the RoI head: the two code boxes with other weights.")


def _roi_features(model: ModelConfig) -> str:
    """What the RoI head sees of a proposal, in words."""
    values = model.neck_channels if model.roi_features == "plain" else model.roi_channels
    cells = f"{values} x {model.roi_size} x {model.roi_size}"
    return f"{model.roi_features} ({cells}, objects of {model.roi_scale:g} px from p4)"


def _modules(keys: list[str]) -> list[str]:
    """Names of the modules behind the keys, each once."""
    return list(dict.fromkeys(key.rsplit(".", 2)[0] for key in keys))
