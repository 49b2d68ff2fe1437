#!/usr/bin/env python3
"""Find the objects of microscope frames with an exported detkd model, without torch.

    python runner.py frames/ --out found               a folder, with those below it
    python runner.py "frames/*.tif" --out found        a pattern, a file, a TIFF stack, a video
    python runner.py camera/ --out found --watch       a folder that a camera goes on filling

This file works alone in the exported folder, beside model.onnx and detkd.json. It needs numpy,
onnxruntime, and OpenCV or Pillow (TIFF needs Pillow, video OpenCV). It writes to OUT

    frames.csv    a row a frame: what became of it, and where its rows in results.csv end
    results.csv   a row a detection: class, score, xyxy in px of the frame, whether it counts
    results.json  the same as a COCO document, when all frames are done (--coco)
    run.json      the model and the settings
    drawn/        the frames with their boxes (--draw)

frames.csv is the journal: a run that was stopped, killed or without power goes on with the same
command where it stopped, and what was half-written then is cut off first.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import re
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

try:
    import cv2
except ImportError:
    cv2 = None  # type: ignore[assignment]
try:
    from PIL import Image, ImageDraw, ImageOps
except ImportError:
    Image = None  # type: ignore[assignment]

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv")
FRAME_COLUMNS = ("frame", "width", "height", "status", "detections", "end", "note")
RESULT_COLUMNS = ("frame", "class", "score", "x1", "y1", "x2", "y2", "counted")
FOUND, EMPTY, FAILED = "found", "empty", "failed"


class RefusedError(Exception):
    """Something that the person can mend; the message is one sentence that says how."""


class UnreadableError(Exception):
    """A frame that cannot be read; the message says why."""


# ------------------------------------------------------------------------------------- the model


class Detections(NamedTuple):
    """Boxes [D, 4] xyxy px, scores [D], and labels [D] from 1 on."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Model:
    """An exported folder, on the CPU; 0 threads are as many as there are cores.

    `variant` is one of the faster forms that the export kept: int8, fp16 or openvino. `origin` is
    what run.json says of it: the version of detkd that exported it, its training and its file.
    `proof` says how far it was compared with its checkpoint, if that is less than in full; one that
    differed is refused unless `unproven` ones are asked for.
    """

    def __init__(
        self, folder: Path, threads: int = 0, variant: str = "", unproven: bool = False
    ) -> None:
        self.proof = proof_of(folder, unproven)
        try:
            said = json.loads((folder / "detkd.json").read_text(encoding="utf-8"))
            self.classes: list[str] = [str(name) for name in said["classes"]]
            self.image_size = int(said["image_size"])
            self.thresholds = np.array([float(said["thresholds"][c]) for c in self.classes])
            self.um_per_px: float | None = said.get("um_per_px")
            self.shapes: dict[str, str] = said.get("shapes") or {}
            levels = said.get("sixteen_bit")
            self.levels = (float(levels["low"]), float(levels["high"])) if levels else None
            kept = said.get("variants") or {}
            if variant and variant not in kept:
                there = f"there are {', '.join(kept)}" if kept else "the export kept none"
                raise RefusedError(f"--variant: {folder} has no '{variant}'; {there}.")
            self.size: list[int] | None = kept[variant]["size"] if variant else None
            path = folder / Path(str(said["model"])).name
            if variant:
                path = folder / "variants" / Path(str(kept[variant]["file"])).name
            trained = str(said["training"]["config"]["name"])
            self.origin = {"detkd": str(said["detkd"]), "model": f"{trained} ({path.name})"}
        except FileNotFoundError as error:
            raise RefusedError(
                f"{folder}: holds no detkd.json; name an exported folder."
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = f"{folder}/detkd.json: cannot be used ({error}); export again."
            raise RefusedError(why) from error
        self.digest = digest_of(path)
        try:
            self._run = (
                open_openvino(path, threads) if path.suffix == ".xml" else open_onnx(path, threads)
            )
        except RefusedError:
            raise
        except Exception as error:  # what the runtimes raise is no part of their interfaces
            why = " ".join(str(error).split())[:200]
            raise RefusedError(f"{path}: cannot be loaded ({why}); export again.") from error

    def detect(self, frame: np.ndarray) -> Detections:
        """Of one resized frame [3, H, W] float32, RGB from 0 to 1."""
        if self.size is not None and list(frame.shape[1:]) != self.size:
            height, width = frame.shape[1:]
            raise RefusedError(
                f"this form of the model takes frames of {self.size[1]}x{self.size[0]} px when "
                f"they are resized, and here is one of {width}x{height}; leave --variant out."
            )
        boxes, scores, labels, count = self._run(frame[None])
        number = int(count[0])
        return Detections(boxes[0, :number], scores[0, :number], labels[0, :number])


def digest_of(path: Path) -> str:
    """SHA-256 of a model's file, and of its weights where they lie beside it, as OpenVINO's do."""
    digest = hashlib.sha256()
    for each in (path, path.with_suffix(".bin")):
        digest.update(each.read_bytes() if each.is_file() else b"")
    return digest.hexdigest()


Runtime = Callable[[np.ndarray], Sequence[np.ndarray]]  # frames: boxes, scores, labels, counts


def open_onnx(path: Path, threads: int) -> Runtime:
    try:
        import onnxruntime
    except ImportError as error:
        raise RefusedError("onnxruntime is not installed: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return lambda frames: session.run(None, {"frames": frames})


def open_openvino(path: Path, threads: int) -> Runtime:
    try:
        import openvino
    except ImportError as error:
        raise RefusedError("OpenVINO is not installed: pip install openvino") from error
    # Single precision is what was measured; its own choice would be a faster, coarser one.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    settings |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()

    def run(frames: np.ndarray) -> list[np.ndarray]:
        found = request.infer({"frames": frames})
        return [found[at].copy() for at in range(4)]

    return run


def proof_of(folder: Path, unproven: bool) -> str:
    """What a person should know of the comparison in parity.json; nothing if it is in order.

    Raises:
        RefusedError: the model differed from its checkpoint.
    """
    try:
        said = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
        faults = "; ".join(map(str, said.get("faults", []))) or "parity.json names the frames"
        left_out = "; ".join(map(str, said.get("left_out", [])))
        verdict = said.get("verdict", "passed" if said["passed"] else "failed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{folder}/parity.json: is missing or broken; nothing says that the model is right"
    if verdict == "failed":
        why = f"the model in {folder} does not find what its checkpoint finds ({faults})"
        if not unproven:
            raise RefusedError(f"{why}; export again, or use it all the same with --unproven.")
        return why
    return f"the model in {folder} was compared in part, without {left_out}" if left_out else ""


# --------------------------------------------------------------------- from a file to an RGB image


class Frame(NamedTuple):
    """A frame's name below the source, and how to get its RGB pixels [H, W, 3], 8 or 16 bit.

    Of a stack or a video it can be loaded until the next frame is asked for.
    """

    name: str
    load: Callable[[], np.ndarray]


def frames_of(path: Path, name: str, every: int = 1, done: Container[str] = ()) -> Iterator[Frame]:
    """An image, the pages of a TIFF stack (`a.tif#page=2`), the frames of a video (`#frame=2`).

    Of a stack or a video, only each `every`th. Where it is cut off, a last frame says so. What a
    file is, its first bytes say, and of a video its name. One whose last frame is `done` has none.
    """
    if path.suffix.lower() in VIDEOS:
        yield from _frames_of_video(path, name, every, done)
    elif _first_bytes(path, 4) in TIFFS:
        yield from _frames_of_tiff(path, name, every)
    else:
        yield Frame(name, lambda: read_image(path))


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except OSError:  # reading it will say why
        return b""


def read_image(path: Path) -> np.ndarray:
    """The displayed frame of a file of one image (EXIF orientation applied), as RGB."""
    if not path.is_file():
        raise UnreadableError("is not there")
    if is_whole(path) is False:
        raise UnreadableError("is cut off or damaged: its parts do not lead to its end")
    if cv2 is not None:
        return _read_with_opencv(path)
    _needs(Image, "reading images", "opencv-python-headless or pillow")
    head = _first_bytes(path, 26)
    if head.startswith(b"\x89PNG") and head[24:25] == b"\x10" and head[25] != 0:
        _needs(cv2, "reading 16-bit colour PNG", "opencv-python-headless")
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16-bit grey
                return _from_grey(np.asarray(ImageOps.exif_transpose(image)))
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow's plugins raise anything on broken files
        raise UnreadableError(f"is no image that can be decoded ({error})") from error


def _read_with_opencv(path: Path) -> np.ndarray:
    data = np.fromfile(path, np.uint8)  # it crashes where it gets a name that is not UTF-8
    with said_on_stderr() as said:
        try:
            pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        except cv2.error:  # more pixels than it dares to decode
            pixels = None
    if pixels is None:
        raise UnreadableError("is no image that can be decoded")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UnreadableError(f"has pixels of {pixels.dtype}; 8 and 16 bits are read")
    if damage := _damage(said, data):
        raise UnreadableError(f"is damaged ({damage})")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


@contextlib.contextmanager
def said_on_stderr() -> Iterator[list[str]]:
    """What a C library writes to stderr meanwhile: nowhere else does libjpeg tell of damage."""
    said: list[str] = []
    try:
        usual = os.dup(2)
    except OSError:  # there is no stderr
        yield said
        return
    heard, spoken = os.pipe()
    for end in (heard, spoken):
        with contextlib.suppress(AttributeError, OSError):  # Windows; what fills a pipe is lost
            os.set_blocking(end, False)
    os.dup2(spoken, 2)
    try:
        yield said
    finally:
        os.dup2(usual, 2)
        os.close(usual)
        os.close(spoken)
        with os.fdopen(heard, errors="replace") as stream:
            said += stream.read().splitlines()


def _damage(said: Sequence[str], data: np.ndarray) -> str:
    """What libjpeg said of a damaged JPEG; some cameras pad good ones, which is no damage."""
    for line in said:
        if "Corrupt JPEG data" in line or "Premature end of JPEG" in line:
            extra = re.search(r"(\d+) extraneous bytes before marker 0xd9", line)
            padding = data.tobytes()[: _end_of_jpeg(data.tobytes()) - 2] if extra else b""
            if extra is None or padding[-int(extra[1]) :].strip(b"\0"):
                return line.strip()
    return ""


def _frames_of_tiff(path: Path, name: str, every: int) -> Iterator[Frame]:
    try:
        _needs(Image, "reading TIFF", "pillow")
        pages, end = whole_pages(path)
        if not pages:
            raise UnreadableError(end)
        image = Image.open(path)
    except Exception as error:  # Pillow's plugins raise anything on broken files
        yield Frame(name, _raising(f"is no TIFF that can be decoded ({error})"))
        return
    with image:
        for page in range(0, pages, every):
            mark = f"#page={page + 1}" if pages > 1 or end else ""
            yield Frame(name + mark, partial(_read_tiff, image, path, page))
        if end:
            yield Frame(f"{name}#page={pages + 1}", _raising(f"the stack is cut off here ({end})"))


# By a TIFF's first bytes, the order of its bytes, and how many make a place in it.
TIFFS = {b"II*\0": ("<", 4), b"MM\0*": (">", 4), b"II+\0": ("<", 8), b"MM\0+": (">", 8)}
TIFF_NUMBERS = {3: ("H", 2), 4: ("I", 4), 16: ("Q", 8)}  # by the kind of an entry
STRIPS = ((273, 279), (324, 325))  # entries with the places and lengths of a page's strips or tiles


def whole_pages(path: Path) -> tuple[int, str]:
    """How many pages of a TIFF stack are all there, and what is wrong behind them, if anything.

    Of a page, its entries and its strips must lie within the file.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)

        def part(at: int, length: int) -> bytes:
            if at + length > size:
                raise UnreadableError(f"it should go on behind the file's {size:,} bytes")
            stream.seek(at)
            return stream.read(length)

        order, wide = TIFFS[part(0, 4)]
        place, count = ("I", "H") if wide == 4 else ("Q", "Q")
        entry = struct.Struct(f"{order}HH{place}{wide}s")
        seen: set[int] = set()
        try:
            [at] = struct.unpack(order + place, part(wide, wide))
            while at:
                if at in seen:
                    raise UnreadableError("its pages go round in a circle")
                [number] = struct.unpack(order + count, part(at, struct.calcsize(count)))
                table = part(at + struct.calcsize(count), number * entry.size + wide)
                values: dict[int, Sequence[int]] = {}
                for tag, kind, number, inside in entry.iter_unpack(table[:-wide]):
                    if kind in TIFF_NUMBERS and any(tag in pair for pair in STRIPS):
                        code, length = TIFF_NUMBERS[kind]
                        if number * length > wide:
                            [begin] = struct.unpack(order + place, inside)
                            inside = part(begin, number * length)
                        values[tag] = struct.unpack_from(f"{order}{number}{code}", inside)
                for starts, lengths in STRIPS:
                    for strip in zip(values.get(starts, ()), values.get(lengths, ()), strict=False):
                        part(sum(strip), 0)
                seen.add(at)
                [at] = struct.unpack(order + place, table[-wide:])
        except (UnreadableError, struct.error) as error:
            return len(seen), str(error)
    return len(seen), "" if seen else "it has no page"


def _read_tiff(image: Any, path: Path, page: int) -> np.ndarray:
    """Pillow reads TIFF, for OpenCV refuses turned and float ones; OpenCV 16-bit colour."""
    try:
        image.seek(page)
        bits = getattr(image, "tag_v2", {}).get(258, (8,))
        if image.mode[0] in "IF":
            return _from_grey(np.asarray(image))
        if max(bits) <= 8:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's plugins raise anything on broken files
        raise UnreadableError(f"is no TIFF that can be decoded ({error})") from error
    _needs(cv2, "reading 16-bit colour TIFF", "opencv-python-headless")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    stack = np.memmap(path, np.uint8, "r")  # of which only the page is read
    found, pages = cv2.imdecodemulti(stack, flags, range=(page, page + 1))
    if not found or not pages:
        raise UnreadableError("is no TIFF that can be decoded")
    return cv2.cvtColor(pages[0], cv2.COLOR_BGR2RGB)


def _from_grey(grey: np.ndarray) -> np.ndarray:
    """16-bit grey, or float: up to 1 it is stretched over 16 bits, otherwise cut to them."""
    if np.issubdtype(grey.dtype, np.floating):
        grey = np.nan_to_num(grey)
        grey = grey * 65535 if grey.max(initial=0) <= 1 else grey
    return np.repeat(grey.clip(0, 65535).astype(np.uint16)[..., None], 3, axis=2)


def _frames_of_video(path: Path, name: str, every: int, done: Container[str]) -> Iterator[Frame]:
    if cv2 is None:
        need = "a library that is not installed: pip install opencv-python-headless"
        yield Frame(name, _raising(f"reading video needs {need}"))
        return
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            yield Frame(name, _raising("is no video that can be decoded"))
            return
        said = video.get(cv2.CAP_PROP_FRAME_COUNT)  # not above 0 where the file does not say
        if said > 0 and f"{name}#frame={(int(said) - 1) // every * every + 1}" in done:
            return
        number = 0
        while video.grab():  # one that is done already is passed over without decoding it
            number += 1
            if (number - 1) % every == 0:
                yield Frame(f"{name}#frame={number}", partial(_retrieved, video))
        if number < max(1, said - 1):  # some count one too many
            why = f"the video ends here, and says that it has {said:.0f} frames"
            yield Frame(f"{name}#frame={number + 1}", _raising(why if number else "has no frame"))
    finally:
        video.release()


def _retrieved(video: Any) -> np.ndarray:
    found, pixels = video.retrieve()
    if not found:
        raise UnreadableError("is no frame that can be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _raising(why: str) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        raise UnreadableError(why)

    return load


def is_whole(path: Path) -> bool | None:
    """Whether a file is all there, with whatever behind it; None where its format does not say.

    What it is, its first bytes say: names may be wrong. Nothing is not whole.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        first = stream.read(12)
        stream.seek(0)
        if first[:2] == b"\xff\xd8":
            return _end_of_jpeg(stream.read()) > 0
        if first[:4] == b"\x89PNG":
            return _png_is_whole(stream)
        if first[:4] in TIFFS:
            return not whole_pages(path)[1]
        if first[:4] == b"RIFF":  # AVI and WebP; an AVI that is being written says 0
            return 0 < int.from_bytes(first[4:8], "little") <= size - 8
        if first[4:8] == b"ftyp":
            return _mp4_is_whole(stream, size)
        return None if first else False


MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # those of the others lie in a scan


def _end_of_jpeg(data: bytes) -> int:
    """Where the image ends, by its markers; 0 if it does not."""
    at = 2
    while found := MARKER.search(data, at):
        at = found.end()
        if found[1] == b"\xd9":
            return at
        at += int.from_bytes(data[at : at + 2], "big")
    return 0


def _png_is_whole(stream: IO[bytes]) -> bool:
    """Whether its chunks, with right checksums, lead to the last one."""
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        data = stream.read(int.from_bytes(head[:4], "big"))
        if stream.read(4) != zlib.crc32(head[4:] + data).to_bytes(4, "big"):
            return False
        if head[4:] == b"IEND":
            return True
    return False


def _mp4_is_whole(stream: IO[bytes], size: int) -> bool:
    """Whether its boxes lie in the file, and the one is among them that says what there is."""
    at, known = 0, False
    while at + 8 <= size:
        stream.seek(at)
        head = stream.read(16)
        length = int.from_bytes(head[:4], "big") or size - at
        known |= head[4:8] == b"moov"
        at += max(8, int.from_bytes(head[8:], "big") if length == 1 else length)
    return known and at <= size


def _needs(module: Any, what: str, package: str) -> None:
    if module is None:
        raise UnreadableError(
            f"{what} needs a library that is not installed: pip install {package}"
        )


def eight_bit(image: np.ndarray, levels: tuple[float, float] | None) -> np.ndarray:
    """16 bits between the training data's levels, or divided by 256 where it had none."""
    if image.dtype == np.uint8:
        return image
    if levels is None:
        return (image >> 8).astype(np.uint8)
    low, high = levels
    table = (np.arange(65536) - low) * (255 / max(high - low, 1))
    return table.clip(0, 255).round().astype(np.uint8)[image]


def resized_size(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height with the longest side of `longest` px."""
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resized(image: np.ndarray, longest: int) -> np.ndarray:
    """So that the longest side is `longest` px: shrunk by area, enlarged linearly."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale == 1:
        return image
    size = resized_size(width, height, longest)
    if cv2 is not None:
        rule = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return cv2.resize(image, size, interpolation=rule)
    rule = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize(size, rule))


# ------------------------------------------------------------------------------------------ tiles


class Tile(NamedTuple):
    """A part of a frame: xyxy in px."""

    x1: int
    y1: int
    x2: int
    y2: int


SAME = 0.5  # IoU from which on two boxes, as far as both tiles see them, are of one object
SAY = 0.5  # share of an object's best score from which on a box has a say in it
# Px of the network's own frame within which a box touches a side. What a side cuts off does not
# always end at it: with 1.5, as many such boxes were missed as whole cells were taken for cut ones.
NEAR = 1.5
WITHIN = 0.4  # share of a cut box inside another tile's box from which on it is a piece of it


def tiles_of(width: int, height: int, side: int, overlap: int) -> list[Tile]:
    """Tiles of at most `side` px that cover a frame, neighbours sharing at least `overlap` px."""
    columns, rows = (_starts(length, side, overlap) for length in (width, height))
    return [Tile(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(at * (length - side) / (count - 1)) for at in range(count)]


def merge(found: Sequence[Detections], tiles: Sequence[Tile], margin: float) -> Detections:
    """The detections of a frame's tiles, each object once; boxes in px of the frame.

    Two boxes of two tiles are one object if they agree on what both tiles see of it: the IoU of
    the boxes, clipped to the tiles' shared part, is at least SAME. A tile's box has one partner in
    another tile at most, the best pairs first, and an object one box a tile at most. Boxes of less
    than SAY of an object's best score have no say in it. Of the others, the best of those stays
    that end at no inner side of their tile (within `margin` px); if all of them do, the box around
    them. A box that ends at an inner side and has no partner leaves if it lies in another tile's
    box: it is a piece.
    """
    tile_of = np.repeat(np.arange(len(tiles)), [len(each.scores) for each in found])
    boxes, scores, labels = (np.concatenate(part) for part in zip(*found, strict=True))
    whole = _depths(boxes, tile_of, tiles) > margin
    groups: list[set[int]] = [{at} for at in range(len(boxes))]
    for first, second in _partners(boxes, scores, labels, tile_of, tiles):
        one, other = groups[first], groups[second]
        if one is not other and not {tile_of[a] for a in one} & {tile_of[b] for b in other}:
            one |= other
            for at in other:
                groups[at] = one
    kept: list[tuple[np.ndarray, float, int]] = []
    pieces: list[tuple[int, int]] = []
    owners: list[set[int]] = []
    for group in {id(each): each for each in groups}.values():
        least = SAY * max(scores[at] for at in group)
        heard = sorted(at for at in group if scores[at] >= least)
        best = max(heard, key=lambda at: (whole[at], scores[at]))
        box = boxes[best]
        if not whole[best]:
            box = np.concatenate([boxes[heard, :2].min(0), boxes[heard, 2:].max(0)])
            if len(heard) == 1:
                pieces.append((len(kept), int(tile_of[best])))
        kept.append((box, float(scores[best]), int(labels[best])))
        owners.append({int(tile_of[at]) for at in group})
    merged = Detections(
        np.array([box for box, _, _ in kept], dtype=np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in kept], dtype=np.float32),
        np.array([label for _, _, label in kept], dtype=np.int64),
    )
    gone = [at for at, tile in pieces if _is_piece(at, tile, merged, owners)]
    order = np.argsort(-merged.scores, kind="stable")
    order = order[~np.isin(order, gone)]
    return Detections(*(part[order] for part in merged))


def _depths(boxes: np.ndarray, tile_of: np.ndarray, tiles: Sequence[Tile]) -> np.ndarray:
    """How far in px each box is from the sides of its tile that other tiles lie behind."""
    right, bottom = max(tile.x2 for tile in tiles), max(tile.y2 for tile in tiles)
    own = np.array(tiles, dtype=float).reshape(-1, 4)[tile_of]
    gaps = np.stack(
        [
            np.where(own[:, 0] > 0, boxes[:, 0] - own[:, 0], np.inf),
            np.where(own[:, 1] > 0, boxes[:, 1] - own[:, 1], np.inf),
            np.where(own[:, 2] < right, own[:, 2] - boxes[:, 2], np.inf),
            np.where(own[:, 3] < bottom, own[:, 3] - boxes[:, 3], np.inf),
        ]
    )
    return gaps.min(axis=0) if len(boxes) else np.empty(0)


def _partners(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    tile_of: np.ndarray,
    tiles: Sequence[Tile],
) -> list[tuple[int, int]]:
    """Pairs of boxes of two tiles that agree where both tiles see, the best first.

    A pair is as good as its IoU times its lower score, so that no junk comes between two good
    boxes, and a fifth less if it is of two classes.
    """
    pairs: list[tuple[float, int, int]] = []
    busy = np.unique(tile_of)
    members = [np.flatnonzero(tile_of == tile) for tile in busy]
    sides = np.array(tiles).reshape(-1, 4)[busy]
    for at, ours in enumerate(members):
        shared_parts = _clipped(sides[at + 1 :], sides[at])
        for after in np.flatnonzero(_areas(shared_parts)):
            shared = shared_parts[after]
            theirs = members[at + 1 + after]
            agreement = overlaps(_clipped(boxes[ours], shared), _clipped(boxes[theirs], shared))
            rows, columns = np.where(agreement >= SAME)
            worth = agreement[rows, columns] * np.minimum(
                scores[ours[rows]], scores[theirs[columns]]
            )
            worth = np.where(labels[ours[rows]] == labels[theirs[columns]], worth, 0.8 * worth)
            taken: set[int] = set()
            for rank, row, column in sorted(zip(-worth, rows, columns, strict=True)):
                a, b = int(ours[row]), int(theirs[column])
                if a not in taken and b not in taken:
                    taken |= {a, b}
                    pairs.append((rank, a, b))
    return [(a, b) for _, a, b in sorted(pairs)]


def _clipped(boxes: np.ndarray, part: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [np.maximum(boxes[:, :2], part[:2]), np.minimum(boxes[:, 2:], part[2:])], axis=1
    )


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1)


def overlaps(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Intersection over union [M, N] of boxes [M, 4] and [N, 4]; 0 for those of no size."""
    corners = np.maximum(ours[:, None, :2], theirs[:, :2])
    both = (np.minimum(ours[:, None, 2:], theirs[:, 2:]) - corners).clip(0).prod(axis=-1)
    union = _areas(ours)[:, None] + _areas(theirs) - both
    return np.where(union > 0, both / np.maximum(union, 1e-9), 0.0)


def _is_piece(at: int, tile: int, merged: Detections, owners: Sequence[set[int]]) -> bool:
    boxes, scores = merged.boxes, merged.scores
    inside = _areas(_clipped(boxes, boxes[at])) / max(float(_areas(boxes[at])), 1e-9)
    larger = (_areas(boxes) > _areas(boxes[at])) & (scores >= SAY * scores[at])
    return any(tile not in owners[other] for other in np.where(larger & (inside >= WITHIN))[0])


# ------------------------------------------------------------------------------------ one frame


@dataclass(frozen=True)
class Settings:
    """What decides what is found; a run goes on only with the settings it began with."""

    keep: float = 0.05  # lowest score that is written
    tile: int = 0  # side in px of the parts that large frames are cut into; 0: not cut
    overlap: int = 0  # px that neighbouring tiles share
    edges: bool = False  # objects that touch the left or upper side do not count
    skip_empty: float = 0.0  # frames less busy than this are not looked at; 0: all are
    every: int = 1  # of a stack or a video, only each such frame is looked at


class Found(NamedTuple):
    """What became of a frame: FOUND, EMPTY or FAILED, and the detections that are kept."""

    status: str
    width: int
    height: int
    detections: Detections
    counted: np.ndarray
    note: str = ""


NONE = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))


def look_at(frame: Frame, model: Any, settings: Settings) -> tuple[Found, np.ndarray | None]:
    """What is found on a frame, and its 8-bit pixels."""
    try:
        image = eight_bit(frame.load(), model.levels)
    except Exception as error:  # what the decoders raise on broken files is no part of them
        why = str(error) or type(error).__name__
        return Found(FAILED, 0, 0, NONE, np.empty(0, bool), why), None
    height, width = image.shape[:2]
    if settings.skip_empty and busyness(image) < settings.skip_empty:
        return Found(EMPTY, width, height, NONE, np.empty(0, bool)), image
    side = settings.tile or max(width, height)  # px that are shown as the network's longest side
    tiles = tiles_of(width, height, side, settings.overlap)
    parts = [_detect(image, tile, side, model, settings.keep) for tile in tiles]
    margin = NEAR * side / model.image_size
    found = merge(parts, tiles, margin) if len(tiles) > 1 else parts[0]
    counted = found.scores >= model.thresholds[found.labels - 1]
    if settings.edges:
        counted &= inside_counting_frame(found.boxes, margin)
    return Found(FOUND, width, height, found, counted), image


def _detect(frame: np.ndarray, tile: Tile, side: int, model: Any, keep: float) -> Detections:
    """What a tile shows that counts or is to be kept, in px of the frame.

    A tile below `side` px is shown smaller than the network's own size, at the scale of the others.
    """
    image = frame[tile.y1 : tile.y2, tile.x1 : tile.x2]
    longest = max(image.shape[:2])
    small = resized(image, max(1, round(model.image_size * longest / side)))
    pixels = np.ascontiguousarray(small.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
    found = model.detect(pixels)
    kept = found.scores >= np.minimum(model.thresholds[found.labels - 1], keep)
    found = Detections(*(part[kept] for part in found))
    scale = [image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]]
    boxes = found.boxes * np.array(scale * 2, np.float32)
    boxes = boxes + np.array([tile.x1, tile.y1] * 2, np.float32)
    return Detections(boxes, found.scores, found.labels)


def inside_counting_frame(boxes: np.ndarray, margin: float) -> np.ndarray:
    """Whether each box counts: it must not touch the left or the upper side of the frame.

    Of two sides in and two out (Gundersen 1977), so that an object on the border between two
    neighbouring fields counts once; those that touch the right or the lower side do count.
    """
    return (boxes[:, 0] > margin) & (boxes[:, 1] > margin)


CELLS = 32  # a side of the grid on which a frame is looked at for anything at all


def busyness(image: np.ndarray) -> float:
    """The greatest step between neighbouring parts of a frame, in spreads of its noise.

    With b the mean grey of each cell of a grid of 32 by 32, and d the differences of neighbouring
    pixels:  max |b − b'| / (1.4826 · median |d| / √2 + 1), over neighbouring cells b, b'. An even
    frame, bright, dark or noisy, is below 1, also if one side of it is brighter; one with a single
    object is not, nor is one that is full of them. Off unless asked for.
    """
    grey = image.mean(axis=2)
    rows, columns = (np.linspace(0, n, min(n, CELLS) + 1).astype(int) for n in grey.shape)
    sums = np.add.reduceat(np.add.reduceat(grey, rows[:-1], axis=0), columns[:-1], axis=1)
    means = sums / np.outer(np.diff(rows), np.diff(columns))
    steps = [np.abs(np.diff(means, axis=axis)).max(initial=0) for axis in (0, 1)]
    pixels = np.abs(np.diff(grey, axis=1))
    noise = 1.4826 * np.median(pixels) / 2**0.5 if pixels.size else 0.0
    return float(max(steps) / (noise + 1))


# ---------------------------------------------------------------------------------------- journal


# Of run.json, what a run must go on with.
AGREED = (
    "images",
    "digest",
    "settings",
    "thresholds",
    "um_per_px",
    "image_size",
    "sixteen_bit",
)


class Journal:
    """What is done, on disk: results.csv, and frames.csv that says how far results.csv is good.

    Rows are kept back for at most `seconds`, then written and synced: first the results, then the
    frames that they are of. So what frames.csv says is there is there, whenever the power fails.
    `failed` has the frames that could not be read, and why: they are not done, and tried again.
    """

    def __init__(self, out: Path, about: dict[str, Any], seconds: float = 1.0) -> None:
        self.out, self.seconds = out, seconds
        out.mkdir(parents=True, exist_ok=True)
        self._frames = (out / "frames.csv").open("a+b")
        self._lock()
        self._agree(about)
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        frames_end, results_end = self._read()
        self._results = (out / "results.csv").open("a+b")
        for stream, end, columns in (
            (self._frames, frames_end, FRAME_COLUMNS),
            (self._results, results_end, RESULT_COLUMNS),
        ):
            stream.truncate(end)
            if not end:
                stream.write(_line(columns))
                stream.flush()
        sync_folder(out)
        sync_folder(out.parent)
        self._end = os.fstat(self._results.fileno()).st_size
        self._waiting: tuple[list[bytes], list[bytes]] = ([], [])  # results, frames
        self._broken_off = False
        self._last = time.monotonic()

    def _lock(self) -> None:
        """One program at a time writes to a folder; a lock of one that was killed is gone."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._frames, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            why = f"{self.out}: another run writes there now; choose another --out."
            raise RefusedError(why) from error

    def _agree(self, about: dict[str, Any]) -> None:
        path = self.out / "run.json"
        if not path.exists():
            for name in ("frames.csv", "results.csv"):
                there = self.out / name
                if there.exists() and there.stat().st_size:
                    raise RefusedError(f"{there}: was not written by a run; choose another --out.")
            write_whole(path, json.dumps(about, indent=1).encode())
            sync_folder(self.out)
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        for key in AGREED:
            if before.get(key) != about[key]:
                what = "a model of another digest" if key == "digest" else f"other {key}"
                raise RefusedError(
                    f"{self.out}: was begun with {what} ({_short(before.get(key))}, now "
                    f"{_short(about[key])}); go on with those, or choose another --out."
                )

    def _read(self) -> tuple[int, int]:
        """Where the good part of frames.csv and of results.csv ends, in bytes."""
        good, end, header = 0, 0, _line(FRAME_COLUMNS)
        with _Rows(self.out / "results.csv") as results:
            self._frames.seek(0)
            for at, line in enumerate(self._frames):
                if at == 0:
                    if line == header:
                        good, end = len(line), len(_line(RESULT_COLUMNS))
                    continue
                if not good:  # a header that was torn has no rows behind it
                    raise RefusedError(self._saved_by_others("frames.csv"))
                row = _row(line)
                if row is None or not end <= int(row["end"]) <= results.size:
                    break
                good, end = good + len(line), int(row["end"])
                if not results.ends_at(end):
                    raise RefusedError(self._saved_by_others("results.csv"))
                self._settle(row["frame"], row["note"] if row["status"] == FAILED else None)
            return (good, end) if end <= results.size else (0, 0)

    def _saved_by_others(self, name: str) -> str:
        return (
            f"{self.out}/{name}: its lines are not as a run writes them (was it saved by a "
            "spreadsheet?), so the run cannot go on; choose another --out."
        )

    def _settle(self, name: str, failed: str | None) -> None:
        if failed is None:
            self.done.add(name)
            self.failed.pop(name, None)
        else:
            self.failed[name] = failed

    def add(self, name: str, found: Found, classes: Sequence[str]) -> None:
        for box, score, label, counted in zip(*found.detections, found.counted, strict=True):
            sides = [f"{side:.2f}" for side in box.tolist()]
            line = _line([name, classes[int(label) - 1], f"{score:.5f}", *sides, int(counted)])
            self._waiting[0].append(line)
            self._end += len(line)
        note = " ".join(found.note.split())
        if found.status != FAILED or self.failed.get(name) != note:
            about = (found.width, found.height, found.status, len(found.detections.scores))
            self._waiting[1].append(_line((name, *about, self._end, note)))
        self._settle(name, note if found.status == FAILED else None)
        self.commit_if_due()

    def commit_if_due(self) -> None:
        if self._waiting[1] and time.monotonic() - self._last >= self.seconds:
            self.commit()

    def commit(self) -> None:
        """Write and sync what was kept back.

        Nothing more once that was broken off: what is half-written then, the next run cuts off.
        """
        if self._broken_off:
            return
        self._broken_off = True
        for stream, rows in zip((self._results, self._frames), self._waiting, strict=True):
            stream.write(b"".join(rows))
            stream.flush()
            os.fsync(stream.fileno())
            rows.clear()
        self._broken_off = False
        self._last = time.monotonic()

    def close(self) -> None:
        for stream in (self._results, self._frames):
            with contextlib.suppress(OSError):
                stream.close()


def _line(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _row(line: bytes) -> dict[str, str] | None:
    """A row of frames.csv; None for one that was torn."""
    try:
        [values] = csv.reader([line.decode()])
        row = dict(zip(FRAME_COLUMNS, values, strict=True))
        return row if line.endswith(b"\n") and row["end"].isdecimal() else None
    except (ValueError, csv.Error):
        return None


class _Rows(contextlib.AbstractContextManager["_Rows"]):
    """Where rows of results.csv end; a run has written `size` bytes of it, or none."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb") if path.exists() else io.BytesIO()
        self.size = self._stream.seek(0, os.SEEK_END)
        self._stream.seek(0)
        self._header = self._stream.read(len(_line(RESULT_COLUMNS)))

    def ends_at(self, end: int) -> bool:
        self._stream.seek(end - 1)
        return self._stream.read(1) == b"\n" and self._header == _line(RESULT_COLUMNS)

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:76]} ..."


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file to be written, which then takes the name `path`: never half of it."""
    temporary = path.with_name(".part")  # OUT is one run's alone: see Journal
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """A file's name is on disk when its folder is, where folders can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Write `path` as a whole or not at all."""
    with replacing(path) as stream:
        stream.write(data)


# ---------------------------------------------------------------------------- sources of frames


def source_of(text: str) -> tuple[Path, Iterator[Path]]:
    """The folder that names are told from, and the files: of a folder, a pattern, or one file."""
    path = Path(text)
    if path.is_dir():
        return path, files_below(path)
    if path.is_file():
        return path.parent, iter([path])
    if not glob.has_magic(text):
        raise RefusedError(f"{text}: there is no such file or folder.")
    plain = re.split(r"[*?\[]", text, maxsplit=1)[0]
    root = Path(plain if plain.endswith(os.sep) else Path(f"{plain}x").parent)
    found = (Path(each) for each in sorted(glob.glob(text, recursive=True)))  # noqa: PTH207
    return root, (
        each
        for each in found
        if each.suffix.lower() in IMAGES + VIDEOS and not _lies_in_a_run(each, root)
    )


def _lies_in_a_run(path: Path, root: Path) -> bool:
    inner = list(path.parents)[: len(path.parts) - len(root.parts) - 1]
    return any(_is_of_a_run(folder) for folder in inner)


def _is_of_a_run(folder: Path) -> bool:
    """Whether a run wrote it, so that its pictures are no frames."""
    return (folder / "run.json").exists() and (folder / "frames.csv").exists()


def files_below(folder: Path) -> Iterator[Path]:
    """Images and videos in a folder and below, by name; links to folders are not followed.

    What a run has written is passed over.
    """
    folders, files = set(), []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.add(entry.name)
                elif not entry.name.lower().endswith(IMAGES + VIDEOS):
                    continue
                elif entry.is_file(follow_symlinks=False):
                    files.append(entry.name)
    except OSError:  # a folder that cannot be opened holds nothing for us
        return
    for name in sorted([*folders, *files]):
        if name not in folders:
            yield folder / name
        elif not _is_of_a_run(folder / name):
            yield from files_below(folder / name)


def name_below(path: Path, root: Path) -> str:
    """As the tables have it: with /, and without what a table cannot hold."""
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    name = name.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", "\N{REPLACEMENT CHARACTER}", name)


Mark = tuple[int, int]  # size and time of a file
GROWING = (".tif", ".tiff", *VIDEOS)


def arriving(root: Path, *, settle: float, idle: float, done: set[str]) -> Iterator[Path | None]:
    """Files of a folder that goes on filling, each once, when it is complete.

    It is when its size and time have not changed for `settle` seconds and it is all there, as far
    as its format tells; where it does not tell or lacks something, ten times as long is waited. One
    that failed and then changes is taken again, and so is a stack or a video that goes on.
    Ends when nothing came for `idle` seconds (0: never); None is said before each pause.
    """
    waiting: dict[str, tuple[Mark, float]] = {}  # what is not complete yet, and since when
    taken: dict[str, Mark] = {}
    last = time.monotonic()
    while True:
        now, before, waiting = time.monotonic(), waiting, {}
        for path in files_below(root):
            name = name_below(path, root)
            if name in done and not name.lower().endswith(GROWING):
                continue
            try:
                seen = path.stat()
            except OSError:
                continue  # gone again
            mark = seen.st_size, seen.st_mtime_ns
            if taken.get(name) == mark or (name in done and name not in taken):
                continue
            known, since = before.get(name, (None, now))
            waited = now - since
            if known != mark:
                waiting[name] = mark, now
                last = now
            elif waited >= settle and (waited >= 10 * settle or _is_readable(path)):
                taken[name] = mark
                last = now
                yield path
            else:
                waiting[name] = mark, since
        if idle and not waiting and time.monotonic() - last >= idle:
            return
        yield None
        # A folder of very many files is looked at for a sixth of the time at most.
        time.sleep(max(min(0.5, settle / 4 + 0.01), 5 * (time.monotonic() - now)))


def _is_readable(path: Path) -> bool:
    try:
        return is_whole(path) is True
    except OSError:  # held by the program that writes it, or gone
        return False


# ------------------------------------------------------------------------------- what comes of it


def write_coco(out: Path, classes: Sequence[str]) -> None:
    """results.json of the two tables: a COCO document whose annotations have scores."""
    with replacing(out / "results.json") as raw:
        stream = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
        names = [{"id": at, "name": name} for at, name in enumerate(classes, start=1)]
        stream.write(f'{{"categories": {json.dumps(names)},\n"images": [')
        ids: dict[str, int] = {}
        for row in _rows(out / "frames.csv"):
            if row["status"] == FAILED:
                continue
            ids[row["frame"]] = number = len(ids) + 1
            size = {"width": int(row["width"]), "height": int(row["height"])}
            image = {"id": number, "file_name": row["frame"], **size}
            stream.write(f"{',' if number > 1 else ''}\n{json.dumps(image)}")
        stream.write('],\n"annotations": [')
        label = {name: at for at, name in enumerate(classes, start=1)}
        for at, row in enumerate(_rows(out / "results.csv"), start=1):
            x1, y1, x2, y2 = (float(row[side]) for side in ("x1", "y1", "x2", "y2"))
            width, height = round(x2 - x1, 2), round(y2 - y1, 2)
            box = {
                "id": at,
                "image_id": ids[row["frame"]],
                "category_id": label[row["class"]],
                "bbox": [x1, y1, width, height],
                "area": round(width * height, 2),
                "iscrowd": 0,
                "score": float(row["score"]),
                "counted": row["counted"] == "1",
            }
            stream.write(f"{',' if at > 1 else ''}\n{json.dumps(box)}")
        stream.write("]}\n")
        stream.detach()


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


COLOURS = ((230, 60, 60), (40, 120, 220), (20, 150, 60), (200, 120, 0), (150, 60, 190))


def picture_name(frame: str) -> Path:
    """Where a frame's picture lies below drawn/: in folders as the frame's own."""
    parts = [part for part in frame.split("/") if part.strip(".")]
    if len(parts[-1].encode()) > 240:  # and names have no more than 255 bytes
        parts[-1] = hashlib.sha256(parts[-1].encode()).hexdigest()
    return Path(*parts[:-1], f"{parts[-1]}.jpg")


def draw(image: np.ndarray, found: Found, classes: Sequence[str]) -> bytes:
    """The frame as JPEG with the boxes that count, a colour a class."""
    chosen = np.where(found.counted)[0]
    rows = [
        (
            [round(side) for side in found.detections.boxes[at].tolist()],
            COLOURS[int(found.detections.labels[at]) % len(COLOURS)],
            f"{classes[int(found.detections.labels[at]) - 1]} {found.detections.scores[at]:.2f}",
        )
        for at in chosen
    ]
    thick = max(1, round(max(image.shape[:2]) / 600))
    if cv2 is not None:
        canvas = np.ascontiguousarray(image[..., ::-1])
        for (x1, y1, x2, y2), colour, text in rows:
            cv2.rectangle(canvas, (x1, y1), (x2, y2), colour[::-1], thick)
            place = (x1, max(12 * thick, y1 - 4))
            cv2.putText(canvas, text, place, 0, 0.45 * thick, colour[::-1], thick, cv2.LINE_AA)
        return cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    for (x1, y1, x2, y2), colour, text in rows:
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=thick)
        pen.text((x1, max(0, y1 - 12)), text, fill=colour)
    stream = io.BytesIO()
    canvas.save(stream, "JPEG", quality=90)
    return stream.getvalue()


# -------------------------------------------------------------------------------------- the run


@dataclass
class Tally:
    """How many frames there were of each kind, and what counts on them."""

    found: int = 0
    empty: int = 0
    failed: int = 0
    before: int = 0
    counted: int = 0

    @property
    def done(self) -> int:
        return self.found + self.empty + self.failed


@contextlib.contextmanager
def _frames_of_any_size() -> Iterator[None]:
    """Pillow reads a scanned slide, which is large and no attack, and is quiet about what we say.

    After it, Pillow is as it was: `detkd` has other uses of it in the same process.
    """
    if Image is None:
        yield
        return
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = most


@_frames_of_any_size()
def run(model: Any, options: argparse.Namespace, say: Callable[[str], None]) -> Tally:
    """Every frame of the source that is not done yet, into the journal.

    Raises:
        RefusedError: source, model, settings or OUT cannot be used.
    """
    files: Iterable[Path | None]
    root, files = source_of(options.source)
    settings = settings_of(options)
    about = {
        **model.origin,
        "images": str(root.resolve()),
        "digest": model.digest,
        "settings": vars(settings),
        "thresholds": dict(zip(model.classes, model.thresholds.tolist(), strict=True)),
        "classes": list(model.classes),
        "um_per_px": options.um_per_px or model.um_per_px,
        "shapes": model.shapes,
        "image_size": model.image_size,
        "sixteen_bit": list(model.levels) if model.levels else None,
    }
    if options.out.resolve() == root.resolve():
        raise RefusedError(f"--out: {options.out} holds the frames; name another folder.")
    if options.watch and not Path(options.source).is_dir():
        raise RefusedError(f"--watch: {options.source} is no folder.")
    total = 0
    if not options.watch:
        total = sum(1 for _ in source_of(options.source)[1])
        first = next(iter(files), None)
        if first is None:
            raise RefusedError(
                f"{options.source}: there is no image or video; their names end in "
                f"{', '.join(IMAGES + VIDEOS)}."
            )
        files = chain([first], files)
    journal = Journal(options.out, about)
    tally = Tally(before=len(journal.done))
    if options.watch:
        files = arriving(root, settle=options.settle, idle=options.idle, done=journal.done)
    begun = shown = time.monotonic()
    place = worked = 0  # files that were passed, and those of them that took time
    try:
        for path in files:
            if path is None:
                journal.commit_if_due()
                continue
            place, done_before = place + 1, tally.done
            for frame in frames_of(path, name_below(path, root), options.every, journal.done):
                # A stack that has grown had a first page without a number.
                if {frame.name, frame.name.removesuffix("#page=1")} & journal.done:
                    continue
                found, image = look_at(frame, model, settings)
                _note(tally, found, frame.name, say)
                if options.draw and image is not None:
                    target = options.out / "drawn" / picture_name(frame.name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    write_whole(target, draw(image, found, model.classes))
                journal.add(frame.name, found, model.classes)
                if time.monotonic() - shown >= 2:
                    shown = time.monotonic()
                    said = f"{tally.done} frames, {tally.done / (shown - begun):.1f} a second"
                    say(said + time_left(shown - begun, worked, place, total))
            worked += tally.done > done_before
        journal.commit()
    except KeyboardInterrupt:
        journal.commit()
        raise
    finally:
        journal.close()
    if options.coco:
        write_coco(options.out, model.classes)
    return tally


def time_left(seconds: float, worked: int, place: int, total: int) -> str:
    """At the file `place` of a `total` that is known, when `worked` files have taken `seconds`."""
    if not total:
        return ""
    minutes = seconds / max(1, worked) * (total - place) / 60
    return f"; file {place:,} of {total:,}, about {minutes:.0f} minutes left"


def _note(tally: Tally, found: Found, name: str, say: Callable[[str], None]) -> None:
    setattr(tally, found.status, getattr(tally, found.status) + 1)
    tally.counted += int(found.counted.sum())
    if found.status == FAILED:
        say(f"{name}: {found.note}; passed over")


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that a person typed.

    Raises:
        RefusedError: they make no sense.
    """
    overlap = options.tile // 4 if options.overlap is None else options.overlap
    if options.tile < 0 or (options.tile and not 0 <= overlap <= options.tile // 2):
        raise RefusedError(
            f"--tile {options.tile} --overlap {overlap}: give a side in px above 0, and an overlap "
            "of at most half of it."
        )
    if not 0 <= options.keep <= 1:
        raise RefusedError(f"--keep: {options.keep} is no score from 0 to 1.")
    for name in ("skip_empty", "settle", "idle", "threads"):
        if not 0 <= getattr(options, name) < float("inf"):
            raise RefusedError(
                f"--{name.replace('_', '-')}: {getattr(options, name)}; give a number from 0 on."
            )
    if options.every < 1:
        raise RefusedError(f"--every: {options.every}; give 1 or more.")
    if options.um_per_px is not None and not 0 < options.um_per_px < float("inf"):
        raise RefusedError(
            f"--um-per-px: {options.um_per_px} is no scale; give µm a pixel, above 0."
        )
    return Settings(
        options.keep,
        options.tile,
        overlap if options.tile else 0,
        options.edges,
        options.skip_empty,
        options.every,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the runner and `detkd predict` share."""
    add = parser.add_argument
    add("source", help="an image, TIFF stack, video, folder or pattern of frames")
    add("--out", required=True, type=Path, help="the folder to write to, or to go on with")
    add("--watch", action="store_true", help="go on with files that come into the folder")
    add(
        "--settle",
        type=float,
        default=2.0,
        metavar="S",
        help="with --watch: a file is complete when it did not change for S seconds (2)",
    )
    add(
        "--idle",
        type=float,
        default=0.0,
        metavar="S",
        help="with --watch: end when nothing came for S seconds (never)",
    )
    add(
        "--tile",
        type=int,
        default=0,
        metavar="PX",
        help="cut larger frames into tiles of PX px, each seen at the model's own size",
    )
    add(
        "--overlap",
        type=int,
        metavar="PX",
        help="px that neighbouring tiles share: at least the largest object (a quarter tile)",
    )
    add(
        "--edges",
        action="store_true",
        help="do not count objects that touch the left or upper side (counting frame)",
    )
    add("--every", type=int, default=1, metavar="N", help="only each Nth frame of a video or stack")
    add("--keep", type=float, default=0.05, metavar="SCORE", help="lowest score written (0.05)")
    add(
        "--skip-empty",
        type=float,
        default=0.0,
        metavar="X",
        help="pass over frames less busy than X, untested by the model (off)",
    )
    add("--um-per-px", type=float, metavar="UM", help="scale of the frames, if not the model's")
    add("--draw", action="store_true", help="write the frames with their boxes to OUT/drawn")
    add("--coco", action="store_true", help="write results.json (COCO) at the end")
    add("--threads", type=int, default=0, help="threads of the model (all)")
    add("--unproven", action="store_true", help="use a model that failed its comparison, too")
    add("--variant", default="", help="a faster form that the export kept: int8, fp16, openvino")


def summary(tally: Tally, out: Path) -> str:
    """What a person is told at the end."""
    parts = [f"{tally.done} frames", f"{tally.counted} objects counted"]
    parts += [f"{tally.empty} passed over as empty"] if tally.empty else []
    parts += [f"{tally.failed} could not be read"] if tally.failed else []
    before = f", besides {tally.before} frames that were done before" if tally.before else ""
    return f"{', '.join(parts)}{before}: {out}/results.csv"


def main(argv: Sequence[str] | None = None) -> int:
    """Ends 0; 1 if frames could not be read; 2 if refused; 130 if interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument(
        "--model", type=Path, default=Path(__file__).parent, help="the exported folder (this one)"
    )
    options = parser.parse_args(argv)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        model = Model(options.model, options.threads, options.variant, options.unproven)
        if model.proof:
            say(model.proof)
        tally = run(model, options, say)
    except RefusedError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("interrupted; the same command goes on")
        return 130
    except OSError as error:
        say(f"error: {error.filename or options.out}: {error.strerror}; mend it, then run again.")
        return 2
    print(summary(tally, options.out))
    return 1 if tally.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
