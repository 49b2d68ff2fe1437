"""A checkpoint in torch as the runner's model, for frames on the machine that it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from detkd.deploy.runner import Detections
from detkd.evaluation.thresholds import USUAL, read_thresholds
from detkd.files import digest_of
from detkd.models.detector import detector_from
from detkd.models.weights import read_checkpoint


class CheckpointModel:
    """What `runner.Model` is for an exported folder.

    Raises:
        CheckpointError: no checkpoint of a detector.
        DataError: thresholds that are not those of its classes.
    """

    def __init__(
        self,
        path: Path,
        *,
        thresholds: Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        checkpoint = read_checkpoint(path)
        self._detector = detector_from(checkpoint, path).to(device)
        self._device = device
        self.classes = list(self._detector.classes)
        self.image_size = self._detector.image_size
        self.thresholds = np.full(len(self.classes), USUAL)
        if thresholds:
            self.thresholds = read_thresholds(thresholds, self.classes)
        self.um_per_px: float | None = None
        self.shapes: dict[str, str] = {}
        trained = checkpoint["config"].get("name", "unnamed")
        self.origin = {"detkd": checkpoint["version"], "model": f"{trained} ({path.name})"}
        self.levels = self._detector.levels
        self.digest = digest_of(path)

    @torch.no_grad()
    def detect(self, frame: np.ndarray) -> Detections:
        """Of one resized frame [3, H, W] float32, RGB from 0 to 1."""
        [found] = self._detector([torch.from_numpy(frame).to(self._device)])
        return Detections(*(found[key].cpu().numpy() for key in ("boxes", "scores", "labels")))
