"""Trainings in processes that are forks of one that has imported detkd.

Imports take a process of its own several seconds, and these tests begin many. That a study begins
real ones is tested where one is stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import detkd

CONTEXT = multiprocessing.get_context("forkserver")
FLOORS = ("data", "distill", "engine", "evaluation", "models")
CONTEXT.set_forkserver_preload(
    [
        *("albumentations", "hotcoco", "jsonargparse", "matplotlib.pyplot"),
        "torch.utils.tensorboard",
        *(
            module.name
            for module in pkgutil.walk_packages(detkd.__path__, "detkd.")
            if module.name.split(".")[1] in FLOORS
        ),
    ]
)


class Fork:
    """`detkd ARGUMENTS` in a session of its own, which says all into the file `log`."""

    def __init__(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.log = log.resolve()
        place = (str(self.log), str(Path.cwd()), dict(environment))
        self._process = CONTEXT.Process(target=_run, args=([*map(str, arguments)], *place))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    def said(self) -> str:
        return self.log.read_text()

    def until(self, log: Path, text: str) -> None:
        """Wait until the log of its run holds this text; it may not end before."""
        deadline = time.monotonic() + 120
        while not (log.is_file() and text in log.read_text()):
            assert self.poll() is None, self.said()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def popen(
    command: Sequence[str],
    *,
    stdout: TextIO,
    stderr: TextIO,
    env: Mapping[str, str],
    start_new_session: bool,
) -> Fork:
    """Takes the place of `subprocess.Popen` for `python -m detkd ...`."""
    assert command[1:3] == ["-m", "detkd"] and stderr is stdout and start_new_session
    return Fork(command[3:], Path(stdout.name), env)


def _run(arguments: list[str], log: str, place: str, environment: dict[str, str]) -> None:
    from detkd.cli.app import main

    os.setsid()
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    into = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(into, stream)
    sys.argv = ["detkd", *arguments]
    sys.exit(main())
