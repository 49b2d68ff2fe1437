"""Writing that never leaves half a file behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def write_with(
    path: str | Path, write: Callable[[IO[bytes]], object], *, sync: bool = True
) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place of `path`.

    After a crash, a kill or a full disk, `path` holds either the old content or the new one.
    Waiting for the disk (`sync`) makes that true of a power failure, too; what can be made again
    need not.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path` as a whole or not at all."""
    data = content.encode() if isinstance(content, str) else content
    write_with(path, lambda stream: stream.write(data))


def write_json(path: str | Path, document: Any) -> None:
    """Write `document` as JSON to `path` as a whole or not at all; NaN is refused."""
    write_atomic(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of_tree(tree: Any) -> str:
    """Digest of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Inside, no other process is inside for the same `path`; one that is killed lets go of it.

    Raises:
        BlockingIOError: another process is, and `wait` is not asked for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to be filled, which takes the name `path` if all goes well.

    The folder is there complete, or not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield building
        building.chmod(0o777 & ~_umask())
        building.rename(path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
