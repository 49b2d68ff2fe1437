"""Opening a COCO file that detkd is to rely on, for training and for judging."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from detkd.errors import DataError


def read_json(path: str | Path, remedy: str) -> Any:
    """The JSON document `path`; `remedy` ends the sentence where it is none.

    Raises:
        DataError: no such file, or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; {remedy}.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error}); {remedy}.") from error


def require_lists(
    document: Any, path: str | Path, wanted: Mapping[str, Iterable[str]], remedy: str
) -> dict[str, Any]:
    """The document, if it has the lists of `wanted` and each entry the keys that are wanted of it.

    Raises:
        DataError: with the first list or key that is not there.
    """
    for section, keys in wanted.items():
        entries = document.get(section) if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise DataError(
                f"{path}: is no COCO detection file: it has no list '{section}'; {remedy}."
            )
        for at, entry in enumerate(entries):
            for key in keys:
                if not isinstance(entry, dict) or key not in entry:
                    raise DataError(f"{path}: {section}[{at}] has no '{key}'; {remedy}.")
    return document
