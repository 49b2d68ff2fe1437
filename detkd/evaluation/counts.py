"""What a lab decides on: how many objects of each class, and how far off that is."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detkd.evaluation.bootstrap import groups_of, unit_of
from detkd.evaluation.case import Case
from detkd.evaluation.thresholds import USUAL
from detkd.files import write_atomic

AGREEMENT = 1.96  # of 95 % of differences, if they are normally distributed


@dataclass(frozen=True)
class Counts:
    """Objects annotated and counted, [images, classes]."""

    annotated: np.ndarray
    counted: np.ndarray

    def by_group(self, groups: np.ndarray) -> Counts:
        """Summed over the images of each group, [groups, classes]."""
        every = int(groups.max(initial=-1)) + 1
        sums = [np.zeros((every, part.shape[1]), dtype=np.int64) for part in vars(self).values()]
        for total, part in zip(sums, vars(self).values(), strict=True):
            np.add.at(total, groups, part)
        return Counts(*sums)


def count(case: Case, thresholds: np.ndarray) -> Counts:
    """Annotated objects without crowds, and detections from their class's threshold on."""
    shape = len(case.images), len(case.categories)
    annotated, counted = (np.zeros(shape, dtype=np.int64) for _ in range(2))
    single = ~case.truths.crowd
    np.add.at(annotated, (case.truths.image[single], case.truths.category[single]), 1)
    kept = case.detections.score >= thresholds[case.detections.category]
    np.add.at(counted, (case.detections.image[kept], case.detections.category[kept]), 1)
    return Counts(annotated, counted)


def usual_thresholds(case: Case) -> np.ndarray:
    """0.5 for each class."""
    return np.full(len(case.categories), USUAL)


def count_errors(case: Case, thresholds: np.ndarray | None = None) -> dict[str, Any]:
    """Objects counted against objects annotated, per class and together, by image and by sample.

    With c counted and a annotated of n images:  bias Σ(c−a)/n, mean absolute error Σ|c−a|/n,
    relative error Σ(c−a)/Σa, limits of agreement bias ± 1.96 sd(c−a) (Bland and Altman 1986).
    Where samples are named, bias and mean absolute error of their sums as well.
    """
    chosen = usual_thresholds(case) if thresholds is None else thresholds
    counts = count(case, chosen)
    samples = counts.by_group(groups_of(case)) if unit_of(case) == "sample" else None
    per_class = {
        name: _row(counts, samples, slice(at, at + 1)) for at, name in enumerate(case.names)
    }
    said = {
        "threshold": USUAL if thresholds is None else None,
        "thresholds": dict(zip(case.names, chosen.tolist(), strict=True)),
        "per_class": per_class,
        "all": _row(counts, samples, slice(None)),
        "community": community(counts.annotated.sum(axis=0), counts.counted.sum(axis=0)),
    }
    if samples is not None:
        said["per_sample"] = _per_sample(case, samples)
    return said


def _row(counts: Counts, samples: Counts | None, classes: slice) -> dict[str, Any]:
    annotated = counts.annotated[:, classes].sum(axis=1)
    counted = counts.counted[:, classes].sum(axis=1)
    true, off = int(annotated.sum()), counted - annotated
    row = {
        "annotated": true,
        "counted": int(counted.sum()),
        "relative_error": float(off.sum() / true) if true else None,
        **_errors(off),
        "agreement": agreement(off),
    }
    if samples is not None:
        by_sample = (samples.counted - samples.annotated)[:, classes].sum(axis=1)
        row |= {f"sample_{name}": value for name, value in _errors(by_sample).items()}
    return row


def _errors(off: np.ndarray) -> dict[str, float | None]:
    return {
        "bias": float(off.mean()) if len(off) else None,
        "mean_absolute_error": float(np.abs(off).mean()) if len(off) else None,
    }


def agreement(off: np.ndarray) -> list[float] | None:
    """Bland and Altman's limits, between which 95 % of the differences are expected."""
    if len(off) < 2:
        return None
    far = AGREEMENT * float(off.std(ddof=1))
    return [float(off.mean()) - far, float(off.mean()) + far]


def community(annotated: np.ndarray, counted: np.ndarray) -> dict[str, Any]:
    """A sample's classes as ecologists compare them, from counts by class.

    `bray_curtis` is the similarity 2 Σ min(a, c) / (Σa + Σc) (Bray and Curtis 1957), `richness` the
    number of classes that are there, `shannon` H = −Σ p ln p (Shannon 1948), of either side.
    """
    both = int(annotated.sum() + counted.sum())
    shared = 2 * int(np.minimum(annotated, counted).sum())
    return {
        "bray_curtis": shared / both if both else None,
        "richness": {"annotated": richness(annotated), "counted": richness(counted)},
        "shannon": {"annotated": shannon(annotated), "counted": shannon(counted)},
    }


def richness(counts: np.ndarray) -> int:
    """The number of classes that are there."""
    return int((counts > 0).sum())


def shannon(counts: np.ndarray) -> float | None:
    """Shannon's index H = −Σ p ln p, in nats; None where there is nothing."""
    total = int(counts.sum())
    if not total:
        return None
    shares = [value / total for value in counts.tolist() if value]
    return -sum(share * math.log(share) for share in shares) + 0.0


def _per_sample(case: Case, samples: Counts) -> dict[str, Any]:
    """Of each sample its totals and its community, by its name."""
    names = dict(zip(groups_of(case).tolist(), _sample_names(case), strict=True))
    return {
        names[at]: {
            "annotated": int(annotated.sum()),
            "counted": int(counted.sum()),
            **community(annotated, counted),
        }
        for at, (annotated, counted) in enumerate(
            zip(samples.annotated, samples.counted, strict=True)
        )
    }


def _sample_names(case: Case) -> list[str]:
    """Of each image; an image without a sample goes by its own file name."""
    return [
        str(image.get("file_name", image["id"])) if sample is None else str(sample)
        for image in case.images
        for sample in [image.get("sample")]
    ]


def write_counts(case: Case, thresholds: np.ndarray, path: Path) -> None:
    """A table (CSV) with a row an image and class of which something is annotated or counted."""
    counts = count(case, thresholds)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("image", "sample", "class", "annotated", "counted"))
    for image, category in np.argwhere(counts.annotated + counts.counted).tolist():
        entry = case.images[image]
        table.writerow(
            (
                entry.get("file_name", entry["id"]),
                "" if entry.get("sample") is None else entry["sample"],
                case.names[category],
                counts.annotated[image, category],
                counts.counted[image, category],
            )
        )
    write_atomic(path, text.getvalue().encode("utf-8", "backslashreplace"))
