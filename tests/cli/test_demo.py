"""The demo, on fewer and smaller scenes: the whole line, gone on with, and the same again."""

import json
import re
import shutil

import pytest
import yaml

from detkd.cli import demo
from detkd.cli.app import launch
from detkd.shipped import shipped

SMALL = {
    "data": {"image_size": 96},
    "model": {"neck_channels": 16, "head_width": 16, "roi_samples": 16, "proposals": 30},
    "train": {"epochs": 1, "warmup": 2, "judge_every": 1, "threads": 1, "device": "cpu"},
}


@pytest.fixture
def small_demo(tmp_path, monkeypatch):
    """The demo in an empty folder, with its configs made small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "SCENES", 30)
    for role in demo.RUNS:
        tree = yaml.safe_load(shipped("configs", "synthetic", f"{role}.yaml").read_text())
        for part, changes in SMALL.items():
            tree[part].update(changes)
        if role == "teacher":
            tree["model"]["backbone"] = "shallow_x2"
        path = tmp_path / "configs/synthetic" / f"{role}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(tree))
    return tmp_path


def judged(folder):
    """What the demo measured, without what a clock had a part in."""
    read = {}
    for role, run in demo.RUNS.items():
        (kept,) = (folder / run / "judged").glob("*.json")
        read[role] = json.loads(kept.read_text())
        read[role]["cost"].pop("milliseconds")
    return read


def test_the_whole_line_ends_in_a_table_and_a_picture(small_demo, capsys):
    assert launch("demo", []) == 0
    said = capsys.readouterr().out
    for line in ("$ detkd synth", "$ detkd convert", "$ detkd split", "$ detkd compare"):
        assert line in said
    assert (small_demo / "runs/comparison.png").stat().st_size > 10_000
    first = judged(small_demo)
    assert first["student"]["cost"] == first["distill"]["cost"]
    assert first["student"]["predictions"]
    assert first["student"]["predictions"] != first["distill"]["predictions"]

    # Once more: nothing is done again.
    kept = (small_demo / "runs/synthetic-distill/best.pt").stat().st_mtime_ns
    assert launch("demo", []) == 0
    assert (small_demo / "runs/synthetic-distill/best.pt").stat().st_mtime_ns == kept
    table = re.compile(r"^ *(?:teacher|student|distill) .*$", re.MULTILINE)
    lines = table.findall(said)
    assert sum("shallow" in line for line in lines) == 3
    assert sum(" to " in line for line in lines) == len(lines) - 3 == 2  # the paired test's
    assert table.findall(capsys.readouterr().out) == table.findall(said)

    # From nothing: the same figures.
    shutil.rmtree(small_demo / "runs")
    shutil.rmtree(small_demo / "datasets")
    assert launch("demo", []) == 0
    assert judged(small_demo) == first


@pytest.mark.slow
def test_a_demo_that_was_interrupted_goes_on(small_demo, monkeypatch, capsys):
    whole = demo.launch

    def interrupted(command, argv):
        if command == "train" and "configs/synthetic/student.yaml" in argv:
            return 130
        return whole(command, argv)

    monkeypatch.setattr(demo, "launch", interrupted)
    assert launch("demo", []) == 130
    capsys.readouterr()
    monkeypatch.setattr(demo, "launch", whole)
    assert launch("demo", []) == 0
    said = capsys.readouterr().out
    assert "done before: runs/synthetic-teacher/metrics.json" in said
    assert set(judged(small_demo)) == set(demo.RUNS)
