"""May this classifier teach here, and is it what it was? Asked before the student believes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from detkd.config import ClassDataConfig, ClassifierExperiment
from detkd.data.class_dataset import ClassDataset
from detkd.engine.class_parts import SCORES, predict_classes
from detkd.engine.preflight import FAR_BELOW
from detkd.errors import DataError, UserError
from detkd.evaluation.classes import class_scores
from detkd.models.classifier import classifier_from
from detkd.models.weights import read_checkpoint


def check_class_teacher(
    experiment: ClassifierExperiment, train_set: ClassDataset, val_set: ClassDataset
) -> None:
    """Look at the teacher of a config, if it has one, before the first step.

    Raises:
        DataError: it has learned from images that are kept back from the student.
        UserError: it finds far less on validation images than its checkpoint says that it did.
    """
    if distill := experiment.distill:
        checkpoint = read_checkpoint(distill.teacher)
        check_lesson(checkpoint, distill.teacher, experiment.data, train_set.division)
        check_knowledge(checkpoint, distill.teacher, val_set, distill.preflight)


def check_lesson(
    checkpoint: dict[str, Any], path: str, data: ClassDataConfig, division: str | None
) -> None:
    """Compare a student's division with that of its teacher, where both are of one source.

    A teacher of another one has learned from images that are kept back from the student, and hands
    on what it knows of them.

    Raises:
        DataError: it is another one.
    """
    before, said = checkpoint.get("division"), checkpoint["config"].get("data", {})
    same_source = str(said.get("train")) == data.train
    if before and division and before != division and same_source:
        raise DataError(
            f"{path}: the teacher has learned from images of {data.train} that are kept back now, "
            "for its training divided them otherwise; train it with the same data.ratios, "
            "split_seed, folds, fold and groups, and with the images that there are now."
        )


def check_knowledge(
    checkpoint: dict[str, Any], path: str, dataset: ClassDataset, images: int
) -> None:
    """Judge the teacher of a checkpoint on some images of `dataset`, spread evenly.

    Raises:
        UserError: it finds far less than its checkpoint says that it did.
    """
    recorded = checkpoint.get("score")
    if not images or not recorded:
        return
    teacher = classifier_from(checkpoint, path)
    if teacher.classes != dataset.classes:
        return  # what follows says which class is missing
    chosen = np.linspace(0, len(dataset) - 1, min(images, len(dataset)), dtype=int).tolist()
    said = predict_classes(teacher, dataset, chosen=chosen)
    found = class_scores(said.probabilities, said.labels)[SCORES[0]] or 0.0
    if found < FAR_BELOW * recorded:
        raise UserError(
            f"{path}: the teacher reached a balanced accuracy of {recorded:.3f} where it was "
            f"trained, and has {found:.3f} on {len(chosen)} images of {dataset.data.source}. Are "
            "these images of another kind (camera, magnification, colour), or the classes "
            f"({', '.join(teacher.classes[:4])}, ...) not what they are called? Judge it with "
            "'detkd eval-cls'; distill.preflight: 0 trusts it all the same."
        )
