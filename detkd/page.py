"""One HTML page that stands alone: tables and pictures in one file, to be sent around."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;"
    "color:#1a1a1a}table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.25rem .75rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
    "@media print{body{max-width:none;margin:0;font-size:10pt}h2{break-after:avoid}"
    "tr,img{break-inside:avoid}}"
)


def table_html(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; everything in it is escaped."""
    head = "".join(f"<th>{html.escape(each)}</th>" for each in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
        for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture_html(picture: Path | bytes, alt: str) -> str:
    """A picture (PNG) inside the page."""
    data = picture.read_bytes() if isinstance(picture, Path) else picture
    inside = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{inside}">'


def page_html(title: str, parts: Mapping[str, str | Path | bytes]) -> str:
    """A page of parts by their headings: HTML as it is, or a picture (PNG) that is put inside."""
    said = [f"<h1>{html.escape(title)}</h1>"]
    for heading, part in parts.items():
        said.append(f"<h2>{html.escape(heading)}</h2>")
        said.append(part if isinstance(part, str) else picture_html(part, heading))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(said)
        + "</body></html>\n"
    )
    return page.encode("utf-8", "replace").decode()  # some file systems have names that are no text
