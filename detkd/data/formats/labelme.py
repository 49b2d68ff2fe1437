"""LabelMe: one JSON file an image, shapes with corner points in px."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detkd.data.geometry import Point, around, finite, ring
from detkd.data.images import files_below
from detkd.data.pairing import Images, path_notes
from detkd.data.records import (
    DROPPED_BOX,
    DROPPED_IMAGE,
    MENDED,
    BoxRecord,
    DataSet,
    ImageRecord,
    Problem,
    Rule,
    clean,
    named,
    noted,
    relative,
)
from detkd.encoding import decode
from detkd.errors import DataError

RULE = Rule("labelme", "[min x, min y, max x - min x, max y - min y] of the points")
HEAD = 65536  # bytes in which a LabelMe file says what it is; image data come later
OF_FILE = {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
OF_SHAPE = {"label", "points", "shape_type", "group_id", "description", "flags", "mask"}
ROTATED = {"rotation", "oriented_rectangle"}  # as X-AnyLabeling and LabelMe call them
NO_AREA = {"point", "points", "line", "linestrip"}


def recognise(root: Path) -> int:
    """How many files of the tree look like LabelMe's."""
    return len(_documents(root))


def read(root: Path) -> DataSet:
    """A tree of LabelMe files beside their images, or in a mirrored folder.

    Rectangles, circles and polygons become boxes, polygons with their segmentation; points and
    lines have no area and leave, told. The image is the one of the file's own stem; `imagePath`
    only decides between several.

    Raises:
        DataError: `root` holds no LabelMe file. A broken file raises nothing: its record carries
            the problem.
    """
    documents = _documents(root)
    if not documents:
        raise DataError(f"{root}: holds no LabelMe file (*.json); name another folder or --from.")
    problems: list[Problem] = []
    return DataSet("labelme", RULE, [], _records(root, documents, problems), problems)


def _documents(root: Path) -> list[Path]:
    """LabelMe's JSON files, and broken JSON files that bear an image's name."""
    if not root.is_dir():
        return []
    files = list(files_below(root, ".json"))
    sure = [path for path in files if _looks_like_shapes(path)]
    if not sure:
        return []
    folders = {path.parent for path in sure}
    known, stems = set(sure), {image.stem for image in Images(root).files}
    return [p for p in files if p in known or (p.stem in stems and p.parent in folders)]


def _looks_like_shapes(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return '"shapes"' in decode(stream.read(HEAD))[0]
    except OSError:
        return False


def _records(root: Path, documents: list[Path], problems: list[Problem]) -> Iterator[ImageRecord]:
    images = Images(root)
    owner: dict[str, str] = {}
    for path in documents:
        name = relative(path, root)
        document, found = _parse(path, name)
        said = document.get("imagePath") if document else None
        said = said if isinstance(said, str) else None
        known = images.of_document(name, said)
        if known is None:
            problems += found or [_orphan(document, name)]
            continue
        file = known[1]
        if file in owner:
            message = f"{file} has its boxes from {owner[file]} already"
            problems.append(Problem("second annotation", name, "", message, DROPPED_IMAGE))
            continue
        owner[file] = name
        if document is None:
            yield ImageRecord(file, 0, 0, labelled=False, problems=tuple(found))
        else:
            yield _read_document(document, file, root / file, name, found)
    yield from images.unlabelled(owner)


def _orphan(document: Mapping[str, Any] | None, name: str) -> Problem:
    why = "has no image of its name"
    if document and document.get("imageData"):
        why += "; it holds the image inside, to be saved from LabelMe"
    return Problem("orphan annotation", name, "", why, DROPPED_IMAGE)


def _parse(path: Path, name: str) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The document, or None and what is wrong with it."""

    def broken(message: str) -> tuple[None, list[Problem]]:
        return None, [Problem("malformed annotation", name, "", message, DROPPED_IMAGE)]

    try:
        text, unusual = decode(path.read_bytes())
        document = json.loads(text) if text.strip() else None
    except OSError as error:
        return broken(f"cannot be read ({error.strerror})")
    except (ValueError, RecursionError) as error:
        return broken(f"is not JSON ({error})")
    if document is None:
        return broken("is empty")
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        return broken("is no LabelMe file: it has no list 'shapes'")
    return document, [noted("encoding", name, "", unusual)] if unusual else []


def _read_document(
    document: dict[str, Any], file: str, image: Path, name: str, found: list[Problem]
) -> ImageRecord:
    said = document.get("imagePath")
    if isinstance(said, str):
        found += path_notes(said, name, "imagePath")
        written = said.replace("\\", "/").rsplit("/", 1)[-1]
        if written and written.rsplit(".", 1)[0] != image.stem and written != image.stem:
            message = f"says '{said}'; read as {file}"
            found.append(Problem("wrong file name", name, "imagePath", message, MENDED))
    boxes = []
    for at, shape in enumerate(document["shapes"]):
        box, trouble = _read_shape(shape, at, name)
        found += trouble
        if box is not None:
            boxes.append(box)
    size = finite([document.get("imageWidth"), document.get("imageHeight")])
    if size is None:
        found.append(noted("no size", name, "", "says no size of its image"))
    besides = {key: value for key, value in document.items() if key not in OF_FILE}
    if isinstance(flags := document.get("flags"), dict) and (on := [k for k in flags if flags[k]]):
        besides["flags"] = on
    return ImageRecord(
        file,
        0,
        0,
        boxes=tuple(boxes),
        labelled=bool(boxes) or not any(p.action == DROPPED_BOX for p in found),
        said_size=(int(size[0]), int(size[1])) if size else None,
        extra={"labelme": besides} if besides else {},
        problems=tuple(found),
    )


def _read_shape(shape: Any, at: int, file: str) -> tuple[BoxRecord | None, list[Problem]]:
    said = str(shape.get("label") or "") if isinstance(shape, dict) else ""
    label, where, problems = named(said, file, f"shape {at + 1}")

    def drop(kind: str, message: str) -> tuple[None, list[Problem]]:
        return None, [*problems, Problem(kind, file, where, message, DROPPED_BOX)]

    if not isinstance(shape, dict):
        return drop("malformed entry", "is no shape")
    if not label:
        return drop("object without name", "has no label")
    kind = shape.get("shape_type") or "polygon"  # files of old versions do not say
    points = _points(shape.get("points"))
    if points is None:
        return drop("not finite", f"has points that are no finite numbers: {_short(shape)}")
    if kind in NO_AREA:
        return drop("shape without area", f"is of type {kind}, which is no box")
    extra: dict[str, Any] = {}
    if kind == "circle" and len(points) == 2:
        (cx, cy), edge = points[0], points[1]
        radius = math.dist((cx, cy), edge)
        frame = cx - radius, cy - radius, cx + radius, cy + radius
    elif kind in ("rectangle", "mask") and len(points) in (2, 4):
        frame = around(points)
    elif (kind == "polygon" and len(points) >= 3) or (kind in ROTATED and len(points) == 4):
        frame, extra = around(points), {"segmentation": [ring(points)]}
    else:
        return drop("missing coordinate", f"is of type {str(kind)[:40]}, with {len(points)} points")
    if kind in ROTATED:
        message = "is a turned rectangle; the box around it is kept"
        problems.append(Problem("rotated box", file, where, message, MENDED))
    if kind == "mask":
        message = "has a mask, which is left out; its box is kept"
        problems.append(Problem("mask left out", file, where, message, MENDED))
    attributes = _attributes(shape)
    difficult = attributes.pop("difficult", None)
    if kind == "circle":
        attributes["shape"] = "circle"
    flag = None if difficult is None else bool(difficult)
    return BoxRecord(label, *frame, difficult=flag, attributes=attributes, extra=extra), problems


def _attributes(shape: dict[str, Any]) -> dict[str, Any]:
    """What a shape says besides: its flags that are set, its group, and fields not known."""
    found = {key: value for key, value in shape.items() if key not in OF_SHAPE and value}
    for key in ("group_id", "description"):
        if shape.get(key) not in (None, ""):
            found[key] = shape[key]
    flags = shape.get("flags")
    if isinstance(flags, dict):
        found |= {key: 1 for key, value in flags.items() if value}
        if "difficult" in flags:
            found["difficult"] = int(bool(flags["difficult"]))
    return found


def _points(said: Any) -> list[Point] | None:
    if not isinstance(said, list):
        return None
    points: list[Point] = []
    for pair in said:
        numbers = finite(pair) if isinstance(pair, list) and len(pair) == 2 else None
        if numbers is None:
            return None
        points.append((numbers[0], numbers[1]))
    return points


def _short(shape: dict[str, Any]) -> str:
    return clean(str(shape.get("points")))[:60]
