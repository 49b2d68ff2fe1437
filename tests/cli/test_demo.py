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
    for role in demo.ROLES:
        tree = yaml.safe_load(shipped("configs", "synthetic", f"{role}.yaml").read_text())
        for part, changes in SMALL.items():
            tree[part].update(changes)
        if role == "teacher":
            tree["model"]["backbone"] = "shallow_x2"
        path = tmp_path / "configs/synthetic" / f"{role}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(tree))
    return tmp_path


def scores(folder):
    read = {}
    for role in demo.ROLES:
        judged = json.loads((folder / f"runs/synthetic-{role}/test.json").read_text())
        judged["cost"].pop("milliseconds")
        found = json.loads((folder / f"runs/synthetic-{role}/test_predictions.json").read_text())
        read[role] = judged | {"found": found}
    return read


def test_the_whole_line_ends_in_a_table_and_a_picture(small_demo, capsys):
    assert launch("demo", []) == 0
    said = capsys.readouterr().out
    for line in ("$ detkd synth", "$ detkd convert", "$ detkd split", "│ plain"):
        assert line in said
    assert (small_demo / "runs/comparison.png").stat().st_size > 10_000
    first = scores(small_demo)
    assert first["student"]["cost"] == first["distill"]["cost"]
    assert first["student"]["found"]
    assert first["student"]["found"] != first["distill"]["found"]

    # Once more: nothing is done again.
    kept = (small_demo / "runs/synthetic-distill/best.pt").stat().st_mtime_ns
    assert launch("demo", []) == 0
    assert (small_demo / "runs/synthetic-distill/best.pt").stat().st_mtime_ns == kept
    table = re.compile("│ (?:teacher|plain|distilled) .*│")
    assert len(table.findall(said)) == 3
    assert table.findall(capsys.readouterr().out) == table.findall(said)

    # From nothing: the same figures.
    shutil.rmtree(small_demo / "runs")
    shutil.rmtree(small_demo / "datasets")
    assert launch("demo", []) == 0
    assert scores(small_demo) == first


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
    assert set(scores(small_demo)) == set(demo.ROLES)
