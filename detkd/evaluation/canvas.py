"""What every picture of a judgement needs: matplotlib without a screen, and saving as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detkd.files import write_with

STYLES = ("-", "--", ":", "-.")  # after ten colours, the next style of line


def pyplot() -> Any:
    """matplotlib.pyplot, which needs no screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, path: Path) -> None:
    """Write the figure as PNG, and forget it."""
    write_with(path, lambda stream: figure.savefig(stream, dpi=110, format="png"))
    pyplot().close(figure)
