"""Write the reference of all config keys (docs/config.md) from the dataclasses."""

from __future__ import annotations

import argparse
import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from detkd.cli.arguments import PARTS
from detkd.config import AnyExperiment, ClassifierExperiment, Experiment
from detkd.files import write_atomic

OF_A_LIST = (
    "`distill.losses` is a list, and what follows are the keys of each of its entries: "
    "`losses: [{name: kl, at: [roi.logits], weight: 4}, ...]`. On the command line and in a "
    "study's `set` the list is given as a whole."
)


def _is_part(value: Any) -> bool:
    """Whether a default is made of keys of its own, which have their own table."""
    first = value[0] if isinstance(value, list) and value else value
    return is_dataclass(first)


def page() -> str:
    """The page as Markdown: a table for each part of an experiment."""
    lines = ["# Config reference", "", "Made by `make docs` from `detkd/config.py`.", ""]
    lines += _of_kind(Experiment, "")
    said = "What `detkd train-cls` reads; `train` and `distill.losses` are those of above."
    lines += ["# Classifiers", "", said, ""]
    lines += _of_kind(ClassifierExperiment, "classifier: ")
    return "\n".join(lines)


def _of_kind(kind: type[AnyExperiment], title: str) -> list[str]:
    """The tables of one kind of experiment; what the first kind has, too, is not said again."""
    lines = []
    said = PARTS[Experiment] if kind is not Experiment else {}
    for prefix, part in {"": kind, **PARTS[kind]}.items():
        if said.get(prefix) is part:
            continue
        summary = (part.__doc__ or "").strip().splitlines()[0]
        lines += [f"## {title}{prefix or 'top level'}", "", summary, ""]
        if prefix == "distill.losses":
            lines += [OF_A_LIST, ""]
        lines += ["| key | default | meaning |", "|---|---|---|"]
        meanings = _meanings(part.__doc__ or "")
        for field in fields(part):
            default = "required"
            if field.default is not MISSING:
                default = f"`{field.default}`"
            elif field.default_factory is not MISSING:
                value = field.default_factory()
                default = "`{}`".format("see below" if _is_part(value) else value)
            name = f"{prefix}.{field.name}" if prefix else field.name
            lines.append(f"| `{name}` | {default} | {meanings[field.name]} |")
        lines.append("")
    return lines


def _meanings(doc: str) -> dict[str, str]:
    """What the docstring's Args say of each field."""
    arguments = doc.partition("Args:")[2]
    found = re.findall(r"^ {8}(\w+): (.+?)(?=^ {8}\w+: |\Z)", arguments, re.S | re.M)
    return {name: " ".join(text.split()).replace("|", r"\|") for name, text in found}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    write_atomic(parser.parse_args(argv).out, page())
    return 0


if __name__ == "__main__":
    import sys

    raise SystemExit(main(sys.argv[1:]))
