"""COCO's run lengths: a mask column by column, a run of nothing and a run of the object in turn."""

from __future__ import annotations

from typing import Any

from detkd.data.geometry import Box


def box_of_mask(said: Any) -> Box | None:
    """The box around a mask `{"size": [height, width], "counts": ...}`; None if it holds nothing.

    `counts` is a list of runs, or the text that COCO compresses them to.
    """
    size = said.get("size") if isinstance(said, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
        return None
    height, width = size
    counts = said.get("counts")
    runs = _expanded(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return None
    if sum(runs) != height * width or not sum(runs[1::2]):
        return None
    columns: set[int] = set()
    rows: set[int] = set()
    at = 0
    for number, run in enumerate(runs):
        if number % 2 and run:
            last = at + run - 1
            columns |= {at // height, last // height}
            crosses = at // height != last // height  # from one column's end to another's top
            rows |= {0, height - 1} if crosses else {at % height, last % height}
        at += run
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


def _expanded(text: str) -> list[int] | None:
    """The runs of a compressed text; None if it is none.

    Each run is written in digits of five bits, the lowest first; from the fourth on, it is the
    difference from the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        digit = ord(letter) - 48
        if not 0 <= digit < 64 or shift > 60:
            return None
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
