"""Several trainings one after the other, or side by side where there are several devices.

Each is a process of its own, `detkd train` or `detkd train-cls`, so that one that fails takes no
other with it, and all memory of one is free for the next.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from detkd.engine.stops import on_signals
from detkd.engine.study import Task


def run_all(tasks: Sequence[Task], ended: Callable[[Task], None], jobs: int = 1) -> list[Task]:
    """Run what has not ended yet, and call `ended` after each; those that failed.

    A task whose teacher is missing has it trained first, even if its figures are known. What
    waits for a task that failed is not run, and counts as failed.

    Raises:
        ConfigError: a run folder holds a run of other settings.
        UserError: `ended` raised it; the other trainings have gone on all the same.
    """
    wanted = _with_teachers(tasks)
    for task in wanted:
        task.claim()
    slots: queue.Queue[str | None] = queue.Queue()
    devices: list[str | None] = [*devices_given()]
    for device in devices or [None]:
        for _ in range(jobs):
            slots.put(device)
    failed: list[Task] = []
    problems: list[Exception] = []
    for task in wanted:
        if task.done and task in tasks:
            ended(task)
    left = [task for task in wanted if not task.done]
    state = threading.Condition()
    processes: list[subprocess.Popen[bytes]] = []
    threads: list[threading.Thread] = []

    def work(task: Task, device: str | None, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        with state:
            print(f"{task.row}, seed {task.seed}: {'failed' if code else 'ended'}", flush=True)
            if code:
                failed.append(task)
            elif task in tasks:
                try:
                    ended(task)
                except Exception as error:  # told when all have ended: who waits must not hang
                    problems.append(error)
            slots.put(device)
            state.notify()

    def begin_all() -> None:
        with state:
            while left:
                for task in [task for task in left if task.after in failed]:
                    left.remove(task)
                    failed.append(task)
                ready = [task for task in left if task.after is None or task.after.done]
                if ready and not slots.empty():
                    left.remove(ready[0])
                    slot = slots.get()
                    processes.append(_train(ready[0], slot, jobs))
                    arguments = (ready[0], slot, processes[-1])
                    threads.append(threading.Thread(target=work, args=arguments))
                    threads[-1].start()
                elif left:
                    state.wait()

    try:
        with killing_is_ctrl_c():
            begin_all()
            for thread in threads:
                thread.join()
    except KeyboardInterrupt:
        for process in processes:
            if process.poll() is None:
                # Not Ctrl-C, which they ignore until they train if we were begun by `nohup ... &`.
                process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()
        raise KeyboardInterrupt("the same command goes on") from None
    if problems:
        raise problems[0]
    return failed


def killing_is_ctrl_c() -> AbstractContextManager[None]:
    """Inside, what `kill`, and a cluster whose time is up, send ends us as Ctrl-C does."""
    return on_signals([signal.SIGTERM], signal.default_int_handler)


def _with_teachers(tasks: Sequence[Task]) -> list[Task]:
    """The tasks, each after the one whose checkpoint it needs."""
    ordered: dict[tuple[str, int], Task] = {}

    def add(task: Task) -> None:
        if task.after and not task.done:
            add(task.after)
        ordered.setdefault((task.row, task.seed), task)

    for task in tasks:
        add(task)
    return list(ordered.values())


def devices_given() -> list[str]:
    """The GPUs that we may use, as CUDA_VISIBLE_DEVICES names them."""
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    count = torch.cuda.device_count()
    return given[:count] if given[0] else [str(at) for at in range(count)]


def _train(task: Task, device: str | None, jobs: int) -> subprocess.Popen[bytes]:
    """Begin one of `jobs` trainings on a device; what it says goes to RUN.log."""
    command = [sys.executable, "-m", "detkd", task.command, *task.arguments]
    if (task.run / "config.yaml").is_file():
        command.append("--resume")
    environment = dict(os.environ)
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    elif jobs > 1:  # torch gives each process all cores, and they would wait for each other
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    print(f"{task.row}, seed {task.seed}: begun", flush=True)
    task.run.parent.mkdir(parents=True, exist_ok=True)
    with task.run.with_name(f"{task.run.name}.log").open("a") as log:
        # In a session of its own: Ctrl-C reaches it once, from us.
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
