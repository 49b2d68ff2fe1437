"""Which images of a YOLO tree are of training, validation or test: by data.yaml, list or folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from detkd.data.images import SUFFIXES, files_below
from detkd.data.pairing import Images
from detkd.data.records import relative
from detkd.data.yolo_names import DATA_FILES, data_document
from detkd.encoding import decode
from detkd.errors import DataError

SUBSETS = ("train", "val", "valid", "test")
IMAGE_FOLDERS = ("images", "image", "jpegimages")
LISTS_SUFFIX = ".data"  # of Darknet's file that says where the lists lie


def images_of_subset(root: Path, images: list[Path], subset: str) -> list[Path]:
    """Images that data.yaml's entry names, or those below a folder of that name.

    Raises:
        DataError: there are none.
    """
    entries = listed_subsets(root)
    if subset in entries:
        bases, value = entries[subset]
        chosen = _entry_images(root, images, bases, value if isinstance(value, list) else [value])
        if chosen:
            return chosen
    chosen = [image for image in images if subset in image.relative_to(root).parts[:-1]]
    if chosen:
        return chosen
    folders = {part for image in images for part in image.relative_to(root).parts[:-1]}
    there = sorted(folders - set(IMAGE_FOLDERS) | (entries.keys() & {"train", "val", "test"}))
    hint = f"there are {', '.join(there)}" if there else "it has no subsets"
    raise DataError(f"{root}: has no images of a subset '{subset}'; {hint}.")


def listed_subsets(root: Path) -> dict[str, tuple[list[Path], Any]]:
    """Entries of data.yaml, of Darknet's obj.data, and lists such as train.txt, by their names.

    With each: folders that its paths may start from, and what it says.
    """
    entries: dict[str, tuple[list[Path], Any]] = {}
    for path in files_below(root, ".yaml", ".yml", LISTS_SUFFIX):
        document: Any = None
        if path.name in DATA_FILES:
            document = data_document(path)
        elif path.suffix == LISTS_SUFFIX:
            document = _darknet_entries(path)
        elif path.suffix == ".txt" and path.stem in SUBSETS and path.parent.name != "labels":
            document = {path.stem: path.name} if _is_list(path) else None
        if isinstance(document, dict):
            base = document.get("path")
            bases = [path.parent, path.parent / base] if isinstance(base, str) else [path.parent]
            for key, value in document.items():
                if isinstance(key, str) and isinstance(value, str | list):
                    entries.setdefault(key, (bases, value))
    return entries


def _darknet_entries(path: Path) -> dict[str, str]:
    """The entries `train = data/train.txt` of a Darknet file; its `valid` is `val` as well."""
    try:
        lines = decode(path.read_bytes())[0].splitlines()
    except OSError:
        return {}
    pairs = [line.partition("=") for line in lines if "=" in line]
    entries = {key.strip(): value.strip() for key, _, value in pairs}
    # Darknet is run from the folder above: data/train.txt may lie beside the file itself.
    beside = {key: PurePosixPath(value.replace("\\", "/")).name for key, value in entries.items()}
    found = {key: beside[key] for key in SUBSETS if beside.get(key)}
    return {"val": found["valid"], **found} if "valid" in found else found


def _is_list(path: Path) -> bool:
    """Whether a text file begins with the name of an image."""
    try:
        with path.open("rb") as stream:
            first = decode(stream.read(1000))[0].split("\n", 1)[0].strip()
    except OSError:
        return False
    return PurePosixPath(first.replace("\\", "/")).suffix.lower() in SUFFIXES


def _entry_images(
    root: Path, images: list[Path], bases: list[Path], entries: list[Any]
) -> list[Path]:
    """Images in the folders, or in the list files, that an entry of data.yaml names."""
    inside = {image.resolve(): image for image in images}
    known = Images(root, [relative(image, root) for image in images])
    texts = {path.resolve() for path in files_below(root, ".txt")}
    chosen: set[Path] = set()
    for entry in entries:
        if not isinstance(entry, str) or not entry.strip("./ ") or "\0" in entry:
            continue
        # Some tools write `../train/images` for a folder that lies beside the file.
        written = [base / entry for base in bases]
        for place in (path.resolve() for path in [*written, bases[0] / entry.lstrip("./")]):
            if place in texts:
                found = set(listed_images(place, known))
            else:
                found = {image for path, image in inside.items() if path.is_relative_to(place)}
            if found and root.resolve() in place.parents:
                chosen |= found
                break
    return [image for image in images if image in chosen]


def list_files(root: Path, bases: list[Path], value: Any) -> list[Path]:
    """The list files, not folders, that an entry names inside the tree."""
    texts = {path.resolve() for path in files_below(root, ".txt")}
    entries = value if isinstance(value, list) else [value]
    said = [entry for entry in entries if isinstance(entry, str) and "\0" not in entry]
    places = [(base / entry).resolve() for entry in said for base in bases]
    return [
        root / place.relative_to(root.resolve())
        for place in dict.fromkeys(places)
        if place in texts and root.resolve() in place.parents
    ]


def listed_images(place: Path, images: Images) -> list[Path]:
    """The images of the tree that a list names, one a line."""
    named = (images.named(line, place.parent) for line in lines_of(place))
    return [image for image in named if image is not None]


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that hold something; none if it cannot be read."""
    try:
        lines = decode(path.read_bytes())[0].splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip()]
