"""What was asked for, resolved: the options, and run.json where they say nothing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkd.deploy.counting.bodies import Body, read_shapes
from detkd.deploy.counting.run import read_run
from detkd.deploy.counting.shapes import named_shape
from detkd.deploy.counting.wording import some


@dataclass(frozen=True)
class Settings:
    """What was asked for, all of it resolved; `run` says who found the objects."""

    found: Path
    run: dict[str, str]
    images: Path | None
    classes: list[str]
    thresholds: dict[str, float]
    bodies: dict[str, Body]
    um_per_px: float | None
    depth_ratio: float
    level: float
    interval: str
    draws: int
    seed: int


def settings_of(
    options: argparse.Namespace, shapes: Mapping[str, Body] | None, notes: list[str]
) -> Settings:
    """Read run.json, and the table of shapes unless somebody else has read `shapes`.

    Where the options contradict run.json, they win, and `notes` get a sentence.

    Raises:
        CountingError: one of the files is missing, or says what it cannot mean.
    """
    run = read_run(options.found)
    scale = run.get("um_per_px") if options.um_per_px is None else options.um_per_px
    if options.um_per_px is not None and run.get("um_per_px") not in (None, options.um_per_px):
        notes.append(
            f"The scale is {options.um_per_px:g} µm a px, as --um-per-px says; "
            f"run.json says {run['um_per_px']:g}."
        )
    if shapes is None and options.shapes is not None:
        shapes = read_shapes(options.shapes)
        strangers = [label for label in shapes if label not in run["classes"]]
        if strangers:
            notes.append(
                f"{options.shapes} names shapes of classes that are not here: {some(strangers)}."
            )
    return Settings(
        found=options.found,
        run={name: str(run[name]) for name in ("detkd", "model") if name in run},
        images=options.images or (Path(run["images"]) if run.get("images") else None),
        classes=run["classes"],
        thresholds=run.get("thresholds") or {},
        bodies=_bodies(run, str(options.found / "run.json"), shapes or {}),
        um_per_px=scale,
        depth_ratio=options.depth_ratio,
        level=options.level,
        interval=options.interval,
        draws=options.draws,
        seed=options.seed,
    )


def _bodies(run: Mapping[str, Any], where: str, shapes: Mapping[str, Body]) -> dict[str, Body]:
    """Of each class of the run: what `shapes` say, else run.json, else the usual body."""
    said = {
        label: Body(named_shape(shape, where), None, "run.json")
        for label, shape in (run.get("shapes") or {}).items()
    }
    return {label: shapes.get(label, said.get(label, Body())) for label in run["classes"]}
