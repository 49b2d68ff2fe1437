"""PASCAL VOC: one XML file an image.

Boxes count pixels from 1 and include the last one: [10, 20, 19, 29] becomes
(9, 19, 19, 29). Tools that count from 0 are read with `zero_based`: (10, 20, 20, 30).
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import defusedxml
import defusedxml.ElementTree

from detkd.data.encoding import MARKS, decode
from detkd.data.formats import cvat
from detkd.data.images import SUFFIXES, files_below, images_below, stem_of
from detkd.data.pairing import Images, path_notes
from detkd.data.records import (
    DROPPED_BOX,
    DROPPED_IMAGE,
    KEPT,
    MENDED,
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
from detkd.errors import DataError

ONE_BASED = Rule("voc-one-based", "[xmin-1, ymin-1, xmax-xmin+1, ymax-ymin+1]")
ZERO_BASED = Rule("voc-zero-based", "[xmin, ymin, xmax-xmin+1, ymax-ymin+1]")
SIDES = ("xmin", "ymin", "xmax", "ymax")
OF_OBJECT = {"name", "bndbox", "difficult", "truncated"}  # tags with a home in BoxRecord
OF_IMAGE = {"filename", "size", "object", "path", "folder"}  # ... in ImageRecord, or of no use
FLAG = {"0": 0, "1": 1}
ENCODING = re.compile(rb"<\?xml[^>]*?encoding\s*=\s*[\"']([\w.-]+)")
ASCII_ALIKE = re.compile(rb"(?i)utf-?8|us-ascii|ascii|iso-8859-\d+|latin-?\d|windows-125\d")
TAG = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)


def recognise(root: Path) -> int:
    """How many files of the tree look like VOC annotations."""
    return len(_documents(root))


def read(root: Path, *, zero_based: bool = False, subset: str | None = None) -> DataSet:
    """A VOC tree: VOC2007 or VOC2012 folders, or images beside or apart from their XML files.

    An annotation belongs to the image of its own stem in the same folder or in the mirrored one
    (Annotations → JPEGImages); the name inside it only decides between several.

    Raises:
        DataError: `root` holds no annotation, or no list of the asked subset. A broken file
            raises nothing: its record carries the problem.
    """
    documents = _documents(root)
    if not documents:
        raise DataError(f"{root}: holds no VOC annotation (*.xml); name another folder or --from.")
    images = images_below(root)
    problems: list[Problem] = []
    if subset is not None:
        lines = _subset(root, subset)
        stems = {path.stem for path in documents} | {stem_of(path) for path in images}
        wanted = {listed(line, stems) for line in lines}
        documents = [path for path in documents if path.stem in wanted]
        images = [path for path in images if stem_of(path) in wanted]
        for stem in sorted(wanted - {path.stem for path in documents}):
            message = f"'{subset}' lists '{stem}', which has no annotation"
            problems.append(Problem("listed but missing", None, stem, message, DROPPED_IMAGE))
    rule = ZERO_BASED if zero_based else ONE_BASED
    records = _records(root, documents, images, zero_based, problems)
    return DataSet("voc", rule, [], records, problems)


def _documents(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    others = set(cvat.documents(root))
    found = (path for path in files_below(root) if path.suffix.lower() == ".xml")
    return [path for path in found if path not in others]


def _records(
    root: Path,
    documents: list[Path],
    images: list[Path],
    zero_based: bool,
    problems: list[Problem],
) -> Iterator[ImageRecord]:
    known = Images(root, images)
    owner: dict[str, Path] = {}
    for document in documents:
        record = _read_document(document, root, known, zero_based, problems)
        if record is None:
            continue
        if record.file in owner:
            message = (
                f"{record.file} has its boxes from {relative(owner[record.file], root)} already"
            )
            name = relative(document, root)
            problems.append(Problem("second annotation", name, "", message, DROPPED_IMAGE))
            continue
        owner[record.file] = document
        yield record
    yield from known.unlabelled(owner)


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
        for path in files_below(root)
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
    path: Path,
    root: Path,
    images: Images,
    zero_based: bool,
    problems: list[Problem],
) -> ImageRecord | None:
    name = relative(path, root)

    def problem(kind: str, where: str, message: str, action: str) -> Problem:
        return Problem(kind, name, where, message, action)

    tree, broken = _parse(path)
    parts = _by_tag(tree) if tree is not None else {}
    said = _text_of(parts, "filename")
    image = images.of_document(path, said)
    if image is None:
        kind = "orphan annotation" if tree is not None else "malformed annotation"
        why = "has no image of its name" if tree is not None else broken
        problems.append(problem(kind, "", why, DROPPED_IMAGE))
        return None
    file = relative(image, root)
    if tree is None:
        wrong = problem("malformed annotation", "", broken, DROPPED_IMAGE)
        return ImageRecord(file, 0, 0, labelled=False, problems=(wrong,))
    found: list[Problem] = [noted("encoding", name, "", broken)] if broken else []
    if said and said != image.name:
        inside = PureWindowsPath(said)
        found += path_notes(said, name, "filename")
        if inside.name and image.stem not in (inside.stem, inside.name):
            message = f"says '{said}'; read as {file}"
            found.append(problem("wrong file name", "filename", message, MENDED))
    boxes = []
    objects = [child for child in tree if _tag(child) == "object"]
    for at, element in enumerate(objects):
        box, trouble = _read_object(element, at, name, zero_based)
        found += trouble
        if box is not None:
            boxes.append(box)
    if "size" not in parts:
        found.append(noted("no size", name, "", "says no size of its image"))
    besides = _values(tree, OF_IMAGE)
    source = besides.get("source")
    sample = source.pop("sample", None) if isinstance(source, dict) else None
    if source == {}:
        del besides["source"]
    dropped = any(p.action == DROPPED_BOX for p in found)
    return ImageRecord(
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


def _parse(path: Path) -> tuple[Any, str]:
    """The root element and what is unusual about it, or None and what is wrong."""
    try:
        data = path.read_bytes().lstrip()
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    if not data:
        return None, "is empty"
    try:
        if _declares_nothing(data):
            tree = ElementTree.fromstring(data)
        else:
            tree = defusedxml.ElementTree.fromstring(data)
    except defusedxml.DefusedXmlException:
        return None, "declares entities, which is refused as hostile"
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return None, f"is not well-formed XML ({error})"
    if _tag(tree) != "annotation":
        return None, f"is no VOC annotation: its outermost tag is '{_tag(tree)}'"
    declared = ENCODING.match(data)
    if declared and declared[1].lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        return tree, f"is encoded as {declared[1].decode()}"
    mark = next((said for mark, (_, said) in MARKS.items() if data.startswith(mark)), "")
    return tree, mark


def _declares_nothing(data: bytes) -> bool:
    """Whether a document is sure to declare no entity, so that the fast parser is safe.

    A declaration begins with `<!`. In UTF-8 and the encodings that extend ASCII it is spelled by
    these two bytes; in UTF-16 each is followed or preceded by a zero.
    """
    declared = ENCODING.match(data)
    usual = declared is None or ASCII_ALIKE.fullmatch(declared[1]) is not None
    return usual and b"<!" not in data and b"\0" not in data


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
    frame = _by_tag(parts["bndbox"])
    values = []
    for side in SIDES:
        text = _text_of(frame, side)
        if text is None:
            return drop("missing coordinate", f"has no {side}")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            return drop("not finite", f"{side} is '{text[:40]}', which is no finite number")
        values.append(value)
    xmin, ymin, xmax, ymax = values
    if xmax < xmin or ymax < ymin:
        said = ", ".join(f"{value:.6g}" for value in values)
        kind = "empty box" if min(xmax - xmin, ymax - ymin) == -1 else "inverted box"
        return drop(kind, f"[{said}] ends before it begins")
    if not zero_based and min(xmin, ymin) == 0:
        message = "has a coordinate 0, though VOC counts from 1; see --voc-zero-based"
        problems.append(Problem("zero coordinate", file, where, message, KEPT))
    first = 0 if zero_based else 1
    attributes = _values(element, OF_OBJECT) if not parts.keys() <= OF_OBJECT else {}
    if attributes.get("occluded") in FLAG:
        attributes["occluded"] = FLAG[attributes["occluded"]]
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


def _tag(element: Any) -> str:
    """Name of an element in lower case, without a namespace: PMID2019 writes `Difficult`."""
    return _plain(element.tag)


@lru_cache(maxsize=4096)  # the same few names stand in every file
def _plain(tag: Any) -> str:
    return tag.rsplit("}", 1)[-1].lower() if isinstance(tag, str) else ""


def _by_tag(element: Any) -> dict[str, Any]:
    """The first child of each name."""
    found: dict[str, Any] = {}
    for child in element:
        found.setdefault(_plain(child.tag), child)
    return found


def _text_of(parts: dict[str, Any], tag: str) -> str | None:
    child = parts.get(tag)
    return None if child is None else (child.text or "")


def _values(element: Any, without: Collection[str] = (), depth: int = 8) -> dict[str, Any]:
    """What an element holds: text, or a dictionary where tags are nested, or a list of either."""
    found: dict[str, Any] = {}
    for child in element:
        tag = _tag(child)
        if tag in without or not TAG.fullmatch(tag) or not depth:
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
            lost |= _write_box(root, box)
        lost |= {f"images[].{key}" for key in record.extra if key != "voc"}
        ElementTree.indent(root)
        ElementTree.ElementTree(root).write(target, encoding="utf-8", xml_declaration=True)
    return sorted(lost)


def _write_box(root: ElementTree.Element, box: BoxRecord) -> set[str]:
    """Add one object; the names of the fields that it cannot hold."""
    element = ElementTree.SubElement(root, "object")
    _add(element, "name", box.label)
    lost = {f"annotations[].{key}" for key in box.extra if key != "area"}
    lost |= {"annotations[].iscrowd"} if box.crowd else set()
    for key, value in box.attributes.items():
        if TAG.fullmatch(key) and key.lower() not in OF_OBJECT:
            _add(element, key.lower(), value)
        else:
            lost.add(f"attributes.{key}")
    # Readers of VOC ask for both tags, whatever the source said.
    _add(element, "truncated", bool(box.truncated))
    _add(element, "difficult", bool(box.difficult))
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
