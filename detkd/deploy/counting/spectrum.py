"""The size spectrum as a drawing in SVG."""

from __future__ import annotations

import math
from collections import Counter

from detkd.deploy.counting.counter import Counted
from detkd.deploy.counting.tally import bin_edge
from detkd.deploy.counting.wording import escaped, figure

# Okabe and Ito's colours, which colour-blind readers tell apart; the last is for all others.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")


def spectrum_of(counted: Counted) -> str:
    """Bars of all samples, by class, over bins from one of which to the next the volume doubles."""
    if counted.settings.um_per_px is None:
        return "<p>No scale is known, so there are no sizes.</p>"
    by_class: dict[str, Counter[int]] = {}
    for tally in counted.tallies.values():
        for label, one in tally.classes.items():
            by_class.setdefault(label, Counter()).update(one.spectrum)
    order = sorted(by_class, key=lambda label: -sum(by_class[label].values()))
    series = [(label, by_class[label]) for label in order[: len(COLOURS) - 1]]
    rest: Counter[int] = sum((by_class[label] for label in order[len(series) :]), Counter())
    series += [("all others", rest)] if rest else []
    every: Counter[int] = sum((bars for _, bars in series), Counter())
    if not every:
        return "<p>Nothing was counted.</p>"
    first, last = min(every), max(every)
    most, step = max(every.values()), min(60.0, 640 / (last - first + 1))
    drawn = []
    for at, number in enumerate(range(first, last + 1)):
        y = 220.0
        for (label, bars), colour in zip(series, COLOURS, strict=False):
            tall = 200 * bars[number] / most
            y -= tall
            if tall:
                drawn.append(
                    f'<rect x="{60 + at * step:.1f}" y="{y:.2f}" width="{step - 1:.1f}" '
                    f'height="{tall:.2f}" fill="{colour}"><title>{escaped(label)}: '
                    f"{bars[number]}</title></rect>"
                )
    every_other = max(1, math.ceil(36 / step))
    for at, number in enumerate(range(first, last + 2)):
        if at % every_other == 0:
            drawn.append(
                f'<text x="{60 + at * step:.1f}" y="236" text-anchor="middle">'
                f"{figure(bin_edge(number))}</text>"
            )
    drawn.append(f'<text x="54" y="26" text-anchor="end">{most:,}</text>')
    drawn.append('<text x="54" y="224" text-anchor="end">0</text>')
    drawn.append('<text x="380" y="256" text-anchor="middle">ESD in µm</text>')
    key = "".join(
        f'<rect x="720" y="{20 + 20 * at}" width="12" height="12" fill="{colour}"/>'
        f'<text x="738" y="{31 + 20 * at}">{escaped(label)}</text>'
        for at, ((label, _), colour) in enumerate(zip(series, COLOURS, strict=False))
    )
    return (
        '<svg viewBox="0 0 1000 264" role="img" aria-label="size spectrum">'
        '<path d="M60 220H700M60 20V220" stroke="#1a1a1a" fill="none"/>'
        + "".join(drawn)
        + key
        + "</svg><p>Cells by equivalent spherical diameter, of all samples; the volume doubles "
        "from bin to bin.</p>"
    )
