"""PASCAL VOC: one XML file an image.

Boxes count pixels from 1 and include the last one: [10, 20, 19, 29] becomes
(9, 19, 19, 29). Tools that count from 0 are read with `zero_based`: (10, 20, 20, 30).
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from array import array
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import islice, repeat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import defusedxml
import defusedxml.ElementTree

from detkd.data.formats import cvat
from detkd.data.geometry import finite
from detkd.data.images import SUFFIXES, files_below, image_names, names_below, stem_of
from detkd.data.pairing import Images, path_notes
from detkd.data.records import (
    DROPPED_BOX,
    DROPPED_IMAGE,
    KEPT,
    MENDED,
    NOTHING,
    UNWRITABLE,
    BoxRecord,
    DataSet,
    ImageRecord,
    Problem,
    Rule,
    annotation_file,
    clean,
    named,
    noted,
    relative,
)
from detkd.encoding import MARKS, decode
from detkd.errors import DataError

ONE_BASED = Rule("voc-one-based", "[xmin-1, ymin-1, xmax-xmin+1, ymax-ymin+1]")
ZERO_BASED = Rule("voc-zero-based", "[xmin, ymin, xmax-xmin+1, ymax-ymin+1]")
SIDES = ("xmin", "ymin", "xmax", "ymax")
OF_OBJECT = {"name", "bndbox", "difficult", "truncated"}  # tags with a home in BoxRecord
OF_IMAGE = {"filename", "size", "object", "path", "folder"}  # ... in ImageRecord, or of no use
FLAG = {"0": 0, "1": 1}
FLAGS = {"0": False, "1": True, "": None}  # of difficult and truncated, left out in the last case
USUAL_TAGS = {"object", "name", "pose", "truncated", "difficult", "bndbox", *SIDES}
HOSTILE = "declares entities, which is refused as hostile"
ENCODING = re.compile(rb"<\?xml[^>]*?encoding\s*=\s*[\"']([\w.-]+)")
ASCII_ALIKE = re.compile(rb"(?i)utf-?8|us-ascii|ascii|iso-8859-\d+|latin-?\d|windows-125\d")
TAG = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)


def recognise(root: Path) -> int:
    """How many files of the tree look like VOC annotations."""
    return sum(1 for _ in _documents(root))


def read(root: Path, *, zero_based: bool = False, subset: str | None = None) -> DataSet:
    """A VOC tree: VOC2007 or VOC2012 folders, or images beside or apart from their XML files.

    An annotation belongs to the image of its own stem in the same folder or in the mirrored one
    (Annotations → JPEGImages); the name inside it only decides between several.

    Raises:
        DataError: `root` holds no annotation, or no list of the asked subset. A broken file
            raises nothing: its record carries the problem.
    """
    if next(_documents(root), None) is None:
        raise DataError(f"{root}: holds no VOC annotation (*.xml); name another folder or --from.")
    problems: list[Problem] = []
    wanted: set[str] | None = None
    if subset is not None:
        lines = _subset(root, subset)
        annotated = {stem_of(name) for name in _documents(root)}
        stems = annotated | {stem_of(name) for name in image_names(root)}
        wanted = {listed(line, stems) for line in lines}
        for stem in sorted(wanted - annotated):
            message = f"'{subset}' lists '{stem}', which has no annotation"
            problems.append(Problem("listed but missing", None, stem, message, DROPPED_IMAGE))
    rule = ZERO_BASED if zero_based else ONE_BASED
    records = _records(root, wanted, zero_based, problems)
    return DataSet("voc", rule, [], records, problems)


def _documents(root: Path, wanted: Collection[str] | None = None) -> Iterator[str]:
    """The names of the annotations, of all or of the wanted stems."""
    if not root.is_dir():
        return
    others = {relative(path, root) for path in cvat.documents(root)}
    for name in names_below(root, ".xml"):
        if name not in others and (wanted is None or stem_of(name) in wanted):
            yield name


def _records(
    root: Path, wanted: Collection[str] | None, zero_based: bool, problems: list[Problem]
) -> Iterator[ImageRecord]:
    images = Images(root)
    if wanted is not None:
        images = Images(root, [name for name in images.names if stem_of(name) in wanted])
    owner = array("Q")  # of each image, by its number, which annotation it has: 1 is the first
    for at, document in enumerate(_documents(root, wanted), start=1):
        known, record = _read_document(document, images, zero_based, problems)
        if record is None:
            continue
        if known >= len(owner):
            owner.extend(repeat(0, known + 1 - len(owner)))
        if owner[known]:
            first = next(islice(_documents(root, wanted), owner[known] - 1, None))
            message = f"{record.file} has its boxes from {first} already"
            problems.append(Problem("second annotation", document, "", message, DROPPED_IMAGE))
            continue
        owner[known] = at
        yield record
    for known, file in enumerate(images.names):
        if known >= len(owner) or not owner[known]:
            yield ImageRecord(file, 0, 0, labelled=False)


def _subset(root: Path, subset: str) -> list[str]:
    """The lines of ImageSets/Main/SUBSET.txt, wherever it lies below the root."""
    lists = list_files(root)
    named = [path for path in lists if path.stem == subset]
    if not named:
        there = ", ".join(sorted({path.stem for path in lists}))
        hint = f"there are {there}" if there else "the tree has no ImageSets folder"
        raise DataError(f"{root}: has no list '{subset}' in ImageSets/Main; {hint}.")
    chosen = next((path for path in named if path.parent.name == "Main"), named[0])
    lines = decode(chosen.read_bytes())[0].splitlines()
    return [line.strip() for line in lines if line.strip()]


def list_files(root: Path) -> list[Path]:
    """The lists below ImageSets, wherever that lies; those of Main alone, if there are any."""
    lists = [
        path
        for path in files_below(root, ".txt")
        if path.suffix == ".txt" and "ImageSets" in path.relative_to(root).parts
    ]
    return [path for path in lists if path.parent.name == "Main"] or lists


def listed(line: str, stems: Collection[str]) -> str:
    """The stem that a line names: lists of one class add -1, 0 or 1, some tools a suffix."""
    bare = re.sub(r"\s+-?[01]$", "", line)
    name = PurePosixPath(bare)
    short = name.stem if name.suffix.lower() in SUFFIXES else name.name
    return next((stem for stem in (line, bare, short) if stem in stems), bare)


def _read_document(
    name: str, images: Images, zero_based: bool, problems: list[Problem]
) -> tuple[int, ImageRecord | None]:
    """The number of an annotation's image, and its record; -1 and None if it has no image."""

    def problem(kind: str, where: str, message: str, action: str) -> Problem:
        return Problem(kind, name, where, message, action)

    tree, broken = _parse(f"{images.root}/{name}")
    parts = _by_tag(tree) if tree is not None else {}
    said = _text_of(parts, "filename")
    image = images.of_document(name, said)
    malformed = "hostile annotation" if broken == HOSTILE else "malformed annotation"
    if image is None:
        kind = "orphan annotation" if tree is not None else malformed
        why = "has no image of its name" if tree is not None else broken
        problems.append(problem(kind, "", why, DROPPED_IMAGE))
        return -1, None
    number, file = image
    if tree is None:
        wrong = problem(malformed, "", broken, DROPPED_IMAGE)
        return number, ImageRecord(file, 0, 0, labelled=False, problems=(wrong,))
    found: list[Problem] = [noted("encoding", name, "", broken)] if broken else []
    if said and said != file.rpartition("/")[2]:
        inside = PureWindowsPath(said)
        found += path_notes(said, name, "filename")
        if inside.name and PurePosixPath(file).stem not in (inside.stem, inside.name):
            message = f"says '{said}'; read as {file}"
            found.append(problem("wrong file name", "filename", message, MENDED))
    boxes = []
    objects = [child for child in tree if _plain(child.tag) == "object"]
    first = 0 if zero_based else 1
    for at, element in enumerate(objects):
        box = _usual_object(element, first)
        if box is None:
            box, trouble = _read_object(element, at, name, zero_based)
            found += trouble
        if box is not None:
            boxes.append(box)
    if "size" not in parts:
        found.append(noted("no size", name, "", "says no size of its image"))
    besides = {} if parts.keys() <= OF_IMAGE else _values(tree, OF_IMAGE)
    source = besides.get("source")
    sample = source.pop("sample", None) if isinstance(source, dict) else None
    if source == {}:
        del besides["source"]
    dropped = any(p.action == DROPPED_BOX for p in found)
    return number, ImageRecord(
        file,
        0,
        0,
        boxes=tuple(boxes),
        sample=sample if isinstance(sample, str) and sample else None,
        labelled=bool(boxes) or not dropped,
        said_size=_size(parts.get("size")),
        extra={"voc": besides} if besides else {},
        problems=tuple(found),
    )


def _parse(path: str) -> tuple[Any, str]:
    """The root element and what is unusual about it, or None and what is wrong."""
    try:
        with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 (a Path costs as much again)
            data = stream.read().lstrip()
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    if not data:
        return None, "is empty"
    try:
        declared = ENCODING.match(data)
        if _declares_nothing(data, declared):
            tree = ElementTree.fromstring(data)
        else:
            tree = defusedxml.ElementTree.fromstring(data)
    except defusedxml.DefusedXmlException:
        return None, HOSTILE
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return None, f"is not well-formed XML ({error})"
    if _tag(tree) != "annotation":
        return None, f"is no VOC annotation: its outermost tag is '{_tag(tree)}'"
    if declared and declared[1].lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        return tree, f"is encoded as {declared[1].decode()}"
    if data[:1] == b"<":
        return tree, ""
    return tree, next((said for mark, (_, said) in MARKS.items() if data.startswith(mark)), "")


def _declares_nothing(data: bytes, declared: re.Match[bytes] | None) -> bool:
    """Whether a document is sure to declare no entity, so that the fast parser is safe.

    A declaration begins with `<!`. In UTF-8 and the encodings that extend ASCII it is spelled by
    these two bytes; in UTF-16 each is followed or preceded by a zero.
    """
    usual = declared is None or ASCII_ALIKE.fullmatch(declared[1]) is not None
    return usual and b"<!" not in data and b"\0" not in data


def _usual_object(element: Any, first: int) -> BoxRecord | None:
    """A box as nearly all tools write it, with nothing to be told; `_read_object` reads the rest.

    It is half of the work of a conversion that is not parsing, so it takes no detour.
    """
    parts = {part.tag: part.text for part in element.iter()}  # the object, its parts, its sides
    frame = element.find("bndbox")
    if not (
        parts.keys() <= USUAL_TAGS
        and frame is not None
        and len(frame) == sum(map(len, element)) == 4  # nothing else is nested
        and len(parts) == 1 + len(element) + 4
    ):
        return None
    label, pose = parts.get("name"), parts.get("pose")
    difficult, truncated = parts.get("difficult", ""), parts.get("truncated", "")
    if not (label and clean(label) == label and difficult in FLAGS and truncated in FLAGS):
        return None
    try:
        xmin, ymin = float(parts["xmin"]), float(parts["ymin"])
        xmax, ymax = float(parts["xmax"]), float(parts["ymax"])
    except (KeyError, TypeError, ValueError):
        return None
    if not (0 < xmin <= xmax < math.inf and 0 < ymin <= ymax < math.inf):
        return None
    return BoxRecord(
        label,
        xmin - first,
        ymin - first,
        xmax + 1 - first,
        ymax + 1 - first,
        FLAGS[difficult],
        False,
        FLAGS[truncated],
        {"pose": pose} if pose and (pose := clean(pose)) else NOTHING,
    )


def _read_object(
    element: Any, at: int, file: str, zero_based: bool
) -> tuple[BoxRecord | None, list[Problem]]:
    parts = _by_tag(element)
    said = _text_of(parts, "name") or ""
    label, where, problems = named(said, file, f"object {at + 1}")

    def drop(kind: str, message: str) -> tuple[None, list[Problem]]:
        return None, [*problems, Problem(kind, file, where, message, DROPPED_BOX)]

    if not label:
        return drop("object without name", "has no name")
    if "bndbox" not in parts:
        return drop("missing coordinate", "has no bndbox")
    sides = _by_tag(parts["bndbox"])
    values = _corners(sides)
    if values is None:
        return drop(*_no_corner(sides))
    xmin, ymin, xmax, ymax = values
    if xmax < xmin or ymax < ymin:
        said = ", ".join(f"{value:.6g}" for value in values)
        kind = "empty box" if min(xmax - xmin, ymax - ymin) == -1 else "inverted box"
        return drop(kind, f"[{said}] ends before it begins")
    if not zero_based and min(xmin, ymin) == 0:
        message = "has a coordinate 0, though VOC counts from 1; see --voc-zero-based"
        problems.append(Problem("zero coordinate", file, where, message, KEPT))
    first = 0 if zero_based else 1
    attributes = NOTHING if parts.keys() <= OF_OBJECT else _values(element, OF_OBJECT)
    if attributes.get("occluded") in FLAG:
        attributes = {**attributes, "occluded": FLAG[attributes["occluded"]]}
    box = BoxRecord(
        label,
        xmin - first,
        ymin - first,
        xmax + 1 - first,
        ymax + 1 - first,
        difficult=_flag(_text_of(parts, "difficult")),
        truncated=_flag(_text_of(parts, "truncated")),
        attributes=attributes,
    )
    return box, problems


def _corners(sides: dict[str, Any]) -> list[float] | None:
    """The four numbers of a bndbox, if they are there and finite."""
    try:
        values = [float(sides[side].text) for side in SIDES]
    except (KeyError, TypeError, ValueError):
        return None
    return values if all(map(math.isfinite, values)) else None


def _no_corner(sides: dict[str, Any]) -> tuple[str, str]:
    """What is wrong with the first bad side of a bndbox: the kind of problem, and the message."""
    for side in SIDES:
        text = _text_of(sides, side)
        if text is None:
            return "missing coordinate", f"has no {side}"
        if finite([text]) is None:
            return "not finite", f"{side} is '{text[:40]}', which is no finite number"
    raise AssertionError("all sides are there and finite")


def _tag(element: Any) -> str:
    """Name of an element in lower case, without a namespace: PMID2019 writes `Difficult`."""
    return _plain(element.tag)


@lru_cache(maxsize=4096)  # the same few names stand in every file
def _plain(tag: Any) -> str:
    return tag.rsplit("}", 1)[-1].lower() if isinstance(tag, str) else ""


@lru_cache(maxsize=4096)
def _is_name(tag: str) -> bool:
    return TAG.fullmatch(tag) is not None


def _by_tag(element: Any) -> dict[str, Any]:
    """The first child of each name."""
    return {_plain(child.tag): child for child in reversed(element)}


def _text_of(parts: dict[str, Any], tag: str) -> str | None:
    child = parts.get(tag)
    return None if child is None else (child.text or "")


def _values(element: Any, without: Collection[str] = (), depth: int = 8) -> dict[str, Any]:
    """What an element holds: text, or a dictionary where tags are nested, or a list of either."""
    found: dict[str, Any] = {}
    for child in element:
        tag = _plain(child.tag)
        if tag in without or not _is_name(tag) or not depth:
            continue
        value: Any = _values(child, (), depth - 1) if len(child) else clean(child.text or "")
        if not value:
            continue
        if tag in found:
            first = found[tag] if isinstance(found[tag], list) else [found[tag]]
            value = [*first, value]
        found[tag] = value
    return found


def _flag(text: str | None) -> bool | None:
    if text == "0":
        return False  # as nearly always
    return None if text is None else text.strip().lower() in ("1", "true", "yes")


def _size(element: Any) -> tuple[int, int] | None:
    if element is None:
        return None
    parts = _by_tag(element)
    try:
        width, height = (int(float(_text_of(parts, s) or "")) for s in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return width, height


def write(data: DataSet, folder: Path) -> list[str]:
    """Annotations/ of a VOC tree whose images lie in JPEGImages/.

    Returns:
        Names of the fields that VOC cannot hold, and so were left out.

    Raises:
        DataError: two images would get the same annotation file.
    """
    lost = data.fields_of_coco()
    flags = not _of_voc(data)
    for record in data.images:
        inside = PurePosixPath(record.file)
        target = annotation_file(folder / "Annotations", record.file, ".xml")
        root = ElementTree.Element("annotation")
        _add(root, "folder", "JPEGImages")
        _add(root, "filename", inside.name)
        said = record.extra.get("voc")
        besides = dict(said) if isinstance(said, dict) else {}
        source = besides.pop("source", {})
        source = dict(source) if isinstance(source, dict) else {}
        if record.sample is not None:
            source["sample"] = record.sample
        if source:
            _add(root, "source", source)
        size = {"width": record.width, "height": record.height, "depth": 3}
        _add(root, "size", size)
        for key, value in besides.items():
            _add(root, key, value)
        for box in record.boxes:
            lost |= _write_box(root, box, flags)
        lost |= {f"images[].{key}" for key in record.extra if key != "voc"}
        ElementTree.indent(root)
        ElementTree.ElementTree(root).write(target, encoding="utf-8", xml_declaration=True)
    return sorted(lost)


def _of_voc(data: DataSet) -> bool:
    """Whether the boxes were VOC's before: they go back as they were, for an equal round trip.

    Those of other formats get `truncated` and `difficult`, since readers of VOC ask for both.
    """
    record = data.info.get("detkd")
    was = record.get("source_format") if isinstance(record, dict) else None
    return "voc" in (data.source_format, was)


def _write_box(root: ElementTree.Element, box: BoxRecord, flags: bool) -> set[str]:
    """Add one object, with both flags or those that are known; what it cannot hold, by name."""
    element = ElementTree.SubElement(root, "object")
    _add(element, "name", box.label)
    lost = {f"annotations[].{key}" for key in box.extra if key != "area"}
    lost |= {"annotations[].iscrowd"} if box.crowd else set()
    for key, value in box.attributes.items():
        if TAG.fullmatch(key) and key.lower() not in OF_OBJECT:
            _add(element, key.lower(), value)
        else:
            lost.add(f"attributes.{key}")
    for key, said in (("truncated", box.truncated), ("difficult", box.difficult)):
        if flags or said is not None:
            _add(element, key, bool(said))
    corners = (box.xmin + 1, box.ymin + 1, box.xmax, box.ymax)
    frame = {side: f"{value:.10g}" for side, value in zip(SIDES, corners, strict=True)}
    _add(element, "bndbox", frame)
    return lost


def _add(parent: ElementTree.Element, tag: str, value: Any) -> None:
    """A child of text, of nested tags for a dictionary, or several for a list."""
    if isinstance(value, list):
        for one in value:
            _add(parent, tag, one)
        return
    if not TAG.fullmatch(tag):
        return
    child = ElementTree.SubElement(parent, tag)
    if isinstance(value, dict):
        for key, inner in value.items():
            _add(child, key, inner)
    else:
        text = str(int(value) if isinstance(value, bool) else value)
        child.text = UNWRITABLE.sub(" ", text)
