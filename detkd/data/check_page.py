"""The page of `check`: each kind of problem with pictures, and what the data set holds."""

from __future__ import annotations

import html
import io
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from detkd.data.check import Examined
from detkd.data.images import measure
from detkd.data.records import ImageRecord, Problem
from detkd.data.stats import collect, plot_boxes, plot_counts
from detkd.page import page_html, picture_html, table_html
from detkd.pixels import Levels, eight_bit, read_pixels

SHOWN, LISTED = 6, 200  # pictures, and lines, of each kind of problem
TILE, BAR = 300, 18  # px: side of a picture, height of its caption
GOOD, BAD = (0, 158, 115), (213, 94, 0)  # boxes that stay, and the one that is meant


def write_page(examined: Examined) -> str:
    """The whole page as HTML that stands alone."""
    wanted = _chosen(examined)
    records = {each.file: each for each in examined.images if each.file in wanted}
    levels = examined.sixteen_bit
    mapped = (float(levels["low"]), float(levels["high"])) if levels else None
    parts: dict[str, str | Path | bytes] = {"What was read": _summary(examined)}
    for title, problems in (("Problems", examined.problems), ("Notes", examined.notes)):
        parts[title] = _overview(problems) if problems else "<p>none</p>"
    for (kind, action), members in _kinds(examined.problems).items():
        parts[f"{kind}: {action}"] = _section(kind, members, examined, records, mapped)
    for (kind, action), members in _kinds(examined.notes).items():
        parts[f"{kind}: {action} (note)"] = _lines(members)
    boxes = collect(examined.images)
    if boxes.classes:
        parts["Classes"] = plot_counts(boxes)
        parts["Boxes"] = plot_boxes(boxes)
    return page_html(f"{examined.root.resolve().name}: check", parts)


def _kinds(problems: Iterable[Problem]) -> dict[tuple[str, str], list[Problem]]:
    """Problems by kind and action, the most frequent first."""
    kinds: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.kind, problem.action].append(problem)
    return dict(sorted(kinds.items(), key=lambda item: -len(item[1])))


def _image_of(problem: Problem, examined: Examined) -> str | None:
    return examined.image_of.get(problem.file or "", problem.file)


def _chosen(examined: Examined) -> set[str | None]:
    """Images of which a picture may be shown."""
    return {
        file
        for members in _kinds(examined.problems).values()
        for problem in members[: 3 * SHOWN]
        for file in (_image_of(problem, examined), problem.other)
    }


def _summary(examined: Examined) -> str:
    said = examined.report()
    rows = [
        ("format", examined.data.source_format),
        ("coordinates", f"{said['rule']['name']}: {said['rule']['meaning']}"),
        ("images", str(said["images"])),
        ("boxes", str(said["boxes"])),
        ("classes", str(len(said["classes"]))),
        ("unlabelled images", str(len(said["unlabelled"]))),
        ("problems", str(len(examined.problems))),
        ("notes", str(len(examined.notes))),
    ]
    return table_html(("", ""), rows)


def _overview(problems: list[Problem]) -> str:
    rows = [
        (kind, action, str(len(members))) for (kind, action), members in _kinds(problems).items()
    ]
    return table_html(("kind", "action", "count"), rows)


def _lines(members: list[Problem]) -> str:
    """Where the problems are, folded; all of them stand in the JSON report."""
    lines = "".join(
        "<li>"
        + html.escape(" ".join(filter(None, (p.file or "(whole tree)", p.where))))
        + ": "
        + html.escape(p.message)
        + "</li>"
        for p in members[:LISTED]
    )
    more = f"<p>and {len(members) - LISTED} more</p>" if len(members) > LISTED else ""
    return f"<details><summary>{len(members)}</summary><ul>{lines}</ul>{more}</details>"


def _section(
    kind: str,
    members: list[Problem],
    examined: Examined,
    records: dict[str, ImageRecord],
    levels: Levels | None,
) -> str:
    tiles: list[Image.Image] = []
    for problem in members[: 3 * SHOWN]:  # some cannot be opened: that may be what is wrong
        for file in filter(None, (_image_of(problem, examined), problem.other)):
            tile = _tile(examined.root, file, problem, records.get(file), levels)
            tiles += [tile] if tile is not None else []
        if len(tiles) >= SHOWN:
            break
    columns = 2 if any(problem.other for problem in members) else 3
    sheet = picture_html(_sheet(tiles, columns), kind) if tiles else ""
    return sheet + _lines(members)


def _tile(
    root: Path,
    file: str,
    problem: Problem,
    record: ImageRecord | None,
    levels: Levels | None,
) -> Image.Image | None:
    """The image, small, with its boxes and the one that is meant; None if it cannot be opened."""
    pixels = _pixels(root, file)
    if pixels is None:
        return None
    picture = Image.fromarray(np.ascontiguousarray(eight_bit(pixels, levels)))
    scale = TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size)
    draw = ImageDraw.Draw(picture)
    for box in record.boxes if record else ():
        draw.rectangle(_ordered(box.xyxy, scale, size), outline=GOOD)
    if problem.box is not None:
        draw.rectangle(_ordered(problem.box, scale, size), outline=BAD, width=3)
    tile = Image.new("RGB", (TILE, TILE + BAR), "white")
    tile.paste(picture, (0, BAR))
    caption = Path(file).name.encode("ascii", "replace").decode()
    ImageDraw.Draw(tile).text((2, 3), caption[-48:], fill="black")
    return tile


def _pixels(root: Path, file: str) -> np.ndarray | None:
    path = root / file
    if not path.resolve().is_relative_to(root.resolve()):
        return None
    try:
        measure(path)  # what would fill the memory is not decoded
        return read_pixels(path)
    except Exception:  # an image that cannot be shown has its line of text
        return None


def _ordered(
    box: tuple[float, float, float, float], scale: float, size: tuple[int, int]
) -> list[float]:
    """Corners in the small picture, in order and inside it as far as they can be."""

    def place(value: float, side: int) -> float:
        return min(max(value * scale, 0.0), side - 1.0) if value == value else 0.0

    xs = sorted(place(value, size[0]) for value in box[0::2])
    ys = sorted(place(value, size[1]) for value in box[1::2])
    return [xs[0], ys[0], xs[1], ys[1]]


def _sheet(tiles: list[Image.Image], columns: int) -> bytes:
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (TILE + 4), rows * (TILE + BAR + 4)), "white")
    for at, tile in enumerate(tiles):
        sheet.paste(tile, (at % columns * (TILE + 4), at // columns * (TILE + BAR + 4)))
    stream = io.BytesIO()
    sheet.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
