"""The run folder: config, environment, log, checkpoints and plots of one training."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import yaml

from detkd.config import AnyExperiment
from detkd.errors import ConfigError
from detkd.files import locked, write_atomic

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# What changes nothing about the weights may differ between a run and its continuation.
FREE_KEYS = {("data", "cache"), ("data", "workers"), ("data", "images"), ("train", "save_every")}
# Keys that have come since runs and studies were begun: at these values nothing has changed.
NEW_KEYS: dict[tuple[str, ...], Any] = {
    ("model", "roi_features"): "plain",
    ("model", "roi_channels"): 10,
    ("model", "classifier"): "softmax",
    ("data", "group_gap"): 0.0,
}


class RunFolder:
    """`runs/NAME/`: what a training leaves behind, in files with fixed names."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"
        self.config = self.path / "config.yaml"
        self.log = self.path / "log.jsonl"
        self.metrics = self.path / "metrics.json"
        self.predictions = self.path / "predictions.json"
        self.plots = self.path / "plots"
        self.data = self.path / "data.txt"

    def open(self, experiment: AnyExperiment, *, resume: bool, data: str | None = None) -> None:
        """Begin a run, or go on with one.

        `data` is a digest of the images and boxes for training and validation.

        Raises:
            ConfigError: the folder holds a run already and `resume` is not asked for, or it is,
                and the config or the data have become others.
        """
        if resume and self.config.is_file():
            self._same(experiment)
            if not self.learned_from(data):
                raise ConfigError(
                    f"{self.path}: the run was begun with other images or boxes for training or "
                    "validation than there are now; put those back, or begin another with --run."
                )
        elif self.last.exists() or read_log(self):
            raise ConfigError(
                f"{self.path}: holds a run already; --resume goes on with it, --run FOLDER "
                "begins another."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.config, yaml.safe_dump(experiment.as_dict(), sort_keys=False))
        write_atomic(self.path / "environment.txt", environment())
        if data and not self.last.exists():
            write_atomic(self.data, data)

    def learned_from(self, data: str | None) -> bool:
        """Whether the run was begun with this data, as far as it is known of both."""
        return not data or not self.data.is_file() or self.data.read_text() == data

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process trains in this folder; one that is killed lets go of it.

        Raises:
            ConfigError: another process trains in it.
        """
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.path / ".lock", wait=False))
            except BlockingIOError as error:
                raise ConfigError(
                    f"{self.path}: another process trains in it; wait for it or stop it, or begin "
                    "another run with --run FOLDER."
                ) from error
            yield

    def _same(self, experiment: AnyExperiment) -> None:
        old = flattened(yaml.safe_load(self.config.read_text()) or {})
        new = flattened(experiment.as_dict())
        for key in sorted(old.keys() | new.keys()):
            before = old.get(key, NEW_KEYS.get(key))
            if key not in FREE_KEYS and before != new.get(key):
                raise ConfigError(
                    f"{self.config}: the run was begun with {'.'.join(key)} = {before!r}, "
                    f"and now it is {new.get(key)!r}; put it back, or begin another with --run."
                )


class Log:
    """One JSON line a step and a validation, and the same numbers for TensorBoard."""

    def __init__(self, run: RunFolder, *, since_step: int = 0) -> None:
        # Lines after the checkpoint that a run goes on from are written again.
        kept = [line for line in read_log(run) if line["step"] < since_step]
        write_atomic(run.log, "".join(json.dumps(line) + "\n" for line in kept))
        self.stream = run.log.open("a")
        self.writer = _tensorboard(run.path / "tensorboard", since_step)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        self.stream.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self.stream.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stream.close()
        self.writer.close()


def read_log(run: RunFolder) -> list[dict[str, Any]]:
    """The log's lines; one that a crash cut off is passed over."""
    lines = []
    if run.log.is_file():
        for text in run.log.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
    return lines


def environment() -> str:
    """Versions and devices, one a line, for the run folder and for bug reports."""
    import torch

    names = (
        "detkd",
        "torch",
        "torchvision",
        "timm",
        "lightning-fabric",
        "albumentations",
        "numpy",
        "opencv-python-headless",
        "pycocotools",
        "scikit-learn",
    )
    lines = [f"python {platform.python_version()} on {platform.platform()}"]
    for name in names:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name} is not installed")
    lines.append(f"{torch.get_num_threads()} CPU threads")
    for index in range(torch.cuda.device_count()):
        lines.append(f"cuda:{index} {torch.cuda.get_device_name(index)}")
    return "\n".join(lines) + "\n"


def _tensorboard(folder: Path, purge_step: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=purge_step or None)


def flattened(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        flat |= (
            flattened(value, (*prefix, key)) if isinstance(value, dict) else {(*prefix, key): value}
        )
    return flat
