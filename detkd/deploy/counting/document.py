"""What is said of the samples: counts.json, and samples.csv."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from typing import IO, Any

from detkd.deploy.counting.check_first import NEAR
from detkd.deploy.counting.counter import Counted
from detkd.deploy.counting.intervals import Interval, interval_of
from detkd.deploy.counting.notes import notes_on
from detkd.deploy.counting.run import STATUSES
from detkd.deploy.counting.samples import Samples
from detkd.deploy.counting.settings import Settings
from detkd.deploy.counting.shapes import SHAPES
from detkd.deploy.counting.tally import ClassTally, SampleTally, bin_edge
from detkd.deploy.counting.water import Water

UM3_PER_MM3 = 1e9
# Columns of samples.csv beside those that say which sample and class.
SAMPLE_COLUMNS = (
    *("count", "count_low", "count_high", "interval", "dispersion", "dispersion_p"),
    *("cells_per_ml", "cells_per_l", "cells_per_l_low", "cells_per_l_high"),
    *("biovolume_um3", "biovolume_mm3_per_l", "esd_um"),
)


def document_of(counted: Counted, samples: Samples, options: argparse.Namespace) -> dict[str, Any]:
    """counts.json: settings, and of each sample its classes; null where nothing could be known."""
    settings = counted.settings
    said = {
        name: _sample(settings, counted.tallies[sample], samples.water(name), number)
        for number, (sample, name) in enumerate(counted.names.items())
    }
    return {
        "format": 1,
        "run": settings.run,
        "settings": {
            "found": str(settings.found),
            "images": None if settings.images is None else str(settings.images),
            "um_per_px": settings.um_per_px,
            "depth_ratio": settings.depth_ratio,
            "interval": settings.interval,
            "level": settings.level,
            "draws": settings.draws,
            "seed": settings.seed,
            "sample": options.sample,
            "sample_pattern": options.sample_pattern,
            "samples": None if options.samples is None else str(options.samples),
            "water": vars(samples.usual),
            "near_threshold": NEAR,
            "classes": {
                label: {
                    "threshold": settings.thresholds.get(label),
                    "shape": body.shape,
                    "formula": SHAPES[body.shape].__doc__,
                    "depth_ratio": body.depth_ratio,
                    "shape_from": body.said_by,
                }
                for label, body in settings.bodies.items()
            },
        },
        "notes": [*counted.notes, *notes_on(said, settings, samples)],
        "samples": said,
        "check_first": counted.check_first,
    }


def _sample(settings: Settings, tally: SampleTally, water: Water, number: int) -> dict[str, Any]:
    """What is said of a sample; its `number` makes draws of its own."""
    imaged = water.imaged_ml(tally.areas, tally.frames["failed"], settings.um_per_px)
    by_area = water.chamber_depth_um is not None
    classes = {label: tally.classes.get(label, ClassTally()) for label in settings.classes}
    counts = [one.count for one in classes.values()]

    def row(one: ClassTally, place: int) -> dict[str, Any]:
        interval = interval_of(
            tally.frame_counts(one, by_area=by_area),
            method=settings.interval,
            level=settings.level,
            draws=settings.draws,
            seed=(settings.seed, number, place),
        )
        return _row(one, interval, imaged, water.factor, settings)

    return {
        "frames": {status: tally.frames[status] for status in STATUSES},
        "imaged_ml": imaged,
        "water": vars(water),
        "factor": water.factor,
        "all": row(tally.every, 0),
        "classes": {
            label: row(one, place) for place, (label, one) in enumerate(classes.items(), 1)
        },
        "community": {"richness": sum(count > 0 for count in counts), "shannon": shannon(counts)},
    }


def _row(
    tally: ClassTally, interval: Interval, imaged: float | None, factor: float, settings: Settings
) -> dict[str, Any]:
    """What is said of a class in a sample, or of all classes."""
    per_ml = factor / imaged if imaged else None

    def litre(count: float) -> float | None:
        return None if per_ml is None else count * per_ml * 1000

    sized = settings.um_per_px is not None and tally.count > 0
    volume = tally.volume / tally.count if sized else None
    cells = litre(tally.count)
    whole: float | None = None
    if settings.um_per_px is not None and cells is not None:
        whole = cells * (volume or 0.0) / UM3_PER_MM3
    bins = range(min(tally.spectrum), max(tally.spectrum) + 2) if tally.spectrum else range(0)
    return {
        "count": tally.count,
        "count_low": interval.low,
        "count_high": interval.high,
        "interval": interval.method,
        "dispersion": interval.index,
        "dispersion_p": interval.p,
        "cells_per_ml": None if per_ml is None else tally.count * per_ml,
        "cells_per_l": cells,
        "cells_per_l_low": litre(interval.low),
        "cells_per_l_high": litre(interval.high),
        "biovolume_um3": volume,
        "biovolume_mm3_per_l": whole,
        "esd_um": tally.diameter / tally.count if sized else None,
        "spectrum": {
            "edges_um": [bin_edge(number) for number in bins],
            "counts": [tally.spectrum[number] for number in bins[:-1]],
        },
    }


def shannon(counts: Sequence[int]) -> float | None:
    """Shannon's index H = −Σ p ln p, in nats; None where there is nothing."""
    total = sum(counts)
    if not total:
        return None
    return -sum(count / total * math.log(count / total) for count in counts if count) + 0.0


def write_samples(document: Mapping[str, Any], table: IO[str]) -> None:
    """samples.csv: a line a sample and class, those without an object as well."""
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("sample", "class", "frames", "failed", "imaged_ml", *SAMPLE_COLUMNS))
    for name, sample in document["samples"].items():
        frames = sample["frames"]["found"] + sample["frames"]["empty"]
        for label, row in sample["classes"].items():
            writer.writerow(
                (
                    *(name, label, frames, sample["frames"]["failed"]),
                    *(_cell(sample["imaged_ml"]), *(_cell(row[key]) for key in SAMPLE_COLUMNS)),
                )
            )


def _cell(value: object) -> object:
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else value
