"""Rendered scenes as a VOC tree, and as a sheet to look at."""

from __future__ import annotations

import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from detkd.data.synthetic.scene import Scene, render_scene
from detkd.data.synthetic.taxa import DEMO_TAXA
from detkd.errors import DataError
from detkd.files import write_atomic


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
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    boxes: Counter[str] = Counter()
    try:
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (building / name).mkdir(parents=True)
        stems = []
        for index in range(count):
            scene = render_scene(seed, index, size=size, taxa=taxa, samples=samples)
            stem = f"{scene.sample}_{index:05d}"
            stems.append(stem)
            pixels = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
            _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 93])
            (building / "JPEGImages" / f"{stem}.jpg").write_bytes(encoded.tobytes())
            _write_annotation(building / "Annotations" / f"{stem}.xml", stem, scene)
            boxes.update(cell.label for cell in scene.objects)
            progress()
        (building / "ImageSets/Main/all.txt").write_text("".join(f"{stem}\n" for stem in stems))
        building.chmod(0o755)
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return boxes


def _write_annotation(path: Path, stem: str, scene: Scene) -> None:
    """VOC counts pixels from 1 and includes the last one."""

    def add(parent: ElementTree.Element, tag: str, text: object) -> None:
        ElementTree.SubElement(parent, tag).text = str(text)

    root = ElementTree.Element("annotation")
    add(root, "folder", "JPEGImages")
    add(root, "filename", f"{stem}.jpg")
    source = ElementTree.SubElement(root, "source")
    add(source, "database", "detkd synthetic scenes")
    add(source, "sample", scene.sample)
    height, width, depth = scene.image.shape
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", depth)):
        add(size, tag, value)
    for cell in scene.objects:
        element = ElementTree.SubElement(root, "object")
        add(element, "name", cell.label)
        add(element, "truncated", int(cell.truncated))
        add(element, "difficult", int(cell.difficult))
        frame = ElementTree.SubElement(element, "bndbox")
        x0, y0, x1, y1 = cell.box
        for tag, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            add(frame, tag, value)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8")


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
