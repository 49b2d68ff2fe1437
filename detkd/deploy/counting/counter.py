"""Counting: a pass over frames.csv, then one over results.csv."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import IO, Any, NamedTuple

from detkd.deploy.counting.check_first import NEAR, frames_to_check
from detkd.deploy.counting.errors import CountingError
from detkd.deploy.counting.frame_index import FrameIndex
from detkd.deploy.counting.run import FRAME_COLUMNS, PAGE, RESULT_COLUMNS, STATUSES, rows_of
from detkd.deploy.counting.samples import Samples
from detkd.deploy.counting.settings import Settings
from detkd.deploy.counting.showcase import Cell, Showcase
from detkd.deploy.counting.tables import number_of, whole_number_of
from detkd.deploy.counting.tally import SampleTally
from detkd.deploy.counting.wording import shown

MOST_PX = 2**24  # of a frame's side, or a corner's place


@dataclass
class Counted:
    """All that was counted, to be written.

    `tallies` and `names` are by sample, the latter as they are written; `notes` are sentences that
    a reader has to know, `check_first` the frames to look at.
    """

    settings: Settings
    tallies: dict[str, SampleTally]
    names: dict[str, str]
    showcase: Showcase
    notes: list[str]
    check_first: list[dict[str, Any]] = field(default_factory=list)


def count_objects(
    settings: Settings, samples: Samples, table: IO[str], notes: list[str]
) -> Counted:
    """Stream frames.csv and results.csv; `table` gets counts.csv line by line.

    Raises:
        CountingError: the files are not those of one run.
    """
    index, tallies = _list_frames(settings.found / "frames.csv", samples, notes)
    names = samples.names(tallies)
    counted = Counted(settings, tallies, names, Showcase(settings.seed), notes)
    _read_results(counted, samples, index, table)
    _write_frames_without(counted, samples, index, table)
    counted.check_first = frames_to_check(settings.found, tallies, names, samples, index)
    return counted


def _list_frames(
    path: Path, samples: Samples, notes: list[str]
) -> tuple[FrameIndex, dict[str, SampleTally]]:
    """The frames, and by sample how many there are, of what size.

    Of a frame that failed and was tried again, the last line holds; so it is with a stack or a film
    that failed as a whole.
    """
    index = FrameIndex()
    tallies: defaultdict[str, SampleTally] = defaultdict(SampleTally)
    tried: dict[str, int] = {}  # frames that failed, and their places
    for line, (frame, width, height, status, said) in rows_of(path, FRAME_COLUMNS, notes):
        where = f"{path}, line {line}"
        if status not in STATUSES:
            raise CountingError(
                f"{where}: status '{shown(status)}' is none of {', '.join(STATUSES)}; run again."
            )
        failed = status == "failed"
        size = (0, 0) if failed else _size(width, height, where)
        index.add(frame, line, size, 0 if failed else whole_number_of(said, where), failed=failed)
        tally = tallies[samples(frame)]
        page = PAGE.fullmatch(frame)
        for name in (frame, page["file"] if page else frame):
            if name in tried:  # it failed before, or the file that it is of
                index.outdated[tried.pop(name)] = True
                tallies[samples(name)].frames["failed"] -= 1
        if failed:
            tried[frame] = len(index) - 1
        tally.frames[status] += 1
        if not failed:
            tally.areas[size[0] * size[1]] += 1
    if not len(index):
        raise CountingError(f"{path}: lists no frame; there is nothing to count.")
    twice = index.close()
    if twice is not None:
        raise CountingError(
            f"{path}, line {index.line[twice]}: a frame is listed twice; take one of its lines out."
        )
    return index, tallies


def _size(width: str, height: str, where: str) -> tuple[int, int]:
    size = whole_number_of(width, where), whole_number_of(height, where)
    if not (0 < size[0] < MOST_PX and 0 < size[1] < MOST_PX):
        raise CountingError(f"{where}: {width} x {height} px is no frame; run again.")
    return size


def _read_results(counted: Counted, samples: Samples, index: FrameIndex, table: IO[str]) -> None:
    """Count the detections into their samples, and write counts.csv."""
    settings, notes = counted.settings, counted.notes
    path = settings.found / "results.csv"
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("frame", "sample", *settings.classes))
    unlisted = of_failed = 0
    for frame, rows in groupby(
        rows_of(path, RESULT_COLUMNS, notes), key=lambda numbered: numbered[1][0]
    ):
        at = index.find(frame)
        if at is None:
            unlisted += sum(1 for _ in rows)
            continue
        if index.failed[at]:
            of_failed += sum(1 for _ in rows)
            continue
        if index.rows[at]:
            raise CountingError(
                f"{path}: the lines of '{shown(frame)}' lie apart; the file is of two runs, "
                "run again into a new folder."
            )
        sample = samples(frame)
        detections = (_detection(cells, f"{path}, line {line}", settings) for line, cells in rows)
        found = _count_frame(counted, sample, frame, at, detections, index)
        if found:
            numbers = (found[label] for label in settings.classes)
            writer.writerow((frame, counted.names[sample], *numbers))
    if unlisted:
        notes.append(
            "Lines of results.csv of frames that frames.csv does not list, left out since the run "
            f"was stopped there: {unlisted}."
        )
    if of_failed:
        notes.append(f"Lines of results.csv of failed frames, left out: {of_failed}.")
    if unequal := index.unequal():
        notes.append(
            "Frames with another number of lines in results.csv than frames.csv says: "
            f"{unequal}; the run may have been torn, so run it again to be sure."
        )


def _write_frames_without(
    counted: Counted, samples: Samples, index: FrameIndex, table: IO[str]
) -> None:
    """Write to counts.csv the frames on which nothing counts, so that means of it are right."""
    writer = csv.writer(table, lineterminator="\n")
    none = [0] * len(counted.settings.classes)
    path = counted.settings.found / "frames.csv"
    for at, (_, row) in enumerate(rows_of(path, FRAME_COLUMNS)):
        if not index.counted[at] and not index.failed[at]:
            writer.writerow((row[0], counted.names[samples(row[0])], *none))


class Detection(NamedTuple):
    """A line of results.csv; the box is x1, y1, x2, y2 in px of the frame."""

    label: str
    score: float
    box: tuple[float, float, float, float]
    counts: bool


def _detection(cells: list[str], where: str, settings: Settings) -> Detection:
    _, label, score, *corners, counts = cells
    if label not in settings.bodies:
        raise CountingError(f"{where}: class '{shown(label)}' is none of run.json's; run again.")
    sure = number_of(score, where, "score")
    x1, y1, x2, y2 = (number_of(text, where, "a corner") for text in corners)
    ordered = -MOST_PX < x1 <= x2 < MOST_PX and -MOST_PX < y1 <= y2 < MOST_PX
    if counts not in ("0", "1") or not ordered:
        raise CountingError(f"{where}: is no detection; run again.")
    return Detection(label, sure, (x1, y1, x2, y2), counts == "1")


def _count_frame(
    counted: Counted,
    sample: str,
    frame: str,
    at: int,
    detections: Iterable[Detection],
    index: FrameIndex,
) -> Counter[str]:
    """Count one frame's detections into its sample; how many there are of each class."""
    settings, tally = counted.settings, counted.tallies[sample]
    size = index.width[at], index.height[at]
    found: Counter[str] = Counter()
    for label, score, box, counts in detections:
        index.rows[at] += 1
        threshold = settings.thresholds.get(label)
        index.near[at] += threshold is not None and abs(score - threshold) <= NEAR
        if not counts:
            continue
        found[label] += 1
        counted.showcase.add(label, Cell(score, frame, box, size))
        if settings.um_per_px is not None:
            sides = box[2] - box[0], box[3] - box[1]
            body = settings.bodies[label]
            tally.add_cell(label, body.volume(sides, settings.um_per_px, settings.depth_ratio))
    tally.add_frame(found, size[0] * size[1])
    index.counted[at] = sum(found.values())
    return found
