"""The whole line on rendered scenes: data, teacher, plain student, distilled student, table.

Each step is a command that you could type yourself, and is shown as such. What is done already
is not done again: interrupted and started again, the demo goes on.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from detkd.cli.app import launch
from detkd.cli.parser import build_parser
from detkd.errors import UserError

DATA = Path("datasets/synthetic")
ROLES = {"teacher": "teacher", "student": "plain", "distill": "distilled"}
SCENES = 240


def main(argv: list[str]) -> int:
    build_parser("demo", __doc__).parse_args(argv)
    _step(DATA / "scenes", "synth", f"{DATA}/scenes", "--images", str(SCENES))
    _step(None, "check", f"{DATA}/scenes")
    _step(DATA / "all.json", "convert", f"{DATA}/scenes", f"{DATA}/all.json")
    _step(DATA / "test.json", "split", f"{DATA}/all.json", "--out", str(DATA), "--groups", "sample")
    for role in ROLES:
        resume = ["--resume"] if Path(f"runs/synthetic-{role}/config.yaml").is_file() else []
        _step(
            Path(f"runs/synthetic-{role}/metrics.json"),
            *("train", "--config", f"configs/synthetic/{role}.yaml", *resume),
        )
    rows = [_row(role) for role in ROLES]
    _show(rows)
    picture = _picture()
    _print_end(picture)
    return 0


def _step(done: Path | None, *command: str) -> None:
    """Show a command and run it, unless what it makes is there."""
    line = shlex.join(("detkd", *command))
    if done is not None and done.exists():
        print(f"$ {line}\n  done before: {done}", flush=True)
        return
    print(f"\n$ {line}", flush=True)
    code = launch(command[0], list(command[1:]))
    if code == 130:
        raise KeyboardInterrupt
    if code == 2 or (code == 1 and command[0] != "check"):
        raise UserError(f"the demo stopped at '{line}'; mend it, then start the demo again.")


def _row(role: str) -> dict[str, object]:
    """Judgement on the test scenes and cost of a run; measured once, then read."""
    path = Path(f"runs/synthetic-{role}/test.json")
    if not path.is_file():
        from dataclasses import asdict

        from detkd.data.dataset import CocoDataset
        from detkd.engine.predict import predict
        from detkd.engine.profile import measure_cost
        from detkd.evaluation.coco_map import coco_map
        from detkd.files import write_json
        from detkd.models.detector import Detector

        detector = Detector.load(path.parent / "best.pt")
        dataset = CocoDataset(DATA / "test.json", image_size=detector.image_size)
        results = predict(detector, dataset)
        scores = coco_map(dataset.truth, results)["coco"]
        cost = measure_cost(detector, dataset[0][0])
        write_json(path.parent / "test_predictions.json", results)
        write_json(path, {"backbone": detector.config.backbone, "cost": asdict(cost), **scores})
    return {"role": ROLES[role], **json.loads(path.read_text())}


def _show(rows: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    best = rows[0]["AP"]
    table = Table(title="rendered scenes, test split")
    for name in ("network", "backbone"):
        table.add_column(name)
    for name in ("params", "GFLOPs", "mAP", "AP50", "ms", "kept"):
        table.add_column(name, justify="right")
    for row in rows:
        cost = row["cost"]
        table.add_row(
            row["role"],
            f"{row['backbone']} ({_short(cost['backbone'])})",
            _short(cost["parameters"]),
            f"{cost['gflops']:.2f}",
            f"{row['AP']:.3f}",
            f"{row['AP50']:.3f}",
            f"{cost['milliseconds']:.1f}",
            f"{row['AP'] / best:.0%}" if best else "-",
        )
    console = Console()
    console.print(table)
    console.print(
        "params: weights of the backbone, and of all; ms: an image on one thread; "
        "kept: share of the teacher's mAP",
        style="dim",
    )


def _short(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"


def _picture() -> Path:
    from detkd.data.dataset import CocoDataset
    from detkd.evaluation.comparison import draw_comparison

    path = Path("runs/comparison.png")
    truth = CocoDataset(DATA / "test.json", image_size=320, cache="none")
    found = {
        name: json.loads(Path(f"runs/synthetic-{role}/test_predictions.json").read_text())
        for role, name in ROLES.items()
    }
    draw_comparison(truth.truth, found, truth.image_root, path)
    return path


def _print_end(picture: Path) -> None:
    print(f"picture:     {picture}")
    print("runs:        " + "  ".join(f"runs/synthetic-{role}" for role in ROLES))
    print(f"data:        {DATA}")
    print("your own:    detkd convert YOUR_FOLDER datasets/mine/all.json")
    print("             detkd split datasets/mine/all.json --out datasets/mine --ratios 0.8 0.2 0")
    print(
        "             detkd train --config configs/synthetic/teacher.yaml --name mine-teacher "
        "--data.train datasets/mine/train.json --data.val datasets/mine/val.json"
    )
