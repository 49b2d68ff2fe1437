"""Which image an annotation speaks of: found among the images of the tree, never by a path.

What an annotation says is compared with the names that are there; nothing that it says is opened.
"""

from __future__ import annotations

import os
import sqlite3
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PureWindowsPath

from detkd.data.images import image_names, stem_of
from detkd.data.records import ImageRecord, Problem, noted
from detkd.pixels import PAGE_MARK

FIRST_PAGE = f"{PAGE_MARK}1"


class Images:
    """The images of a tree, to be found by stem or by the name that somebody wrote.

    Their names lie in tables on disk, each made when it is first asked.
    """

    def __init__(self, root: Path, names: Iterable[str] | None = None) -> None:
        self.root = root
        self._names = names
        self._tables = sqlite3.connect("")  # on disk as soon as it is large, and gone with us
        self._tables.execute("PRAGMA journal_mode = OFF")
        self._tables.execute("PRAGMA cache_size = -1000")  # KiB
        self._made: set[str] = set()

    @property
    def names(self) -> Iterable[str]:
        """The names of all images, POSIX and relative to the root."""
        return image_names(self.root) if self._names is None else self._names

    @property
    def files(self) -> list[Path]:
        return [self.root / name for name in self.names]

    def of_document(self, document: str, said: str | None) -> tuple[int, str] | None:
        """The image of an annotation's stem: in its folder, in the mirrored one, or the only one.

        The name that is written inside decides between several, and nothing else. With the name
        of the image comes a number, which each image has of its own.
        """
        folder = document.rpartition("/")[0]
        candidates = self._find("stems", stem_of(document))
        here = [image for image in candidates if image[1].rpartition("/")[0] == folder]
        if not here:
            here = [image for image in candidates if _mirrors(image[1], document)]
        if not here and len(candidates) == 1:
            here = candidates
        if len(here) > 1 and said:
            inside = PureWindowsPath(said).name
            here = [image for image in here if _last(image[1]) == inside] or here
        return here[0] if here else None

    def named(self, said: str, base: Path) -> Path | None:
        """The image that a name in a document means; `base` is the document's folder.

        The path from the document decides, then the one image whose path ends most alike. None
        where no image has the name, or where several fit equally.
        """
        parts = [part for part in PureWindowsPath(said).parts if part not in (".", "\\")]
        if not parts:
            return None
        candidates = [self.root / name for _, name in self._find("names", parts[-1])]
        for folder in (base, self.root):
            exact = composed(os.path.normpath(folder.joinpath(*parts)))
            found = next((each for each in candidates if composed(str(each)) == exact), None)
            if found is not None:
                return found
        parts = [composed(part) for part in parts]
        ours = ([composed(p) for p in each.relative_to(self.root).parts] for each in candidates)
        alike = [(_common_end(o, parts), i) for o, i in zip(ours, candidates, strict=True)]
        most = max((count for count, _ in alike), default=0)
        best = [image for count, image in alike if count == most]
        return best[0] if len(best) == 1 else None

    def unlabelled(self, seen: Container[str]) -> Iterator[ImageRecord]:
        """Records of the images that no annotation spoke of."""
        for name in self.names:
            if name not in seen:
                yield ImageRecord(name, 0, 0, labelled=False)

    def _find(self, table: str, key: str) -> list[tuple[int, str]]:
        """Number and name of the images that a table has under a key, in the order of names."""
        if table not in self._made:
            self._make(table, stem_of if table == "stems" else _last)
        found = self._tables.execute(
            f"SELECT image, name FROM {table} WHERE key = ? ORDER BY rowid", (_key(key),)
        )
        return [(image, name.decode("utf-8", "surrogatepass")) for image, name in found]

    def _make(self, table: str, key_of: Callable[[str], str]) -> None:
        def rows() -> Iterator[tuple[bytes, int, bytes]]:
            for at, name in enumerate(self.names):
                stored = _stored(name)
                yield _key(key_of(name)), at, stored
                if name.endswith(FIRST_PAGE):
                    # An annotation of a whole stack speaks of its first page.
                    yield _key(key_of(name.removesuffix(FIRST_PAGE))), at, stored

        self._tables.execute(f"CREATE TABLE {table} (key BLOB, image INTEGER, name BLOB)")
        self._tables.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", rows())
        self._tables.execute(f"CREATE INDEX of_{table} ON {table} (key)")
        self._made.add(table)


def _stored(name: str) -> bytes:
    """A name for the table: some file systems have names that are no text."""
    return name.encode("utf-8", "surrogatepass")


def _key(name: str) -> bytes:
    return _stored(composed(name))


def composed(name: str) -> str:
    """A name as it is compared: ö is one letter, or (on a Mac) an o and its dots."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def path_notes(said: str, file: str, where: str) -> list[Problem]:
    """A note where a name inside is a path of another computer."""
    path = PureWindowsPath(said)
    if not (path.drive or path.root):
        return []
    return [noted("path inside", file, where, f"says '{said}', a path of another computer")]


def _common_end(one: list[str], other: list[str]) -> int:
    count = 0
    for ours, theirs in zip(reversed(one), reversed(other), strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def _mirrors(image: str, document: str) -> bool:
    """Whether the folders of two names differ in one part, as Annotations and JPEGImages."""
    return _mirrored(image.rpartition("/")[0], document.rpartition("/")[0])


@lru_cache(maxsize=1024)  # there are many files, and few folders
def _mirrored(one: str, other: str) -> bool:
    ours, theirs = (tuple(folder.split("/")) if folder else () for folder in (one, other))
    if abs(len(ours) - len(theirs)) == 1:  # images in the root, annotations in a folder, or so
        longer, shorter = (ours, theirs) if len(ours) > len(theirs) else (theirs, ours)
        return any((*longer[:at], *longer[at + 1 :]) == shorter for at in range(len(longer)))
    differing = sum(a != b for a, b in zip(ours, theirs, strict=False))
    return len(ours) == len(theirs) and differing == 1
