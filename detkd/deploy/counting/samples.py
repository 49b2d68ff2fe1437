"""Of which sample a frame is, and of which water a sample."""

from __future__ import annotations

import argparse
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from detkd.deploy.counting.errors import CountingError
from detkd.deploy.counting.run import PAGE
from detkd.deploy.counting.tables import number_of, read_table
from detkd.deploy.counting.water import OPTION_OF, Water
from detkd.deploy.counting.wording import shown

TOP = ""  # of frames that lie in no folder


class Samples:
    """Of each frame the sample, and of each sample the water.

    `usual` is the water that the options say, `water_of` that of samples which a table names.

    Raises:
        CountingError: the options or the table contradict each other.
    """

    def __init__(self, options: argparse.Namespace, um_per_px: float | None) -> None:
        self.all_one = options.sample == "all"
        self.path: Path | None = options.samples
        self.pattern = _pattern(options.sample_pattern)
        self.of_file: dict[str, str] | None = None
        self.water_of: dict[str, Water] = {}
        self.usual = Water(**{name: getattr(options, name) for name in OPTION_OF})
        if self.path is not None:
            self.of_file, said = read_samples(self.path, self.usual)
            for sample, values in said.items():
                water = Water(**{**vars(self.usual), **values})
                water.check(f"{self.path}, sample '{shown(sample)}'", um_per_px)
                self.water_of[sample] = water
        if self.of_file is not None and (options.sample or options.sample_pattern):
            raise CountingError(
                f"{self.path}: says of which sample a file is, and so does --sample or "
                "--sample-pattern; give one of them."
            )
        if options.sample and options.sample_pattern:
            raise CountingError("--sample and --sample-pattern exclude each other; give one.")
        self.usual.check(None, um_per_px, complete=not self.water_of)

    def __call__(self, frame: str) -> str:
        """The sample of a frame.

        Raises:
            CountingError: nothing says which.
        """
        if self.of_file is not None:
            return self._listed(frame)
        if self.pattern is not None:
            match = self.pattern.search(frame)
            if match is None or match[1] is None:
                raise CountingError(
                    f"--sample-pattern: '{shown(self.pattern.pattern)}' finds no sample in "
                    f"'{shown(frame)}'; make it fit every frame."
                )
            return match[1]
        if self.all_one:
            return TOP
        folder = posixpath.normpath(posixpath.dirname(frame))  # pathlib would keep every name
        return TOP if folder == "." else folder

    def names(self, samples: Iterable[str]) -> dict[str, str]:
        """How samples are called in what is written: those in no folder by a dot, or 'all'."""
        names = {key: key for key in sorted(samples)}
        if TOP in names:
            names[TOP] = "." if len(names) > 1 else "all"
            while names[TOP] in names:
                names[TOP] += "."
        return names

    def water(self, name: str) -> Water:
        """What is known of a sample's water, by its name in what is written."""
        return self.water_of.get(name, self.usual)

    def _listed(self, frame: str) -> str:
        assert self.of_file is not None
        match = PAGE.fullmatch(frame)
        for key in (frame, *([match["file"]] if match else [])):
            if key in self.of_file:
                return self.of_file[key]
        raise CountingError(f"{self.path}: names no sample of '{shown(frame)}'; add a line for it.")


def read_samples(
    path: Path, usual: Water
) -> tuple[dict[str, str] | None, dict[str, dict[str, float]]]:
    """Of a table, the samples by file if it has such a column, and what it says of their water.

    Raises:
        CountingError: it cannot be read, or contradicts itself or the `usual` water.
    """
    columns, lines = read_table(path, ("sample",), ("file", *OPTION_OF))
    of_file: dict[str, str] | None = {} if "file" in columns else None
    water = [name for name in columns if name != "file"]
    for name in water:
        if getattr(usual, name) is not None:
            raise CountingError(
                f"{path}: has a column {name}, and {OPTION_OF[name]} is given; keep one."
            )
    said: dict[str, dict[str, float]] = {}
    for where, cells in lines:
        sample = cells["sample"].strip()
        if not sample:
            raise CountingError(f"{where}: names no sample; mend it there.")
        if of_file is not None:
            file = cells["file"].strip().replace("\\", "/").removeprefix("./")
            if of_file.setdefault(file, sample) != sample:
                raise CountingError(f"{where}: '{shown(file)}' is of two samples; keep one.")
        values = said.setdefault(sample, {})
        for name in water:
            if cells[name].strip():
                value = number_of(cells[name], where, name)
                if values.setdefault(name, value) != value:
                    raise CountingError(
                        f"{where}: says {name} {value:g} of sample '{shown(sample)}', and "
                        f"{values[name]:g} further up; keep one."
                    )
    return of_file, said


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise CountingError(
            f"--sample-pattern: '{shown(text)}' is no pattern ({error})."
        ) from error
    if not pattern.groups:
        raise CountingError(
            f"--sample-pattern: '{shown(text)}' has no group; put the sample in parentheses, "
            "such as '^(S[0-9]+)_'."
        )
    return pattern
