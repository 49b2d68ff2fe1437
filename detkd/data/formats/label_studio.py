"""Label Studio: a JSON list of tasks, boxes in percent of the image's sides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from detkd.data.geometry import Box, Point, around, around_ellipse, finite, ring, turned
from detkd.data.images import SUFFIXES, files_below
from detkd.data.json_stream import entries
from detkd.data.pairing import Images
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

RULE = Rule("label-studio", "[x/100*W, y/100*H, width/100*W, height/100*H]")
HEAD = 65536
UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an upload
NO_AREA = ("keypoint", "vector", "number")
OF_RESULT = {
    *("id", "type", "value", "from_name", "to_name", "original_width", "original_height"),
    *("image_rotation", "origin", "meta", "score", "parentID", "readonly", "hidden"),
}


def recognise(path: Path) -> int:
    """How many exports there are; twice as sure of a file as COCO, which takes any JSON file."""
    return 2 * len(documents(path)) if path.is_file() else len(documents(path))


def documents(path: Path) -> list[Path]:
    """The exports of a tree, or the one that `path` is."""
    files = [path] if path.is_file() else files_below(path, ".json")
    return [file for file in files if file.suffix.lower() == ".json" and _is_export(file)]


def _is_export(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            head = decode(stream.read(HEAD))[0].lstrip()
    except OSError:
        return False
    if not head.startswith("["):
        return False
    full = '"data"' in head and '"annotations"' in head
    return full or ('labels"' in head and '"original_width"' in head)


def read(path: Path) -> DataSet:
    """The tasks of exports below a folder, or of one export (JSON, or JSON-MIN).

    Of several annotations of a task the ground truth counts, or else the newest that was not
    cancelled, told. A rotated rectangle becomes the box around it, with its corners as
    segmentation.

    Raises:
        DataError: there is no export. A broken one raises nothing: it is told.
    """
    root = path if path.is_dir() else path.parent
    found = documents(path) if path.is_dir() else [path]
    if not found:
        raise DataError(
            f"{root}: holds no Label Studio export (*.json); name its folder or --from."
        )
    problems: list[Problem] = []
    return DataSet("label_studio", RULE, [], _records(root, found, problems), problems)


def _records(root: Path, found: list[Path], problems: list[Problem]) -> Iterator[ImageRecord]:
    images = Images(root)
    owner: dict[str, str] = {}
    for path in found:
        name = relative(path, root)
        try:
            if unusual := encoding_of(path)[1]:
                problems.append(noted("encoding", name, "", unusual))
            for at, task in enumerate(entries(path)):
                record = _read_task(task, f"task {at + 1}", name, path.parent, images, problems)
                if record is None:
                    continue
                if record.file in owner:
                    message = f"{record.file} has its boxes from {owner[record.file]} already"
                    problems.append(
                        Problem("second annotation", name, f"task {at + 1}", message, DROPPED_BOX)
                    )
                    continue
                owner[record.file] = f"{name} task {at + 1}"
                yield record
        except OSError as error:
            message = f"cannot be read ({error.strerror})"
            problems.append(Problem("malformed annotation", name, "", message, DROPPED_IMAGE))
        except ValueError as error:
            message = f"is no JSON list of tasks, and was read up to there ({error})"
            problems.append(Problem("malformed annotation", name, "", message, DROPPED_IMAGE))
    yield from images.unlabelled(owner)


def _read_task(
    task: Any, where: str, name: str, base: Path, images: Images, problems: list[Problem]
) -> ImageRecord | None:
    if not isinstance(task, dict):
        problems.append(Problem("malformed entry", name, where, "is no task", DROPPED_IMAGE))
        return None
    said = _names(task)
    image = next((path for text in said if (path := images.named(text, base))), None)
    if image is None:
        what = f"'{clean(said[0])[:80]}', which is not in the tree" if said else "no image"
        message = f"is of {what}"
        problems.append(Problem("missing image", name, where, message, DROPPED_IMAGE))
        return None
    file = relative(image, images.root)
    found: list[Problem] = []
    results = _results(task, where, name, found)
    if results is None:
        return ImageRecord(file, 0, 0, labelled=False, problems=tuple(found))
    boxes = []
    labels = _labels_apart(results)
    for at, result in enumerate(results):
        box, trouble = _read_result(result, labels, name, f"{where} result {at + 1}")
        found += trouble
        if box is not None:
            boxes.append(box)
    return ImageRecord(
        file,
        0,
        0,
        boxes=tuple(boxes),
        labelled=bool(boxes) or not any(p.action == DROPPED_BOX for p in found),
        fractions=True,
        said_size=next((size for r in results if (size := _said_size(r))), None),
        problems=tuple(found),
    )


def _names(task: Mapping[str, Any]) -> list[str]:
    """Names of the image that a task may mean, the surest first."""
    data = task.get("data")
    values = list(data.values()) if isinstance(data, dict) else list(task.values())
    said = [value for value in [*values, task.get("file_upload")] if isinstance(value, str)]
    found = []
    for text in said:
        try:
            parts = urlsplit(text)
            place = parse_qs(parts.query).get("d", [parts.path])[0]
        except ValueError:  # a bracket that opens no address
            continue
        place = unquote(place)
        if PurePosixPath(place).suffix.lower() not in SUFFIXES:
            continue
        folder, _, last = place.rpartition("/")
        found += [place, f"{folder}/{UPLOAD.sub('', last)}"]
    return found


def _results(
    task: Mapping[str, Any], where: str, name: str, found: list[Problem]
) -> list[Any] | None:
    """The results of the annotation that counts; None where nobody has finished one."""
    said = task.get("annotations", task.get("completions"))
    if said is None:
        return _results_of_min(task)
    sound = [
        each for each in said if isinstance(each, dict) and isinstance(each.get("result"), list)
    ] if isinstance(said, list) else []  # fmt: skip
    done = [each for each in sound if not each.get("was_cancelled")]
    if len(done) < len(sound):
        message = f"{len(sound) - len(done)} of its annotations were cancelled; left out"
        found.append(Problem("cancelled annotation", name, where, message, MENDED))
    if not done:
        return None
    truths = [each for each in done if each.get("ground_truth")]
    newest = max(truths or done, key=lambda each: str(each.get("updated_at") or ""))
    if len(done) > 1:
        why = "the ground truth" if truths else "the newest"
        message = f"has {len(done)} annotations; {why} is used"
        found.append(Problem("several annotations", name, where, message, MENDED))
    return list(newest["result"])


def _results_of_min(task: Mapping[str, Any]) -> list[Any] | None:
    """Results of JSON-MIN, where the values stand in the task itself."""
    for value in task.values():
        if isinstance(value, list) and value and isinstance(value[0], dict) and "x" in value[0]:
            return [{**each, "value": each} if isinstance(each, dict) else each for each in value]
    return None


def _labels_apart(results: list[Any]) -> dict[Any, Any]:
    """Names that stand in a result of their own, by the id of the region that they are of."""
    return {
        str(result.get("id")): label
        for result in results
        if isinstance(result, dict) and (label := _label(result)) and "x" not in result["value"]
    }


def _label(result: Mapping[str, Any]) -> list[Any] | None:
    value = result.get("value")
    if not isinstance(value, dict):
        return None
    lists = (v for k, v in value.items() if k.endswith("labels") and isinstance(v, list))
    return next((names for names in lists if names), None)


def _read_result(
    result: Any, labels: Mapping[str, Any], file: str, where: str
) -> tuple[BoxRecord | None, list[Problem]]:
    """A box in fractions; None without a problem for what is no region (a choice, a text)."""
    value = result.get("value") if isinstance(result, dict) else None
    if not isinstance(value, dict):
        return None, [Problem("malformed entry", file, where, "is no result", DROPPED_BOX)]
    kind = str(result.get("type") or "")
    if not any(key in value for key in ("x", "points", "rle", "format")):
        return None, []
    names = _label(result) or labels.get(str(result.get("id"))) or [""]
    said = str(names[0])
    label, where, problems = named(said, file, where)

    def drop(kind: str, message: str) -> tuple[None, list[Problem]]:
        return None, [*problems, Problem(kind, file, where, message, DROPPED_BOX)]

    if not label:
        return drop("object without name", "has no label")
    if kind.startswith(NO_AREA) or "rle" in value:
        return drop("shape without area", f"is of type {kind or 'brush'}, which is no box")
    outline = _outline(value, _said_size(result))
    if outline is None:
        return drop("missing coordinate", "has no coordinates that are finite numbers")
    frame, points = outline
    if len(names) > 1:
        message = f"has {len(names)} labels; the first is used"
        problems.append(Problem("several labels", file, where, message, MENDED))
    if value.get("rotation"):
        message = f"is turned by {value['rotation']} degrees; the box around it is kept"
        problems.append(Problem("rotated box", file, where, message, MENDED))
    if result.get("image_rotation"):
        message = f"was drawn on the image turned by {result['image_rotation']} degrees"
        problems.append(Problem("rotated image", file, where, message, KEPT))
    attributes = {k: v for k, v in result.items() if k not in OF_RESULT and k not in value}
    if isinstance(meta := result.get("meta"), dict):
        attributes |= meta
    extra = {"segmentation": [ring(points)]} if points else {}
    return BoxRecord(label, *frame, attributes=attributes, extra=extra), problems


def _outline(
    value: Mapping[str, Any], size: tuple[int, int] | None
) -> tuple[Box, list[Point]] | None:
    """The box and the points of a region, in fractions of the image's sides."""
    if isinstance(value.get("points"), list):
        pairs = [finite(p) if isinstance(p, list) else None for p in value["points"]]
        points = [(p[0] / 100, p[1] / 100) for p in pairs if p is not None and len(p) == 2]
        return (around(points), points) if 3 <= len(points) == len(pairs) else None
    width, height = size or (1, 1)  # angles are those of px
    rotation = (finite([value.get("rotation") or 0]) or [0.0])[0] % 360
    if "radiusX" in value:
        sides = finite([value.get(key) for key in ("x", "y", "radiusX", "radiusY")])
        if sides is None:
            return None
        x, y, rx, ry = (side / 100 for side in sides)
        frame = (x - rx) * width, (y - ry) * height, (x + rx) * width, (y + ry) * height
        xmin, ymin, xmax, ymax = around_ellipse(frame, rotation) if rotation else frame
        return (xmin / width, ymin / height, xmax / width, ymax / height), []
    sides = finite([value.get(key) for key in ("x", "y", "width", "height")])
    if sides is None:
        return None
    x, y, w, h = (side / 100 for side in sides)
    if not rotation:
        return (x, y, x + w, y + h), []
    frame = (x * width, y * height, (x + w) * width, (y + h) * height)
    corners = turned(frame, rotation, pivot=frame[:2])  # around the first corner
    points = [(px / width, py / height) for px, py in corners]
    return around(points), points


def _said_size(result: Any) -> tuple[int, int] | None:
    if not isinstance(result, dict):
        return None
    size = finite([result.get("original_width"), result.get("original_height")])
    return (int(size[0]), int(size[1])) if size and min(size) >= 1 else None
