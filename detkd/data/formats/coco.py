"""COCO: one JSON file a data set; boxes are [x, y, width, height]."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import IO, Any

import detkd
from detkd.coco_json import require_lists
from detkd.data.geometry import Box, around, rings_of
from detkd.data.masks import box_of_mask
from detkd.data.pairing import Images, composed, path_notes
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
    noted,
    relative,
    renamed,
)
from detkd.encoding import decode
from detkd.errors import DataError
from detkd.files import write_with

RULE = Rule("coco", "[x, y, width, height]")
FLAGS = ("difficult", "truncated")
MEND = "mend it with 'detkd convert'."
SECTIONS = ("images", "annotations", "categories")
BOX_KEYS = {"id", "image_id", "category_id", "bbox", "iscrowd", "attributes"}
IMAGE_KEYS = {"id", "file_name", "width", "height", "sample"}


def recognise(path: Path) -> int:
    """1 if `path` is a JSON file."""
    return int(path.is_file() and path.suffix.lower() == ".json")


def read(path: Path, root: Path | None = None) -> DataSet:
    """A COCO detection file whose images lie below `root`, or where `image_root` finds them.

    An absolute path, which is one of another computer, means the image of the tree that ends most
    alike.

    Raises:
        DataError: not JSON, or without the three lists of a COCO detection file. A broken entry
            raises nothing: it is told.
    """
    document, problems = _read_document(path)
    names, class_extra = _categories(document["categories"], path.name, problems)
    boxes: dict[Any, list[BoxRecord]] = {}
    trouble: dict[Any, list[Problem]] = {}
    for at, entry in enumerate(document["annotations"]):
        image = _key(entry.get("image_id")) if isinstance(entry, dict) else None
        box, wrong = _read_box(entry, names, f"annotations[{at}]", path.name)
        if wrong is not None:
            trouble.setdefault(image, []).append(wrong)
        if box is not None:
            boxes.setdefault(image, []).append(box)
    info = document.get("info")
    images = Images(image_root(path, info) if root is None else root)
    return DataSet(
        "coco",
        RULE,
        list(dict.fromkeys(names.values())),
        _records(document["images"], boxes, trouble, path.name, images, problems),
        problems,
        listed_classes=True,
        info=info if isinstance(info, dict) else {},
        extra={key: v for key, v in document.items() if key not in (*SECTIONS, "info")},
        class_extra=class_extra,
    )


def _categories(
    entries: list[Any], file: str, problems: list[Problem]
) -> tuple[dict[Any, str], dict[str, dict[str, Any]]]:
    """Name of each category id, and what is said of each name besides."""
    names: dict[Any, str] = {}
    extra: dict[str, dict[str, Any]] = {}
    for at, entry in enumerate(entries):
        where = f"categories[{at}]"
        key = _key(entry.get("id")) if isinstance(entry, dict) else None
        said = entry.get("name") if key is not None else None
        if not isinstance(said, str | int) or not clean(str(said)) or key in names:
            message = "has no name, or no id of its own; its boxes leave"
            problems.append(Problem("malformed entry", file, where, message, DROPPED_BOX))
            continue
        name = clean(str(said))
        problems += renamed(str(said), file, where)
        if name in extra:
            message = f"is a second '{name}'; both ids mean one class"
            problems.append(Problem("double class", file, where, message, MENDED))
        names[key] = name
        extra.setdefault(name, {k: v for k, v in entry.items() if k not in ("id", "name")})
    if names and list(names) != list(range(1, len(names) + 1)):
        shown = ", ".join(str(key)[:20] for key in list(names)[:8])
        message = f"ids are {shown}{', ...' if len(names) > 8 else ''}; numbered from 1 anew"
        problems.append(noted("ids that jump", file, "categories", message))
    return names, extra


def _records(
    entries: list[Any],
    boxes: Mapping[Any, list[BoxRecord]],
    trouble: Mapping[Any, list[Problem]],
    file: str,
    images: Images,
    problems: list[Problem],
) -> Iterator[ImageRecord]:
    known = set()
    found = set()  # by another name than the one that is written
    for at, entry in enumerate(entries):

        def leave(kind: str, message: str, at: int = at) -> None:
            problems.append(Problem(kind, file, f"images[{at}]", message, DROPPED_IMAGE))

        key = _key(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if key is not None else None
        if not isinstance(name, str) or not name:
            leave("malformed entry", "has no id or no file_name")
            continue
        if key in known:
            leave("double image id", f"has the id {key!r} of another image")
            continue
        known.add(key)
        place = _place(name, images)
        if place is None:
            leave("path outside", f"{name!r} leaves the image root and is not followed")
            continue
        if place != name:
            if place in found:
                leave("image listed twice", f"{name!r} can only be {place}, as another entry is")
                continue
            found.add(place)
            problems.extend(path_notes(name, file, f"images[{at}]"))
        inside, wrong = tuple(boxes.get(key, ())), tuple(trouble.get(key, ()))
        sample = entry.get("sample")
        yield ImageRecord(
            place,
            0,
            0,
            boxes=inside,
            sample=str(sample) if sample is not None else None,
            labelled=bool(inside) or not wrong,
            said_size=_said_size(entry),
            extra={k: v for k, v in entry.items() if k not in IMAGE_KEYS},
            problems=wrong,
        )
    for key in dict.fromkeys([*boxes, *trouble]):
        if key not in known:
            dropped = [each for each in trouble.get(key, []) if each.action == DROPPED_BOX]
            count = len(boxes.get(key, [])) + len(dropped)
            message = f"{count} annotations are of image {key!r}, which is not listed"
            problems.append(Problem("unknown image", file, "annotations", message, DROPPED_BOX))


def _place(name: str, images: Images) -> str | None:
    """The place in the tree that a file name means; None for one that leaves it.

    The same letters may be stored in two ways, as a Mac and other systems do.
    """
    if not stays_inside(name):
        path = PureWindowsPath(name)
        image = None if ".." in path.parts else images.named(name, images.root)
        return relative(image, images.root) if image is not None else None
    place = name.replace("\\", "/")
    if not place.isascii() and not (images.root / place).exists():
        image = images.named(place, images.root)
        other = relative(image, images.root) if image is not None else place
        return other if composed(other) == composed(place) else place
    return place


def stays_inside(name: str) -> bool:
    """Whether a file name is relative and does not climb, on any system."""
    path = PureWindowsPath(name)
    return not (path.drive or path.root or ".." in path.parts or "\0" in name)


def read_document(path: Path) -> dict[str, Any]:
    """A COCO detection file as it is, once it is known to be consistent.

    Raises:
        DataError: not a COCO detection file, or one whose ids or file names do not hold.
    """
    document, _ = _read_document(path)
    ids: dict[str, set[Any]] = {}
    for section in ("images", "categories"):
        ids[section] = set()
        for at, entry in enumerate(document[section]):
            key = _key(entry.get("id")) if isinstance(entry, dict) else None
            if key is None or key in ids[section]:
                raise DataError(f"{path}: {section}[{at}] has no id of its own; {MEND}")
            named = entry.get("file_name" if section == "images" else "name")
            if not isinstance(named, str) or (section == "images" and not stays_inside(named)):
                raise DataError(f"{path}: {section}[{at}] has no usable name; {MEND}")
            ids[section].add(key)
    for at, entry in enumerate(document["annotations"]):
        for section, field in (("images", "image_id"), ("categories", "category_id")):
            key = _key(entry.get(field)) if isinstance(entry, dict) else None
            if key not in ids[section]:
                raise DataError(f"{path}: annotations[{at}] has an unknown {field}; {MEND}")
    return document


def image_root(path: Path, info: Any) -> Path:
    """Folder that the file names of a COCO file start from: what its `info` says, or its own.

    Raises:
        DataError: it says an absolute path.
    """
    record = info.get("detkd") if isinstance(info, dict) else None
    inside = record.get("image_root") if isinstance(record, dict) else None
    if not isinstance(inside, str):
        return path.parent
    if PureWindowsPath(inside).drive or PureWindowsPath(inside).root or "\0" in inside:
        raise DataError(
            f"{path}: info.detkd.image_root is '{inside}'; make it relative to the file."
        )
    return Path(os.path.normpath(path.parent / inside))


def write(data: DataSet, path: Path, root: Path, record: Mapping[str, Any]) -> None:
    """Write the data set, whose images lie below `root`, as one COCO file: whole or not at all.

    The records are gone through twice and written one by one, so that many need no memory.
    """
    category_of = {name: at for at, name in enumerate(data.classes, start=1)}
    inside = os.path.relpath(root.resolve(), path.resolve().parent)
    info = {
        **{key: value for key, value in data.info.items() if key != "detkd"},
        "detkd": {
            "version": detkd.__version__,
            "source_format": data.source_format,
            "image_root": Path(inside).as_posix(),
            "rule": {"name": data.rule.name, "meaning": data.rule.meaning},
            "classes": category_of,
            **record,
        },
    }
    categories = [
        {**data.class_extra.get(name, {}), "id": at, "name": name}
        for name, at in category_of.items()
    ]

    def fill(stream: IO[bytes]) -> None:
        stream.write(b"{\n")
        for key, value in {**data.extra, "info": info}.items():
            stream.write(f"{json.dumps(key)}: {_dump(value)},\n".encode())
        _write_list(stream, "images", ([entry] for entry in _image_entries(data.images)))
        stream.write(b",\n")
        _write_list(stream, "annotations", _box_entries(data.images, category_of))
        stream.write(b",\n")
        _write_list(stream, "categories", ([entry] for entry in categories))
        stream.write(b"\n}\n")

    write_with(path, fill)


# What was read from a file, or made here, holds no circles: looking for them takes its time.
_dump = json.JSONEncoder(allow_nan=False, check_circular=False).encode


def _write_list(stream: IO[bytes], name: str, groups: Iterable[list[Any]]) -> None:
    """A list of JSON; entries that are given together stand in one line, for that is fast."""
    stream.write(f'"{name}": ['.encode())
    before = "\n"
    for group in groups:
        if group:
            stream.write(f"{before}{_dump(group)[1:-1]}".encode())
            before = ",\n"
    stream.write(b"\n]")


def _image_entries(images: Iterable[ImageRecord]) -> Iterator[dict[str, Any]]:
    for at, image in enumerate(images, start=1):
        entry: dict[str, Any] = {
            **image.extra,
            "id": at,
            "file_name": image.file,
            "width": image.width,
            "height": image.height,
        }
        if image.sample is not None:
            entry["sample"] = image.sample
        yield entry


def _box_entries(
    images: Iterable[ImageRecord], category_of: Mapping[str, int]
) -> Iterator[list[dict[str, Any]]]:
    """The annotations of one image after the other."""
    number = 0
    for at, image in enumerate(images, start=1):
        entries = []
        for box in image.boxes:
            number += 1
            label, xmin, ymin, xmax, ymax, difficult, crowd, truncated, said, extra = box
            width, height = xmax - xmin, ymax - ymin
            annotation: dict[str, Any] = {
                "area": width * height,
                **extra,
                "id": number,
                "image_id": at,
                "category_id": category_of[label],
                "bbox": [xmin, ymin, width, height],
                "iscrowd": int(crowd),
            }
            attributes = dict(said)
            if difficult is not None:
                attributes["difficult"] = int(difficult)
            if truncated is not None:
                attributes["truncated"] = int(truncated)
            if attributes:
                annotation["attributes"] = attributes
            entries.append(annotation)
        yield entries


def _read_document(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """The JSON of a COCO detection file, with null for every number that is not finite."""
    odd: list[str] = []

    def number(text: str) -> float | None:
        if math.isfinite(value := float(text)):
            return value
        odd.append(text[:20])
        return None

    try:
        text, unusual = decode(path.read_bytes())
        document = json.loads(text, parse_constant=number, parse_float=number)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error}); mend or replace it.") from error
    require_lists(document, path, dict.fromkeys(SECTIONS, ()), "name the annotation file")
    problems = [noted("encoding", path.name, "", unusual)] if unusual else []
    if not odd:
        return document, problems
    message = f"{len(odd)} numbers are not finite ({', '.join(sorted(set(odd))[:3])}); read as null"
    return document, [*problems, Problem("not finite", path.name, "", message, MENDED)]


def _read_box(
    entry: Any, names: Mapping[Any, str], where: str, file: str
) -> tuple[BoxRecord | None, Problem | None]:
    def drop(kind: str, message: str) -> tuple[None, Problem]:
        return None, Problem(kind, file, where, message, DROPPED_BOX)

    if not isinstance(entry, dict):
        return drop("malformed entry", "is not an annotation")
    label = names.get(_key(entry.get("category_id")))
    if label is None:
        return drop("unlisted class", f"has the unknown category {entry.get('category_id')!r}")
    values = entry.get("bbox")
    told = None
    if not values and (frame := _around(entry.get("segmentation"))) is not None:
        values = [frame[0], frame[1], frame[2] - frame[0], frame[3] - frame[1]]
        message = "has no bbox; the box around its segmentation is used"
        told = Problem("missing coordinate", file, where, message, MENDED)
    if not isinstance(values, list) or len(values) != 4:
        return drop("missing coordinate", "has no bbox of four numbers")
    try:
        x, y, width, height = (float(v) if isinstance(v, int | float) else math.nan for v in values)
    except OverflowError:  # an integer beyond all floats
        x = y = width = height = math.inf
    if not all(map(math.isfinite, (x, y, width, height))):
        return drop("not finite", f"has the box {str(values)[:80]}")
    said = entry.get("attributes")
    said = said if isinstance(said, dict) else {}
    box = BoxRecord(
        label,
        x,
        y,
        x + width,
        y + height,
        difficult=_flag(said["difficult"]) if "difficult" in said else None,
        truncated=_flag(said["truncated"]) if "truncated" in said else None,
        crowd=_flag(entry.get("iscrowd")),
        attributes={key: value for key, value in said.items() if key not in FLAGS},
        extra={key: value for key, value in entry.items() if key not in BOX_KEYS},
    )
    return box, told


def _around(segmentation: Any) -> Box | None:
    """The box around rings of points, or around a mask."""
    rings = rings_of(segmentation)
    points = [point for each in rings for point in zip(each[::2], each[1::2], strict=True)]
    return around(points) if points else box_of_mask(segmentation)


def _said_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    size = entry.get("width"), entry.get("height")
    if all(isinstance(side, int) and 0 < side < 10**9 for side in size):
        return size  # type: ignore[return-value]
    return None


def _key(value: Any) -> Any:
    """An id that can be looked up; null, lists and dictionaries are no ids."""
    return value if isinstance(value, int | str | float) else None


def _flag(value: Any) -> bool:
    return str(value).strip().lower() in ("1", "true", "yes", "1.0")
