"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(lines: Sequence[Sequence[str]], *, text: int = 1) -> str:
    """Lines of cells, the first one the titles; the first `text` columns are not numbers."""
    rule = ["---"] * text + ["---:"] * (len(lines[0]) - text)
    return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], rule, *lines[1:]))
