"""YOLO: one text file an image, `class cx cy w h` in fractions of the image's sides."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

import yaml

from detkd.data.images import files_below, images_below
from detkd.data.records import DROPPED_BOX, BoxRecord, DataSet, ImageRecord, Problem, Rule
from detkd.errors import DataError
from detkd.files import write_atomic

RULE = Rule("yolo-normalised", "[(cx-w/2)*W, (cy-h/2)*H, w*W, h*H]")
CLASS_FILES = ("classes.txt", "obj.names", "predefined_classes.txt")
DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml")
SUBSETS = ("train", "val", "valid", "test")


def recognise(root: Path) -> bool:
    """Whether the tree holds label files of numbers beside or apart from images."""
    stems = {path.stem for path in images_below(root)}
    return any(
        path.suffix.lower() == ".txt" and path.stem in stems and path.name not in CLASS_FILES
        for path in files_below(root)
    )


def read(root: Path, *, subset: str | None = None) -> DataSet:
    """A YOLO tree: images/ and labels/ (with or without subsets), or all in one folder.

    Class names come from classes.txt or data.yaml; without them, classes are called class_0 and
    so on, and that is told.

    Raises:
        DataError: no images, no such subset, or a class file that cannot be read.
    """
    images = images_below(root)
    if not images:
        raise DataError(f"{root}: holds no images; name the folder that has images/ and labels/.")
    if subset:
        images = [image for image in images if subset in image.relative_to(root).parts[:-1]]
        if not images:
            there = [name for name in SUBSETS if any(p.is_dir() for p in root.glob(f"**/{name}"))]
            hint = f"there are {', '.join(there)}" if there else "it has no subsets"
            raise DataError(f"{root}: has no images of a subset '{subset}'; {hint}.")
    problems: list[Problem] = []
    names, listed = _class_names(root, problems)
    records = [_read_image(image, root, names, problems) for image in images]
    labels = {path for path in files_below(root) if path.suffix.lower() == ".txt"}
    if not subset:
        problems += _orphans(root, labels)
    if not listed:
        highest = max(
            (int(b.label.removeprefix("class_")) for r in records for b in r.boxes), default=-1
        )
        names = [f"class_{at}" for at in range(highest + 1)]
    return DataSet("yolo", RULE, names, records, problems, listed_classes=listed)


def _class_names(root: Path, problems: list[Problem]) -> tuple[list[str], bool]:
    for path in files_below(root):
        if path.name in CLASS_FILES:
            text = path.read_text(encoding="utf-8-sig", errors="replace")
            lines = [line.strip() for line in text.splitlines()]
            while lines and not lines[-1]:
                lines.pop()
            return lines, True
        if path.name in DATA_FILES:
            return _yaml_names(path), True
    message = "no classes.txt or data.yaml; classes are called class_0, class_1 and so on"
    problems.append(Problem("no class names", None, "", message, "kept"))
    return [], False


def _yaml_names(path: Path) -> list[str]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        names = document["names"]
        if isinstance(names, dict):
            highest = max(int(key) for key in names)
            by_number = {int(key): str(value) for key, value in names.items()}
            return [by_number.get(at, f"class_{at}") for at in range(highest + 1)]
        return [str(name).strip() for name in names]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: has no readable list 'names' ({type(error).__name__}); mend it, or delete it "
            "and put the names into classes.txt."
        ) from error


def label_file(image: Path, root: Path) -> Path | None:
    """The label file of an image: beside it, or in the folder where labels/ stands for images/."""
    inside = image.relative_to(root)
    parts = list(inside.parts)
    places = [image.with_suffix(".txt")]
    for at, part in enumerate(parts[:-1]):
        if part.lower() in ("images", "image", "jpegimages"):
            places.append(
                (root.joinpath(*parts[:at], "labels", *parts[at + 1 :])).with_suffix(".txt")
            )
    places.append((root / "labels" / inside).with_suffix(".txt"))
    return next((place for place in places if place.is_file()), None)


def _read_image(image: Path, root: Path, names: list[str], problems: list[Problem]) -> ImageRecord:
    file = image.relative_to(root).as_posix()
    path = label_file(image, root)
    if path is None:
        return ImageRecord(file, 0, 0, labelled=False)
    name = path.relative_to(root).as_posix()
    found: list[Problem] = []
    boxes: list[BoxRecord] = []
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        where = f"line {number}"
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        polygon = len(values) > 6 and len(values) % 2 == 1
        if len(values) < 5 or not (len(values) in (5, 6) or polygon):
            message = f"'{line.strip()[:60]}' is not 'class cx cy w h'"
            found.append(Problem("malformed line", name, where, message, DROPPED_BOX))
            continue
        if not all(map(math.isfinite, values)):
            found.append(
                Problem("not finite", name, where, "has a number that is not finite", DROPPED_BOX)
            )
            continue
        label = _label(values[0], names)
        if label is None:
            message = f"class {words[0]} is not among the {len(names)} that are listed"
            found.append(Problem("unlisted class", name, where, message, DROPPED_BOX))
            continue
        boxes.append(_box(label, values[1:], polygon))
    # Fractions become px when the image has been measured.
    dropped = bool(found)
    return ImageRecord(
        file, 0, 0, boxes=tuple(boxes), labelled=bool(boxes) or not dropped, problems=tuple(found)
    )


def _label(number: float, names: list[str]) -> str | None:
    if number != int(number) or number < 0:
        return None
    if not names:
        return f"class_{int(number)}"
    return names[int(number)] if number < len(names) else None


def _box(label: str, values: list[float], polygon: bool) -> BoxRecord:
    """A box in fractions; a polygon of YOLO-seg gives its frame and stays as segmentation."""
    if polygon:
        xs, ys = values[0::2], values[1::2]
        return BoxRecord(
            label, min(xs), min(ys), max(xs), max(ys), extra={"segmentation": [values]}
        )
    cx, cy, w, h = values[:4]
    return BoxRecord(label, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)


def to_pixels(record: ImageRecord) -> ImageRecord:
    """The same record with its fractions times its width and height."""
    from dataclasses import replace

    w, h = record.width, record.height
    boxes = []
    for box in record.boxes:
        extra = dict(box.extra)
        if "segmentation" in extra:
            extra["segmentation"] = [
                [value * (w, h)[at % 2] for at, value in enumerate(ring)]
                for ring in extra["segmentation"]
            ]
        boxes.append(
            replace(
                box,
                xmin=box.xmin * w,
                ymin=box.ymin * h,
                xmax=box.xmax * w,
                ymax=box.ymax * h,
                extra=extra,
            )
        )
    return replace(record, boxes=tuple(boxes))


def _orphans(root: Path, labels: set[Path]) -> list[Problem]:
    """Label files without an image."""
    images = {label_file(image, root) for image in images_below(root)}
    return [
        Problem(
            "orphan annotation",
            path.relative_to(root).as_posix(),
            "",
            "has no image",
            "dropped image",
        )
        for path in sorted(labels - images)
        if "labels" in path.relative_to(root).parts
    ]


def write(data: DataSet, folder: Path) -> list[str]:
    """labels/ of a YOLO tree whose images lie in images/, with classes.txt and data.yaml."""
    lost: set[str] = set()
    number = {name: at for at, name in enumerate(data.classes)}
    for record in data.images:
        lines = []
        for box in record.boxes:
            w, h = record.width, record.height
            cx, cy = (box.xmin + box.xmax) / 2 / w, (box.ymin + box.ymax) / 2 / h
            size = (box.xmax - box.xmin) / w, (box.ymax - box.ymin) / h
            lines.append(f"{number[box.label]} {cx:.8f} {cy:.8f} {size[0]:.8f} {size[1]:.8f}\n")
            for said in ("difficult", "truncated", "crowd"):
                lost |= {said} if getattr(box, said) else set()
            lost |= {f"attributes.{key}" for key in box.attributes}
            lost |= {f"annotations[].{key}" for key in box.extra if key != "area"}
        lost |= {"images[].sample"} if record.sample is not None else set()
        path = folder / "labels" / PurePosixPath(record.file).with_suffix(".txt")
        write_atomic(path, "".join(lines))
    write_atomic(folder / "classes.txt", "".join(f"{name}\n" for name in data.classes))
    document = {
        "path": ".",
        "train": "images",
        "val": "images",
        "names": dict(enumerate(data.classes)),
    }
    write_atomic(folder / "data.yaml", yaml.safe_dump(document, sort_keys=False))
    return sorted(lost)
