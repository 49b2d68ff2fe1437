"""Pixels of a frame, by Pillow or OpenCV, whichever is there."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from detkd.deploy.counting.run import PAGE


def can_read() -> bool:
    """Whether Pillow or OpenCV is there."""
    return _has("PIL.Image") or _has("cv2")


def _has(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def read_frame(root: Path, frame: str, size: tuple[int, int]) -> np.ndarray | None:
    """RGB pixels [H, W, 3] uint8 of a frame; None if it cannot be read, or has another size.

    A path that leaves `root` is not followed.
    """
    try:
        path, page = root / frame, None
        match = PAGE.fullmatch(frame)
        if match and not path.is_file():
            path, page = root / match["file"], int(match["page"]) - 1
        if not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
            return None
        for read in (_by_pillow, _by_opencv):
            pixels = read(path, page)
            if pixels is not None and pixels.shape[1::-1] == size:
                return pixels
    except (OSError, ValueError):
        return None
    return None


def _by_pillow(path: Path, page: int | None) -> np.ndarray | None:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.seek(page or 0)
                if image.mode[0] in "IF":
                    return _eight_bit(np.asarray(image))
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:  # Pillow's plugins raise anything on broken files
        return None


def _by_opencv(path: Path, page: int | None) -> np.ndarray | None:
    try:
        import cv2
    except ImportError:
        return None
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        image = None if page else cv2.imread(str(path), flags)
        if image is None:
            done, pages = cv2.imreadmulti(str(path), page or 0, 1, flags=flags)
            image = pages[0] if done and pages else None
        if image is None and page is not None:
            film = cv2.VideoCapture(str(path))
            film.set(cv2.CAP_PROP_POS_FRAMES, page)
            done, image = film.read()
            film.release()
            image = image if done else None
        return None if image is None else _eight_bit(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    except cv2.error:
        return None


def _eight_bit(pixels: np.ndarray) -> np.ndarray:
    """As RGB of 8 bits; more are stretched between the 0.1th and 99.9th percentile, to be seen."""
    if pixels.dtype != np.uint8:
        values = np.nan_to_num(pixels.astype(np.float32))
        low, high = np.percentile(values, [0.1, 99.9])
        pixels = ((values - low) * (255 / max(high - low, 1e-9))).clip(0, 255).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
