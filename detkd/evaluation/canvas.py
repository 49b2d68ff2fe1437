"""What every picture of a judgement needs: matplotlib without a screen, and saving as a whole."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from detkd.files import write_with
from detkd.pixels import HIGH, LOW, eight_bit, read_pixels

STYLES = ("-", "--", ":", "-.")  # after ten colours, the next style of line


def pyplot() -> Any:
    """matplotlib.pyplot, which needs no screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def written(name: str) -> str:
    """A name for a picture: what stands between two dollars, matplotlib takes for a formula."""
    return name.encode("utf-8", "replace").decode().replace("$", r"\$")


def save(figure: Any, path: Path) -> None:
    """Write the figure as PNG, and forget it; a letter that no font has is an empty frame."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        write_with(path, lambda stream: figure.savefig(stream, dpi=110, format="png"))
    pyplot().close(figure)


def picture(path: Path) -> np.ndarray:
    """An image [H, W, 3] uint8 to be looked at; one that cannot be read is a grey field.

    16 bits are stretched for this picture alone.
    """
    pixels = read_pixels(path)
    if pixels is None:
        return np.full((64, 64, 3), 128, np.uint8)
    low, high = np.percentile(pixels, (LOW, HIGH)) if pixels.dtype != np.uint8 else (0, 255)
    return eight_bit(pixels, (float(low), float(high)))
