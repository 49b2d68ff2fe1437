"""The 24 taxa of PMID2019: how long they are, and which shape draws them.

Lengths are typical ranges of the longest extent in µm, spines included, chosen for pictures that
look right; they are no reference for measuring.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Taxon:
    """A taxon: its shape family and options, length in µm (shortest, longest), and colour.

    `colour` is the absorbance of red, green and blue; plastids make it yellow-brown or green.
    """

    shape: str
    length: tuple[float, float]
    options: dict[str, Any] = field(default_factory=dict)
    colour: tuple[float, float, float] = (0.55, 0.65, 1.0)


GREEN, GOLD, BROWN, GREY = (
    (0.75, 0.5, 1.0),
    (0.5, 0.65, 1.0),
    (0.65, 0.85, 1.0),
    (0.85, 0.9, 1.0),
)

TAXA: dict[str, Taxon] = {
    "coscinodiscus": Taxon("disc", (40, 90), {"ribs": 40}, GOLD),
    "dinophysis caudata": Taxon("dinophysis", (70, 100), {}, BROWN),
    "corethron": Taxon("corethron", (70, 120), {}, GOLD),
    "eucampia": Taxon("chain", (80, 150), {"cell": "horned", "bend": 1.6}, GOLD),
    "ditylum": Taxon("ditylum", (60, 110), {}, GREEN),
    "navicula": Taxon("pennate", (30, 70), {"width": 0.26}, GOLD),
    "chaetoceros": Taxon("spined_chain", (70, 150), {"spines": 1.0}, GREEN),
    "ceratium fusus": Taxon("ceratium", (110, 180), {"kind": "fusus"}, BROWN),
    "skeletonema": Taxon("chain", (40, 110), {"cell": "bead", "gap": 0.5}, GREEN),
    "biddulphia": Taxon("biddulphia", (50, 100), {}, GOLD),
    "ceratium furca": Taxon("ceratium", (80, 130), {"kind": "furca"}, BROWN),
    "rhizosolenia": Taxon("needle", (110, 190), {"width": 0.05}, GREEN),
    "ceratium trichoceros": Taxon("ceratium", (100, 160), {"kind": "trichoceros"}, BROWN),
    "ceratium tripos": Taxon("ceratium", (80, 130), {"kind": "tripos"}, BROWN),
    "thalassionema frauenfeldii": Taxon("star", (80, 140), {}, GOLD),
    "detonula pumila": Taxon("chain", (60, 120), {"cell": "box", "gap": 0.1}, GREEN),
    "helicotheca": Taxon("helix", (70, 140), {}, GOLD),
    "pleurosigma pelagicum": Taxon("pennate", (80, 140), {"width": 0.16, "bend": 0.9}, GOLD),
    "ceratium carriense": Taxon("ceratium", (120, 180), {"kind": "carriense"}, BROWN),
    "thalassionema nitzschioides": Taxon("zigzag", (50, 110), {}, GOLD),
    "guinardia flaccida": Taxon("chain", (60, 130), {"cell": "tube", "gap": 0.03}, GREEN),
    "protoperidinium": Taxon("flagellate", (30, 60), {}, BROWN),
    "bacteriastrum": Taxon("wheel", (50, 90), {}, GREY),
    "coscinodiscus flank": Taxon("flank", (40, 80), {}, GOLD),
}

# One of each family of shape, the frequent ones first.
DEMO_TAXA = (
    "coscinodiscus",
    "chaetoceros",
    "navicula",
    "ceratium tripos",
    "skeletonema",
    "protoperidinium",
    "rhizosolenia",
    "helicotheca",
)
