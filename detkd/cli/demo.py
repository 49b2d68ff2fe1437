"""The whole line on rendered scenes: data, teacher, plain student, distilled student, table.

Each step is a command that you could type yourself, and is shown as such. What is done already
is not done again: interrupted and started again, the demo goes on.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from detkd.cli.app import launch
from detkd.cli.parser import build_parser
from detkd.errors import UserError

DATA = Path("datasets/synthetic")
RUNS = {role: f"runs/synthetic-{role}" for role in ("teacher", "student", "distill")}
SCENES = 240


def main(argv: list[str]) -> int:
    build_parser("demo", __doc__).parse_args(argv)
    _step(DATA / "scenes", "synth", f"{DATA}/scenes", "--images", str(SCENES))
    _step(None, "check", f"{DATA}/scenes")
    _step(DATA / "all.json", "convert", f"{DATA}/scenes", f"{DATA}/all.json")
    # Classes alone: the division that docs/benchmarks.md was measured on.
    divide = ("--out", str(DATA), "--groups", "sample", "--stratify", "classes")
    _step(DATA / "test.json", "split", f"{DATA}/all.json", *divide)
    for role, run in RUNS.items():
        resume = ["--resume"] if Path(run, "config.yaml").is_file() else []
        config = f"configs/synthetic/{role}.yaml"
        _step(Path(run, "metrics.json"), "train", "--config", config, *resume)
    _step(None, "compare", *RUNS.values(), "--gt", f"{DATA}/test.json", "--out", "runs")
    _print_end()
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


def _print_end() -> None:
    print("picture:     runs/comparison.png")
    print("page:        runs/comparison.html (table, learning curves, picture in one file)")
    print("runs:        " + "  ".join(RUNS.values()))
    print(f"data:        {DATA}")
    print("your own:    detkd convert YOUR_FOLDER datasets/mine/all.json")
    print("             detkd split datasets/mine/all.json --out datasets/mine --ratios 0.8 0.2 0")
    print(
        "             detkd train --config configs/synthetic/teacher.yaml --name mine-teacher "
        "--data.train datasets/mine/train.json --data.val datasets/mine/val.json"
    )
