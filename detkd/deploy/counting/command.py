"""The command: counts what a run has found, and writes a folder."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from detkd.deploy.counting.bodies import Body
from detkd.deploy.counting.counter import count_objects
from detkd.deploy.counting.document import document_of, write_samples
from detkd.deploy.counting.errors import CountingError
from detkd.deploy.counting.options import parse
from detkd.deploy.counting.page import page_of
from detkd.deploy.counting.samples import Samples
from detkd.deploy.counting.settings import settings_of
from detkd.deploy.counting.wording import figure, limits, shown


def count(options: argparse.Namespace, shapes: Mapping[str, Body] | None = None) -> None:
    """Count what `options` name and write the folder, complete or not at all.

    `shapes` are those of `--shapes` where somebody else has read them, and may be of more classes.

    Raises:
        CountingError: something that a person can mend.
    """
    if options.out.exists():
        raise CountingError(f"{options.out}: is there already; name a new folder with --out.")
    notes: list[str] = []
    settings = settings_of(options, shapes, notes)
    samples = Samples(options, settings.um_per_px)
    with new_folder(options.out) as folder:
        with _open(folder / "counts.csv") as table:
            counted = count_objects(settings, samples, table, notes)
        document = document_of(counted, samples, options)
        with _open(folder / "samples.csv") as table:
            write_samples(document, table)
        with _open(folder / "counts.json") as stream:
            stream.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
        page = page_of(document, counted)
        (folder / "summary.html").write_bytes(page.encode("utf-8", "replace"))
    _say(document, options.out)


def _say(document: Mapping[str, Any], out: Path) -> None:
    """Print the main numbers."""
    lines = []
    for name, sample in list(document["samples"].items())[:20]:
        row = sample["all"]
        frames = sample["frames"]["found"] + sample["frames"]["empty"]
        line = (
            f"{shown(name)}: {row['count']:,} cells on {frames:,} frames "
            f"({limits(row['count_low'], row['count_high'])})"
        )
        if row["cells_per_l"] is not None:
            litre = limits(row["cells_per_l_low"], row["cells_per_l_high"])
            line += f", {figure(row['cells_per_l'])} per litre ({litre})"
        lines.append(line)
    if len(document["samples"]) > 20:
        lines.append(f"and {len(document['samples']) - 20} more samples")
    lines += [shown(note) for note in document["notes"]]
    lines.append(f"written: {out}/counts.csv, samples.csv, counts.json, summary.html")
    encoding = sys.stdout.encoding or "utf-8"
    print("\n".join(lines).encode(encoding, "replace").decode(encoding))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to be filled, which takes the name `path` if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield building
        mask = os.umask(0)
        os.umask(mask)
        building.chmod(0o777 & ~mask)
        building.rename(path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _open(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", errors="surrogateescape", newline="")


def main(argv: Sequence[str] | None = None) -> int:
    """counting.pyz as a program of its own: 0, 2 (refused, in one sentence) or 130."""
    try:
        count(parse(argv, f"python {Path(sys.argv[0]).name}"))
        return 0
    except CountingError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        place = error.filename or "a file"
        print(f"error: {place}: {error.strerror or error}; choose another place.", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 2
