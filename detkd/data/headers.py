"""What an image's header says, without decoding: plain JPEG and PNG, in microseconds.

Whatever is unusual (EXIF, other kinds, odd markers) is left to Pillow, which `images` asks then.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # Windows would change ends of lines
TURNED = {5, 6, 7, 8}  # EXIF orientations that swap width and height
END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
LAST_PART = {"JPEG": b"\xff\xda", "PNG": b"IDAT"}  # what the pixels of each begin with
HEAD, TAIL = 8192, 4096  # bytes looked at
ENDS = 256  # bytes of each end that files are told apart by before they are compared as a whole
LARGEST = 80_000_000  # px: beyond, Pillow decides whether it is a decompression bomb
FRAMES = {0xC0, 0xC1, 0xC2}  # JPEG's baseline, extended and progressive frames
PLAIN = {*range(0xE0, 0xF0), 0xDB, 0xC4, 0xDD, 0xFE} - {0xE1}  # E1 may hold EXIF


class Measured(NamedTuple):
    """What the header of an image says.

    `width` and `height` are of the displayed frame, `stored` is the size before it is turned;
    `deep` are images of 16 bits and more. `warning` says that its end is missing.
    """

    width: int
    height: int
    stored: tuple[int, int]
    orientation: int
    format: str
    deep: bool
    warning: str | None
    ends: int = 0  # equal for files that begin and end alike, where these were looked at


def measure_plain(path: str) -> Measured | None:
    """The measures of a plain JPEG or PNG; None for anything else."""
    try:
        head, tail = _head_and_tail(path)
    except OSError:
        return None
    if head.startswith(b"\xff\xd8\xff"):
        kind, size, deep = "JPEG", _jpeg_size(head), False
    elif head.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") and len(head) >= 33:
        kind, size, deep = "PNG", _png_size(head), head[24] == 16
    else:
        return None
    if size is None or not 0 < size[0] * size[1] <= LARGEST:
        return None
    if kind == "PNG" and b"eXIf" in tail:
        return None
    ends = hash(head[:ENDS] + tail[-ENDS:])
    return Measured(*size, size, 1, kind, deep, cut_off(tail, kind), ends)


def _head_and_tail(path: str) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file, by the system's own calls: `open` costs twice that.

    Raises:
        OSError: it cannot be read.
    """
    handle = os.open(path, READ)
    try:
        head = os.read(handle, HEAD)
        if len(head) < HEAD:
            return head, head[-TAIL:]
        os.lseek(handle, max(0, os.lseek(handle, 0, os.SEEK_END) - TAIL), os.SEEK_SET)
        return head, os.read(handle, TAIL)
    finally:
        os.close(handle)


def cut_off(tail: bytes, kind: str) -> str | None:
    """The warning about a file whose last bytes hold no end of their kind."""
    # It has to come after the pixels: a thumbnail in the header has an end of its own.
    if tail.rfind(END_MARKERS[kind]) <= tail.rfind(LAST_PART[kind]):
        return "has no end marker: it is probably cut off"
    return None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Width and height from the frame header, if only plain segments come before it."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker in FRAMES:
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return width, height
        if marker not in PLAIN:
            return None
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def _png_size(head: bytes) -> tuple[int, int] | None:
    """Width and height, if the pixels begin in sight and no EXIF stands before them."""
    if b"IDAT" not in head or b"eXIf" in head or b"acTL" in head:
        return None
    width, height = struct.unpack(">II", head[16:24])
    return width, height
