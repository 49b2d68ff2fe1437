"""May this classifier teach here, and is it what it was? Asked before the student believes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detkd.config import ClassDataConfig, ClassifierExperiment
from detkd.data.class_dataset import ClassDataset
from detkd.data.labelled_images import in_both, read_labelled
from detkd.engine.class_parts import SCORES, data_of, predict_classes, sides_of
from detkd.engine.preflight import FAR_BELOW
from detkd.errors import DataError, UserError
from detkd.evaluation.classes import class_scores
from detkd.models.classifier import Classifier, classifier_from
from detkd.models.weights import is_checkpoint, read_checkpoint


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
        if learned := seen_before(checkpoint, experiment.data, train_set.division):
            raise DataError(
                f"{distill.teacher}: the teacher {learned}; train it with the same data.ratios, "
                "split_seed, folds, fold and groups, and with the images that there are now."
            )
        check_knowledge(checkpoint, distill.teacher, val_set, distill.preflight)


def tell_begun(experiment: ClassifierExperiment, train_set: ClassDataset) -> None:
    """Say so where a classifier's backbone begins as one that has seen what is kept back now.

    It is no error: a lab's images grow, and a training may go on from the one before.
    """
    weights = experiment.model.weights
    if weights is None or not is_checkpoint(weights):
        return
    checkpoint = read_checkpoint(weights)
    if checkpoint.get("network") != Classifier.kind:
        return
    if learned := seen_before(checkpoint, experiment.data, train_set.division):
        print(f"{weights} {learned}: scores on these flatter.")


def seen_before(
    checkpoint: Mapping[str, Any], data: ClassDataConfig, division: str | None
) -> str | None:
    """What a network has learned from that these settings keep back, as a sentence's end.

    Which images it has learned from is worked out by its config, as long as they are there; they
    are compared by content, whatever they are called. None where there are none, or nothing is
    known of them.

    Args:
        checkpoint: of the network.
        data: that are divided, or have a source of their own to validate on.
        division: their digest.
    """
    before = checkpoint.get("division")
    if before and before == division:
        return None
    theirs = None
    try:
        theirs = data_of(checkpoint, "")
        if theirs.val:  # nothing was divided
            learned, known = read_labelled(theirs.train).without(theirs.leave_out), True
        else:
            sides = sides_of(theirs)
            learned, known = sides.train, before in (None, sides.digest)
    except UserError:  # gone, changed, or of another version
        learned, known = None, not before
    if theirs and not known:
        if Path(theirs.train).resolve() == Path(data.train).resolve():
            return (
                f"has learned from images of {data.train} that were others then, so that some of "
                "them may be kept back now"
            )
        return None
    if learned is None:
        return None
    ours = sides_of(data)
    found = [image for side in (ours.val, ours.test) if side for image in in_both(learned, side)]
    if not found:
        return None
    return (
        f"has learned from images of {data.train} that are kept back now, {len(found)} of them, "
        f"{found[0].file} for one"
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
