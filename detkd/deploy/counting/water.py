"""Water: how much of it the frames show, and what was done to it before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from detkd.deploy.counting.errors import CountingError
from detkd.deploy.counting.tables import MOST

ML_PER_UM3 = 1e-12
# What is known of a sample's water, and the options that say it; the first three give a volume.
OPTION_OF = {
    "frame_volume_ml": "--frame-volume-ml",
    "chamber_depth_um": "--chamber-depth-um",
    "volume_ml": "--sample-volume-ml",
    "dilution": "--dilution",
    "settled_ml": "--settled-ml",
    "concentrate_ml": "--concentrate-ml",
}
VOLUMES = tuple(OPTION_OF)[:3]


@dataclass(frozen=True)
class Water:
    """What is known of a sample's volume; None where it is not.

    Imaged volume V, in mL, of the n frames that could be read, of all N:

        frame_volume_ml   V = n · frame volume
        chamber_depth_um  V = Σ width · height · scale² · depth · 1e-12,  px, µm a px, µm
        volume_ml         V = volume of the whole sample · n/N

    Of k cells counted there are, in a mL of the water that was taken,

        c = k/V · dilution · concentrate_ml/settled_ml

    where the sample was diluted 1:dilution, and settled_ml of water were concentrated (settled,
    filtered) to concentrate_ml.
    """

    frame_volume_ml: float | None = None
    chamber_depth_um: float | None = None
    volume_ml: float | None = None
    dilution: float | None = None
    settled_ml: float | None = None
    concentrate_ml: float | None = None

    def imaged_ml(
        self, readable: Mapping[int, int], failed: int, um_per_px: float | None
    ) -> float | None:
        """V; `readable` has the number of frames by their area in px."""
        frames = sum(readable.values())
        if self.frame_volume_ml is not None:
            return frames * self.frame_volume_ml
        if self.chamber_depth_um is not None and um_per_px is not None:
            area = sum(pixels * number for pixels, number in readable.items())
            return area * um_per_px**2 * self.chamber_depth_um * ML_PER_UM3
        if self.volume_ml is not None and frames:
            return self.volume_ml * frames / (frames + failed)
        return None

    @property
    def factor(self) -> float:
        """From the water that was imaged to the water that was taken."""
        settled = 1.0
        if self.settled_ml is not None and self.concentrate_ml is not None:
            settled = self.concentrate_ml / self.settled_ml
        return (1.0 if self.dilution is None else self.dilution) * settled

    def check(self, table: str | None, um_per_px: float | None, *, complete: bool = True) -> None:
        """Refuse what contradicts itself; if it is not `complete`, a volume may come later.

        `table` is the place of a table that says it; None for the options.

        Raises:
            CountingError: it does.
        """
        where = "" if table is None else f"{table}: "
        said = {name: OPTION_OF[name] if table is None else name for name in vars(self)}
        for name, value in vars(self).items():
            if value is not None and not 0 < value < MOST:
                raise CountingError(
                    f"{where}{said[name]} {value:g} makes no sense; give more than 0."
                )
        ways = [said[name] for name in VOLUMES if getattr(self, name) is not None]
        if len(ways) > 1:
            raise CountingError(
                f"{where}{' and '.join(ways)} both say what volume was imaged; give one of them."
            )
        if self.chamber_depth_um is not None and um_per_px is None:
            raise CountingError(
                f"{where}{said['chamber_depth_um']} needs a scale, and run.json has none; "
                "give --um-per-px."
            )
        settled, concentrate = said["settled_ml"], said["concentrate_ml"]
        if (self.settled_ml is None) != (self.concentrate_ml is None):
            raise CountingError(f"{where}{settled} and {concentrate} belong together; give both.")
        if self.settled_ml and self.concentrate_ml and self.concentrate_ml > self.settled_ml:
            raise CountingError(
                f"{where}{settled} {self.settled_ml:g} cannot have become {concentrate} "
                f"{self.concentrate_ml:g}, which is more; for a thinned sample give "
                f"{said['dilution']}."
            )
        if self.dilution is not None and self.dilution < 1:
            raise CountingError(
                f"{where}{said['dilution']} {self.dilution:g} is below 1; for a thickened sample "
                f"give {settled} and {concentrate}."
            )
        if complete and not ways and (self.dilution is not None or self.settled_ml is not None):
            raise CountingError(
                f"{where}dilution and concentration say nothing without the volume that was "
                f"imaged; give one of {', '.join(said[name] for name in VOLUMES)}."
            )
