"""Small networks to distil with."""

from detkd.config import ModelConfig
from detkd.models.detector import build_detector

CLASSES = ("a", "b")


def small(backbone="shallow_x1", classes=CLASSES, size=96, **changes):
    settings = {
        "neck_channels": 16,
        "head_width": 32,
        "levels": ["p3", "p4"],
        "anchor_sizes": [[16.0], [32.0]],
        "roi_samples": 16,
        "proposals": 50,
    }
    return build_detector(ModelConfig(backbone=backbone, **{**settings, **changes}), classes, size)
