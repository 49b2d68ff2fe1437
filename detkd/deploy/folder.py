"""The folder of an export: there as a whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detkd.errors import DataError
from detkd.files import new_folder

FILES = {  # all that an export writes
    *("model.onnx", "model_parts", "detkd.json", "parity.json", "README.md", "worst"),
    *("runner.py", "counting.py", "__pycache__"),
}


@contextmanager
def export_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to be filled, which then takes the name `path`.

    An earlier export of that name is replaced, if nothing else lies in it.

    Raises:
        DataError: `path` is there, and is something else.
    """
    refuse_other(path)
    if not path.exists():
        with new_folder(path) as building:
            yield building
        return
    name = path.resolve()
    fresh, old = (name.with_name(f".{name.name}.{what}{os.getpid()}") for what in ("new", "old"))
    with new_folder(fresh) as building:
        yield building
    name.rename(old)
    try:
        fresh.rename(name)
    except BaseException:
        old.rename(name)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def refuse_other(path: Path) -> None:
    """Let pass what is not there, and an earlier export.

    Raises:
        DataError: `path` is something else, or more.
    """
    if not path.exists():
        return
    there = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if "detkd.json" not in there:
        raise DataError(f"{path}: is there already, and no earlier export; name another --out.")
    if others := sorted(there - FILES):
        raise DataError(
            f"{path}: holds '{others[0]}' besides an earlier export, which would be lost; move it "
            "away, or name another --out."
        )
