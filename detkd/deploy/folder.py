"""The folder of an export: there as a whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from detkd.errors import DataError
from detkd.files import new_folder

FILES = {  # all that an export writes
    *("model.onnx", "model_parts", "detkd.json", "parity.json", "README.md", "worst", "variants"),
    *("exits", "runner.py", "counting.pyz", "__pycache__"),
}


@dataclass
class Building:
    """An export that is being written into `folder`, and whether it `failed` at the gate."""

    folder: Path
    failed: bool = False


@contextmanager
def export_folder(path: Path) -> Iterator[Building]:
    """A temporary folder to be filled, which then takes the name `path`.

    One that failed takes that of `failed_place`, so that an earlier good one stays where it is. An
    earlier export of the same name is replaced, if nothing else lies in it.

    Raises:
        DataError: either is there, and is something else.
    """
    refuse_other(path)
    name = path.resolve()
    fresh = name.with_name(f".{name.name}.new{os.getpid()}")
    with new_folder(fresh) as folder:
        building = Building(folder)
        yield building
    try:
        _put(fresh, failed_place(name) if building.failed else name)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def failed_place(path: Path) -> Path:
    """Where an export that fails lies, that was to be written to `path`."""
    path = path if path.name.strip(".") else path.resolve()
    return path.with_name(f"{path.name}.failed")


def _put(fresh: Path, name: Path) -> None:
    """Give the folder `fresh` this name; what has it is removed afterwards."""
    if not name.exists():
        fresh.rename(name)
        return
    old = name.with_name(f".{name.name}.old{os.getpid()}")
    name.rename(old)
    try:
        fresh.rename(name)
    except BaseException:
        old.rename(name)
        raise
    shutil.rmtree(old, ignore_errors=True)


def refuse_other(path: Path) -> None:
    """Let pass what is not there, and an earlier export; of `path` and of its `failed_place`.

    Raises:
        DataError: either is something else, or more.
    """
    for place in (path, failed_place(path)):
        if place.exists():
            _refuse_other(place)


def _refuse_other(path: Path) -> None:
    there = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if "detkd.json" not in there:
        raise DataError(f"{path}: is there already, and no earlier export; name another --out.")
    if others := sorted(there - FILES):
        raise DataError(
            f"{path}: holds '{others[0]}' besides an earlier export, which would be lost; move it "
            "away, or name another --out."
        )
