"""What can be trained, distilled, averaged and kept: a detector or a classifier."""

from __future__ import annotations

from pathlib import Path

from detkd.models.classifier import Classifier, classifier_from
from detkd.models.detector import Detector, detector_from
from detkd.models.weights import read_checkpoint

Network = Detector | Classifier


def load_network(path: str | Path) -> Network:
    """The network of a checkpoint, whichever kind it is, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: the file is missing, broken or hostile.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.get("network") == Classifier.kind:
        return classifier_from(checkpoint, path)
    return detector_from(checkpoint, path)
