"""The entries of a JSON array, one after the other, so that a long one needs no memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detkd.encoding import encoding_of

CHUNK = 1 << 18


def entries(path: Path) -> Iterator[Any]:
    """The entries of the array that a file holds, read as far as they are asked for.

    Raises:
        ValueError: not a JSON array; the entries before the fault have come.
        OSError: the file cannot be read.
    """
    decoder = json.JSONDecoder()
    with path.open(encoding=encoding_of(path)[0], errors="replace") as stream:
        text = stream.read(CHUNK).lstrip()
        if not text.startswith("["):
            raise ValueError("is no JSON array")
        text, size = text[1:], CHUNK
        while True:
            text = text.lstrip(" \t\r\n,")
            if text.startswith("]"):
                return
            try:
                entry, end = decoder.raw_decode(text)
            except RecursionError as error:
                raise ValueError("is nested too deep") from error
            except ValueError:
                more = stream.read(size)
                size *= 2  # a long entry is tried again a few times only
                if not more:
                    raise
                text += more
                continue
            yield entry
            text, size = text[end:], CHUNK
            if not text:
                text = stream.read(CHUNK)
