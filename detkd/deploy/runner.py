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
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
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
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
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


def frames_of(path: Path, name: str, every: int = 1) -> Iterator[Frame]:
    """An image, the pages of a TIFF stack (`a.tif#page=2`), the frames of a video (`#frame=2`).

    Of a stack or a video, only each `every`th. Where it is cut off, a last frame says so.
    """
    suffix = path.suffix.lower()
    if suffix in VIDEOS:
        yield from _frames_of_video(path, name, every)
    elif suffix in (".tif", ".tiff"):
        yield from _frames_of_tiff(path, name, every)
    else:
        yield Frame(name, lambda: read_image(path))


def read_image(path: Path) -> np.ndarray:
    """The displayed frame of a file of one image (EXIF orientation applied), as RGB."""
    if not path.is_file():
        raise UnreadableError("is not there")
    if not is_whole(path):
        raise UnreadableError("is cut off: its end marker is missing")
    if cv2 is not None:
        try:
            pixels = cv2.imdecode(_bytes_of(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        except cv2.error:  # more pixels than it dares to decode
            pixels = None
        if pixels is None:
            raise UnreadableError("is no image that can be decoded")
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    _needs(Image, "reading images", "opencv-python-headless or pillow")
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16-bit grey
                return _from_grey(np.asarray(ImageOps.exif_transpose(image)))
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow's plugins raise anything on broken files
        raise UnreadableError(f"is no image that can be decoded ({error})") from error


def _bytes_of(path: Path) -> np.ndarray:
    """A file for OpenCV, which crashes where it gets a name that is not UTF-8."""
    return np.fromfile(path, np.uint8)


def _frames_of_tiff(path: Path, name: str, every: int) -> Iterator[Frame]:
    _needs(Image, "reading TIFF", "pillow")
    try:
        image = Image.open(path)
    except Exception as error:  # Pillow's plugins raise anything on broken files
        yield Frame(name, _raising(f"is no TIFF that can be decoded ({error})"))
        return
    with image:
        pages, end = _count_pages(image)
        for page in range(0, pages, every):
            mark = f"#page={page + 1}" if pages > 1 or end else ""
            yield Frame(name + mark, partial(_read_tiff, image, path, page))
        if end:
            yield Frame(f"{name}#page={pages + 1}", _raising(f"the stack is cut off here ({end})"))


def _count_pages(image: Any) -> tuple[int, str]:
    """How many pages of a stack can be found, and why there are no more if it is broken."""
    pages = 1
    try:
        while True:
            image.seek(pages)
            pages += 1
    except EOFError:
        return pages, ""
    except Exception as error:
        return pages, str(error) or type(error).__name__


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
    found, pages = cv2.imdecodemulti(_bytes_of(path), flags, range=(page, page + 1))
    if not found or not pages:
        raise UnreadableError("is no TIFF that can be decoded")
    return cv2.cvtColor(pages[0], cv2.COLOR_BGR2RGB)


def _from_grey(grey: np.ndarray) -> np.ndarray:
    """16-bit grey, or float: up to 1 it is stretched over 16 bits, otherwise cut to them."""
    if np.issubdtype(grey.dtype, np.floating):
        grey = np.nan_to_num(grey)
        grey = grey * 65535 if grey.max(initial=0) <= 1 else grey
    return np.repeat(grey.clip(0, 65535).astype(np.uint16)[..., None], 3, axis=2)


def _frames_of_video(path: Path, name: str, every: int) -> Iterator[Frame]:
    _needs(cv2, "reading video", "opencv-python-headless")
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            yield Frame(name, _raising("is no video that can be decoded"))
            return
        said = video.get(cv2.CAP_PROP_FRAME_COUNT)  # not above 0 where the file does not say
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


def is_whole(path: Path) -> bool:
    """Whether a JPEG or PNG has its end marker; other formats have none. Nothing is no image.

    What a file is, its first bytes say: names may be wrong.
    """
    with path.open("rb") as stream:
        first = stream.read(2)
        marker = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}.get(first, b"")
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 4096))
        return bool(first) and marker in stream.read()


def _needs(module: Any, what: str, package: str) -> None:
    if module is None:
        raise RefusedError(f"{what} needs a library that is not installed: pip install {package}")


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
    another tile at most, the best pairs first, and an object one box a tile at most. Of an
    object's boxes the one farthest from its tile's inner sides stays; if all of them end at one
    (within `margin` px), the box around them. A box that ends at an inner side and has no partner
    leaves if it lies in another tile's box: it is a piece.
    """
    tile_of = np.repeat(np.arange(len(tiles)), [len(each.scores) for each in found])
    boxes, scores, labels = (np.concatenate(part) for part in zip(*found, strict=True))
    depth = _depths(boxes, tile_of, tiles)
    groups: list[set[int]] = [{at} for at in range(len(boxes))]
    for first, second in _partners(boxes, labels, tile_of, tiles):
        one, other = groups[first], groups[second]
        if one is not other and not {tile_of[a] for a in one} & {tile_of[b] for b in other}:
            one |= other
            for at in other:
                groups[at] = one
    kept: list[tuple[np.ndarray, float, int]] = []
    pieces: list[tuple[int, int]] = []
    owners: list[set[int]] = []
    for group in {id(each): each for each in groups}.values():
        best = max(group, key=lambda at: (depth[at], scores[at]))
        members = sorted(group)
        box = boxes[best]
        if depth[best] <= margin:
            box = np.concatenate([boxes[members, :2].min(0), boxes[members, 2:].max(0)])
            if len(members) == 1:
                pieces.append((len(kept), int(tile_of[best])))
            else:
                best = max(group, key=lambda at: scores[at])
        kept.append((box, float(scores[best]), int(labels[best])))
        owners.append({int(tile_of[at]) for at in members})
    merged = Detections(
        np.array([box for box, _, _ in kept], dtype=np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in kept], dtype=np.float32),
        np.array([label for _, _, label in kept], dtype=np.int64),
    )
    gone = [at for at, tile in pieces if _is_piece(at, tile, merged.boxes, owners)]
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
    boxes: np.ndarray, labels: np.ndarray, tile_of: np.ndarray, tiles: Sequence[Tile]
) -> list[tuple[int, int]]:
    """Pairs of boxes of two tiles that agree where both tiles see, the best first."""
    pairs: list[tuple[float, int, int]] = []
    for one, first in enumerate(tiles):
        for other in range(one + 1, len(tiles)):
            second = tiles[other]
            corner = max(first.x1, second.x1), max(first.y1, second.y1)
            shared = np.array([*corner, min(first.x2, second.x2), min(first.y2, second.y2)])
            if (shared[2:] <= shared[:2]).any():
                continue
            ours, theirs = np.where(tile_of == one)[0], np.where(tile_of == other)[0]
            agreement = overlaps(_clipped(boxes[ours], shared), _clipped(boxes[theirs], shared))
            taken: set[int] = set()
            rows, columns = np.where(agreement >= SAME)
            alike = labels[ours[rows]] == labels[theirs[columns]]
            ranked = sorted(zip(-(agreement[rows, columns] + alike), rows, columns, strict=True))
            for rank, row, column in ranked:
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


def _is_piece(at: int, tile: int, boxes: np.ndarray, owners: Sequence[set[int]]) -> bool:
    box = boxes[at]
    inside = _areas(_clipped(boxes, box)) / max(float(_areas(box)), 1e-9)
    others = np.array([tile not in owner for owner in owners])
    others &= _areas(boxes) > _areas(box)
    return bool((others & (inside >= WITHIN)).any())


# ------------------------------------------------------------------------------------ one frame


@dataclass(frozen=True)
class Settings:
    """What decides what is found; a run goes on only with the settings it began with."""

    keep: float = 0.05  # lowest score that is written
    tile: int = 0  # side in px of the parts that large frames are cut into; 0: not cut
    overlap: int = 0  # px that neighbouring tiles share
    edges: bool = False  # objects that touch the left or upper side do not count
    skip_empty: float = 0.0  # frames less busy than this are not looked at; 0: all are


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
    except (UnreadableError, OSError) as error:
        return Found(FAILED, 0, 0, NONE, np.empty(0, bool), str(error)), None
    height, width = image.shape[:2]
    if settings.skip_empty and busyness(image) < settings.skip_empty:
        return Found(EMPTY, width, height, NONE, np.empty(0, bool)), image
    side = settings.tile or max(width, height)
    tiles = tiles_of(width, height, side, settings.overlap)
    parts = [_detect(image[t.y1 : t.y2, t.x1 : t.x2], t, model) for t in tiles]
    # A box that ends within a px of the network's own frame ends at the tile's side.
    margin = 1.5 * min(side, max(width, height)) / model.image_size
    found = merge(parts, tiles, margin) if len(tiles) > 1 else parts[0]
    counted = found.scores >= model.thresholds[found.labels - 1]
    kept = counted | (found.scores >= settings.keep)
    found, counted = Detections(*(part[kept] for part in found)), counted[kept]
    if settings.edges:
        counted &= inside_counting_frame(found.boxes, max(1.0, margin))
    return Found(FOUND, width, height, found, counted), image


def _detect(image: np.ndarray, tile: Tile, model: Any) -> Detections:
    small = resized(image, model.image_size)
    pixels = np.ascontiguousarray(small.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
    found = model.detect(pixels)
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


class Journal:
    """What is done, on disk: results.csv, and frames.csv that says how far results.csv is good.

    Rows are kept back for at most `seconds`, then written and synced: first the results, then the
    frames that they are of. So what frames.csv says is there is there, whenever the power fails.
    """

    def __init__(self, out: Path, about: dict[str, Any], seconds: float = 1.0) -> None:
        self.out, self.seconds = out, seconds
        out.mkdir(parents=True, exist_ok=True)
        self._frames = (out / "frames.csv").open("a+b")
        self._lock()
        self._agree(about)
        self.done: set[str] = set()
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
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        for key in ("images", "digest", "settings", "thresholds", "um_per_px"):
            if before.get(key) != about[key]:
                what = "a model of another digest" if key == "digest" else f"other {key}"
                raise RefusedError(
                    f"{self.out}: was begun with {what} ({_short(before.get(key))}, now "
                    f"{_short(about[key])}); go on with those, or choose another --out."
                )

    def _read(self) -> tuple[int, int]:
        """Where the good part of frames.csv and of results.csv ends, in bytes."""
        there = self.out / "results.csv"
        size = there.stat().st_size if there.exists() else 0
        good, end, header = 0, 0, _line(FRAME_COLUMNS)
        self._frames.seek(0)
        for at, line in enumerate(self._frames):
            if at == 0:
                if line == header:
                    good, end = len(line), len(_line(RESULT_COLUMNS))
                continue
            if not good:  # a header that was torn has no rows behind it
                raise RefusedError(
                    f"{self.out}/frames.csv: its first line is not what a run writes (was it saved "
                    "by a spreadsheet?), so the run cannot go on; choose another --out."
                )
            row = _row(line)
            if row is None or not end <= row[1] <= size:
                break
            good, end = good + len(line), row[1]
            self.done.add(row[0])
        return (good, end) if end <= size else (0, 0)

    def add(self, name: str, found: Found, classes: Sequence[str]) -> None:
        for box, score, label, counted in zip(*found.detections, found.counted, strict=True):
            sides = [f"{side:.2f}" for side in box.tolist()]
            line = _line([name, classes[int(label) - 1], f"{score:.5f}", *sides, int(counted)])
            self._waiting[0].append(line)
            self._end += len(line)
        about = (found.width, found.height, found.status, len(found.detections.scores))
        self._waiting[1].append(_line((name, *about, self._end, " ".join(found.note.split()))))
        self.done.add(name)
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


def _row(line: bytes) -> tuple[str, int] | None:
    """The name and the end of a row of frames.csv; None for a row that was torn."""
    try:
        [values] = csv.reader([line.decode()])
        row = dict(zip(FRAME_COLUMNS, values, strict=True))
        return (row["frame"], int(row["end"])) if line.endswith(b"\n") else None
    except (ValueError, csv.Error):
        return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:76]} ..."


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file to be written, which then takes the name `path`: never half of it."""
    temporary = path.with_name(f".{path.name}.part")  # OUT is one run's alone: see Journal
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
        if each.suffix.lower() in IMAGES + VIDEOS and not _of_a_run(each, root)
    )


def _of_a_run(path: Path, root: Path) -> bool:
    """Whether a run wrote it: a folder between it and the root holds tables."""
    inner = list(path.parents)[: len(path.parts) - len(root.parts) - 1]
    return any((folder / "frames.csv").exists() for folder in inner)


def files_below(folder: Path) -> Iterator[Path]:
    """Images and videos in a folder and below, by name; links to folders are not followed."""
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
        elif not (folder / name / "frames.csv").exists():  # what a run wrote
            yield from files_below(folder / name)


def name_below(path: Path, root: Path) -> str:
    """As the tables have it: with /, and without what a table cannot hold."""
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    name = name.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", "\N{REPLACEMENT CHARACTER}", name)


def arriving(root: Path, *, settle: float, idle: float, done: set[str]) -> Iterator[Path | None]:
    """Files of a folder that goes on filling, each once, when it is complete.

    It is when its size and time have not changed for `settle` seconds and, for JPEG and PNG, its
    end marker is there; one that lacks it for ten times as long is taken as it is, and will fail.
    Ends when nothing came for `idle` seconds (0: never); None is said before each pause.
    """
    state: dict[str, tuple[tuple[int, int], float]] = {}  # of files that are not complete yet
    taken: set[str] = set()
    last = time.monotonic()
    while True:
        now = time.monotonic()
        for path in files_below(root):
            name = name_below(path, root)
            if name in done or name in taken:
                continue
            try:
                seen = path.stat()
            except OSError:
                continue  # gone again
            mark = seen.st_size, seen.st_mtime_ns
            known, since = state.get(name, (None, now))
            if known != mark:
                state[name] = mark, now
                last = now
                continue
            waited = now - since
            if waited >= settle and (waited >= 10 * settle or _is_readable(path)):
                state.pop(name)
                taken.add(name)
                last = now
                yield path
        if idle and not state and time.monotonic() - last >= idle:
            return
        yield None
        time.sleep(min(0.5, settle / 4 + 0.01))


def _is_readable(path: Path) -> bool:
    try:
        return is_whole(path)
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
    }
    if options.out.resolve() == root.resolve():
        raise RefusedError(f"--out: {options.out} holds the frames; name another folder.")
    if options.watch and not Path(options.source).is_dir():
        raise RefusedError(f"--watch: {options.source} is no folder.")
    if not options.watch:
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
    try:
        for path in files:
            if path is None:
                journal.commit_if_due()
                continue
            for frame in frames_of(path, name_below(path, root), options.every):
                if frame.name in journal.done:
                    continue
                found, image = look_at(frame, model, settings)
                _note(tally, found, frame.name, say)
                if options.draw and image is not None:
                    target = options.out / "drawn" / (frame.name.replace("/", "__") + ".jpg")
                    target.parent.mkdir(exist_ok=True)
                    write_whole(target, draw(image, found, model.classes))
                journal.add(frame.name, found, model.classes)
                if time.monotonic() - shown >= 2:
                    shown = time.monotonic()
                    say(f"{tally.done} frames, {tally.done / (shown - begun):.1f} a second")
        journal.commit()
    except KeyboardInterrupt:
        journal.commit()
        raise
    finally:
        journal.close()
    if options.coco:
        write_coco(options.out, model.classes)
    return tally


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
    parts += [f"{tally.before} were done before"] if tally.before else []
    return f"{', '.join(parts)}: {out}/results.csv"


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
