"""Images with one label each: class folders, or a CSV of file, label and group."""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from detkd.data.images import images_below, leaves_root, levels_among
from detkd.data.split import SIDES, divide, groups_by_gap, groups_in_names
from detkd.errors import DataError
from detkd.pixels import Levels, page_of
from detkd.tables import open_table

FILE_COLUMNS = ("file", "image", "file_name")
LABEL_COLUMNS = ("label", "class")
GROUP_COLUMNS = ("group", "sample", "group_id")


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

    In class folders, a folder below a class is a group (`Acartia/station_3/a.png`). A CSV has the
    columns file, label and, where there are groups, group or sample; files are relative to it.
    Images without a group stand alone, except that files of equal content belong together.

    Raises:
        DataError: no such source, fewer than two classes, or a file that is not there.
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
    if len(classes) < 2:
        raise DataError(
            f"{source}: holds images of {len(classes)} classes; two at least are needed, each in a "
            "folder of its own, or named in the column 'label'."
        )
    return LabelledSet(source, root, classes, tuple(images))


def _of_folders(root: Path) -> Iterable[LabelledImage]:
    for path in images_below(root):
        parts = path.relative_to(root).parts
        if len(parts) > 1:  # an image beside the class folders has no class
            group = "/".join(parts[1:-1])
            yield LabelledImage("/".join(parts), parts[0], group or None)


def _of_table(path: Path) -> Iterable[LabelledImage]:
    try:
        reader = open_table(path)
        columns = list(reader.fieldnames or ())
        file, label, group = (
            next((name for name in names if name in columns), None)
            for names in (FILE_COLUMNS, LABEL_COLUMNS, GROUP_COLUMNS)
        )
        if file is None or label is None:
            raise DataError(
                f"{path}: needs a column of images ({', '.join(FILE_COLUMNS)}) and one of "
                f"labels ({', '.join(LABEL_COLUMNS)}); it has {', '.join(columns) or 'none'}."
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
    seen: dict[str, LabelledImage] = {}
    for at, (name, label_, group_) in rows:
        place = PurePosixPath(name.replace("\\", "/"))
        if not name or not label_:
            raise DataError(f"{path}, line {at}: has no {'file' if not name else 'label'}.")
        if leaves_root(place):
            raise DataError(f"{path}, line {at}: '{name}' leaves the folder of the table.")
        if not page_of(path.parent / place)[0].is_file():
            raise DataError(f"{path}, line {at}: '{name}' is not in {path.parent}; mend the table.")
        image = LabelledImage(str(place), label_, group_ or None)
        before = seen.get(image.file)
        if before and before.label != label_:
            raise DataError(
                f"{path}, line {at}: calls '{name}' {label_}, and {before.label} before; an "
                "image has one label."
            )
        if before and before.group != image.group:
            raise DataError(
                f"{path}, line {at}: puts '{name}' into the group '{group_}', and into "
                f"'{before.group or ''}' before; an image has one group."
            )
        if not before:  # a line that comes twice is one image
            seen[image.file] = image
            yield image


def groups_of(data: LabelledSet) -> list[str]:
    """The group of each image; those without one stand alone, unless files are of equal content."""
    return [
        image.group if image.group is not None else f"\0{_content(data.root / image.file)}"
        for image in data.images
    ]


def _content(path: Path) -> str:
    """A digest of the file: the pages of a stack belong together."""
    return hashlib.blake2b(page_of(path)[0].read_bytes(), digest_size=16).hexdigest()


def divide_labelled(
    data: LabelledSet, ratios: Sequence[float], *, seed: int = 0
) -> dict[str, LabelledSet]:
    """The sides train, val and test: no group on two of them, each class in proportion.

    It is the division of annotated images, each of which here has one object.

    Raises:
        DataError: ratios that are none, or fewer groups than sides.
    """
    if len(ratios) != 3 or not all(ratio >= 0 for ratio in ratios) or not sum(ratios):
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
    sides = divide(document, dict(enumerate(groups_of(data))), ratios, seed=seed)
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
