"""The one in-memory form that every annotation format maps to and from.

Boxes are in px of the displayed image, float, origin top left, max edge exclusive. The
off-by-one of VOC and the normalised centres of YOLO live in their formats and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from detkd.errors import DataError

KEPT, MENDED, DROPPED_BOX, DROPPED_IMAGE, REFUSED = (
    "kept",
    "mended",
    "dropped box",
    "dropped image",
    "refused",
)

NOTHING: Mapping[str, Any] = {}  # what most boxes say besides; nobody writes into it


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where, and what was done about it.

    `file` is relative to the root (None for the whole tree), `where` names the place inside.
    A `note` is worth knowing and no fault: it is told last, and no command ends with 1 for it.
    `box` is where in the image it is, `other` the image that it is about as well: to be drawn.
    """

    kind: str
    file: str | None
    where: str
    message: str
    action: str
    note: bool = False
    box: tuple[float, float, float, float] | None = None
    other: str | None = None

    def as_dict(self) -> dict[str, Any]:
        said = {
            "kind": self.kind,
            "file": self.file,
            "where": self.where,
            "message": self.message,
            "action": self.action,
        }
        return {**said, "note": True} if self.note else said


class BoxRecord(NamedTuple):
    """One annotated object: a tuple, for there are many and they are made, kept and read often.

    `difficult` and `truncated` are None where the source says nothing of them. `attributes` hold
    what it said besides (pose, occluded); `extra` holds fields of COCO that have no other home
    (segmentation, area, keypoints), so that they survive a round trip.
    """

    label: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    difficult: bool | None = None
    crowd: bool = False
    truncated: bool | None = None
    attributes: Mapping[str, Any] = NOTHING
    extra: Mapping[str, Any] = NOTHING

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return self.xmin, self.ymin, self.xmax, self.ymax


class ImageRecord(NamedTuple):
    """One image and its boxes; `file` is POSIX and relative to the root.

    `problems` were met while reading; `labelled` is False where there is no annotation that could
    be read: such an image is neither positive nor negative. With `fractions` the coordinates are
    of the image's sides, and become px when the image has been measured.
    """

    file: str
    width: int
    height: int
    boxes: tuple[BoxRecord, ...] = ()
    sample: str | None = None
    labelled: bool = True
    fractions: bool = False
    said_size: tuple[int, int] | None = None  # (width, height) in the annotation, if it says one
    extra: Mapping[str, Any] = NOTHING
    problems: tuple[Problem, ...] = ()

    def in_pixels(self) -> ImageRecord:
        """The same record with its fractions, if it has any, times its width and height."""
        if not self.fractions:
            return self
        w, h = self.width, self.height
        boxes = []
        for box in self.boxes:
            extra = dict(box.extra)
            if "segmentation" in extra:
                extra["segmentation"] = [
                    [value * (w, h)[at % 2] for at, value in enumerate(ring)]
                    for ring in extra["segmentation"]
                ]
            if "keypoints" in extra:  # x, y and a flag of each
                extra["keypoints"] = [
                    value * (w, h, 1)[at % 3] for at, value in enumerate(extra["keypoints"])
                ]
            x1, y1, x2, y2 = box.xyxy
            boxes.append(
                box._replace(xmin=x1 * w, ymin=y1 * h, xmax=x2 * w, ymax=y2 * h, extra=extra)
            )
        return self._replace(boxes=tuple(boxes), fractions=False)


@dataclass(frozen=True)
class Rule:
    """How a source's coordinates were read; kept in the conversion record."""

    name: str
    meaning: str


@dataclass
class DataSet:
    """A tree: its images, classes in order, rule, and problems of the whole.

    A format's `read` gives `images` as a stream to be gone through once; `problems` is complete
    after that. `extra` and `class_extra` hold what a COCO file says besides, of itself (licenses)
    and of each class (supercategory).
    """

    source_format: str
    rule: Rule
    classes: list[str]
    images: Iterable[ImageRecord]
    problems: list[Problem] = field(default_factory=list)
    listed_classes: bool = False  # the source itself lists its classes (YOLO, COCO)
    info: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    class_extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def fields_of_coco(self) -> set[str]:
        """Names of what a COCO file says besides, which no other format can hold."""
        of_classes = {key for extra in self.class_extra.values() for key in extra}
        return set(self.extra) | {f"categories[].{key}" for key in of_classes}


# Control characters and halves of surrogate pairs: no XML, no list of classes can hold them.
UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]+")


def relative(path: Path, root: Path) -> str:
    """The name of a file as records and problems have it."""
    return path.relative_to(root).as_posix()


def annotation_file(folder: Path, image: str, suffix: str) -> Path:
    """Where a format with one annotation file an image puts that of `image`; its folder is there.

    Raises:
        DataError: another image has the same stem, and its annotation lies there already.
    """
    path = folder / PurePosixPath(image).with_suffix(suffix)
    if path.exists():
        raise DataError(f"{image}: a second image of this stem would share {path.name}; rename it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def noted(kind: str, file: str | None, where: str, message: str) -> Problem:
    """Something worth knowing that is no fault, and that changes nothing."""
    return Problem(kind, file, where, message, KEPT, note=True)


def clean(text: str) -> str:
    """A name as every format can hold it: one line, no blanks around it."""
    # What is printable has none of them, and is told faster.
    return (text if text.isprintable() else UNWRITABLE.sub(" ", text)).strip()


def renamed(said: str, file: str | None, where: str) -> list[Problem]:
    """The problem of a class whose name had to be cleaned, if it had to."""
    if said == clean(said):
        return []  # as nearly always
    message = f"{said!r} has blanks or control characters; read as '{clean(said)}'"
    return [Problem("blank in class", file, where, message, MENDED)]


def named(said: str, file: str, where: str) -> tuple[str, str, list[Problem]]:
    """The class of an object, its place with the class told, and what is wrong with the name."""
    label = clean(said)
    if not label:
        return "", where, []
    where = f"{where} ({label})"
    return label, where, [] if label == said else renamed(said, file, where)
