"""The detector: torchvision's Faster R-CNN around our backbones and necks.

Everything written for torchvision's detectors works with it: `model(images, targets)` gives a
dictionary of losses in training, `model(images)` a list of detections in evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detkd.config import ModelConfig
from detkd.errors import ConfigError
from detkd.models.backbones import Backbone, Feature, build_backbone, takes
from detkd.models.neck import Neck, Sizes, build_neck
from detkd.models.roi_features import build_roi_features
from detkd.models.roi_heads import BoxPredictor, SigmoidRoIHeads
from detkd.models.weights import levels_in, network_from, read_checkpoint
from detkd.pixels import Levels


class Trunk(nn.Module):
    """Backbone, then neck: what torchvision's FasterRCNN calls the backbone.

    `sizes` are those of the images in the padded batch; without them nothing of it is padding.
    """

    def __init__(self, body: Backbone, neck: Neck) -> None:
        super().__init__()
        self.body, self.neck = body, neck
        self.out_channels = next(iter(neck.features.values())).channels

    def forward(self, x: Tensor, sizes: Sizes | None = None) -> dict[str, Tensor]:
        return self.neck(self.body(x), sizes)


class FitInside(GeneralizedRCNNTransform):
    """Normalise, resize so that the longest side is `size` px, and pad to a batch.

    An image that has that side already (the data set resizes once and caches) is left as it is.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(size, size, list(mean), list(std))
        self.size = size

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        if max(image.shape[-2:]) == self.size:
            return image, target
        return super().resize(image, target)


class Detector(FasterRCNN):
    """A Faster R-CNN that knows its class names, its features and the config it was built from.

    `features` names what can be read inside: c2..c5 of the backbone, p2..p6 of the neck. `levels`
    are those between which the 16-bit images that it learned from were mapped, if there were any.
    """

    kind: ClassVar[str] = "detector"
    backbone: Trunk
    roi_heads: RoIHeads

    def __init__(
        self, trunk: Trunk, classes: Sequence[str], image_size: int, model: ModelConfig
    ) -> None:
        if isinstance(model.anchor_sizes, str):
            raise ConfigError("model.anchor_sizes: 'fit' must be measured on the boxes first.")
        levels = list(trunk.neck.features)
        if len(model.anchor_sizes) != len(levels):
            raise ConfigError(
                f"model.anchor_sizes: {len(model.anchor_sizes)} lists for {len(levels)} levels "
                f"({', '.join(levels)}); give one list a level."
            )
        if len({len(sizes) for sizes in model.anchor_sizes}) != 1:
            raise ConfigError(
                "model.anchor_sizes: every level needs the same number of sizes, since one RPN "
                "serves them all."
            )
        channels = trunk.out_channels
        roi_features, values = build_roi_features(model, trunk.neck.features)
        super().__init__(
            trunk,
            num_classes=None,
            rpn_anchor_generator=Anchors(
                tuple(tuple(sizes) for sizes in model.anchor_sizes),
                (tuple(model.anchor_ratios),) * len(levels),
            ),
            rpn_head=ProposalHead(
                channels,
                len(model.anchor_sizes[0]) * len(model.anchor_ratios),
                light=model.rpn == "light",
            ),
            rpn_pre_nms_top_n_train=4 * model.proposals,
            rpn_pre_nms_top_n_test=2 * model.proposals,
            rpn_post_nms_top_n_train=model.proposals,
            rpn_post_nms_top_n_test=model.proposals,
            rpn_batch_size_per_image=model.rpn_samples,
            box_roi_pool=roi_features,
            box_head=TwoMLPHead(values, model.head_width),
            box_predictor=BoxPredictor(model.head_width, len(classes), model.classifier),
            box_score_thresh=model.score_threshold,
            box_nms_thresh=model.nms,
            box_detections_per_img=model.detections,
            box_batch_size_per_image=model.roi_samples,
        )
        if model.classifier == "sigmoid":
            self.roi_heads = SigmoidRoIHeads(self.roi_heads)
        self.transform = FitInside(image_size, trunk.body.mean, trunk.body.std)
        self.classes = tuple(classes)
        self.image_size = image_size
        self.config = model
        self.levels: Levels | None = None

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Losses by name in training, the detections of each image in evaluation.

        As torchvision's, but that its trunk is told what of the batch is padding.
        """
        if self.training and targets is None:
            raise ValueError("a detector in training needs targets")
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, targets = self.transform(images, targets)
        for at, target in enumerate(targets or ()):
            boxes = target["boxes"]
            if boxes.dim() != 2 or bool((boxes[:, 2:] <= boxes[:, :2]).any()):
                raise ValueError(f"target {at} has boxes that are none: {boxes.tolist()}")
        levels = self.levels_of(batch)
        proposals, losses = self.rpn(batch, levels, targets)
        found, head_losses = self.roi_heads(levels, proposals, batch.image_sizes, targets)
        if self.training:
            return {**head_losses, **losses}
        return self.transform.postprocess(found, batch.image_sizes, sizes)

    def levels_of(self, batch: ImageList) -> dict[str, Tensor]:
        """The neck's levels of a batch that `transform` has made."""
        return self.backbone(batch.tensors, batch.image_sizes)

    def maps_of(self, batch: ImageList) -> dict[str, Tensor]:
        """Every map of `features` of such a batch, by name: the backbone's and the neck's."""
        body = self.backbone.body(batch.tensors)
        return {**body, **self.backbone.neck(body, batch.image_sizes)}

    @property
    def features(self) -> dict[str, Feature]:
        """Channels and stride of every feature map that can be read by name."""
        return {**self.backbone.body.features, **self.backbone.neck.features}

    @property
    def network(self) -> Detector:
        """What is judged and kept of a trainable: of a detector, itself."""
        return self

    @classmethod
    def load(cls, path: str | Path) -> Detector:
        """The detector of a checkpoint, in evaluation mode, on the CPU.

        Raises:
            CheckpointError: the file is missing, broken, hostile, or of another architecture.
        """
        return detector_from(read_checkpoint(path), path)


class Anchors(AnchorGenerator):
    """torchvision's anchors, in single precision whatever that of the levels is.

    In half of it they are off by up to 2 px at 640.
    """

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        # Of the levels their sizes, types and devices alone are asked for.
        found: list[Tensor] = super().forward(image_list, [x[:1, :1].float() for x in feature_maps])
        return found


class ProposalHead(nn.Module):
    """Objectness [N, A, h, w] and box deltas [N, 4A, h, w] of each level, for A anchors a cell.

    `light` replaces the 3x3 convolution by a depthwise 5x5 and a pointwise one, as ThunderNet
    does (Qin et al., ICCV 2019): on fine levels of a slim detector it is most of the cost. What
    comes out is in single precision under autocast, too: in half of it a box is off by up to 2 px.
    """

    def __init__(self, channels: int, anchors: int, *, light: bool) -> None:
        super().__init__()
        if light:
            self.conv: nn.Module = nn.Sequential(
                nn.Conv2d(channels, channels, 5, padding=2, groups=channels),
                nn.Conv2d(channels, channels, 1),
                nn.ReLU(inplace=True),
            )
        else:
            self.conv = nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)
            )
        self.cls_logits = nn.Conv2d(channels, anchors, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * anchors, 1)
        for layer in (self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [self.conv(level) for level in levels]
        logits = [self.cls_logits(x).float() for x in hidden]
        return logits, [self.bbox_pred(x).float() for x in hidden]


def padded(side: int) -> int:
    """The side in px of a batch whose images have this one: a multiple of 32."""
    return -(-side // 32) * 32


def build_detector(model: ModelConfig, classes: Sequence[str], image_size: int) -> Detector:
    """A detector for `classes` (the background is none of them) at `image_size` px.

    Raises:
        ConfigError: a name that does not exist, or parts that do not fit.
        CheckpointError: backbone weights that do not fit.
    """
    name = model.backbone
    if model.neck == "none" and "@" not in name:
        name = f"{name}@c{model.levels[0][1:]}"  # stages behind the only level would idle
    body = build_backbone(
        name,
        weights=model.weights,
        frozen_stages=model.frozen_stages,
        frozen_norm=model.frozen_norm,
    )
    if body.whole:  # those that run layer by layer take all sizes that are multiples of 32
        side = padded(image_size)
        for height in (side, max(32, side // 64 * 32)):
            if not takes(body, height, side):
                raise ConfigError(
                    f"model.backbone: '{name}' takes no images of {side} x {height} px, and a "
                    "detector's frames have many shapes; name another."
                )
    neck = build_neck(model.neck, body.features, model.neck_channels, model.levels)
    return Detector(Trunk(body, neck), classes, image_size, model)


def detector_from(checkpoint: dict[str, Any], path: str | Path) -> Detector:
    """The detector that a checkpoint (as `read_checkpoint` gives it) describes.

    Raises:
        CheckpointError: its config or weights are not those of a detector.
    """
    detector = network_from(checkpoint, path, Detector.kind, ModelConfig, build_detector)
    detector.levels = levels_in(checkpoint)
    return detector
