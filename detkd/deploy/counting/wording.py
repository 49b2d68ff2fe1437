"""Names and numbers as a person reads them, on a screen and in HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence


def shown(text: str) -> str:
    """A name without what a screen cannot show or would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def some(names: Sequence[str]) -> str:
    """The first five of them, and how many more there are."""
    first = ", ".join(f"'{shown(name)}'" for name in names[:5])
    return first if len(names) <= 5 else f"{first} and {len(names) - 5} more"


def figure(value: float | None) -> str:
    """A number as a person reads it: three digits, thousands apart; a dash where there is none."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e7:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}"
    return f"{value:.2e}"


def limits(low: float | None, high: float | None) -> str:
    """A range of such numbers; a dash where it is not known."""
    return "-" if low is None else f"{figure(low)} to {figure(high)}"


def escaped(value: object) -> str:
    """As text in HTML, also between quotation marks."""
    return html.escape(shown(str(value)), quote=True)


def html_table(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A table in HTML; names and cells stay text."""
    head = "".join(f"<th>{escaped(each)}</th>" for each in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in line) + "</tr>" for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
