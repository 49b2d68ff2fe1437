"""What somebody should know of labelled images before a network learns from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from detkd.data.images import images_below
from detkd.data.labelled_images import LabelledSet, equal_files


def oddities(whole: LabelledSet, leave_out: Sequence[str] = ()) -> Iterator[str]:
    """What is odd about a source, a sentence each; classes that are left out may be as they are."""
    if whole.source.is_dir():
        yield from _of_folders(whole)
    kept = whole.without(leave_out)
    alike = defaultdict(list)
    for name in kept.classes:
        alike[" ".join(name.casefold().split())].append(name)
    for names in alike.values():
        if len(names) > 1:
            told = " and ".join(f"'{name}'" for name in names)
            yield (
                f"{whole.source}: the classes {told} differ in case or blanks alone; if they are "
                "one, give them one name."
            )
    labels = [same for same in equal_files(kept) if len({image.label for image in same}) > 1]
    if labels:
        told = ", ".join(f"'{image.file}' ({image.label})" for image in labels[0][:2])
        yield (
            f"{whole.source}: {len(labels)} images are in more than one class, as files of equal "
            f"content, such as {told}; leave each in one."
        )


def _of_folders(whole: LabelledSet) -> Iterator[str]:
    there = {image.file.partition("/")[0] for image in whole.images}
    empty = sorted(
        path.name
        for path in whole.source.iterdir()
        if path.is_dir() and path.name not in there and not path.name.startswith(".")
    )
    if empty:
        yield (
            f"{whole.source}: {len(empty)} folders hold no image of a kind that is read, and are "
            f"no classes: {', '.join(empty)}."
        )
    beside = [path for path in images_below(whole.source) if path.parent == whole.source]
    if beside:
        yield (
            f"{whole.source}: {len(beside)} images lie beside the class folders, have no class and "
            f"are passed over; the first is {beside[0].name}."
        )


def shares(sides: Sequence[tuple[str, LabelledSet | None]]) -> Iterator[str]:
    """How many images of how many classes are on each side, by what it is for."""
    told = [(what, part) for what, part in sides if part]
    counts = ", ".join(f"{len(part.images)} {what}" for what, part in told)
    yield f"{told[0][1].source}: {len(told[0][1].classes)} classes; images: {counts}"
    for what, part in told[1:]:
        if lacking := [name for name, count in part.counts.items() if not count]:
            yield (
                f"{part.source}: of {len(lacking)} classes there is no image {what}, where scores "
                f"are of the others: {', '.join(lacking)}."
            )
