"""COCO: one JSON file a data set; boxes are [x, y, width, height]."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import detkd
from detkd.data.records import (
    DROPPED_BOX,
    DROPPED_IMAGE,
    BoxRecord,
    DataSet,
    ImageRecord,
    Problem,
    Rule,
)
from detkd.errors import DataError
from detkd.files import write_json

RULE = Rule("coco", "[x, y, width, height]")
FLAGS = ("difficult", "truncated")
BOX_KEYS = {"id", "image_id", "category_id", "bbox", "iscrowd", "attributes"}
IMAGE_KEYS = {"id", "file_name", "width", "height", "sample"}


def recognise(path: Path) -> bool:
    """Whether `path` is a JSON file."""
    return path.is_file() and path.suffix.lower() == ".json"


def read(path: Path) -> DataSet:
    """A COCO detection file; the image root is its own folder, or what its record says.

    Raises:
        DataError: not JSON, or without the three lists of a COCO detection file.
    """
    document = _read_document(path)
    names: dict[Any, str] = {}
    problems: list[Problem] = []
    for at, category in enumerate(document["categories"]):
        if not isinstance(category, dict) or "id" not in category or "name" not in category:
            raise DataError(f"{path}: categories[{at}] has no id or no name; mend the file.")
        names[_key(category["id"])] = str(category["name"]).strip()
    boxes: dict[Any, list[BoxRecord]] = {}
    trouble: dict[Any, list[Problem]] = {}
    for at, entry in enumerate(document["annotations"]):
        image = _key(entry.get("image_id")) if isinstance(entry, dict) else None
        box = _read_box(entry, names, f"annotations[{at}]", path.name)
        if isinstance(box, Problem):
            trouble.setdefault(image, []).append(box)
        else:
            boxes.setdefault(image, []).append(box)
    records = []
    known = set()
    for at, entry in enumerate(document["images"]):
        if not isinstance(entry, dict) or "id" not in entry or "file_name" not in entry:
            message = "has no id or no file_name"
            problems.append(
                Problem("malformed entry", path.name, f"images[{at}]", message, DROPPED_IMAGE)
            )
            continue
        key = _key(entry["id"])
        if key in known:
            message = f"has the id {entry['id']} of another image"
            problems.append(
                Problem("double image id", path.name, f"images[{at}]", message, DROPPED_IMAGE)
            )
            continue
        known.add(key)
        inside, wrong = tuple(boxes.get(key, ())), tuple(trouble.get(key, ()))
        sample = entry.get("sample")
        records.append(
            ImageRecord(
                str(entry["file_name"]),
                0,
                0,
                boxes=inside,
                sample=str(sample) if sample is not None else None,
                labelled=bool(inside) or not wrong,
                said_size=_said_size(entry),
                extra={k: v for k, v in entry.items() if k not in IMAGE_KEYS},
                problems=wrong,
            )
        )
    for key in [*boxes, *trouble]:
        if key not in known:
            count = len(boxes.get(key, [])) + len(trouble.get(key, []))
            message = f"{count} annotations are of image {key!r}, which is not listed"
            problems.append(
                Problem("unknown image", path.name, "annotations", message, DROPPED_BOX)
            )
    info = document.get("info")
    return DataSet(
        "coco",
        RULE,
        list(dict.fromkeys(names.values())),
        records,
        problems,
        listed_classes=True,
        info=info if isinstance(info, dict) else {},
    )


def image_root(path: Path, info: Mapping[str, Any]) -> Path:
    """Folder that the file names of a COCO file start from."""
    record = info.get("detkd")
    inside = record.get("image_root") if isinstance(record, dict) else None
    return Path(os.path.normpath(path.parent / inside)) if isinstance(inside, str) else path.parent


def document_of(data: DataSet, path: Path, root: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The COCO document of a data set whose images lie below `root`, to be written to `path`."""
    category_of = {name: at for at, name in enumerate(data.classes, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in data.images:
        entry = {
            "id": len(images) + 1,
            "file_name": image.file,
            "width": image.width,
            "height": image.height,
        }
        if image.sample is not None:
            entry["sample"] = image.sample
        images.append({**image.extra, **entry})
        for box in image.boxes:
            width, height = box.xmax - box.xmin, box.ymax - box.ymin
            attributes = dict(box.attributes)
            attributes |= {flag: 1 for flag in FLAGS if getattr(box, flag)}
            annotation: dict[str, Any] = {
                "area": width * height,
                **box.extra,
                "id": len(annotations) + 1,
                "image_id": len(images),
                "category_id": category_of[box.label],
                "bbox": [box.xmin, box.ymin, width, height],
                "iscrowd": int(box.crowd),
            }
            annotations.append(
                {**annotation, "attributes": attributes} if attributes else annotation
            )
    inside = os.path.relpath(root.resolve(), path.resolve().parent)
    return {
        "info": {
            **{key: value for key, value in data.info.items() if key != "detkd"},
            "detkd": {
                "version": detkd.__version__,
                "source_format": data.source_format,
                "image_root": PurePosixPath(Path(inside)).as_posix(),
                "rule": {"name": data.rule.name, "meaning": data.rule.meaning},
                "classes": category_of,
                **record,
            },
        },
        "images": images,
        "annotations": annotations,
        "categories": [{"id": at, "name": name} for name, at in category_of.items()],
    }


def write(data: DataSet, path: Path, root: Path, record: Mapping[str, Any]) -> None:
    """Write the data set as one COCO file, as a whole or not at all."""
    write_json(path, document_of(data, path, root, record))


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error}); mend or replace it.") from error
    for section in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(section), list):
            raise DataError(f"{path}: is no COCO detection file: it has no list '{section}'.")
    return document


def _read_box(entry: Any, names: Mapping[Any, str], where: str, file: str) -> BoxRecord | Problem:
    def problem(kind: str, message: str) -> Problem:
        return Problem(kind, file, where, message, DROPPED_BOX)

    if not isinstance(entry, dict):
        return problem("malformed entry", "is not an annotation")
    label = names.get(_key(entry.get("category_id")))
    if label is None:
        return problem("unlisted class", f"has the unknown category {entry.get('category_id')!r}")
    values = entry.get("bbox")
    if not isinstance(values, list) or len(values) != 4:
        return problem("missing coordinate", "has no bbox of four numbers")
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        return problem("not finite", f"has the box {values!r:.80}")
    said = entry.get("attributes")
    said = said if isinstance(said, dict) else {}
    x, y, width, height = map(float, values)
    return BoxRecord(
        label,
        x,
        y,
        x + width,
        y + height,
        difficult=_flag(said.get("difficult")),
        truncated=_flag(said.get("truncated")),
        crowd=_flag(entry.get("iscrowd")),
        attributes={key: value for key, value in said.items() if key not in FLAGS},
        extra={key: value for key, value in entry.items() if key not in BOX_KEYS},
    )


def _said_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    size = entry.get("width"), entry.get("height")
    if all(isinstance(side, int) and side > 0 for side in size):
        return size  # type: ignore[return-value]
    return None


def _key(value: Any) -> Any:
    """An id that can be looked up; lists and dictionaries are no ids."""
    return value if isinstance(value, int | str | float) else None


def _flag(value: Any) -> bool:
    return str(value).strip().lower() in ("1", "true", "yes", "1.0")
