"""PASCAL VOC: one XML file an image.

Boxes count pixels from 1 and include the last one: [10, 20, 19, 29] becomes
(9, 19, 19, 29). Tools that count from 0 are read with `zero_based`: (10, 20, 20, 30).
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree  # only to write; reading goes through defusedxml
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import defusedxml
import defusedxml.ElementTree

from detkd.data.images import files_below, images_below
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
)
from detkd.errors import DataError

ONE_BASED = Rule("voc-one-based", "[xmin-1, ymin-1, xmax-xmin+1, ymax-ymin+1]")
ZERO_BASED = Rule("voc-zero-based", "[xmin, ymin, xmax-xmin+1, ymax-ymin+1]")
SIDES = ("xmin", "ymin", "xmax", "ymax")
KNOWN = {"name", "bndbox", "difficult", "truncated"}


def recognise(root: Path) -> bool:
    """Whether the tree holds VOC annotations."""
    return any(path.suffix.lower() == ".xml" for path in files_below(root))


def read(root: Path, *, zero_based: bool = False, subset: str | None = None) -> DataSet:
    """A VOC tree: VOC2007 or VOC2012 folders, or images beside or apart from their XML files.

    An annotation belongs to the image of its own stem in the same folder or in the mirrored one
    (Annotations → JPEGImages); the name inside it only decides between several.

    Raises:
        DataError: `root` holds no annotation, or no list of the asked subset. A broken file
            raises nothing: its record carries the problem.
    """
    documents = [path for path in files_below(root) if path.suffix.lower() == ".xml"]
    if not documents:
        raise DataError(f"{root}: holds no VOC annotation (*.xml); name another folder or --from.")
    images = images_below(root)
    problems: list[Problem] = []
    wanted = _subset(root, subset) if subset else None
    by_stem: dict[str, list[Path]] = {}
    for image in images:
        by_stem.setdefault(image.stem, []).append(image)
    used: set[Path] = set()
    records = []
    for document in documents:
        if wanted is not None and document.stem not in wanted:
            continue
        record = _read_document(document, root, by_stem, zero_based, problems)
        if record is not None:
            used.add(root / record.file)
            records.append(record)
    if wanted is not None:
        for stem in sorted(wanted - {d.stem for d in documents}):
            problems.append(
                Problem(
                    "listed but missing",
                    None,
                    stem,
                    f"'{subset}' lists '{stem}', which has no annotation",
                    DROPPED_IMAGE,
                )
            )
    for image in images:
        if image not in used and (wanted is None or image.stem in wanted):
            records.append(ImageRecord(_name(image, root), 0, 0, labelled=False))
    records.sort(key=lambda record: record.file)
    classes = sorted({box.label for record in records for box in record.boxes})
    rule = ZERO_BASED if zero_based else ONE_BASED
    return DataSet("voc", rule, classes, records, problems)


def _subset(root: Path, subset: str) -> set[str]:
    """Stems that ImageSets/Main/SUBSET.txt lists, wherever it lies below the root."""
    lists = [p for p in files_below(root) if p.name == f"{subset}.txt" and "ImageSets" in p.parts]
    if not lists:
        there = sorted({p.stem for p in files_below(root) if "ImageSets" in p.parts})
        hint = f"there are {', '.join(there)}" if there else "the tree has no ImageSets folder"
        raise DataError(f"{root}: has no list '{subset}' in ImageSets/Main; {hint}.")
    main = next((path for path in lists if path.parent.name == "Main"), lists[0])
    lines = main.read_text(encoding="utf-8", errors="replace").split("\n")
    return {line.split()[0] for line in lines if line.strip()}


def _read_document(
    path: Path,
    root: Path,
    by_stem: dict[str, list[Path]],
    zero_based: bool,
    problems: list[Problem],
) -> ImageRecord | None:
    name = _name(path, root)

    def problem(kind: str, where: str, message: str, action: str) -> Problem:
        return Problem(kind, name, where, message, action)

    tree, broken = _parse(path)
    image = _image_of(path, root, by_stem, _text(tree, "filename") if tree is not None else None)
    if image is None:
        kind = "orphan annotation" if tree is not None else "malformed annotation"
        why = "has no image of its name" if tree is not None else broken
        problems.append(problem(kind, "", why, DROPPED_IMAGE))
        return None
    file = _name(image, root)
    if tree is None:
        found = (problem("malformed annotation", "", broken, DROPPED_IMAGE),)
        return ImageRecord(file, 0, 0, labelled=False, problems=found)
    found_list: list[Problem] = []
    said = _text(tree, "filename")
    if said and PurePosixPath(PureWindowsPath(said).name).stem not in ("", image.stem):
        found_list.append(
            problem("wrong file name", "filename", f"says '{said}'; read as {file}", MENDED)
        )
    boxes = []
    for at, element in enumerate(_children(tree, "object")):
        box, trouble = _read_object(element, at, name, zero_based)
        found_list += trouble
        if box is not None:
            boxes.append(box)
    source = _child(tree, "source")
    sample = _text(source, "sample") if source is not None else None
    size = _child(tree, "size")
    dropped = any(p.action == DROPPED_BOX for p in found_list)
    return ImageRecord(
        file,
        0,
        0,
        boxes=tuple(boxes),
        sample=sample or None,
        labelled=bool(boxes) or not dropped,
        said_size=_size(size),
        problems=tuple(found_list),
    )


def _parse(path: Path) -> tuple[Any, str]:
    """The root element, or None and what is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    if not data.strip():
        return None, "is empty"
    try:
        return defusedxml.ElementTree.fromstring(data, forbid_dtd=True), ""
    except defusedxml.DefusedXmlException:
        return None, "declares entities or a document type, which is refused as hostile"
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return None, f"is not well-formed XML ({error})"
    except RecursionError:
        return None, "is nested too deeply"


def _read_object(
    element: Any, at: int, file: str, zero_based: bool
) -> tuple[BoxRecord | None, list[Problem]]:
    label = _text(element, "name") or ""
    where = f"object {at + 1}" + (f" ({label.strip()})" if label.strip() else "")
    problems = []
    if not label.strip():
        return None, [Problem("object without name", file, where, "has no name", DROPPED_BOX)]
    if label != label.strip():
        message = f"'{label}' has blanks around it; read as '{label.strip()}'"
        problems.append(Problem("blank in class", file, where, message, MENDED))
    frame = _child(element, "bndbox")
    values = []
    for side in SIDES:
        text = _text(frame, side) if frame is not None else None
        if text is None:
            message = f"has no {side}" if frame is not None else "has no bndbox"
            return None, [
                *problems,
                Problem("missing coordinate", file, where, message, DROPPED_BOX),
            ]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            message = f"{side} is '{text[:40]}', which is no finite number"
            return None, [*problems, Problem("not finite", file, where, message, DROPPED_BOX)]
        values.append(value)
    if not zero_based and min(values[0], values[1]) == 0:
        message = "has a coordinate 0, though VOC counts from 1; see --voc-zero-based"
        problems.append(Problem("zero coordinate", file, where, message, KEPT))
    first = 0 if zero_based else 1
    xmin, ymin, xmax, ymax = values
    attributes = {
        child.tag.lower(): child.text.strip()
        for child in element
        if child.tag.lower() not in KNOWN and not len(child) and (child.text or "").strip()
    }
    box = BoxRecord(
        label.strip(),
        xmin - first,
        ymin - first,
        xmax + 1 - first,
        ymax + 1 - first,
        difficult=_flag(element, "difficult"),
        truncated=_flag(element, "truncated"),
        attributes=attributes,
    )
    return box, problems


def _image_of(
    document: Path, root: Path, by_stem: dict[str, list[Path]], said: str | None
) -> Path | None:
    """The image of an annotation's own stem: beside it, in the mirrored folder, or the only one."""
    candidates = by_stem.get(document.stem, [])
    here = [image for image in candidates if image.parent == document.parent]
    if not here:
        here = [image for image in candidates if _mirrors(image, document, root)]
    if not here and len(candidates) == 1:
        here = candidates
    if len(here) > 1 and said:
        named = [image for image in here if image.name == PureWindowsPath(said).name]
        here = named or here
    return here[0] if here else None


def _mirrors(image: Path, document: Path, root: Path) -> bool:
    """Whether the two folders differ in one part of their names, as Annotations and JPEGImages."""
    ours = image.relative_to(root).parent.parts
    theirs = document.relative_to(root).parent.parts
    if abs(len(ours) - len(theirs)) == 1:  # images in the root, annotations in a folder, or so
        longer, shorter = (ours, theirs) if len(ours) > len(theirs) else (theirs, ours)
        return any((*longer[:at], *longer[at + 1 :]) == shorter for at in range(len(longer)))
    differing = sum(a != b for a, b in zip(ours, theirs, strict=False))
    return len(ours) == len(theirs) and differing == 1


def _child(element: Any, tag: str) -> Any:
    """A child by its name in any case: PMID2019 writes `Difficult`."""
    return next(_children(element, tag), None)


def _children(element: Any, tag: str) -> Iterator[Any]:
    return (c for c in element if isinstance(c.tag, str) and c.tag.lower() == tag)


def _text(element: Any, tag: str) -> str | None:
    child = _child(element, tag)
    return None if child is None else (child.text or "")


def _flag(element: Any, tag: str) -> bool:
    return (_text(element, tag) or "").strip().lower() in ("1", "true", "yes")


def _size(element: Any) -> tuple[int, int] | None:
    try:
        return int(float(_text(element, "width"))), int(float(_text(element, "height")))
    except (TypeError, ValueError, OverflowError):
        return None


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def write(data: DataSet, folder: Path) -> list[str]:
    """Annotations/ of a VOC tree whose images lie in JPEGImages/; what VOC cannot hold is told.

    Raises:
        DataError: two images would get the same annotation file.
    """
    lost: set[str] = set()
    for record in data.images:
        inside = PurePosixPath(record.file)
        target = folder / "Annotations" / inside.with_suffix(".xml")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise DataError(
                f"{record.file}: a second image of this stem would share {target.name}; rename it."
            )
        root = ElementTree.Element("annotation")
        _add(root, "folder", "JPEGImages")
        _add(root, "filename", inside.name)
        if record.sample is not None:
            _add(ElementTree.SubElement(root, "source"), "sample", record.sample)
        size = ElementTree.SubElement(root, "size")
        for tag, value in (("width", record.width), ("height", record.height), ("depth", 3)):
            _add(size, tag, str(value))
        for box in record.boxes:
            _write_box(root, box)
            lost |= {f"annotations[].{key}" for key in box.extra if key != "area"}
            lost |= {"annotations[].iscrowd"} if box.crowd else set()
        ElementTree.indent(root)
        ElementTree.ElementTree(root).write(target, encoding="utf-8")
    return sorted(lost)


def _write_box(root: ElementTree.Element, box: BoxRecord) -> None:
    element = ElementTree.SubElement(root, "object")
    _add(element, "name", box.label)
    for key, value in box.attributes.items():
        _add(element, key, str(value))
    _add(element, "truncated", str(int(box.truncated)))
    _add(element, "difficult", str(int(box.difficult)))
    frame = ElementTree.SubElement(element, "bndbox")
    corners: Sequence[float] = (box.xmin + 1, box.ymin + 1, box.xmax, box.ymax)
    for side, value in zip(SIDES, corners, strict=True):
        _add(frame, side, f"{value:.10g}")


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text
