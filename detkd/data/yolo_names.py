"""What YOLO's and Darknet's files say of a tree's classes: their names, and keypoints of poses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from detkd.data.images import files_below
from detkd.data.records import KEPT, MENDED, REFUSED, Problem, clean, noted, relative, renamed
from detkd.encoding import decode
from detkd.errors import DataError

CLASS_FILES = ("classes.txt", "obj.names", "predefined_classes.txt")
DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml")
NAMES_SUFFIX = ".names"  # Darknet's
MOST_CLASSES = 10_000  # a class number above it is a broken line, not a class


class Text(yaml.SafeLoader):
    """Safe YAML whose scalars stay as written: a class may be called `no`, which means false.

    A tag, which could ask for an object of Python, is not obeyed: what it stands before is read
    as if it were not there. Nor is `!!merge`: mappings that merge each other grow without bounds.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Keep a mapping as it is written."""

    def plain(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return self.construct_sequence(node, deep=True)
        assert isinstance(node, yaml.ScalarNode)
        return self.construct_scalar(node)


Text.yaml_implicit_resolvers = {}
Text.add_constructor(None, Text.plain)


def class_names(root: Path, problems: list[Problem]) -> list[str]:
    """The first list of classes that can be read; others that differ are told.

    Raises:
        DataError: there are lists, and none can be read: numbers would get wrong names.
    """
    chosen: list[str] = []
    broken: list[str] = []
    for path in files_below(root, ".txt", ".yaml", ".yml", NAMES_SUFFIX):
        if path.name not in (*CLASS_FILES, *DATA_FILES) and path.suffix != NAMES_SUFFIX:
            continue
        file = relative(path, root)
        try:
            text, unusual = decode(path.read_bytes())
            said = _yaml_names(text) if path.name in DATA_FILES else text.splitlines()
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
            message = f"has no readable list of classes ({type(error).__name__})"
            problems.append(Problem("malformed class list", file, "", message, REFUSED))
            broken.append(f"{path}: has no readable list 'names' ({type(error).__name__})")
            continue
        if unusual:
            problems.append(noted("encoding", file, "", unusual))
        if path.name in DATA_FILES and (tag := _foreign_tag(text)):
            message = f"has the tag {tag}, which is not obeyed; read as if it were not there"
            problems.append(Problem("tag in class list", file, "", message, MENDED))
        while said and not said[-1].strip():
            said.pop()
        names = [clean(name) for name in said]
        if not chosen:
            chosen = names
            for at, name in enumerate(said):
                problems += renamed(name, file, f"class {at}")
            for name in sorted({name for name in names if name and names.count(name) > 1}):
                message = f"lists '{name}' twice; both numbers mean one class"
                problems.append(Problem("double class", file, "", message, MENDED))
        elif names and names != chosen:
            message = f"differs from the list that was used: {', '.join(chosen)}"
            problems.append(Problem("second class list", file, "", message, KEPT))
    if broken and not chosen:
        raise DataError(f"{broken[0]}; mend it, or put the names into classes.txt instead of it.")
    return chosen


def _yaml_names(text: str) -> list[str]:
    """`names` of a data.yaml, as a list or a map from numbers; an absent one is empty.

    Raises:
        ValueError: it is there and is neither.
    """
    document = yaml.load(text, Loader=Text)
    names = document.get("names", []) if isinstance(document, dict) else []
    if isinstance(names, dict):
        numbered = {int(key): value for key, value in names.items()}
        if not all(0 <= number < MOST_CLASSES for number in numbered):
            raise ValueError("class numbers out of range")
        names = [numbered.get(at, "") for at in range(max(numbered, default=-1) + 1)]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("names is no list of names")
    return list(names)


def data_document(path: Path) -> Any:
    """What a data.yaml says; None where it cannot be read."""
    try:
        return yaml.load(decode(path.read_bytes())[0], Loader=Text)
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return None


def keypoint_shape(root: Path) -> tuple[int, int] | None:
    """How many keypoints follow a box, and of how many numbers each; None where there are none."""
    for path in files_below(root, ".yaml", ".yml"):
        if path.name in DATA_FILES:
            try:
                count, numbers = map(int, data_document(path)["kpt_shape"])
            except (ValueError, TypeError, KeyError):
                continue
            if count > 0 and numbers in (2, 3):
                return count, numbers
    return None


def _foreign_tag(text: str) -> str:
    """The first tag of a YAML text that is none of YAML's own; nothing if there is none."""
    for token in yaml.scan(text, Loader=Text):
        if isinstance(token, yaml.TagToken):
            handle, suffix = token.value
            if handle != "!!" or f"tag:yaml.org,2002:{suffix}" not in Text.yaml_constructors:
                return clean(f"{handle or ''}{suffix}")[:80]
    return ""
