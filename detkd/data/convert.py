"""From any format to any format, in one go or not at all."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import detkd
from detkd.data.check import Examined
from detkd.data.formats import coco, voc, yolo
from detkd.data.records import ImageRecord
from detkd.data.yolo_subsets import IMAGE_FOLDERS as YOLO_FOLDERS
from detkd.errors import DataError
from detkd.files import new_folder, write_json
from detkd.pixels import PAGE, page_of, read_pixels

IMAGE_FOLDERS = {"voc": "JPEGImages", "yolo": "images", "yolo-seg": "images"}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn whatever keeps `path` from being written into a refusal; a full disk has its own.

    Raises:
        DataError: no permission, a file where a folder is needed, a name too long.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        why = error.strerror or error
        raise DataError(f"{path}: cannot be written ({why}); name another place.") from error


def check_destination(destination: Path, target: str) -> None:
    """Refuse a destination before any work is done for it.

    Raises:
        DataError: an existing folder, or a file where a folder is to be made.
    """
    if target == "coco" and destination.is_dir():
        raise DataError(f"{destination}: is a folder; name a file that ends in .json.")
    if target != "coco" and destination.suffix.lower() == ".json":
        raise DataError(f"{destination}: a name in .json means COCO; name a folder for {target}.")
    if target != "coco" and (destination.exists() or destination.is_symlink()):
        raise DataError(f"{destination}: exists already; name a new folder, or remove it.")


def write_dataset(examined: Examined, destination: Path, target: str) -> list[str]:
    """Write a data set; what the target format cannot hold is returned by name.

    COCO replaces an existing file as a whole; VOC and YOLO make a new folder with the images and
    the record of the conversion in it, complete or not there.

    Raises:
        DataError: the destination is an existing folder, or there is nothing to write.
    """
    if not examined.images:
        raise DataError(
            f"{examined.root}: no image with a sound annotation is left, so nothing was written; "
            "see the report."
        )
    check_destination(destination, target)
    with writing(destination):
        if target == "coco":
            coco.write(examined.data, destination, examined.root, conversion_record(examined))
            return []
        with new_folder(destination) as building:
            return _build(examined, building, target)


def _build(examined: Examined, folder: Path, target: str) -> list[str]:
    data = examined.data
    rename = _renaming(examined.images)
    for image in examined.images:
        copy = folder / IMAGE_FOLDERS[target] / rename(image.file)
        copy.parent.mkdir(parents=True, exist_ok=True)
        _copy(examined.root / image.file, copy)
    renamed = replace(
        data, images=(image._replace(file=rename(image.file)) for image in examined.images)
    )
    if target == "voc":
        lost = voc.write(renamed, folder)
    else:
        lost = yolo.write(renamed, folder, polygons=target == "yolo-seg")
    record = {
        "version": detkd.__version__,
        "source_format": data.source_format,
        "rule": {"name": data.rule.name, "meaning": data.rule.meaning},
        "classes": data.classes,
        **conversion_record(examined),
        "lost": lost,
    }
    write_json(folder / "conversion.json", record)
    return lost


def _copy(source: Path, target: Path) -> None:
    """Copy an image as it is; a page of a stack becomes a file of its own."""
    file, _ = page_of(source)
    if file == source:
        shutil.copyfile(source, target)
        return
    import cv2

    pixels = read_pixels(source)
    if pixels is None:
        raise DataError(f"{source}: cannot be read as an image; replace it, or leave it out.")
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise DataError(f"{source}: cannot be written as PNG; leave it out.")
    target.write_bytes(data.tobytes())


def _file_of_its_own(name: str) -> str:
    """What the copy of an image is called: stack.tif#page=2 becomes stack_page2.png."""
    path = PurePosixPath(name)
    match = PAGE.fullmatch(path.name)
    if match is None:
        return name
    stem = PurePosixPath(match["file"]).stem
    return path.with_name(f"{stem}_page{match['page']}.png").as_posix()


def _renaming(images: Iterable[ImageRecord]) -> Callable[[str], str]:
    """Names in the target's image folder: without the source's, if all images are in one.

    JPEGImages/a.jpg of a VOC tree becomes images/a.jpg of a YOLO tree, not images/JPEGImages/a.jpg.
    """
    first = {PurePosixPath(image.file).parts[0] for image in images}
    folders = (*YOLO_FOLDERS, *(name.lower() for name in IMAGE_FOLDERS.values()))
    if len(first) != 1 or next(iter(first)).lower() not in folders:
        return _file_of_its_own

    def inside(file: str) -> str:
        return _file_of_its_own(PurePosixPath(*PurePosixPath(file).parts[1:]).as_posix())

    return inside


def conversion_record(examined: Examined) -> dict[str, Any]:
    """What is said of a conversion besides its rule and its classes."""
    actions = Counter(problem.action for problem in examined.problems)
    before = examined.data.info.get("detkd")
    known = before if isinstance(before, dict) else {}
    # Which part of a data set it is stays known: no threshold may be chosen on a test split.
    part = {key: known[key] for key in ("split", "subset") if key in known}
    return {
        "dropped": {
            "boxes": actions["dropped box"],
            "images": actions["dropped image"],
        },
        "mended": actions["mended"],
        "unlabelled": examined.unlabelled,
        **({"subset": examined.subset} if examined.subset else part),
        **({"sixteen_bit": examined.sixteen_bit} if examined.sixteen_bit else {}),
    }
