"""What a reader of the numbers has to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detkd.deploy.counting.intervals import OVERDISPERSED
from detkd.deploy.counting.samples import Samples
from detkd.deploy.counting.settings import Settings
from detkd.deploy.counting.wording import some


def notes_on(said: Mapping[str, Any], settings: Settings, samples: Samples) -> list[str]:
    """What a reader has to know of the samples that counts.json has, a sentence each."""
    notes = []
    without = [name for name, sample in said.items() if not sample["imaged_ml"]]
    if len(without) == len(said):
        notes.append(
            "No volume is known, so there are counts and no concentrations; give "
            "--frame-volume-ml, --chamber-depth-um or --sample-volume-ml."
        )
    elif without:
        notes.append(f"No volume is known of {some(without)}: counts and no concentrations.")
    strangers = [name for name in samples.water_of if name not in said]
    if strangers:
        notes.append(f"{samples.path} names samples without a frame: {some(strangers)}.")
    if settings.um_per_px is None:
        notes.append("No scale is known, so there are no sizes; give --um-per-px.")
    failed = sum(sample["frames"]["failed"] for sample in said.values())
    if failed:
        notes.append(f"Frames that could not be read, no part of the imaged volume: {failed}.")
    clumped = []
    for name, sample in said.items():
        rows = {"all cells": sample["all"], **sample["classes"]}
        uneven = [
            label
            for label, row in rows.items()
            if row["dispersion_p"] is not None and row["dispersion_p"] < OVERDISPERSED
        ]
        if uneven:
            clumped.append(f"{name} ({', '.join(uneven)})")
    if clumped:
        what = {
            "poisson": "Poisson intervals, which were asked for, are too narrow there",
            "bootstrap": "Poisson intervals would be too narrow there",
            "auto": "Poisson intervals would be too narrow there, and the bootstrap's were taken",
        }[settings.interval]
        notes.append(
            f"In {some(clumped)} counts vary more from frame to frame than chance alone would "
            f"have it (index of dispersion above 1, p < {OVERDISPERSED:g}): {what}."
        )
    return notes
