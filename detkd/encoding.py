"""Text of annotation files, whatever wrote them: UTF-8, with or without mark, UTF-16, Windows."""

from __future__ import annotations

import codecs
from pathlib import Path

MARKS = {
    codecs.BOM_UTF8: ("utf-8-sig", "begins with a byte order mark"),
    codecs.BOM_UTF16_LE: ("utf-16", "is UTF-16"),
    codecs.BOM_UTF16_BE: ("utf-16", "is UTF-16"),
}


def encoding_of(path: Path) -> tuple[str, str]:
    """What a text is to be opened with, by the mark that it begins with, and what is unusual there.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(4)
    return next((said for mark, said in MARKS.items() if head.startswith(mark)), ("utf-8", ""))


def decode(data: bytes) -> tuple[str, str]:
    """The text, and what is unusual about how it was stored (nothing: an empty string).

    Every sequence of bytes is read as something: what is no UTF-8 as Windows' western letters,
    the encoding that spreadsheets and old tools write.
    """
    for mark, (name, said) in MARKS.items():
        if data.startswith(mark):
            return data.decode(name, errors="replace"), said
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), "is not UTF-8; read as Windows-1252"
