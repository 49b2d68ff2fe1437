"""Judging a classifier: what is chosen on its validation images, and what is told of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from detkd.data.class_dataset import ClassDataset
from detkd.engine.class_parts import predict_classes
from detkd.engine.curves import plot_curves
from detkd.engine.run import FREE_KEYS, NEW_KEYS, RunFolder, flattened
from detkd.errors import DataError
from detkd.evaluation.calibration import scaled
from detkd.evaluation.class_intervals import DRAWS
from detkd.evaluation.class_judge import (
    ClassPredictions,
    judge_classes,
    pooled,
    read_predictions,
)
from detkd.evaluation.class_plots import plot_classes
from detkd.evaluation.decisions import Decisions, choose_decisions
from detkd.files import digest_of_tree, write_json, write_with
from detkd.models.classifier import Classifier, without_exits
from detkd.models.early_exit import LAST, exit_flops
from detkd.models.weights import read_checkpoint


def decide(network: Classifier, said: ClassPredictions, source: object) -> Decisions:
    """Temperature and thresholds by what the network said of its validation images."""
    exits = said.exits if network.can_stop else None
    chosen_on = {**_images(said, "val", source), "digest": _digest(said, source)}
    return choose_decisions(said.logits, said.labels, exits, chosen_on)


def judge_said(
    network: Classifier,
    said: ClassPredictions,
    decisions: Decisions,
    *,
    side: str | None,
    source: object,
    foreign: ClassPredictions | None = None,
    bootstrap: int = DRAWS,
) -> dict[str, Any]:
    """All that is known about what the network said; see `judge_classes`.

    Args:
        side: of the network's own data, val or test; None for other images.
        source: where the images are from.
    """
    flops, alone = None, 0
    if network.can_stop:
        size = network.image_size
        flops, alone = exit_flops(network, size), exit_flops(without_exits(network), size)[LAST]
    metrics = judge_classes(
        said, decisions, foreign=foreign, flops=flops, alone=alone, bootstrap=bootstrap
    )
    return {**_where(said, decisions, side, source), **metrics}


def judge_folds(
    runs: Sequence[Path], bootstrap: int = DRAWS
) -> tuple[ClassPredictions, dict[str, Any], Path | None]:
    """What the runs of all folds said, each of the images that it was validated on, as one.

    And all that is known about it, and where the images lie, if they are still there.

    Raises:
        DataError: a run without predictions, or runs that are not the folds of one division.
    """
    images = _check_folds(runs)
    said = pooled({str(run): read_predictions(run / "predictions.json") for run in runs})
    source = f"{len(runs)} folds"
    chosen_on = _images(said, "val", source)
    decisions = choose_decisions(said.logits, said.labels, None, chosen_on)
    metrics = judge_classes(said, decisions, bootstrap=bootstrap)
    root = _root_of(images)
    known = root if all((root / file).is_file() for file in said.files) else None
    return said, {**_where(said, decisions, "val", source), **metrics}, known


def _check_folds(runs: Sequence[Path]) -> Path:
    """Refuse runs that are not all the folds of one config, each once; where their images are from.

    What may differ is where a fold is kept, and its teacher or start, which may have folds, too.
    """
    said = []
    for run in runs:
        try:
            tree = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
            said.append(_of_all_folds(tree) | {"fold": tree["data"].get("fold")})
            images = Path(tree["data"]["train"])
        except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{run}: holds no config.yaml of a run; name the run folders of all folds."
            ) from error
    numbers = [one.pop("fold") for one in said]
    folds = said[0].get(("data", "folds"))
    if not folds:
        raise DataError(f"{runs[0]}: is no fold, for data.folds is 0; judge it with --checkpoint.")
    for run, one in zip(runs, said, strict=True):
        if odd := sorted(
            key for key in one.keys() | said[0].keys() if one.get(key) != said[0].get(key)
        ):
            raise DataError(
                f"{run}: is no fold of what {runs[0]} is one of: {'.'.join(odd[0])} is "
                f"{one.get(odd[0])!r} in one and {said[0].get(odd[0])!r} in the other; name runs "
                "of one config, that differ in data.fold alone."
            )
    if twice := sorted({at for at in numbers if numbers.count(at) > 1}):
        raise DataError(f"--folds: fold {twice[0]} is named twice; name the run of each once.")
    if set(numbers) != set(range(folds)):
        missing = ", ".join(str(at) for at in range(folds) if at not in numbers)
        raise DataError(
            f"--folds: of the {folds} folds {missing} is missing; name the runs of all, or the "
            "images of that one are judged by nobody."
        )
    return images


def _of_all_folds(tree: dict[str, Any]) -> dict[Any, Any]:
    """What the folds of a config have in common, by the parts of its keys."""
    own = {("name",), ("data", "fold"), ("distill", "teacher"), ("model", "weights"), *FREE_KEYS}
    told = {**NEW_KEYS, **flattened(tree)}
    return {key: value for key, value in told.items() if key not in own}


def write_class_judgement(
    folder: Path, said: ClassPredictions, metrics: dict[str, Any], root: Path | None
) -> None:
    """Write metrics.json, predictions.json and plots/ into `folder`.

    Images lie below `root`; without it the mistakes are not shown.
    """
    write_json(folder / "predictions.json", said.as_dict())
    files = None if root is None else [root / file for file in said.files]
    mended = scaled(said.logits, metrics["calibration"]["temperature"])
    plot_classes(said.probabilities, said.labels, said.classes, files, folder / "plots", mended)
    write_json(folder / "metrics.json", metrics)  # last: where it is, all is there


def final_class_judgement(
    run: RunFolder, dataset: ClassDataset, device: torch.device
) -> dict[str, Any]:
    """Judge the best checkpoint whole: metrics.json, predictions.json and plots/.

    What is chosen on these images, the validation's, goes into the checkpoint.
    """
    network = Classifier.load(run.best).to(device)
    said = predict_classes(network, dataset)
    source = dataset.data.source
    decisions = decide(network, said, source)
    write_checkpoint(run.best, {**read_checkpoint(run.best), "decisions": vars(decisions)})
    metrics = judge_said(network, said, decisions, side="val", source=source)
    write_class_judgement(run.path, said, metrics, dataset.data.root)
    plot_curves(run)
    return metrics


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint as a whole or not at all."""
    write_with(path, lambda stream: torch.save(checkpoint, stream))


def _where(
    said: ClassPredictions, decisions: Decisions, side: str | None, source: object
) -> dict[str, Any]:
    """On which images the numbers are measured, and on which the thresholds were chosen.

    Where these are the same, thresholds flatter.
    """
    chosen_on, measured_on = dict(decisions.chosen_on), _images(said, side, source)
    there = side == chosen_on["side"]
    if side is None:  # images that were named may be these very ones
        there = chosen_on.get("digest") == _digest(said, source)
        if "digest" not in chosen_on:  # of an older detkd
            there = all(chosen_on[k] == measured_on[k] for k in ("source", "images", "samples"))
    return {
        "measured_on": measured_on,
        "chosen_on": {**chosen_on, "measured_there": there},
    }


def _images(said: ClassPredictions, side: str | None, source: object) -> dict[str, Any]:
    return {
        "side": side,
        "source": str(source),
        "images": len(said.files),
        "samples": len(set(said.groups)),
    }


def _digest(said: ClassPredictions, source: object) -> str:
    """Of the images' names, labels and sizes, by which they are known wherever they lie."""
    root = _root_of(Path(str(source)))
    rows = [
        [file, said.classes[label], path.stat().st_size if path.is_file() else None]
        for file, label, path in zip(
            said.files, said.labels.tolist(), map(root.joinpath, said.files), strict=True
        )
    ]
    return digest_of_tree(sorted(rows, key=lambda row: row[0]))


def _root_of(source: Path) -> Path:
    """Where the images of class folders, or of a table, lie."""
    return source if source.is_dir() else source.parent
