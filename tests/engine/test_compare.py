"""Runs side by side: judged once, and again when what was judged has changed."""

import json
import os
from pathlib import Path

import pytest

from detkd.cli.app import launch
from detkd.engine.compare import judge_run, rows, short_names


@pytest.fixture
def run(tiny, tmp_path):
    config = tiny(train__epochs=1, train__seed=1)
    assert launch("train", ["--config", str(config), "--run", str(tmp_path / "r-one")]) == 0
    return tmp_path / "r-one"


def test_a_run_is_judged_once_and_the_same_as_by_eval(run, scenes, tmp_path, capsys):
    truth = scenes / "all.json"
    first = judge_run(run, truth)
    kept = run / "judged/all.json"
    stamp = kept.stat().st_mtime_ns
    assert judge_run(run, truth) == first
    assert kept.stat().st_mtime_ns == stamp

    options = ["--gt", str(truth), "--checkpoint", str(run / "best.pt"), "--out", str(tmp_path)]
    assert launch("eval", options) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["coco"] == first.scores
    assert json.loads((tmp_path / "predictions.json").read_text()) == first.found


def test_another_truth_or_a_torn_file_is_judged_anew(run, scenes, tmp_path):
    truth = tmp_path / "all.json"
    tree = json.loads((scenes / "all.json").read_text())
    tree["info"]["detkd"]["image_root"] = os.path.relpath(scenes / "scenes", tmp_path)
    truth.write_text(json.dumps(tree))
    first = judge_run(run, truth)
    kept = run / "judged/all.json"
    before = json.loads(kept.read_text())
    kept.write_text('{"of": ')
    assert judge_run(run, truth).found == first.found
    truth.write_text(json.dumps(tree, indent=1))
    judge_run(run, truth)
    after = json.loads(kept.read_text())
    assert after["of"]["truth"] != before["of"]["truth"]
    assert after["of"]["checkpoint"] == before["of"]["checkpoint"]


def test_kept_is_the_share_of_the_first_run(run, scenes):
    judged = judge_run(run, scenes / "all.json")
    half = type(judged)(
        run.with_name("r-two"), judged.backbone, judged.cost, judged.scores | {"AP": 0.2}, []
    )
    whole = type(judged)(
        run, judged.backbone, judged.cost, judged.scores | {"AP": 0.4}, judged.found
    )
    table = rows([whole, half])
    assert [row["run"] for row in table] == ["one", "two"]
    assert [row["kept"] for row in table] == [1.0, 0.5]
    assert (
        rows([type(judged)(run, "", judged.cost, judged.scores | {"AP": 0.0}, [])])[0]["kept"]
        is None
    )


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["bccd-teacher", "bccd-student"], ["teacher", "student"]),
        (["a", "b"], ["a", "b"]),
        (["mine-kl", "mine-kl-2"], ["kl", "kl-2"]),
        (["bccd-teacher"], ["teacher"]),
        (["teach", "teacher"], ["teach", "teacher"]),
    ],
)
def test_short_names_leave_out_what_all_share(names, short):
    assert short_names([Path("runs") / name for name in names]) == short


def test_runs_of_one_folder_name_are_told_apart():
    assert short_names([Path("a/teacher"), Path("b/teacher")]) == ["a/teacher", "b/teacher"]
    assert short_names([Path("a/x"), Path("a/x")]) == ["a/x", "a/x (2)"]


def test_the_command_writes_table_and_picture(run, scenes, tmp_path, capsys):
    out = tmp_path / "out"
    argv = [str(run), "--gt", str(scenes / "all.json"), "--out", str(out)]
    assert launch("compare", argv) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()[:6])) <= 80
    lines = (out / "comparison.md").read_text().splitlines()
    assert len(lines) == 3
    assert len({line.count("|") for line in lines}) == 1
    assert json.loads((out / "comparison.json").read_text())[0]["backbone"] == "shallow_x0.5_d1"
    assert (out / "comparison.png").stat().st_size > 10_000


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, scenes, capsys):
    assert launch("compare", [str(tmp_path), "--gt", str(scenes / "all.json")]) == 2
    assert "best.pt: no such file" in capsys.readouterr().err
    assert launch("compare", [str(tmp_path), "--gt", "nowhere.json"]) == 2
