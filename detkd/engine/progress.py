"""What a person sees while a training runs: a live line on a terminal, a line an epoch in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Display:
    """Losses, time left and the last judgement of a training of `epochs` x `batches` steps."""

    def __init__(
        self, name: str, epochs: int, batches: int, visible: bool, scores: Sequence[str]
    ) -> None:
        self.scores = scores
        self.console = Console(file=sys.stderr, quiet=not visible)
        self.live = visible and self.console.is_terminal
        self.epochs, self.batches, self.name = epochs, batches, name
        self.total, self.epoch_began = 0.0, time.monotonic()
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.live,
        )
        self.task = self.bar.add_task(name, total=epochs * batches, epoch="-", loss="-", note="")

    def step(self, epoch: int, batch: int, losses: dict[str, float]) -> None:
        if batch == 1:
            self.total, self.epoch_began = 0.0, time.monotonic()
        self.total += sum(losses.values())
        self.bar.update(
            self.task,
            completed=epoch * self.batches + batch,
            epoch=f"{epoch + 1}/{self.epochs}",
            loss=f"{self.total / batch:.3f}",
        )

    def tell(self, what: str) -> None:
        self.console.print(f"{self.name} {what}", soft_wrap=True)

    def judging(self) -> None:
        self.bar.update(self.task, note="judging ...")

    def judged(self, epoch: int, metrics: dict[str, Any]) -> None:
        shown = "  ".join(
            f"{name} {metrics[name]:.3f}" for name in self.scores if metrics[name] is not None
        )
        self.bar.update(self.task, note=shown)
        if not self.live:
            seconds = time.monotonic() - self.epoch_began
            self.console.print(
                f"{self.name}  epoch {epoch}/{self.epochs}  loss {self.total / self.batches:.3f}  "
                f"{shown}  {seconds:.0f} s",
                soft_wrap=True,
            )

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()
