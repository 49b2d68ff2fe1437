"""CVAT for images and for video, XML 1.1: one document for many images."""

from __future__ import annotations

import heapq
import re
import xml.etree.ElementTree as ElementTree  # for its error alone; reading goes through defusedxml
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import defusedxml
import defusedxml.ElementTree

from detkd.data.geometry import Point, around, around_ellipse, finite, ring, turned
from detkd.data.images import names_below
from detkd.data.pairing import Images, path_notes
from detkd.data.records import (
    DROPPED_BOX,
    DROPPED_IMAGE,
    KEPT,
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
from detkd.encoding import decode, encoding_of
from detkd.errors import DataError

RULE = Rule("cvat", "[xtl, ytl, xbr-xtl, ybr-ytl]")
SNIFFED = 64  # documents looked into: a tree of more XML files than that is one of VOC
SHAPES = ("box", "polygon", "ellipse", "mask", "polyline", "points", "cuboid", "skeleton")
CORNERS = ("xtl", "ytl", "xbr", "ybr")
OF_SHAPE = {
    *("label", "occluded", "outside", "keyframe", "frame", "source", "z_order", "points"),
    *("rotation", "cx", "cy", "rx", "ry", "rle", "left", "top", "width", "height"),
    *CORNERS,
}
FRAME = re.compile(r"frame_0*(\d+)", re.IGNORECASE)


def recognise(path: Path) -> int:
    """How many CVAT documents there are."""
    return len(documents(path))


def documents(path: Path) -> list[Path]:
    """The CVAT documents of a tree, or the one document that `path` is."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".xml" and _is_cvat(path) else []
    parts = (name.split("/") for name in names_below(path, ".xml"))
    first = heapq.nsmallest(SNIFFED, parts, key=lambda each: (len(each), each))
    return [file for each in first if _is_cvat(file := path.joinpath(*each))]


def _is_cvat(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return re.search(r"<annotations[\s>]", decode(stream.read(2048))[0]) is not None
    except OSError:
        return False


def read(path: Path) -> DataSet:
    """The images and tracks of CVAT documents below a folder, or of one document.

    Of a track every frame counts that is listed and not `outside`, those that CVAT interpolated
    too, marked by the attribute `interpolated`. Frames are images that CVAT names itself
    (frame_000012), or else the images in the order of their names, told. Polygons keep their
    points as segmentation; boxes with a rotation become the box around them.

    Raises:
        DataError: there is no CVAT document. A broken one raises nothing: it is told.
    """
    root = path if path.is_dir() else path.parent
    found = documents(path) if path.is_dir() else [path]
    if not found:
        raise DataError(f"{root}: holds no CVAT document (*.xml); name another folder or --from.")
    problems: list[Problem] = []
    return DataSet("cvat", RULE, [], _records(root, found, problems), problems)


def _records(root: Path, found: list[Path], problems: list[Problem]) -> Iterator[ImageRecord]:
    images = Images(root)
    owner: dict[str, str] = {}
    for path in found:
        name = relative(path, root)
        for record in _read_document(path, name, images, problems):
            if record.file in owner:
                message = f"{record.file} has its boxes from {owner[record.file]} already"
                problems.append(Problem("second annotation", name, "", message, DROPPED_IMAGE))
                continue
            owner[record.file] = name
            yield record
    yield from images.unlabelled(owner)


def _read_document(
    path: Path, name: str, images: Images, problems: list[Problem]
) -> Iterator[ImageRecord]:
    """Records of the images as they come, then those of the frames of tracks."""
    frames: dict[int, list[tuple[str, Any]]] = {}
    size = 0
    number = 0
    root: Any = None

    def tell(message: str, kind: str = "malformed annotation") -> None:
        problems.append(Problem(kind, name, "", message, DROPPED_IMAGE))

    try:
        if said := encoding_of(path)[1]:
            problems.append(noted("encoding", name, "", said))
        for event, element in defusedxml.ElementTree.iterparse(path, events=("start", "end")):
            if event == "start":
                root = element if root is None else root
                continue
            if element.tag == "image":
                number += 1
                record = _read_image(element, number, name, path.parent, images, problems)
                root.clear()  # what was read is dropped, so that memory stays flat
                if record is not None:
                    yield record
            elif element.tag == "track":
                _collect_track(element, frames)
                root.clear()
            elif element.tag == "size" and (text := (element.text or "").strip()).isdigit():
                size = max(size, int(text[:9]))
    except OSError as error:
        tell(f"cannot be read ({error.strerror})")
    except defusedxml.DefusedXmlException:
        tell("declares entities, which is refused as hostile", "hostile annotation")
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        tell(f"is not well-formed XML, and was read up to there ({error})")
    if frames:
        yield from _frames(frames, size, name, images, problems)


def _read_image(
    element: Any, number: int, name: str, base: Path, images: Images, problems: list[Problem]
) -> ImageRecord | None:
    said = element.get("name") or ""
    where = f"image {number}"
    image = images.named(said, base)
    if image is None:
        message = f"is of '{clean(said)[:80]}', which is not in the tree, or there several times"
        problems.append(Problem("missing image", name, where, message, DROPPED_IMAGE))
        return None
    found = path_notes(said, name, where)
    shapes = [(str(shape.get("label") or ""), shape) for shape in element if shape.tag in SHAPES]
    size = finite([element.get("width"), element.get("height")])
    return _record(relative(image, images.root), shapes, size, name, where, found)


def _record(
    file: str,
    shapes: list[tuple[str, Any]],
    size: list[float] | None,
    name: str,
    where: str,
    found: list[Problem],
) -> ImageRecord:
    boxes = []
    for at, (label, shape) in enumerate(shapes):
        box, trouble = _read_shape(label, shape, name, f"{where} {shape.tag} {at + 1}")
        found += trouble
        if box is not None:
            boxes.append(box)
    return ImageRecord(
        file,
        0,
        0,
        boxes=tuple(boxes),
        labelled=bool(boxes) or not any(p.action == DROPPED_BOX for p in found),
        said_size=(int(size[0]), int(size[1])) if size and min(size) >= 1 else None,
        problems=tuple(found),
    )


def _collect_track(track: Any, frames: dict[int, list[tuple[str, Any]]]) -> None:
    """Put the shapes of a track where their frames are; `outside` means that it is not there."""
    label = str(track.get("label") or "")
    for shape in track:
        said = (shape.get("frame") or "").strip()
        if shape.tag not in SHAPES or not said.isdigit() or len(said) > 9:
            continue
        inside = frames.setdefault(int(said), [])  # a frame without its object was looked at too
        if shape.get("outside") != "1":
            if track.get("id"):
                shape.set("track", track.get("id"))
            inside.append((label, shape))


def _frames(
    frames: dict[int, list[tuple[str, Any]]],
    size: int,
    name: str,
    images: Images,
    problems: list[Problem],
) -> Iterator[ImageRecord]:
    image_of, in_order = _images_of_frames(images)
    if in_order and frames:
        message = "names frames, not images; they are the images in the order of their names"
        problems.append(Problem("frames by order", name, "", message, KEPT))
    if in_order and size and size != len(image_of):
        message = f"tells of {size} frames and there are {len(image_of)} images: none can be told"
        problems.append(Problem("missing image", name, "", message, DROPPED_IMAGE))
        return
    for frame in sorted({*frames, *range(min(size, 10_000_000) if size else 0)}):
        image = image_of.get(frame)
        if image is None:
            if frame in frames:
                message = f"has boxes of frame {frame}, of which there is no image"
                problems.append(
                    Problem("missing image", name, f"frame {frame}", message, DROPPED_IMAGE)
                )
            continue
        file = relative(image, images.root)
        yield _record(file, frames.get(frame, []), None, name, f"frame {frame}", [])


def _images_of_frames(images: Images) -> tuple[dict[int, Path], bool]:
    """The image of each frame, and whether only the order of names tells it."""
    named = {int(m[1]): image for image in images.files if (m := FRAME.fullmatch(image.stem))}
    if named:
        return named, False
    return dict(enumerate(images.files)), True


def _read_shape(
    said: str, shape: Any, file: str, where: str
) -> tuple[BoxRecord | None, list[Problem]]:
    label, where, problems = named(said, file, where)

    def drop(kind: str, message: str) -> tuple[None, list[Problem]]:
        return None, [*problems, Problem(kind, file, where, message, DROPPED_BOX)]

    if not label:
        return drop("object without name", "has no label")
    if shape.tag not in OUTLINES:
        return drop("shape without area", f"is of type {shape.tag}, which is no box")
    outline = OUTLINES[shape.tag](shape)
    if outline is None:
        return drop("missing coordinate", "has no coordinates that are finite numbers")
    frame, points = outline
    if shape.tag == "mask":
        message = "has a mask, which is left out; its box is kept"
        problems.append(Problem("mask left out", file, where, message, MENDED))
    rotation = finite([shape.get("rotation", "0")])
    if rotation and rotation[0] % 360 and shape.tag in ("box", "ellipse"):
        if shape.tag == "ellipse":
            frame = around_ellipse(frame, rotation[0])
        else:
            points = turned(frame, rotation[0])
            frame = around(points)
        message = f"is turned by {rotation[0]:g} degrees; the box around it is kept"
        problems.append(Problem("rotated box", file, where, message, MENDED))
    extra = {"segmentation": [ring(points)]} if points else {}
    return BoxRecord(label, *frame, attributes=_attributes(shape), extra=extra), problems


def _attributes(shape: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: value for key, value in shape.attrib.items() if key not in OF_SHAPE
    }
    if shape.get("occluded") in ("0", "1"):
        found["occluded"] = int(shape.get("occluded"))
    if shape.get("keyframe") == "0":
        found["interpolated"] = 1
    for child in shape:
        if child.tag == "attribute" and child.get("name"):
            found[clean(child.get("name"))] = clean(child.text or "")
    return found


Outline = tuple[tuple[float, float, float, float], list[Point]]


def _of_box(shape: Any) -> Outline | None:
    sides = finite([shape.get(corner) for corner in CORNERS])
    return None if sides is None else ((sides[0], sides[1], sides[2], sides[3]), [])


def _of_polygon(shape: Any) -> Outline | None:
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
    numbers = [finite(pair) if len(pair) == 2 else None for pair in pairs]
    points = [(pair[0], pair[1]) for pair in numbers if pair is not None]
    if len(points) != len(pairs) or len(points) < 3:
        return None
    return around(points), points


def _of_ellipse(shape: Any) -> Outline | None:
    sides = finite([shape.get(key) for key in ("cx", "cy", "rx", "ry")])
    if sides is None:
        return None
    cx, cy, rx, ry = sides
    return (cx - rx, cy - ry, cx + rx, cy + ry), []


def _of_mask(shape: Any) -> Outline | None:
    sides = finite([shape.get(key) for key in ("left", "top", "width", "height")])
    if sides is None:
        return None
    left, top, width, height = sides
    return (left, top, left + width, top + height), []


OUTLINES: dict[str, Callable[[Any], Outline | None]] = {
    "box": _of_box,
    "polygon": _of_polygon,
    "ellipse": _of_ellipse,
    "mask": _of_mask,
}
