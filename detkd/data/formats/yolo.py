"""YOLO: one text file an image, `class cx cy w h` in fractions of the image's sides.

Polygons (`class x1 y1 x2 y2 ...`) and poses (keypoints after the box, as `kpt_shape` of data.yaml
says) are read as boxes, and stay beside them.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from detkd.data.geometry import rings_of
from detkd.data.images import files_below, image_names, images_below, stem_of
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
    annotation_file,
    clean,
    noted,
    relative,
)
from detkd.data.yolo_names import CLASS_FILES, MOST_CLASSES, class_names, keypoint_shape
from detkd.data.yolo_subsets import IMAGE_FOLDERS, images_of_subset
from detkd.encoding import decode
from detkd.errors import DataError
from detkd.files import write_atomic

RULE = Rule("yolo-normalised", "[(cx-w/2)*W, (cy-h/2)*H, w*W, h*H]")
LONGEST = 1e6  # px that no side of an image has


def recognise(root: Path) -> int:
    """How many files of the tree look like YOLO labels."""
    if not root.is_dir():
        return 0
    texts = Counter(path.stem for path in files_below(root, ".txt") if path.name not in CLASS_FILES)
    if not texts:
        return 0
    return sum(texts.pop(stem_of(name), 0) for name in image_names(root))


def read(root: Path, *, subset: str | None = None, names: list[str] | None = None) -> DataSet:
    """A YOLO tree: images/ and labels/ (with or without subsets), or all in one folder.

    Class names come from classes.txt or data.yaml; where there is neither, from `names`, or else
    classes are called class_0 and so on, and that is told.

    Raises:
        DataError: no images, no such subset, or no list of classes that can be read. A broken
            label file raises nothing: it is told.
    """
    images = images_below(root)
    if not images:
        raise DataError(f"{root}: holds no images; name the folder that has images/ and labels/.")
    problems: list[Problem] = []
    texts = set(files_below(root, ".txt"))
    used = {label_file(image, root, texts) for image in images}
    problems += [
        Problem("orphan annotation", relative(path, root), "", "has no image", DROPPED_IMAGE)
        for path in sorted(texts - used)
        if path.name not in CLASS_FILES and _looks_like_labels(path)
    ]
    if subset is not None:
        images = images_of_subset(root, images, subset)
        problems = []
    listed = class_names(root, problems)
    found = listed or [clean(name) for name in names or []]
    if not found:
        message = "no classes.txt or data.yaml; classes are called class_0, class_1 and so on"
        problems.append(Problem("no class names", None, "", message, KEPT))
    keypoints = keypoint_shape(root)
    records = (_read_image(image, root, texts, found, keypoints) for image in images)
    classes = list(dict.fromkeys(name for name in found if name))
    return DataSet("yolo", RULE, classes, records, problems, listed_classes=bool(found))


def label_file(image: Path, root: Path, texts: set[Path]) -> Path | None:
    """The label file of an image: beside it, or in the folder where labels/ stands for images/."""
    inside = image.relative_to(root)
    parts = inside.parts
    folders = [image.parent]
    for at, part in enumerate(parts[:-1]):
        if part.lower() in IMAGE_FOLDERS:
            folders.append(root.joinpath(*parts[:at], "labels", *parts[at + 1 : -1]))
    folders.append(root / "labels" / inside.parent)
    stems = [stem_of(image), image.stem] if image.name.endswith("#page=1") else [stem_of(image)]
    candidates = (folder / f"{stem}.txt" for folder in folders for stem in stems)
    return next((p for p in candidates if p in texts and p.name not in CLASS_FILES), None)


def _looks_like_labels(path: Path) -> bool:
    """Whether a text file lies among labels, or begins as labels do."""
    if any(part.lower() == "labels" for part in path.parts[:-1]):
        return True
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return len([float(word) for word in stream.readline(200).split()]) >= 5
    except (OSError, ValueError):
        return False


def _read_image(
    image: Path,
    root: Path,
    texts: set[Path],
    names: list[str],
    keypoints: tuple[int, int] | None,
) -> ImageRecord:
    file = relative(image, root)
    path = label_file(image, root, texts)
    if path is None:
        return ImageRecord(file, 0, 0, labelled=False)
    name = relative(path, root)
    try:
        text, unusual = decode(path.read_bytes())
    except OSError as error:
        message = f"cannot be read ({error.strerror})"
        wrong = Problem("malformed annotation", name, "", message, DROPPED_IMAGE)
        return ImageRecord(file, 0, 0, labelled=False, problems=(wrong,))
    found: list[Problem] = [noted("encoding", name, "", unusual)] if unusual else []
    boxes: list[BoxRecord] = []
    # Lines end in \n or \r\n; splitlines would also cut at characters that only text has.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            box, trouble = _read_line(line, names, name, f"line {number}", keypoints)
            found += trouble
            if box is not None:
                boxes.append(box)
    dropped = any(problem.action == DROPPED_BOX for problem in found)
    return ImageRecord(
        file,
        0,
        0,
        boxes=tuple(boxes),
        labelled=bool(boxes) or not dropped,
        fractions=True,
        problems=tuple(found),
    )


def _read_line(
    line: str, names: list[str], file: str, where: str, keypoints: tuple[int, int] | None
) -> tuple[BoxRecord | None, list[Problem]]:
    def drop(kind: str, message: str) -> tuple[None, list[Problem]]:
        return None, [Problem(kind, file, where, message, DROPPED_BOX)]

    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    pose = keypoints is not None and len(values) == 5 + keypoints[0] * keypoints[1]
    polygon = not pose and len(values) > 6 and len(values) % 2 == 1
    if len(values) not in (5, 6) and not polygon and not pose:
        return drop("malformed line", f"'{clean(line)[:60]}' is not 'class cx cy w h'")
    if not all(math.isfinite(value * LONGEST) for value in values):
        return drop("not finite", "has a number that is not finite")
    number = int(values[0])
    if number != values[0] or not 0 <= number < (len(names) or MOST_CLASSES):
        known = f"among the {len(names)} that are listed" if names else "a number of a class"
        return drop("unlisted class", f"class {words[0][:40]} is not {known}")
    label = names[number] if names else f"class_{number}"
    if not label:
        return drop("object without name", f"class {number} has no name")
    if polygon:
        xs, ys = values[1::2], values[2::2]
        extra = {"segmentation": [values[1:]]}
        return BoxRecord(label, min(xs), min(ys), max(xs), max(ys), extra=extra), []
    cx, cy, w, h = values[1:5]
    problems = []
    extra = _pose(values[5:], keypoints[1]) if pose and keypoints else {}
    if len(values) == 6 and not pose:
        message = f"the sixth number, {words[5][:40]}, is no part of a label; left out"
        problems.append(Problem("sixth number", file, where, message, MENDED))
    box = BoxRecord(label, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, extra=extra)
    return box, problems


def _pose(values: list[float], numbers: int) -> dict[str, Any]:
    """Keypoints as COCO has them: x, y, and whether each is not there (0), hidden (1) or seen."""
    points = [values[at : at + numbers] for at in range(0, len(values), numbers)]
    seen = [int(point[2]) if numbers == 3 else 2 * any(point) for point in points]
    flat = [value for (x, y, *_), v in zip(points, seen, strict=True) for value in (x, y, v)]
    return {"keypoints": flat, "num_keypoints": sum(v > 0 for v in seen)}


def write(data: DataSet, folder: Path, *, polygons: bool = False) -> list[str]:
    """labels/ of a YOLO tree whose images lie in images/, with classes.txt and data.yaml.

    With `polygons` each line is a ring of points, as YOLO's segmentation takes it: the largest of
    the segmentation, or the corners of a box that has none.

    Returns:
        Names of the fields that YOLO cannot hold, and so were left out.

    Raises:
        DataError: two images would get the same label file.
    """
    lost = data.fields_of_coco()
    number = {name: at for at, name in enumerate(data.classes)}
    for record in data.images:
        path = annotation_file(folder / "labels", record.file, ".txt")
        lines = []
        for box in record.boxes:
            w, h = record.width, record.height
            if polygons:
                values = [value / (w, h)[at % 2] for at, value in enumerate(_ring(box, lost))]
            else:
                cx, cy = (box.xmin + box.xmax) / 2 / w, (box.ymin + box.ymax) / 2 / h
                values = [cx, cy, (box.xmax - box.xmin) / w, (box.ymax - box.ymin) / h]
            numbers = " ".join(f"{value:.8f}" for value in values)
            lines.append(f"{number[box.label]} {numbers}\n")
            said = {"difficult": box.difficult, "truncated": box.truncated, **box.attributes}
            lost |= {f"attributes.{key}" for key, value in said.items() if value is not None}
            lost |= {"annotations[].iscrowd"} if box.crowd else set()
            held = {"area", "segmentation"} if polygons else {"area"}
            lost |= {f"annotations[].{key}" for key in box.extra if key not in held}
        lost |= {"images[].sample"} if record.sample is not None else set()
        lost |= {f"images[].{key}" for key in record.extra}
        write_atomic(path, "".join(lines))
    write_atomic(folder / "classes.txt", "".join(f"{name}\n" for name in data.classes))
    names = dict(enumerate(data.classes))
    document = {"path": ".", "train": "images", "val": "images", "names": names}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    write_atomic(folder / "data.yaml", text)
    return sorted(lost)


def _ring(box: BoxRecord, lost: set[str]) -> list[float]:
    """The outline of a box in px; what one ring cannot say is added to `lost`."""
    said = box.extra.get("segmentation")
    rings = rings_of(said)
    if not rings:
        lost |= {"annotations[].segmentation (run lengths)"} if isinstance(said, dict) else set()
        corners = (box.xmin, box.ymin, box.xmax, box.ymin, box.xmax, box.ymax, box.xmin, box.ymax)
        return list(corners)
    if len(rings) > 1:
        lost.add("annotations[].segmentation (further parts)")
    largest = max(rings, key=_area)
    return [
        min(max(value, (box.xmin, box.ymin)[at % 2]), (box.xmax, box.ymax)[at % 2])
        for at, value in enumerate(largest)
    ]


def _area(ring: list[float]) -> float:
    xs, ys = ring[0::2], ring[1::2]
    pairs = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=False)
    return abs(sum(x1 * y2 - x2 * y1 for x1, y1, x2, y2 in pairs)) / 2
