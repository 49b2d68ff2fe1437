"""Rendered scenes as a VOC tree, and as a sheet to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from detkd.data.formats import voc
from detkd.data.records import BoxRecord, DataSet, ImageRecord
from detkd.data.synthetic.scene import Scene, render_scene
from detkd.data.synthetic.taxa import DEMO_TAXA
from detkd.errors import DataError
from detkd.files import new_folder, write_atomic


def write_scenes(
    folder: Path,
    count: int,
    *,
    seed: int = 0,
    size: tuple[int, int] = (240, 320),
    taxa: Sequence[str] = DEMO_TAXA,
    samples: int = 6,
    progress: Callable[[], object] = lambda: None,
) -> Counter[str]:
    """Write `count` scenes as JPEGImages/, Annotations/ and ImageSets/Main/all.txt.

    The folder is there complete, or not at all. Returns how many boxes each class has.

    Raises:
        DataError: the folder exists.
    """
    if folder.exists():
        raise DataError(f"{folder}: exists already; name a new folder, or remove it.")
    boxes: Counter[str] = Counter()
    with new_folder(folder) as building:
        for name in ("JPEGImages", "ImageSets/Main"):
            (building / name).mkdir(parents=True)
        stems = []

        def images() -> Iterator[ImageRecord]:
            for index in range(count):
                scene = render_scene(seed, index, size=size, taxa=taxa, samples=samples)
                stems.append(f"{scene.sample}_{index:05d}")
                file = f"{stems[-1]}.jpg"
                pixels = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
                _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 93])
                (building / "JPEGImages" / file).write_bytes(encoded.tobytes())
                boxes.update(cell.label for cell in scene.objects)
                yield _record(file, scene)
                progress()

        voc.write(DataSet("voc", voc.ONE_BASED, list(taxa), images()), building)
        (building / "ImageSets/Main/all.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return boxes


def _record(file: str, scene: Scene) -> ImageRecord:
    height, width, _ = scene.image.shape
    boxes = tuple(
        BoxRecord(cell.label, *cell.box, cell.difficult, truncated=cell.truncated)
        for cell in scene.objects
    )
    source = {"voc": {"source": {"database": "detkd synthetic scenes"}}}
    return ImageRecord(file, width, height, boxes, sample=scene.sample, extra=source)


def write_sheet(
    path: Path,
    *,
    seed: int = 0,
    columns: int = 4,
    rows: int = 2,
    size: tuple[int, int] = (240, 320),
    taxa: Sequence[str] = DEMO_TAXA,
) -> None:
    """A contact sheet of scenes; boxes and names are drawn in the lower half."""
    lines = []
    for row in range(rows):
        scenes = [
            render_scene(seed, row * columns + c, size=size, taxa=taxa) for c in range(columns)
        ]
        lines.append(np.hstack([_annotated(s) if row >= rows / 2 else s.image for s in scenes]))
    sheet = cv2.cvtColor(np.vstack(lines), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(path.suffix or ".png", sheet)
    write_atomic(path, encoded.tobytes())


def _annotated(scene: Scene) -> np.ndarray:
    image = scene.image.copy()
    for cell in scene.objects:
        x0, y0, x1, y1 = cell.box
        colour = (213, 94, 0) if cell.difficult else (0, 114, 178)
        cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), colour, 1)
        at = (min(x0, image.shape[1] - 90), max(9, y0 - 3))
        cv2.putText(image, cell.label, at, cv2.FONT_HERSHEY_SIMPLEX, 0.33, colour, 1, cv2.LINE_AA)
    return image
