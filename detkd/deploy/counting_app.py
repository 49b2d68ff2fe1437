"""Counting as one file, counting.pyz, which runs where nothing else of detkd is."""

from __future__ import annotations

import io
from importlib.resources import files
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from detkd.files import write_atomic

PACKAGE = "detkd.deploy.counting"
MAIN = f"from {PACKAGE}.command import main\n\nraise SystemExit(main())\n"
EARLIEST = (1980, 1, 1, 0, 0, 0)  # that a zip file can name


def write_app(path: str | Path) -> None:
    """Write the modules of detkd.deploy.counting as a zip application (PEP 441), as a whole.

    `python counting.pyz` runs it; the packages that it lies in are empty there. Equal modules make
    equal bytes: the files inside are sorted, and of one time.
    """
    folder = PACKAGE.replace(".", "/")
    contents = {"__main__.py": MAIN.encode()}
    contents |= {"detkd/__init__.py": b"", "detkd/deploy/__init__.py": b""}
    for module in files(PACKAGE).iterdir():
        if module.name.endswith(".py"):
            contents[f"{folder}/{module.name}"] = module.read_bytes()
    archive = io.BytesIO()
    with ZipFile(archive, "w", ZIP_DEFLATED) as app:
        for name in sorted(contents):
            entry = ZipInfo(name, EARLIEST)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as Unix writes it
            app.writestr(entry, contents[name], ZIP_DEFLATED)
    write_atomic(path, archive.getvalue())
