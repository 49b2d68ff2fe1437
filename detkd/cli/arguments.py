"""An experiment from a YAML file and the command line, with errors in one sentence."""

from __future__ import annotations

import difflib
import re
import typing
from argparse import RawDescriptionHelpFormatter
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import yaml

from detkd.config import (
    AnyExperiment,
    ClassDataConfig,
    ClassifierConfig,
    ClassifierExperiment,
    DataConfig,
    DistillConfig,
    ExitsConfig,
    Experiment,
    HeadsConfig,
    LabelLossConfig,
    ModelConfig,
    PublishedWeight,
    ScheduleConfig,
    SelfTeachConfig,
    TeachConfig,
    TermConfig,
    TrainConfig,
)
from detkd.errors import ConfigError

Kind = TypeVar("Kind", Experiment, ClassifierExperiment)


def read_experiment(
    prog: str, argv: list[str], *, description: str, epilog: str
) -> tuple[Experiment, Any]:
    """A detector's experiment, and the options that are not part of it (run, resume).

    Raises:
        ConfigError: as `read_kind`.
    """
    return read_kind(Experiment, prog, argv, description=description, epilog=epilog)


def read_kind(
    kind: type[Kind], prog: str, argv: list[str], *, description: str, epilog: str
) -> tuple[Kind, Any]:
    """The resolved experiment of this kind, and the options that are not part of it.

    Raises:
        ConfigError: no such file, an unknown key (with the nearest right one), a wrong type.
    """
    from jsonargparse import ArgumentError

    known: Any = kind  # a class can be hashed where what it makes cannot, which mypy mixes up
    parser = _parser(known, prog, description, epilog)
    argv = [*argv]
    for path_at in _config_positions(argv):
        argv[path_at] = str(_check_file(argv[path_at], kind))
    _check_flags(argv, kind)
    try:
        namespace = parser.parse_args(_replacing_lists(argv))
        built = parser.instantiate(namespace)
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(_sentence(str(error), argv)) from error
    values = {field.name: getattr(built, field.name) for field in fields(kind)}
    experiment = kind(**values)
    _check_values(experiment.as_dict())
    return experiment, built


@cache
def _parser(kind: type[AnyExperiment], prog: str, description: str, epilog: str) -> Any:
    """Made once: a study reads a config for each of its rows."""
    from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=False)
    parser = ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=_formatter(),
        exit_on_error=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of an experiment.")
    parser.add_argument("--run", type=str, default=None, help="run folder (runs/NAME).")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run.")
    parser.add_argument(
        "--suggest-weights",
        action="store_true",
        help="measure weights for the distillation terms, print them, and train nothing.",
    )
    parser.add_class_arguments(kind)
    return parser


# The least and the greatest that makes sense; what has no greatest is open.
LIMITS: dict[str, tuple[float, float]] = {
    "data.image_size": (32, 16384),
    "data.views": (0, inf),
    "data.workers": (0, inf),
    "data.unlabelled_share": (0, inf),
    "model.frozen_stages": (0, inf),
    "model.neck_channels": (1, inf),
    "model.head_width": (1, inf),
    "model.roi_size": (1, 64),
    "model.roi_scale": (1, inf),
    "model.roi_channels": (1, inf),
    "model.rpn_samples": (1, inf),
    "model.roi_samples": (1, inf),
    "model.proposals": (1, inf),
    "model.detections": (1, inf),
    "model.score_threshold": (0, 1),
    "model.nms": (0, 1),
    "data.group_gap": (0, inf),
    "data.split_seed": (0, 2**31),
    "data.folds": (0, inf),
    "data.fold": (0, inf),
    "data.randaugment": (0, inf),
    "data.mixup": (0, inf),
    "data.cutmix": (0, inf),
    "data.balance": (0, 1),
    "model.groups": (1, inf),
    "model.dropout": (0, 1),
    "loss.smoothing": (0, 1),
    "loss.gamma": (0, inf),
    "loss.tau": (0, inf),
    "loss.weight": (0, inf),
    "self_distill.temperature": (0.01, inf),
    "self_distill.alpha": (0, 1),
    "self_distill.hint": (0, inf),
    "distill.freeze_until": (0, 1),
    "distill.thawed_lr": (0, inf),
    "distill.task_from": (0, 1),
    "distill.pseudo": (0, 1),
    "distill.ignore": (0, 1),
    "distill.preflight": (0, inf),
    "train.epochs": (1, inf),
    "train.batch_size": (1, inf),
    "train.lr": (0, inf),
    "train.backbone_lr": (0, inf),
    "train.weight_decay": (0, inf),
    "train.momentum": (0, 1),
    "train.warmup": (0, inf),
    "train.ema": (0, 1),
    "train.clip": (0, inf),
    "train.accumulate": (1, inf),
    "train.early_stop": (0, inf),
    "train.judge_every": (1, inf),
    "train.save_every": (0, inf),
    "train.seed": (0, 2**31),
    "train.threads": (0, inf),
}


def _check_values(tree: dict[str, Any]) -> None:
    """Refuse a number that makes no sense, before anything begins."""
    for key, (least, most) in LIMITS.items():
        part, name = key.split(".")
        value = (tree.get(part) or {}).get(name)
        if value is not None and not least <= value <= most:
            upper = f" and at most {most:g}" if most < inf else ""
            raise ConfigError(f"{key}: {value} makes no sense; it is at least {least:g}{upper}.")


def _replacing_lists(argv: list[str]) -> list[str]:
    """The arguments, with each list of losses emptied before it is given anew.

    jsonargparse would lay the entries of a later list over those of an earlier one, so that a new
    term kept the weight of the old one in its place.
    """
    out: list[str] = []
    for at, word in enumerate(argv):
        is_list = word.partition("=")[0] == "--distill.losses"
        is_config = word == "--config" and "--config" in argv[:at]
        if is_list or (is_config and _has_losses(Path(argv[at + 1]))):
            out.append("--distill.losses=[]")
        out.append(word)
    return out


def _has_losses(config: Path) -> bool:
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    return "losses" in (tree.get("distill") or {})


def find_config(name: str) -> Path:
    """The config file `name`, or the one of that name that detkd brings along.

    Raises:
        ConfigError: there is none.
    """
    from detkd.shipped import shipped

    path = Path(name)
    if path.is_file():
        return path
    inside = shipped("configs", *[part for part in path.parts if part not in ("configs", "..")])
    if not path.is_absolute() and inside.is_file():
        return inside
    there = sorted(shipped("configs").glob("*/*.yaml"))
    near = difflib.get_close_matches(name, [f"configs/{p.parent.name}/{p.name}" for p in there], 1)
    hint = f"did you mean {near[0]}?" if near else "name a YAML file, such as one of configs/."
    raise ConfigError(f"{name}: no such config file; {hint}")


def _config_positions(argv: list[str]) -> list[int]:
    """Where the paths behind --config stand; `--config=PATH` is opened up first."""
    for at, word in enumerate(argv):
        if word.startswith("--config="):
            argv[at : at + 1] = ["--config", word.removeprefix("--config=")]
    return [at + 1 for at, word in enumerate(argv[:-1]) if word == "--config"]


def _check_file(name: str, kind: type[AnyExperiment]) -> Path:
    """A config file whose keys all exist."""
    path = find_config(name)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise ConfigError(f"{path}{line}: is not YAML; mend it there.") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds no keys; see configs/ for an example.")
    _check_keys(tree, kind, kind, path, "")
    return path


def _check_keys(
    tree: dict[str, Any], part: type, kind: type[AnyExperiment], path: Path | str, prefix: str
) -> None:
    known = {field.name: field for field in fields(part)}
    for key, value in tree.items():
        if key not in known:
            whole = f"{prefix}{key}"
            for other, command in COMMANDS.items():
                if other is not kind and whole in _all_keys(other):
                    raise ConfigError(
                        f"{path}: '{whole}' is a key of 'detkd {command}', and this is "
                        f"'detkd {COMMANDS[kind]}'; begin the other one, or take the key out."
                    )
            raise ConfigError(f"{path}: unknown key '{whole}'{_nearest(whole, _all_keys(kind))}")
        _check_part(f"{prefix}{key}", value, kind, path)


def _check_part(name: str, value: Any, kind: type[AnyExperiment], path: Path | str) -> None:
    """Refuse an unknown key in the part of that name, or in an entry of a list of such parts."""
    part = PARTS[kind].get(name)
    for item in value if isinstance(value, list) else [value]:
        if part and isinstance(item, dict):
            _check_keys(item, part, kind, path, f"{name}.")


def _check_flags(argv: list[str], kind: type[AnyExperiment]) -> None:
    """Refuse an unknown flag, with the nearest right one."""
    ours = ("config", "run", "resume", "suggest-weights", "print_config", "help")
    keys_of_terms = "distill.losses."
    flags = {*ours, *(key for key in _all_keys(kind) if not key.startswith(keys_of_terms))}
    for at, word in enumerate(argv):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.removesuffix("+")
            if name.startswith(keys_of_terms):
                raise ConfigError(
                    f"--{name}: each term of the list has this key, and one of them is not told "
                    "apart here; give the whole list, --distill.losses='[{name: kl, at: "
                    "[roi.logits], weight: 4}]', or edit the config."
                )
            if name not in flags:
                raise ConfigError(f"unknown option '--{name}'{_nearest(name, sorted(flags))}")
            if name in PARTS[kind]:
                given = value if equals else "".join(argv[at + 1 : at + 2])
                with suppress(yaml.YAMLError):  # what is no YAML is told later
                    _check_part(name, yaml.safe_load(given), kind, f"--{name}")


TERMS: dict[str, type] = {
    "distill.losses": TermConfig,
    "distill.losses.weight": PublishedWeight,
    "distill.losses.schedule": ScheduleConfig,
}
PARTS: dict[type[AnyExperiment], dict[str, type]] = {
    Experiment: {
        "data": DataConfig,
        "model": ModelConfig,
        "train": TrainConfig,
        "distill": DistillConfig,
        "distill.heads": HeadsConfig,
        "self_distill": ExitsConfig,
        **TERMS,
    },
    ClassifierExperiment: {
        "data": ClassDataConfig,
        "model": ClassifierConfig,
        "loss": LabelLossConfig,
        "train": TrainConfig,
        "distill": TeachConfig,
        "self_distill": SelfTeachConfig,
        **TERMS,
    },
}


COMMANDS: dict[type[AnyExperiment], str] = {
    Experiment: "train",
    ClassifierExperiment: "train-cls",
}


def _all_keys(kind: type[AnyExperiment]) -> list[str]:
    names = [field.name for field in fields(kind)]
    for prefix, part in PARTS[kind].items():
        names += [f"{prefix}.{field.name}" for field in fields(part) if is_dataclass(part)]
    return names


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    last = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
    if not near:
        words = difflib.get_close_matches(name.rsplit(".", 1)[-1], last, n=1, cutoff=0.5)
        near = [last[words[0]]] if words else []
    if near:
        return f"; did you mean '{near[0]}'?"
    return "; --help lists what there is."


def _sentence(message: str, argv: list[str]) -> str:
    """jsonargparse's message, which runs over several lines, as one sentence."""
    if deep := _deepest(message):
        return "".join(f"{argv[at]}: " for at in _config_positions([*argv])[:1]) + deep
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    text = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).rstrip(".")
    got = next((line for line in lines if "Got value" in line or "Got " in line), "")
    if got and got not in text:
        text += f": {got}"
    if "is required" in text or "required" in text:
        return f"{text}; give --config FILE, such as configs/synthetic/student.yaml."
    where = next((argv[at] for at in _config_positions([*argv])), None)
    return f"{where}: {text}" if where else text


def _deepest(message: str) -> str | None:
    """Of a value that is no list, or fits none of several types: its key, what fits, and it."""
    if "Union subtypes" not in message:
        no_list = re.search(r'key "([^"]+)":\s+Expected a <class .list.>. Got value: (.*)', message)
        if no_list is None:
            return None
        key, value = no_list.groups()
        return f"{key}: expected a list, such as [{value}], got '{value}'."
    keys: list[str] = []
    wanted: list[str] = []
    for line in (line.strip(" -") for line in message.splitlines()):
        expected, _, value = line.removeprefix("Expected a ").partition(". Got value: ")
        if line.startswith("Parser key "):
            keys, wanted = [*keys, line.split('"')[1]], []
        elif "arguments are required: " in line:
            return f"{'.'.join(keys)}: names no '{line.partition(': ')[2]}', which it needs."
        elif line.startswith("Expected a ") and value:
            return f"{'.'.join(keys)}: expected {_type(expected)}, got '{value}'."
        elif line.startswith("Expected a ") and "import path" not in line:
            wanted.append(_type(expected))
        elif line.startswith("Given value: "):
            given = line.partition(": ")[2]
            return f"{'.'.join(keys)}: expected {' or '.join(wanted) or 'another'}, got '{given}'."
    return None


def _type(name: str) -> str:
    """A type as jsonargparse prints it, in a word."""
    word = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", name)
    return word.replace("typing.Literal", "one of ")


def _formatter() -> type:
    from jsonargparse import DefaultHelpFormatter

    class Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Keep the examples' lines, and jsonargparse's types and defaults."""

    return typing.cast(type, Formatter)
