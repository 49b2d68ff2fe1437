"""Exits on the stages of a detector's backbone, which learn from its RoI head in training alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detkd.config import ExitsConfig
from detkd.distill.losses.reduction import full
from detkd.distill.outputs import match_proposals
from detkd.distill.self_distiller import Said, SelfTeaching
from detkd.distill.taps import read
from detkd.errors import ConfigError
from detkd.models.backbones import Feature, is_signed
from detkd.models.class_heads import Exit, exit_stages
from detkd.models.detector import Detector
from detkd.models.roi_features import RoIAlign
from detkd.models.roi_heads import class_loss, rare_at_first


class DetectorSelfDistiller(SelfTeaching[Detector]):
    """A detector whose RoI head teaches exits on the stages of its backbone.

    A box takes the place of a classifier's image: a stage is cut out at each box by RoIAlign, and
    an `Exit` makes features F_i and logits q_i of it, read as the RoI head's are: over K + 1
    classes (background first), or each of K alone by a sigmoid, with CE and KL of that kind. Of the
    deepest, q_C are the logits of the RoI head, whose CE is the detector's own `loss_classifier`,
    and F_C is the deepest stage of the backbone, cut out at the same boxes.

    The boxes are those from which the RoI head learns at this step: truth and proposals near it up
    to a quarter, and background. So head and exits answer the same questions, the head's answers
    are there already, and nothing is drawn: the detector is shown what it would be shown without
    exits. Boxes lie inside the images, so padding does not count; an image without objects gives
    boxes of background.

    The exits belong to this module and not to the detector: `network`, checkpoints and exports have
    nothing of them.

    Args:
        detector: as it is judged and kept.
        config: the stages with exits, and what these learn.

    Raises:
        ConfigError: no exits, or one on a stage that is not there, is the deepest, or is frozen.
    """

    def __init__(self, detector: Detector, config: ExitsConfig) -> None:
        stages, model = detector.backbone.body.features, detector.config
        names = exit_stages(config.exits, detector.backbone.body, "self_distill.exits")
        super().__init__(detector, names, config, "self_distill.exits")
        for name in list(stages)[: model.frozen_stages]:
            if name in names:
                raise ConfigError(
                    f"self_distill.exits: '{name}' is frozen (model.frozen_stages: "
                    f"{model.frozen_stages}), so an exit on it teaches nothing; leave it out."
                )
        self.deepest = list(stages)[-1]
        self.exits, self.cut = nn.ModuleDict(), nn.ModuleDict()
        for name in (*names, self.deepest):
            self.cut[name] = RoIAlign({name: stages[name]}, model.roi_size, round(model.roi_scale))
        head = detector.roi_heads.box_predictor.cls_score
        signed = is_signed(detector.backbone.body, self.deepest)
        for name in names:
            # All stages are cut out at one size, so an exit has no resolution to halve.
            alike = Feature(stages[self.deepest].channels, stages[name].stride)
            exit_ = Exit(
                stages[name],
                alike,
                head.out_features,
                attention_kind=config.exit_attention,
                signed=signed,
            )
            if model.classifier == "sigmoid":
                rare_at_first(exit_.classes)
            self.exits[name] = exit_

    def see(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Said:
        with read(self.student) as reading:
            task = self.student(images, targets)
        kind = self.student.config.classifier
        labels = torch.cat(match_proposals(self.student, reading)[1])

        def cut(name: str) -> Tensor:
            maps = {name: reading.features[name]}
            return self.cut[name](maps, reading.proposals, reading.image_sizes)

        exits = {}
        for name, exit_ in self.exits.items():
            assert isinstance(exit_, Exit)
            features = exit_.features(cut(name))
            exits[name] = (features, exit_.from_features(features)[1])
        with torch.no_grad():
            deepest = cut(self.deepest)
        return Said(
            task,
            reading.features["roi.logits"],
            deepest,
            exits,
            lambda logits: class_loss(full(logits), labels, kind),
            kind,
        )
