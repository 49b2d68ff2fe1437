"""Signals that ask a process to end: Ctrl-C, and the one that `kill` and clusters send."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_signals(
    signals: Sequence[signal.Signals], handler: Callable[[int, Any], Any]
) -> Iterator[None]:
    """Inside, `handler` takes these signals; outside of the main thread they are left alone."""
    try:
        before = [(each, signal.signal(each, handler)) for each in signals]
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for each, earlier in before:
            signal.signal(each, earlier)
