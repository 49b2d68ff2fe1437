"""What conversion costs: VOC to COCO with every check, against bare parsing of the same files."""

from __future__ import annotations

import importlib.util
import io
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 3
MEMORY = (1_000, 10_000, 100_000)  # images of the trees whose memory is compared
FRAME = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
# The peak of the kernel's own counting: getrusage would count the memory of the parent as well.
CONVERT = (
    "import sys; from pathlib import Path; from detkd.data.check import examine; "
    "from detkd.data.convert import write_dataset; source, target = map(Path, sys.argv[1:]); "
    "write_dataset(examine(source), target, 'coco'); "
    "status = Path('/proc/self/status').read_text(); "
    "print(status.split('VmHWM:')[1].split()[0])"
)


def bench_convert(images: int) -> dict[str, Any]:
    """Seconds of one process for both, the least of three rounds that take turns; and memory.

    Image headers are read, sizes compared, boxes examined and file lists written; the parsing
    opens each XML file and builds its tree, nothing more. Where globox is installed, it converts
    the files as well, without the checks.
    """
    from detkd.data.check import examine
    from detkd.data.convert import write_dataset

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "voc"
        write_tree(root, images)
        documents = sorted((root / "Annotations").iterdir())

        def parse() -> None:
            for path in documents:
                ElementTree.parse(path)

        def convert() -> None:
            write_dataset(examine(root), Path(folder) / "all.json", "coco")

        def convert_by_globox() -> None:
            globox = importlib.import_module("globox")
            boxes = globox.AnnotationSet.from_pascal_voc(root / "Annotations")
            boxes.save_coco(Path(folder) / "globox.json", auto_ids=True)

        there = importlib.util.find_spec("globox") is not None
        ways = [parse, convert, *([convert_by_globox] if there else [])]
        times = [[_seconds(way) for way in ways] for _ in range(ROUNDS)]
        memory: dict[str, float | None] = {}
        for count in MEMORY:
            tree = Path(folder) / f"voc{count}"
            write_tree(tree, count)
            memory[str(count)] = _peak(tree)
    parse_s, convert_s, *others = (min(kind) for kind in zip(*times, strict=True))
    return {
        "images": images,
        "parse_s": parse_s,
        "convert_s": convert_s,
        "ratio": convert_s / parse_s,
        **({"globox_s": others[0], "to_globox": convert_s / others[0]} if others else {}),
        "peak_mb": memory,
    }


def write_tree(root: Path, images: int) -> None:
    """A VOC tree of small JPEG files, each of its own content, with one to ten objects."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (640, 480), (90, 120, 150)).save(stream, format="JPEG")
    picture = stream.getvalue()
    for name in ("Annotations", "JPEGImages"):
        (root / name).mkdir(parents=True)
    chance = random.Random(0)
    for at in range(images):
        comment = f"{at:08d}".encode() + bytes(at % 3989)
        segment = b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment
        path = root / f"JPEGImages/{at:06d}.jpg"
        path.write_bytes(picture[:2] + segment + picture[2:])
        objects = "".join(_object(chance) for _ in range(chance.randint(1, 10)))
        (root / f"Annotations/{at:06d}.xml").write_text(
            f"<annotation><folder>JPEGImages</folder><filename>{path.name}</filename>"
            "<size><width>640</width><height>480</height><depth>3</depth></size>"
            f"<segmented>0</segmented>{objects}</annotation>"
        )


def _object(chance: random.Random) -> str:
    x, y = chance.randint(1, 500), chance.randint(1, 400)
    frame = FRAME.format(x, y, x + chance.randint(10, 120), y + chance.randint(10, 70))
    return (
        f"<object><name>class_{chance.randint(1, 24)}</name><pose>Unspecified</pose>"
        f"<truncated>0</truncated><difficult>0</difficult><bndbox>{frame}</bndbox></object>"
    )


def _seconds(run: Callable[[], None]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def _peak(root: Path) -> float | None:
    """Megabytes a process takes at most to check and convert a tree; None where no /proc is."""
    if not Path("/proc/self/status").is_file():
        return None
    command = [sys.executable, "-c", CONVERT, str(root), f"{root}.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024
