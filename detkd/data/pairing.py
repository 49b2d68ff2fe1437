"""Which image an annotation speaks of: found among the images of the tree, never by a path.

What an annotation says is compared with the names that are there; nothing that it says is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath

from detkd.data.images import images_below, stem_of
from detkd.data.records import ImageRecord, Problem, noted, relative


class Images:
    """The images of a tree, to be found by stem or by the name that somebody wrote."""

    def __init__(self, root: Path, files: Iterable[Path] | None = None) -> None:
        self.root = root
        self.files = images_below(root) if files is None else list(files)
        self._by_stem: dict[str, list[Path]] = {}
        self._by_name: dict[str, list[Path]] = {}
        for image in self.files:
            self._by_stem.setdefault(stem_of(image), []).append(image)
            self._by_name.setdefault(image.name, []).append(image)
            if image.name.endswith("#page=1"):
                # An annotation of a whole stack speaks of its first page.
                self._by_stem.setdefault(image.stem, []).append(image)
                self._by_name.setdefault(image.name[: -len("#page=1")], []).append(image)

    def of_document(self, document: Path, said: str | None) -> Path | None:
        """The image of an annotation's stem: in its folder, in the mirrored one, or the only one.

        The name that is written inside decides between several, and nothing else.
        """
        candidates = self._by_stem.get(document.stem, [])
        here = [image for image in candidates if image.parent == document.parent]
        if not here:
            here = [image for image in candidates if _mirrors(image, document, self.root)]
        if not here and len(candidates) == 1:
            here = candidates
        if len(here) > 1 and said:
            named = [image for image in here if image.name == PureWindowsPath(said).name]
            here = named or here
        return here[0] if here else None

    def named(self, said: str, base: Path) -> Path | None:
        """The image that a name in a document means; `base` is the document's folder.

        The path from the document decides, then the one image whose path ends most alike. None
        where no image has the name, or where several fit equally.
        """
        parts = [part for part in PureWindowsPath(said).parts if part not in (".", "\\")]
        if not parts:
            return None
        candidates = self._by_name.get(parts[-1], [])
        for folder in (base, self.root):
            exact = Path(os.path.normpath(folder.joinpath(*parts)))
            if exact in candidates:
                return exact
        alike = [
            (_common_end(image.relative_to(self.root).parts, parts), image) for image in candidates
        ]
        most = max((count for count, _ in alike), default=0)
        best = [image for count, image in alike if count == most]
        return best[0] if len(best) == 1 else None

    def unlabelled(self, seen: Iterable[str]) -> Iterator[ImageRecord]:
        """Records of the images that no annotation spoke of."""
        known = set(seen)
        for image in self.files:
            name = relative(image, self.root)
            if name not in known:
                yield ImageRecord(name, 0, 0, labelled=False)


def path_notes(said: str, file: str, where: str) -> list[Problem]:
    """A note where a name inside is a path of another computer."""
    path = PureWindowsPath(said)
    if not (path.drive or path.root):
        return []
    return [noted("path inside", file, where, f"says '{said}', a path of another computer")]


def _common_end(one: tuple[str, ...], other: list[str]) -> int:
    count = 0
    for ours, theirs in zip(reversed(one), reversed(other), strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def _mirrors(image: Path, document: Path, root: Path) -> bool:
    """Whether the two folders differ in one part of their names, as Annotations and JPEGImages."""
    ours = image.relative_to(root).parent.parts
    theirs = document.relative_to(root).parent.parts
    if abs(len(ours) - len(theirs)) == 1:  # images in the root, annotations in a folder, or so
        longer, shorter = (ours, theirs) if len(ours) > len(theirs) else (theirs, ours)
        return any((*longer[:at], *longer[at + 1 :]) == shorter for at in range(len(longer)))
    differing = sum(a != b for a, b in zip(ours, theirs, strict=False))
    return len(ours) == len(theirs) and differing == 1
