"""Every problem of a data set, found once, and what is done about it.

`examine` reads a tree, measures its images and decides box by box after the rules that
docs/data.md states; `check` and `convert` both come through here, so they agree.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from detkd.data.formats import FORMATS, OF_ONE_FILE, coco, guess
from detkd.data.images import ImageError, links_out, measure
from detkd.data.records import (
    DROPPED_BOX,
    DROPPED_IMAGE,
    KEPT,
    MENDED,
    REFUSED,
    BoxRecord,
    DataSet,
    ImageRecord,
    Problem,
)
from detkd.errors import DataError

TINY = 2.0  # px: a narrower box is kept, and told
SLACK = 0.1  # px that rounded fractions may reach over the edge unsaid


@dataclass
class Examined:
    """A data set fit to be written, and everything that was wrong with its source.

    `unlabelled` names the images without any annotation, for use as unlabelled frames; `notes`
    are worth knowing and no faults.
    """

    data: DataSet
    root: Path
    problems: list[Problem]
    unlabelled: list[str] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    @property
    def images(self) -> list[ImageRecord]:
        return list(self.data.images)

    def report(self) -> dict[str, Any]:
        """The report of `check` and `convert`, ready for JSON."""
        data = self.data
        return {
            "images": len(self.images),
            "boxes": sum(len(image.boxes) for image in self.images),
            "classes": data.classes,
            "rule": {"name": data.rule.name, "meaning": data.rule.meaning},
            "unlabelled": self.unlabelled,
            "problems": [problem.as_dict() for problem in [*self.problems, *self.notes]],
        }


def examine(
    source: Path,
    *,
    source_format: str | None = None,
    zero_based: bool = False,
    subset: str | None = None,
    classes: list[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Examined:
    """Read `source`, measure its images, mend what can be mended and drop what is impossible.

    Raises:
        DataError: nothing there that could be read at all.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder.")
    source_format = source_format or guess(source)
    if source.is_file() and source_format not in OF_ONE_FILE:
        raise DataError(f"{source}: is no folder; name the folder of the {source_format} tree.")
    if source_format == "coco":
        if subset:
            raise DataError("--subset: a COCO file has no subsets; name the file of the subset.")
        if source.is_dir():
            raise DataError(f"{source}: is a folder; name the JSON file in it.")
        data = coco.read(source)
        root = coco.image_root(source, data.info)
    else:
        root = source if source.is_dir() else source.parent
        said: dict[str, Any] = {"zero_based": zero_based} if source_format == "voc" else {}
        said |= {"names": classes} if source_format == "yolo" else {}
        said |= {"columns": columns} if source_format == "csv" else {}
        if subset and source_format not in ("voc", "yolo"):
            raise DataError(f"--subset: {source_format} has no subsets; convert the whole tree.")
        said |= {"subset": subset} if subset else {}
        data = FORMATS[source_format].read(source, **said)
    kept: list[ImageRecord] = []
    problems: list[Problem] = []
    unlabelled: list[str] = []
    for record in data.images:
        mended, found = _examine_image(record, root, data.source_format)
        problems += found
        if mended is not None:
            kept.append(mended)
        elif not record.labelled and all(problem.note for problem in record.problems):
            unlabelled.append(record.file)
    problems = [*_skipped_links(root, source), *data.problems, *problems]
    kept.sort(key=lambda record: record.file)
    kept, names = _settle_classes(kept, data, classes, problems)
    problems += _double_names(kept)
    return Examined(
        replace(data, images=kept, classes=names, problems=[]),
        root,
        [problem for problem in problems if not problem.note],
        unlabelled,
        [problem for problem in problems if problem.note],
    )


def _examine_image(
    record: ImageRecord, root: Path, source_format: str
) -> tuple[ImageRecord | None, list[Problem]]:
    """The record with its real size and sound boxes; None if the image has to leave."""
    problems = list(record.problems)

    def problem(kind: str, where: str, message: str, action: str) -> None:
        problems.append(Problem(kind, record.file, where, message, action))

    path = root / record.file
    if not path.is_file():
        problem("missing image", "", "is not there", DROPPED_IMAGE)
        return None, problems
    if not path.resolve().is_relative_to(root.resolve()):
        problem("path outside", "", "is a link out of the image root", DROPPED_IMAGE)
        return None, problems
    try:
        width, height, warning = measure(path)
    except ImageError as error:
        problem("broken image", "", str(error), DROPPED_IMAGE)
        return None, problems
    if warning:
        problem("truncated image", "", warning, KEPT)
    if not record.labelled:
        if all(problem.note for problem in record.problems):
            message = "has no annotation: it is unlabelled, not a negative"
            problem("unlabelled image", "", message, DROPPED_IMAGE)
        elif not any(p.action == DROPPED_IMAGE for p in record.problems):
            problem("no box left", "", "has no sound box and is no negative", DROPPED_IMAGE)
        return None, problems
    record = replace(record, width=width, height=height).in_pixels()
    if record.said_size and record.said_size != (width, height):
        said = "x".join(map(str, record.said_size))
        problem("wrong size", "size", f"says {said}, the image is {width}x{height}", MENDED)
    boxes: dict[tuple[str, tuple[float, ...]], BoxRecord] = {}
    for at, box in enumerate(record.boxes):
        sound, found = _examine_box(box, at, record)
        problems += found
        if sound is None:
            continue
        if (sound.label, sound.xyxy) in boxes:
            problem("double box", _where(at, box), "stands there twice", DROPPED_BOX)
        else:
            boxes[sound.label, sound.xyxy] = sound
    if record.boxes and not boxes:
        problem("no box left", "", "has no sound box and is no negative", DROPPED_IMAGE)
        return None, problems
    return replace(record, boxes=tuple(boxes.values())), problems


def _examine_box(
    box: BoxRecord, at: int, image: ImageRecord
) -> tuple[BoxRecord | None, list[Problem]]:
    where = _where(at, box)

    def drop(kind: str, message: str) -> tuple[None, list[Problem]]:
        return None, [Problem(kind, image.file, where, message, DROPPED_BOX)]

    said = "[" + ", ".join(f"{value:.6g}" for value in box.xyxy) + "]"
    if not all(map(math.isfinite, box.xyxy)):
        return drop("not finite", f"{said} is not finite")
    width, height = box.xmax - box.xmin, box.ymax - box.ymin
    if width <= 0 or height <= 0:
        kind = "empty box" if width == 0 or height == 0 else "inverted box"
        return drop(kind, f"{said} has no area")
    clipped = replace(
        box,
        xmin=min(max(box.xmin, 0.0), float(image.width)),
        ymin=min(max(box.ymin, 0.0), float(image.height)),
        xmax=min(max(box.xmax, 0.0), float(image.width)),
        ymax=min(max(box.ymax, 0.0), float(image.height)),
    )
    if clipped.xmax <= clipped.xmin or clipped.ymax <= clipped.ymin:
        return drop("box outside", f"{said} lies outside the {image.width}x{image.height} image")
    problems = []
    over = max(abs(a - b) for a, b in zip(box.xyxy, clipped.xyxy, strict=True))
    if over > SLACK:
        message = f"{said} reaches {over:.6g} px over the edge; clipped"
        problems.append(Problem("box over the edge", image.file, where, message, MENDED))
    if over and "area" in clipped.extra and "segmentation" not in clipped.extra:
        # The stated area was that of the box before it was clipped.
        extra = {key: value for key, value in clipped.extra.items() if key != "area"}
        clipped = replace(clipped, extra=extra)
    width, height = clipped.xmax - clipped.xmin, clipped.ymax - clipped.ymin
    if min(width, height) < TINY:
        message = f"is {width:.3g} x {height:.3g} px"
        problems.append(Problem("tiny box", image.file, where, message, KEPT))
    if width >= 0.99 * image.width and height >= 0.99 * image.height:
        problems.append(Problem("box of the whole image", image.file, where, "covers it all", KEPT))
    return clipped, problems


def _settle_classes(
    images: list[ImageRecord],
    data: DataSet,
    wanted: list[str] | None,
    problems: list[Problem],
) -> tuple[list[ImageRecord], list[str]]:
    """The images and the classes in their final order; boxes of classes not wanted leave."""
    used = Counter(box.label for image in images for box in image.boxes)
    folded: dict[str, set[str]] = {}
    for name in used:
        folded.setdefault(name.casefold(), set()).add(name)
    for names in folded.values():
        if len(names) > 1:
            message = f"{', '.join(sorted(names))} differ by case alone; they stay apart"
            problems.append(Problem("class case", None, "classes", message, KEPT))
    if data.listed_classes:
        for name in data.classes:
            if name not in used:
                message = f"'{name}' is listed and has no box"
                problems.append(Problem("unused class", None, "classes", message, KEPT))
    if wanted is None and data.listed_classes:
        return images, data.classes
    if wanted is None:
        return images, sorted(used, key=_class_order)
    kept = []
    for image in images:
        boxes = tuple(box for box in image.boxes if box.label in wanted)
        for at, box in enumerate(image.boxes):
            if box.label not in wanted:
                message = f"'{box.label}' is not in the list of classes"
                problems.append(
                    Problem("unlisted class", image.file, _where(at, box), message, DROPPED_BOX)
                )
        if image.boxes and not boxes:
            message = "has no box of a listed class and is no negative"
            problems.append(Problem("no box left", image.file, "", message, DROPPED_IMAGE))
            continue
        kept.append(replace(image, boxes=boxes))
    return kept, list(wanted)


def _class_order(name: str) -> tuple[str, int]:
    """By name, and class_10 after class_9."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :][:9] or -1)


def _skipped_links(root: Path, source: Path) -> list[Problem]:
    """Links that were not followed: a tree may hold its images by them."""
    if source.is_file():
        return []
    message = "is a link to a folder, out of the tree, or to nothing; it is not followed"
    return [
        Problem("link", path.relative_to(root).as_posix(), "", message, REFUSED)
        for path in links_out(root)
    ]


def _double_names(images: Iterable[ImageRecord]) -> list[Problem]:
    """Images listed twice, and two of one stem in one folder (a.jpg and a.png)."""
    stems: dict[PurePosixPath, str] = {}
    problems = []
    for image in images:
        stem = PurePosixPath(image.file).with_suffix("")
        if stems.get(stem) == image.file:
            message = "is listed twice, with other boxes each time"
            problems.append(Problem("image listed twice", image.file, "", message, KEPT))
        elif stem in stems:
            message = f"shares its stem with {stems[stem]}; both may have got one annotation"
            problems.append(Problem("two images of one stem", image.file, "", message, KEPT))
        stems.setdefault(stem, image.file)
    return problems


def _where(at: int, box: BoxRecord) -> str:
    return f"box {at + 1} ({box.label})"
