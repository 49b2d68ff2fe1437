"""What the teacher's backbone and neck say of a view, kept on disk for when it comes again.

A mirrored feature map is not the map of the mirrored image, so a view is known by its pixels, the
padding around it and the teacher's weights, and by nothing less. Where the pixels have been marked
as the view was made, the mark stands for them.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from detkd.config import TermConfig
from detkd.distill.head_maps import roi_features, rpn_features
from detkd.distill.losses import find_loss
from detkd.distill.losses.traits import traits_of
from detkd.distill.taps import HEAD_FEATURES, check_feature
from detkd.errors import ConfigError, UserError
from detkd.files import write_with
from detkd.models.backbones import Feature
from detkd.models.detector import Detector
from detkd.models.network import Network

FORM = b"3"  # counts up when the maps of the same weights, or what views are known by, change
CHECKED = 4  # views that are computed once more when they are first read
TYPES = {"float16": torch.float16, "float32": torch.float32}
BLOCK = 4096  # bytes
TOLERANCE = 0.02  # relative distance that half precision and other batches may make


class MapCache:
    """The teacher's maps of single images, in half precision, one file a view.

    Args:
        folder: of the files, which lie in a folder of their teacher there.
        teacher: whose weights are part of each view's name.
        names: maps that are kept, such as p3.
        exact: keep them in single precision, as they were computed.
        hold: keep those that were met in memory, too, as what is small can be.
    """

    def __init__(
        self,
        folder: str | Path,
        teacher: Network,
        names: Sequence[str],
        *,
        exact: bool = False,
        hold: bool = False,
    ) -> None:
        self.names = sorted(names)
        self.exact = exact
        self.held: dict[Path, dict[str, Tensor]] | None = {} if hold else None
        there = dict(teacher.features)
        if isinstance(teacher, Detector):
            there |= rpn_features(teacher) | roi_features(teacher)
        self.features: dict[str, Feature] = {name: there[name] for name in self.names}
        digest = hashlib.blake2b(FORM, digest_size=16)
        for key, value in teacher.state_dict().items():
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        self.teacher = digest.digest()
        self.folder = Path(folder) / self.teacher.hex()[:16]
        self.unchecked = CHECKED
        self.full = False  # the disk is; what is new is computed each time then

    def bytes_a_view(self, padded_size: tuple[int, int]) -> int:
        """The bytes of one view's maps."""
        height, width = padded_size
        values = sum(
            each.channels * -(-height // each.stride) * -(-width // each.stride)
            for each in self.features.values()
        )
        return values * (4 if self.exact else 2)

    def plan(self, images: int, views: int | None, padded_size: tuple[int, int]) -> int:
        """About how much all views of a data set take on the disk, padded to one size each.

        Raises:
            ConfigError: the augmentation never shows a view twice, or the disk cannot hold them.
        """
        if views is None:
            raise ConfigError(
                "distill.cache: this augmentation never shows the same view twice, so that nothing "
                "would be read again; set data.views (8 views an image, say), or data.augment: "
                "turns or none."
            )
        size = images * views * on_disk(self.bytes_a_view(padded_size))
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if size > free and size - self._there() > free:
            raise ConfigError(
                f"distill.cache: {images} images in {views} views take {size / 2**30:.1f} GiB, and "
                f"{self.folder} has {free / 2**30:.1f} GiB left; name another folder, or leave the "
                "cache out."
            )
        return size

    def _there(self) -> int:
        """Bytes of what is kept already; each file has to be opened for it."""
        ours = (path for path in self.folder.glob("*.maps") if self._is_ours(path))
        return sum(on_disk(path.stat().st_size) for path in ours)

    def _is_ours(self, path: Path) -> bool:
        """Whether a file holds these maps in this precision, of whatever view."""
        try:
            with path.open("rb") as stream:
                said = json.loads(stream.readline(2**16))
            kind = "float32" if self.exact else "float16"
            return said["type"] == kind and sorted(said["shapes"]) == self.names
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def maps(
        self,
        images: Sequence[Tensor],
        padded_size: tuple[int, int],
        compute: Callable[[list[int]], dict[str, Tensor]],
        marks: Tensor | None = None,
        precision: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """The maps of a batch; those of views that are new are computed, and kept.

        Args:
            images: the views [3, h, w] as the data set gives them.
            padded_size: of the batch (height, width), as the teacher would see it.
            compute: gives the teacher's maps of the views at these places in the batch.
            marks: digests [N, M] of the views' pixels, where they are known.
            precision: in which the teacher computes; autocast's, if none is given.
        """
        marked = [None] * len(images) if marks is None else list(marks.cpu())
        precision = precision or autocast_dtype(images[0].device.type)
        paths = [
            self.path(image, padded_size, mark, precision)
            for image, mark in zip(images, marked, strict=True)
        ]
        kept = [self.read(path) for path in paths]
        known = [at for at, each in enumerate(kept) if each]
        wanted = sorted({*range(len(images))} - {*known} | {*known[: self.unchecked]})
        rows = dict(enumerate(kept))
        live = compute(wanted) if wanted else {}
        for row, at in enumerate(wanted):
            maps = {name: live[name][row] for name in self.names}
            if before := kept[at]:
                self.check(before, maps)
            else:  # as it will be read, so that a training is the same with any part of them kept
                rows[at] = self.write(paths[at], maps)
        return {
            name: torch.stack([each[name] for each in rows.values() if each]).to(images[0].device)
            for name in self.names
        }

    def path(
        self,
        image: Tensor,
        padded_size: tuple[int, int],
        mark: Tensor | None = None,
        precision: torch.dtype | None = None,
    ) -> Path:
        """The file of a view: of these pixels [3, h, w] (or their mark), padded to this size.

        What was computed in a lower precision than single is of files of its own.
        """
        pixels = image if mark is None else mark
        digest = hashlib.sha256(self.teacher)  # which processors help with
        kind: object = (self.names, "exact") if self.exact else self.names
        if precision not in (None, torch.float32):
            kind = (kind, str(precision))
        digest.update(repr((tuple(image.shape), padded_size, kind)).encode())
        digest.update(pixels.detach().cpu().contiguous().numpy().data)
        return self.folder / f"{digest.hexdigest()[:32]}.maps"

    def read(self, path: Path) -> dict[str, Tensor] | None:
        """Maps [C, h, w] of a view, or None where they are not kept or cannot be read."""
        if self.held is not None and path in self.held:
            return self.held[path]
        try:
            maps = _maps_of(path.read_bytes())
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            return None
        if self.held is not None:
            self.held[path] = maps
        return maps

    def write(self, path: Path, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keep the maps [C, h, w] of a view; what will be read of them."""
        kept = {name: maps[name].detach().float().cpu() for name in self.names}
        if not self.exact:
            kept = {name: each.half() for name, each in kept.items()}
        if not self.full:
            said = _bytes_of(kept)
            try:
                # A file that a power failure broke is noticed when it is read, and made again.
                write_with(path, lambda stream: stream.write(said), sync=False)
            except OSError as error:
                self.full = True
                print(f"{self.folder}: no more is kept of the teacher ({error})", file=sys.stderr)
        return {name: each.float() for name, each in kept.items()}

    def check(self, kept: dict[str, Tensor], live: dict[str, Tensor]) -> None:
        """Compare maps that were read with those computed now, of the same view.

        Raises:
            UserError: they are not the same.
        """
        self.unchecked -= 1
        for name in self.names:
            distance = (kept[name] - live[name].float().cpu()).norm()
            if not distance <= TOLERANCE * live[name].float().cpu().norm() + 1e-3:
                raise UserError(
                    f"{self.folder}: the kept '{name}' of the teacher is not what it says now; "
                    "remove the folder, and begin again."
                )


def autocast_dtype(device: str) -> torch.dtype | None:
    """The precision in which networks run on such a device now; None is single."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def on_disk(size: int) -> int:
    """What a file of so many bytes takes: whole blocks."""
    return -(-size // BLOCK) * BLOCK


def marks_of(targets: Sequence[Mapping[str, Tensor]]) -> Tensor | None:
    """The marks [N, M] of a batch's views; None where not all have one."""
    if not all("view" in target for target in targets):
        return None
    return torch.stack([target["view"] for target in targets])


def _bytes_of(maps: dict[str, Tensor]) -> bytes:
    """Maps of one type as a line that says their shapes, and their values behind it.

    Three times as fast to read as NumPy's archives, and as sure to notice what is broken.
    """
    values = torch.cat([each.flatten() for each in maps.values()]).numpy()
    body = values.tobytes()
    said = {
        "type": str(values.dtype),
        "shapes": {name: list(each.shape) for name, each in maps.items()},
        "sum": zlib.crc32(body),
    }
    return json.dumps(said).encode() + b"\n" + body


def _maps_of(data: bytes) -> dict[str, Tensor]:
    """The maps, in single precision.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: the bytes are not whole.
    """
    end = data.index(b"\n")
    said, body = json.loads(data[:end]), memoryview(data)[end + 1 :]
    if zlib.crc32(body) != said["sum"]:
        raise ValueError("broken")
    values = torch.frombuffer(bytearray(body), dtype=TYPES[said["type"]]).float()
    sizes = [math.prod(shape) for shape in said["shapes"].values()]
    parts = zip(said["shapes"].items(), values.split(sizes), strict=True)
    return {name: part.view(shape) for (name, shape), part in parts}


def maps_needed(
    terms: Sequence[TermConfig], teacher: Detector, *, frames: bool = False
) -> list[str]:
    """The teacher's maps that these terms read, those that its heads read among them.

    `frames` says that there are images without annotations, for which its heads run anyway, on its
    levels; nor does a loss from outside say what it looks at. Else what the heads make of the
    levels does, where nothing else reads them: what the RPN says, and what RoIs are cut out of,
    which is less where they are cut out of few channels.

    Raises:
        ConfigError: a term names a feature that the teacher does not have.
    """
    at = {name for term in terms for name in term.at}
    for name in at:
        check_feature(name, teacher, "teacher")
    levels = teacher.backbone.neck.features
    maps = at - set(HEAD_FEATURES)
    all_levels = frames or any(":" in term.name for term in terms)
    heads = all_levels or any(
        name in HEAD_FEATURES or "level" in traits_of(find_loss(term.name)).reads
        for term in terms
        for name in term.at
    )
    if heads:
        reduced = {} if all_levels or maps & set(levels) else roi_features(teacher)
        maps |= {*(reduced or levels)}
    if heads or maps >= set(levels):  # one cache for all that read them
        maps |= {*rpn_features(teacher)}
    return sorted(maps)
