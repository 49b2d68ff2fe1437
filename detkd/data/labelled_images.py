"""Images with one label each: class folders, or a CSV of file, label and group."""

from __future__ import annotations

import csv
import hashlib
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from detkd.data.images import images_below, is_inside, leaves_root, levels_among, links_out
from detkd.data.sides import SIDES as SIDE_OF
from detkd.data.similar import joined
from detkd.data.split import SIDES, divide, groups_by_gap, groups_in_names
from detkd.errors import DataError
from detkd.pixels import PAGE_MARK, Levels, page_of
from detkd.tables import open_table

FILE_COLUMNS = ("file", "image", "file_name")
LABEL_COLUMNS = ("label", "class")
GROUP_COLUMNS = ("group", "sample", "group_id")
CROPS = "crops.csv"  # the table that `detkd crop` leaves beside its class folders


@dataclass(frozen=True)
class LabelledImage:
    """An image file (POSIX, relative to the root), its class, and the sample that it is from."""

    file: str
    label: str
    group: str | None = None


@dataclass(frozen=True)
class LabelledSet:
    """Images of some classes; the place of a class in `classes` is its number."""

    source: Path
    root: Path
    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]

    def part(self, chosen: Iterable[int]) -> LabelledSet:
        """The images at these places, of the same classes."""
        images = tuple(self.images[at] for at in chosen)
        return LabelledSet(self.source, self.root, self.classes, images)

    def without(self, classes: Sequence[str]) -> LabelledSet:
        """The set without some of its classes.

        Raises:
            DataError: a class that it does not have.
        """
        for name in classes:
            if name not in self.classes:
                raise DataError(
                    f"{self.source}: has no class '{name}' to leave out; there are "
                    f"{', '.join(self.classes)}."
                )
        kept = tuple(name for name in self.classes if name not in classes)
        images = tuple(image for image in self.images if image.label in kept)
        return LabelledSet(self.source, self.root, kept, images)

    def grouped(self, pattern: str | None, gap: float = 0) -> LabelledSet:
        """The set with groups after a regular expression that is sought in the file names.

        Images that have a group keep it; those that the pattern does not match stay alone. With a
        `gap`, what it finds are numbers, and those that follow each other within it are one group.

        Raises:
            DataError: no regular expression, one that matches no name, or one that finds no number
                where there is a gap.
        """
        lonely = [image for image in self.images if image.group is None]
        if not pattern or not lonely:
            return self
        names = [image.file for image in lonely]
        said = f"data.group_pattern for {self.source}"
        groups = groups_in_names(pattern, names, said)
        if gap:
            groups = groups_by_gap(groups, gap, names, said)
        found = dict(zip(names, groups, strict=True))
        images = tuple(replace(i, group=i.group or found.get(i.file)) for i in self.images)
        return replace(self, images=images)

    def known_to(
        self, classes: Sequence[str], unknown: Sequence[str], who: object
    ) -> tuple[LabelledSet, LabelledSet]:
        """The images of these classes, numbered as these are, and those of classes named `unknown`.

        Raises:
            DataError: a class that is in neither, or in both; `who` has the classes.
        """
        for name in unknown:
            if name not in self.classes:
                raise DataError(
                    f"--unknown: {self.source} has no class '{name}'; there are "
                    f"{', '.join(self.classes)}."
                )
            if name in classes:
                raise DataError(f"--unknown: '{name}' is a class that {who} knows; leave it out.")
        for name in self.classes:
            if name not in (*classes, *unknown):
                raise DataError(
                    f"{self.source}: has a class '{name}' that {who} does not know; "
                    f"'--unknown {name}' judges whether its images are told as unknown."
                )
        parts = [
            tuple(image for image in self.images if (image.label in unknown) == is_foreign)
            for is_foreign in (False, True)
        ]
        if not parts[0]:
            raise DataError(f"{self.source}: has no image of a class that {who} knows; add some.")
        known = LabelledSet(self.source, self.root, tuple(classes), parts[0])
        return known, LabelledSet(self.source, self.root, tuple(unknown), parts[1])

    @property
    def levels(self) -> Levels | None:
        """What becomes 0 and 255 in its 16-bit images; None without such images."""
        said = levels_among(self.root / image.file for image in self.images)
        return (float(said["low"]), float(said["high"])) if said else None

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class, in the order of the classes."""
        found = Counter(image.label for image in self.images)
        return {name: found[name] for name in self.classes}


def read_labelled(source: str | Path) -> LabelledSet:
    """The labelled images of a folder of class folders, or of a CSV file.

    In class folders, a folder below a class is a group (`Acartia/station_3/a.png`); those that
    `detkd crop` has cut keep the groups of their table, `crops.csv`, also where one was moved to
    another class. A CSV has the columns file, label and, where there are groups, group or sample;
    files are relative to it. Images without a group stand alone, except that files of equal content
    belong together.

    Raises:
        DataError: no such source, no image, a file that is not there, a link that is not followed,
            or folders that are sides, such as train and val, with the classes below them.
    """
    source = Path(source)
    if source.is_dir():
        images = list(_of_folders(source))
        root = source
    elif source.is_file():
        images, root = list(_of_table(source)), source.parent
    else:
        raise DataError(f"{source}: no such folder of class folders, nor a CSV of file and label.")
    classes = tuple(sorted({image.label for image in images}))
    if not classes:
        raise DataError(
            f"{source}: holds no image that has a class; put those of each into a folder of its "
            "own, or name them in the column 'label'."
        )
    if source.is_dir():
        _check_no_sides(source, images)
    return LabelledSet(source, root, classes, tuple(images))


def _check_no_sides(root: Path, images: Sequence[LabelledImage]) -> None:
    """Refuse sides in the place of classes: ROOT/train/CLASS beside ROOT/val/CLASS."""
    labels = sorted({image.label for image in images})
    deep = {image.label for image in images if image.file.count("/") > 1}
    known = {label: SIDE_OF[label.lower()] for label in labels if label.lower() in SIDE_OF}
    sides = {label: side for label, side in known.items() if label in deep}
    if len(set(sides.values())) < 2 and (not sides or len(known) < len(labels)):
        return
    named = {side: label for label, side in sides.items()}
    first, val = named.get("train", next(iter(sides))), named.get("val")
    rest = f" --data.val {root / val}" if val not in (None, first) else ""
    raise DataError(
        f"{root}: its folders {', '.join(sides)} are sides, and the classes lie below them; name "
        f"one, such as --data.train {root / first}{rest}, and others for 'detkd eval-cls --data'."
    )


def _of_folders(root: Path) -> Iterable[LabelledImage]:
    if link := next(links_out(root), None):
        raise DataError(
            f"{link}: is a link to a folder, out of {root} or to nothing, and is not followed; put "
            "the files there, or take it away."
        )
    cut: dict[str, LabelledImage] = {}
    labels = defaultdict(set)  # of each folder, which cannot be called as every class can
    if (root / CROPS).is_file():
        for _, image in _rows(root / CROPS):
            cut[image.file] = cut[PurePosixPath(image.file).name] = image
            labels[image.file.partition("/")[0]].add(image.label)
    for path in images_below(root):
        parts = path.relative_to(root).parts
        file = "/".join(parts)
        if len(parts) == 1:  # an image beside the class folders has no class
            continue
        if file in cut:
            yield cut[file]
            continue
        label = next(iter(labels[parts[0]])) if len(labels[parts[0]]) == 1 else parts[0]
        group = cut[parts[-1]].group if parts[-1] in cut else "/".join(parts[1:-1])
        yield LabelledImage(file, label, group or None)


def _rows(path: Path) -> Iterable[tuple[int, LabelledImage]]:
    """The lines of a table, with their numbers."""
    try:
        reader = open_table(path)
        columns = {name.lower(): name for name in reader.fieldnames or ()}
        file, label, group = (
            next((columns[name] for name in names if name in columns), None)
            for names in (FILE_COLUMNS, LABEL_COLUMNS, GROUP_COLUMNS)
        )
        if file is None or label is None:
            raise DataError(
                f"{path}: needs a column of images ({', '.join(FILE_COLUMNS)}) and one of "
                f"labels ({', '.join(LABEL_COLUMNS)}); it has "
                f"{', '.join(columns.values()) or 'none'}."
            )
        rows = [
            (
                reader.line_num,
                [(row[key] or "").strip() if key else "" for key in (file, label, group)],
            )
            for row in reader
        ]
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}).") from error
    for at, (name, label_, group_) in rows:
        place = PurePosixPath(name.replace("\\", "/"))
        if not name or not label_:
            raise DataError(f"{path}, line {at}: has no {'file' if not name else 'label'}.")
        if leaves_root(place):
            raise DataError(f"{path}, line {at}: '{name}' leaves the folder of the table.")
        yield at, LabelledImage(str(place), label_, group_ or None)


def _of_table(path: Path) -> Iterable[LabelledImage]:
    seen: dict[str, LabelledImage] = {}
    inside: set[Path] = set()  # folders of images that no link leads out by
    for at, image in _rows(path):
        file = page_of(path.parent / image.file)[0]
        if not file.is_file():
            raise DataError(
                f"{path}, line {at}: '{image.file}' is not in {path.parent}; mend the table."
            )
        if file.parent not in inside or file.is_symlink():
            if not is_inside(file, path.parent):
                raise DataError(
                    f"{path}, line {at}: '{image.file}' leads by a link out of {path.parent}, and "
                    "is not followed; put the file there."
                )
            if not file.is_symlink():
                inside.add(file.parent)
        before = seen.get(image.file)
        if before and before.label != image.label:
            raise DataError(
                f"{path}, line {at}: calls '{image.file}' {image.label}, and {before.label} "
                "before; an image has one label."
            )
        if before and before.group != image.group:
            raise DataError(
                f"{path}, line {at}: puts '{image.file}' into the group '{image.group or ''}', and "
                f"into '{before.group or ''}' before; an image has one group."
            )
        if not before:  # a line that comes twice is one image
            seen[image.file] = image
            yield image


def groups_of(data: LabelledSet) -> list[str]:
    """The group of each image; those without one stand alone.

    Where files are of equal content, their groups are one. The pages of a stack belong together.
    """
    places = [_file(data, image) for image in data.images]
    alike = _alike(places)
    names: list[str] = []
    first: dict[Any, str] = {}  # by file and by content, the group of the first image that has it
    pairs = []
    for image, place in zip(data.images, places, strict=True):
        name = image.group
        if name is None or place in alike:
            content = alike.get(place) or _content(place)
            name = f"\0{content}" if name is None else name
            pairs.append((first.setdefault(content, name), name))
        pairs.append((first.setdefault(place, name), name))
        names.append(name)
    group = joined(names, pairs)
    # Called by a group that somebody has named, where there is one.
    called: dict[str, str] = {}
    for name in sorted(set(names), key=lambda name: (name.startswith("\0"), name)):
        called.setdefault(group[name], name)
    return [called[group[name]] for name in names]


def equal_files(data: LabelledSet) -> list[list[LabelledImage]]:
    """The images whose files are of equal content, those of each content together."""
    places = [page_of(data.root / image.file) for image in data.images]
    alike = _alike(place for place, _ in places)
    same = defaultdict(list)
    for image, (place, page) in zip(data.images, places, strict=True):
        if place in alike:
            same[alike[place], page].append(image)
    return [images for images in same.values() if len(images) > 1]


def in_both(one: LabelledSet, other: LabelledSet) -> list[LabelledImage]:
    """The images of `other` whose files are among those of `one`, or have the content of some."""
    ours = {_file(one, image) for image in one.images}
    theirs = {image: _file(other, image) for image in other.images}
    alike = _alike([*ours, *theirs.values()])
    held = {alike[place] for place in ours if place in alike}
    return [image for image, place in theirs.items() if place in ours or alike.get(place) in held]


def _file(data: LabelledSet, image: LabelledImage) -> Path:
    return page_of(data.root / image.file)[0]


def _alike(places: Iterable[Path]) -> dict[Path, str]:
    """The content of the files that are as large as another one; no other can be equal to one."""
    of_size = defaultdict(list)
    for place in dict.fromkeys(places):
        of_size[place.stat().st_size].append(place)
    return {place: _content(place) for same in of_size.values() if len(same) > 1 for place in same}


def _content(path: Path) -> str:
    """A digest of the file."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def divide_labelled(
    data: LabelledSet, ratios: Sequence[float], *, seed: int = 0
) -> dict[str, LabelledSet]:
    """The sides train, val and test: no group on two of them, each class in proportion.

    It is the division of annotated images, each of which here has one object.

    Raises:
        DataError: ratios that are none, or fewer groups than sides.
    """
    shares = len(ratios) == 3 and all(0 <= ratio < math.inf for ratio in ratios)
    if not shares or not sum(ratios):
        raise DataError(
            f"data.ratios: {list(ratios)} are not shares of train, val and test; give three, such "
            "as [0.7, 0.15, 0.15]."
        )
    number = {name: at for at, name in enumerate(data.classes)}
    document: Mapping[str, Any] = {
        "images": [{"id": at} for at in range(len(data.images))],
        "annotations": [
            {"image_id": at, "category_id": number[image.label]}
            for at, image in enumerate(data.images)
        ],
        "categories": [{"id": at} for at in number.values()],
    }
    groups = dict(enumerate(groups_of(data)))
    paged = any(PAGE_MARK in image.file for image in data.images)
    said = f"{data.source}{' (the pages of a stack are one group)' if paged else ''}"
    sides = divide(document, groups, ratios, seed=seed, said=said)
    members = defaultdict(list)
    for at in range(len(data.images)):
        members[sides[at]].append(at)
    return {side: data.part(members[side]) for side in SIDES if side in members}


def fold_of(
    data: LabelledSet, folds: int, fold: int, *, seed: int = 0
) -> tuple[LabelledSet, LabelledSet]:
    """Training and validation images of one of `folds` folds (counted from 0).

    scikit-learn's StratifiedGroupKFold: each image is validated on in one fold, a group never
    divided, classes in proportion as far as groups allow.

    Raises:
        DataError: no such fold, fewer groups than folds, or no class with an image for each.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = groups_of(data)
    if folds < 2:
        raise DataError(f"data.folds: {folds} leaves nothing to learn from; give 2 or more, or 0.")
    if not 0 <= fold < folds or len(set(groups)) < folds:
        raise DataError(
            f"data.fold: there is no fold {fold} of {folds} over {len(set(groups))} groups; folds "
            "are counted from 0, and each needs a group of its own."
        )
    if max(data.counts.values()) < folds:
        raise DataError(
            f"data.folds: no class has {folds} images, one for each fold; ask for fewer folds."
        )
    labels = [image.label for image in data.images]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are not in every fold
        train, val = list(splitter.split(labels, labels, groups))[fold]
    return data.part(train.tolist()), data.part(val.tolist())
