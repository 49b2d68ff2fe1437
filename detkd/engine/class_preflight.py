"""May this classifier teach here, and is it what it was? Asked before the student believes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from detkd.config import ClassDataConfig, ClassifierExperiment
from detkd.data.class_dataset import ClassDataset
from detkd.data.labelled_images import in_both
from detkd.engine.class_parts import (
    SCORES,
    data_of,
    digest_of_division,
    predict_classes,
    sides_of,
)
from detkd.engine.preflight import FAR_BELOW
from detkd.errors import CheckpointError, DataError, UserError
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
    """Look whether a teacher has learned from images that are kept back from its student.

    It would hand on what it knows of them. Which it has learned from is worked out by its config,
    as long as its images are there; they are compared by content, whatever they are called.

    Raises:
        DataError: it has, or the student's source was divided otherwise then.
    """
    before = checkpoint.get("division")
    if before and before == division:
        return
    try:
        theirs = data_of(checkpoint, path)
    except CheckpointError:  # of another version; its images are not known
        return
    advice = (
        "train it with the same data.ratios, split_seed, folds, fold and groups, and with the "
        "images that there are now."
    )
    now = digest_of_division(theirs)
    if now is None:  # its images are gone
        return
    if before and now != before:  # which of them it has learned from is not known any more
        if Path(theirs.train).resolve() == Path(data.train).resolve():
            raise DataError(
                f"{path}: the images of {data.train} are others than when the teacher was trained, "
                f"so that it may have learned from some that are kept back now; {advice}"
            )
        return
    learned, ours = sides_of(theirs).train, sides_of(data)
    kept_back = [
        image for side in (ours.val, ours.test) if side for image in in_both(learned, side)
    ]
    if kept_back:
        raise DataError(
            f"{path}: the teacher has learned from images of {data.train} that are kept back now: "
            f"{len(kept_back)} of them, the first is {kept_back[0].file}; {advice}"
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
