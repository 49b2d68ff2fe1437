"""Every problem of a data set, found once, and what is done about it.

`examine` reads a tree, measures its images and decides box by box after the rules that
docs/checking.md states; `check` and `convert` both come through here, so they agree.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detkd.data.boxes import RuleWatch, examine_boxes, where_of
from detkd.data.formats import FORMATS, OF_ONE_FILE, coco, recognised
from detkd.data.frame_watch import FrameWatch
from detkd.data.geometry import around, displayed, ring, rings_of
from detkd.data.headers import Measured
from detkd.data.images import (
    SUFFIXES_OF,
    ImageError,
    levels_below,
    links_out,
    measure,
    remembering_files,
)
from detkd.data.keys import Keys
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
    noted,
)
from detkd.data.sides import leaks_between, sides_of
from detkd.data.similar import same_content
from detkd.data.spool import Spool
from detkd.errors import DataError
from detkd.pixels import PAGE_MARK, page_of

# Fields that every tool writes, and that are not worth a note when they are kept.
USUAL = {
    "pose",
    "occluded",
    "area",
    "segmentation",
    "truncated",
    "difficult",
    "source",
    "segmented",
}


@dataclass
class Examined:
    """A data set fit to be written, and everything that was wrong with its source.

    `unlabelled` names the images without any annotation, for use as unlabelled frames; `notes`
    are worth knowing and no faults; `sixteen_bit` says what 16 bits become, where there are any.
    """

    data: DataSet
    root: Path
    problems: list[Problem]
    unlabelled: list[str] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    sixteen_bit: dict[str, Any] | None = None
    image_of: dict[str, str] = field(default_factory=dict)  # of annotation files with problems
    subset: str | None = None  # the only one that was read

    @property
    def images(self) -> Sequence[ImageRecord]:
        images = self.data.images
        return images if isinstance(images, Sequence) else list(images)

    def report(self) -> dict[str, Any]:
        """The report of `check` and `convert`, ready for JSON; notes stand after the problems."""
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
    decode: bool = False,
    similar: bool = False,
    images: Path | None = None,
) -> Examined:
    """Read `source`, measure its images, mend what can be mended and drop what is impossible.

    Args:
        source: a folder, or a file where one document holds many images.
        source_format: its format; without it, the one that most annotations are in.
        zero_based: the VOC files count pixels from 0.
        subset: only the images that the tree lists under this name.
        classes: the classes to keep, in their order.
        columns: name of the column of each part of a CSV table.
        decode: read every image to its last pixel.
        similar: compare the pictures of training, validation and test, turned and mirrored too.
        images: the folder of a COCO file's images, if it is not the one that the file says.

    Raises:
        DataError: nothing there that could be read at all.
    """
    with remembering_files():
        data, root = _open(source, source_format, zero_based, subset, classes, columns, images)
        return _examine(source, root, data, subset, classes, decode=decode, similar=similar)


def _examine(
    source: Path,
    root: Path,
    data: DataSet,
    subset: str | None,
    classes: list[str] | None,
    *,
    decode: bool,
    similar: bool,
) -> Examined:
    found = _Examination(root, data, classes, decode)
    for record in data.images:
        found.take(record)
    found.kept.sort()
    whole = [*_skipped_links(root, source), *data.problems]
    problems = [*whole, *found.problems, *found.twice(), *found.of_classes()]
    problems += found.double_names()
    problems += found.watch.problems(data.rule.name)
    side_of: dict[str, str] = {}
    if subset is None:
        side_of = sides_of(root, data.source_format, found.kept, found.folders, problems)
    problems += _equal_files(found.equal(), side_of)
    if subset is None and similar:
        problems += leaks_between(root, side_of)
    problems += found.notes()
    return Examined(
        replace(data, images=found.kept, classes=found.final_classes(), problems=[]),
        root,
        [problem for problem in problems if not problem.note],
        found.unlabelled,
        [problem for problem in problems if problem.note],
        levels_below(root) if found.deep else None,
        found.image_of,
        subset,
    )


def _open(
    source: Path,
    source_format: str | None,
    zero_based: bool,
    subset: str | None,
    classes: list[str] | None,
    columns: Mapping[str, str] | None,
    images: Path | None,
) -> tuple[DataSet, Path]:
    """The data set as its format reads it, and the root of its images.

    Raises:
        DataError: nothing there, or something that does not fit the format.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder.")
    others: dict[str, int] = {}
    if source_format is None:
        source_format, *rest = (seen := recognised(source))
        others = {name: seen[name] for name in rest if source.is_dir()}
    if source.is_file() and source_format not in OF_ONE_FILE:
        raise DataError(f"{source}: is no folder; name the folder of the {source_format} tree.")
    if images is not None and source_format != "coco":
        raise DataError("--images: is for a COCO file; other formats lie in one tree with them.")
    if source_format == "coco":
        if subset:
            raise DataError("--subset: a COCO file has no subsets; name the file of the subset.")
        if source.is_dir():
            raise DataError(f"{source}: is a folder; name the JSON file in it.")
        if images is not None and not images.is_dir():
            raise DataError(f"{images}: is no folder; name the folder of the images.")
        data = coco.read(source, images)
        root = coco.image_root(source, data.info) if images is None else images
    else:
        root = source if source.is_dir() else source.parent
        said: dict[str, Any] = {"zero_based": zero_based} if source_format == "voc" else {}
        said |= {"names": classes} if source_format == "yolo" else {}
        said |= {"columns": columns} if source_format == "csv" else {}
        if subset and source_format not in ("voc", "yolo"):
            raise DataError(f"--subset: {source_format} has no subsets; convert the whole tree.")
        said |= {"subset": subset} if subset else {}
        data = FORMATS[source_format].read(source, **said)
    for name, count in others.items():
        message = f"annotations of {name} that are not read: {count}; --from {name} reads them"
        data.problems.append(Problem("other format", None, "", message, REFUSED))
    return data, root


class _Examination:
    """Takes record after record; keeps those that stay, and what is told at the end of all."""

    def __init__(self, root: Path, data: DataSet, wanted: list[str] | None, decode: bool) -> None:
        self.root, self.data, self.wanted, self.decode = root, data, wanted, decode
        self.kept = Spool()
        self.problems: list[Problem] = []
        self.unlabelled: list[str] = []
        self.folders: set[str] = set()  # of the images that stay
        # Of each image that stays, in the order they came: its name without suffix, and its file.
        self.stems, self.contents = Keys(), Keys()
        self.content: tuple[int, int] = 0, 0  # of the last image: size of its file, and its ends
        self.used: Counter[str] = Counter()
        self.fields: Counter[str] = Counter()
        self.watch = RuleWatch()
        self.frames = FrameWatch()
        self.deep = 0
        self.image_of: dict[str, str] = {}

    def take(self, record: ImageRecord) -> None:
        """Examine one record: it stays, or is told why not."""
        mended, found = self._examine(record)
        self.problems += found
        for problem in record.problems:
            self.image_of.setdefault(problem.file or "", record.file)
        if mended is not None:
            self.folders.add(mended.file.rpartition("/")[0])
            self.stems.add(_without_suffix(mended.file))
            self.contents.add(self.content)
            self.kept.add(mended)
        elif not record.labelled and all(problem.note for problem in record.problems):
            self.unlabelled.append(record.file)

    def _examine(self, record: ImageRecord) -> tuple[ImageRecord | None, list[Problem]]:
        """The record with its real size and sound boxes; None if the image has to leave."""
        problems = [*record.problems, *_name_notes(record.file)]

        def leave(kind: str, message: str) -> tuple[None, list[Problem]]:
            problems.append(Problem(kind, record.file, "", message, DROPPED_IMAGE))
            return None, problems

        path = file = f"{self.root}/{record.file}"
        if PAGE_MARK in record.file:
            file = str(page_of(Path(path))[0])
        try:
            state = os.lstat(file)
            linked = stat.S_ISLNK(state.st_mode)
            state = Path(file).stat() if linked else state
            there = stat.S_ISREG(state.st_mode)
        except (OSError, ValueError):  # a name that no file can have
            there = False
        if not there:
            coco_file = self.data.source_format == "coco"
            hint = "; if it lies in another folder, name that with --images" if coco_file else ""
            return leave("missing image", f"is not there{hint}")
        if linked and not Path(file).resolve().is_relative_to(self.root.resolve()):
            return leave("path outside", "is a link out of the image root")
        try:
            size = measure(path, decode=self.decode)
        except ImageError as error:
            return leave("broken image", str(error))
        self.content = state.st_size, size.ends
        self.deep += size.deep
        problems += _image_problems(record.file, size)
        if not record.labelled:
            if all(problem.note for problem in record.problems):
                message = "has no annotation: it is unlabelled, not a negative"
                return leave("unlabelled image", message)
            if not any(problem.action == DROPPED_IMAGE for problem in record.problems):
                return leave("no box left", "has no sound box and is no negative")
            return None, problems
        sized, found = _sized(record, size)
        problems += found
        self.watch.look(sized, record.fractions)
        boxes, found = examine_boxes(sized, whole_frames=self.data.source_format == "folders")
        problems += found
        if sized.boxes and not boxes:
            return leave("no box left", "has no sound box and is no negative")
        self._count(sized, boxes)
        if self.wanted is not None:
            for at, box in enumerate(boxes):
                if box.label not in self.wanted:
                    message = f"'{box.label}' is not in the list of classes"
                    problems.append(
                        Problem(
                            "unlisted class", record.file, where_of(at, box), message, DROPPED_BOX
                        )
                    )
            listed = tuple(box for box in boxes if box.label in self.wanted)
            if boxes and not listed:
                return leave("no box left", "has no box of a listed class and is no negative")
            boxes = listed
        self.frames.look(sized.width, sized.height, (box.label for box in boxes))
        return _with_boxes(sized, boxes), problems

    def _count(self, record: ImageRecord, boxes: Iterable[BoxRecord]) -> None:
        if record.extra:
            self.fields.update(key for key in record.extra if key not in USUAL and key != "voc")
        for box in boxes:
            self.used[box.label] += 1
            for fields in (box.attributes, box.extra):
                if fields and not fields.keys() <= USUAL:
                    self.fields.update(key for key in fields if key not in USUAL)

    def final_classes(self) -> list[str]:
        """The classes in their final order."""
        if self.wanted is not None:
            return list(self.wanted)
        return (
            self.data.classes if self.data.listed_classes else sorted(self.used, key=_class_order)
        )

    def of_classes(self) -> list[Problem]:
        """Names that differ by little, and names that are listed and not used."""
        problems = []
        folded: dict[str, set[str]] = defaultdict(set)
        for name in self.used:
            bare = unicodedata.normalize("NFKC", name.casefold())
            folded[SEPARATORS.sub("", bare)].add(name)
        for names in folded.values():
            if len(names) > 1:
                alike = len({name.casefold() for name in names}) == 1
                how = "case" if alike else "case, blanks, ways to write a letter and the like"
                message = f"{', '.join(sorted(names))} differ by {how} alone; they stay apart"
                kind = "class case" if alike else "class spelling"
                problems.append(Problem(kind, None, "classes", message, KEPT))
        if self.data.listed_classes:
            for name in self.data.classes:
                if name not in self.used:
                    message = f"'{name}' is listed and has no box"
                    problems.append(Problem("unused class", None, "classes", message, KEPT))
        return problems

    def twice(self) -> list[Problem]:
        """Images that came more than once."""
        message = "is listed twice, with other boxes each time"
        found = []
        for numbers in self.stems.shared():
            for name, times in Counter(self.kept.added(at).file for at in numbers).items():
                found += [Problem("image listed twice", name, "", message, KEPT)] * (times - 1)
        return found

    def double_names(self) -> list[Problem]:
        """Two images of one stem in one folder (a.jpg and a.png)."""
        alike = {self.kept.added(at).file for numbers in self.stems.shared() for at in numbers}
        stems: dict[str, str] = {}
        problems = []
        bare = {_without_suffix(name): name for name in self.unlabelled}
        for image in self.kept if bare else ():
            if name := bare.get(_without_suffix(image.file)):
                message = f"shares its stem with {image.file}, which has their annotation"
                problems.append(Problem("two images of one stem", name, "", message, KEPT))
        for file in sorted(alike):
            first = stems.setdefault(_without_suffix(file), file)
            if first != file:
                message = f"shares its stem with {first}; both may have got one annotation"
                problems.append(Problem("two images of one stem", file, "", message, KEPT))
        return problems

    def equal(self) -> Iterator[list[ImageRecord]]:
        """Groups of the images whose files are equal byte by byte."""
        for alike in self.contents.shared():  # of one size, and with equal ends
            files = {self.kept.added(number).file: number for number in alike}
            for names in same_content(self.root, files):
                yield [self.kept.added(files[name]) for name in names]

    def notes(self) -> list[Problem]:
        """Classes that their frames tell, and fields that detkd does not know, and keeps."""
        found = self.frames.notes()
        if self.fields:
            said = ", ".join(f"{key} ({count})" for key, count in self.fields.most_common(20))
            message = f"what the source says besides is kept: {said}"
            found.append(noted("fields kept", None, "", message))
        return found


SEPARATORS = re.compile(r"[\s_.-]+")
PLAIN_NAME = re.compile(r"[\w./-]+\.[a-z]+", re.ASCII)  # none of the notes on names is about it


def _with_boxes(record: ImageRecord, boxes: tuple[BoxRecord, ...]) -> ImageRecord:
    """The record that is kept: what was told of it is not kept with it."""
    return ImageRecord(
        record.file,
        record.width,
        record.height,
        boxes,
        record.sample,
        said_size=record.said_size,
        extra=record.extra,
    )


def _sized(record: ImageRecord, size: Measured) -> tuple[ImageRecord, list[Problem]]:
    """The record in px of the displayed frame."""
    said = record.said_size
    if said == size.stored != (size.width, size.height):
        message = "was annotated as it is stored; turned to the frame that is displayed"
        lost = {key for box in record.boxes for key in box.extra if not _can_turn(key, box.extra)}
        if lost:
            message += f"; {', '.join(sorted(lost))} left out, for they are not turned"
        return _turn(record, size), [Problem("turned image", record.file, "", message, MENDED)]
    sized = ImageRecord(
        record.file,
        size.width,
        size.height,
        record.boxes,
        record.sample,
        record.labelled,
        record.fractions,
        said,
        record.extra,
    ).in_pixels()
    if said is None or said == (size.width, size.height):
        return sized, []
    message = f"says {said[0]}x{said[1]}, the image is {size.width}x{size.height}"
    return sized, [Problem("wrong size", record.file, "size", message, MENDED)]


def _name_notes(file: str) -> list[Problem]:
    """What other tools may stumble over in the name of an image."""
    if PLAIN_NAME.fullmatch(file):
        return []  # as nearly always
    found = []
    if any(map(str.isspace, file)):
        found.append(noted("blank in file name", file, "", "has a blank in its name"))
    if not file.isascii():
        found.append(noted("letters in file name", file, "", "has a name that is not ASCII"))
    suffix = _suffix(file)
    if suffix != suffix.lower():
        found.append(noted("upper-case suffix", file, "", f"ends in {suffix}"))
    return found


def _suffix(file: str) -> str:
    """What the name of a file ends in, of a page that of its stack."""
    name = file.rpartition("/")[2]
    if PAGE_MARK in name:
        name = page_of(Path(name))[0].name
    stem, _, suffix = name.rpartition(".")
    return f".{suffix}" if stem else ""


def _image_problems(file: str, size: Measured) -> list[Problem]:
    """What an image that can be used has about it."""
    found = []
    if size.warning:
        found.append(Problem("truncated image", file, "", size.warning, KEPT))
    suffix = _suffix(file)
    promised = SUFFIXES_OF.get(size.format)
    if promised and suffix.lower() not in promised:
        message = f"ends in {suffix} and is {size.format}; read as what it is"
        found.append(Problem("wrong extension", file, "", message, KEPT))
    return found


def _turn(record: ImageRecord, size: Measured) -> ImageRecord:
    """A record of the frame that is stored, in the frame that is displayed."""
    stored, orientation = size.stored, size.orientation
    boxes = []
    for box in record._replace(width=stored[0], height=stored[1]).in_pixels().boxes:
        xmin, ymin, xmax, ymax = around(
            displayed([(box.xmin, box.ymin), (box.xmax, box.ymax)], stored, orientation)
        )
        extra = {key: value for key, value in box.extra.items() if _can_turn(key, box.extra)}
        if "segmentation" in extra:
            rings = rings_of(extra["segmentation"])
            pairs = [list(zip(each[::2], each[1::2], strict=True)) for each in rings]
            extra["segmentation"] = [ring(displayed(pair, stored, orientation)) for pair in pairs]
        boxes.append(box._replace(xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax, extra=extra))
    return record._replace(
        width=size.width, height=size.height, boxes=tuple(boxes), fractions=False
    )


def _can_turn(key: str, extra: Mapping[str, Any]) -> bool:
    """Whether a field of a box holds in a turned frame, or can be turned: run lengths cannot."""
    return key != "keypoints" and (key != "segmentation" or isinstance(extra[key], list))


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


def _without_suffix(file: str) -> str:
    return file if PAGE_MARK in file else file.removesuffix(_suffix(file))


def _equal_files(groups: Iterable[list[ImageRecord]], side_of: Mapping[str, str]) -> list[Problem]:
    """Images of the same bytes under two names: a fault where they contradict or leak."""
    problems = []
    for members in groups:
        boxes = {
            image.file: sorted((b.label, *(round(side, 1) for side in b.xyxy)) for b in image.boxes)
            for image in members
        }
        first, *others = boxes
        for name in others:
            message = f"has the same content as {first}"
            differ = boxes[name] != boxes[first]
            if differ:
                message += ", with other boxes"
            sides = [side_of.get(each) for each in (first, name)]
            apart = None not in sides and sides[0] != sides[1]
            if apart:
                message += f"; one is in {sides[0]}, one in {sides[1]}"
            kind = "same image on two sides" if apart else "same content"
            note = not (apart or differ)
            problems.append(Problem(kind, name, "", message, KEPT, note=note, other=first))
    return problems
