"""Runs side by side: judged once, and again when what was judged has changed."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from detkd.cli.app import launch
from detkd.cli.arguments import read_experiment
from detkd.data.dataset import CocoDataset
from detkd.engine.compare import (
    JudgedRun,
    by_row,
    judge_run,
    paired_rows,
    rows,
    short_names,
    validation_of,
)
from detkd.engine.devices import build_fabric
from detkd.engine.parts import build_loader, build_trainable, open_data
from detkd.engine.run import RunFolder
from detkd.engine.similarity import cka, similarity, start_of
from detkd.evaluation.coco_map import coco_map
from detkd.evaluation.welch import welch_interval
from detkd.models.detector import Detector


def found_on(truth, seed, noise):
    """COCO results: most of the annotated boxes, moved by `noise` of their sides."""
    random = np.random.default_rng(seed)
    found = []
    for box in json.loads(truth.read_text())["annotations"]:
        x, y, w, h = box["bbox"]
        dx, dy = random.normal(0, noise, 2)
        if random.random() < 0.9:
            moved = {"bbox": [x + dx * w, y + dy * h, w, h], "score": float(random.random())}
            found.append({"image_id": box["image_id"], "category_id": box["category_id"], **moved})
    return found


def with_finds(run, name, truth, found):
    """A copy of a run that has found this on the truth."""
    judge_run(run, truth)
    copy = shutil.copytree(run, run.with_name(name))
    kept = copy / f"judged/{truth.stem}.json"
    tree = json.loads(kept.read_text())
    scores = coco_map(json.loads(truth.read_text()), found)["coco"]
    kept.write_text(json.dumps({**tree, "predictions": found, "scores": scores}))
    return copy


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
    table = rows(by_row([whole, half]))
    assert [row["run"] for row in table] == ["one", "two"]
    assert [row["kept"] for row in table] == [1.0, 0.5]
    nothing = type(judged)(run, "", judged.cost, judged.scores | {"AP": 0.0}, [])
    assert rows(by_row([nothing]))[0]["kept"] is None


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
    assert launch("compare", [str(run), "--out", str(out)]) == 0  # on its validation data
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()[:6])) <= 80
    lines = (out / "comparison.md").read_text().splitlines()
    assert len(lines) == 3
    assert len({line.count("|") for line in lines}) == 1
    tree = json.loads((out / "comparison.json").read_text())
    assert tree["rows"][0]["backbone"] == "shallow_x0.5_d1"
    assert tree["rows"][0]["seconds"] > 0
    assert (out / "comparison.png").stat().st_size > 10_000
    page = (out / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page


def test_seeds_are_one_row_and_a_plain_student_measures_the_gap(run, scenes):
    judged = judge_run(run, scenes / "all.json")

    def scored(name, score):
        scores = judged.scores | {"AP": score}
        return type(judged)(run.with_name(name), judged.backbone, judged.cost, scores, [])

    runs = [scored("s-teacher-0", 0.6), scored("s-teacher-1", 0.8)]
    runs += [scored("s-plain-0", 0.5), scored("s-best-0", 0.6), scored("s-best-1", 0.65)]
    table = rows(by_row(runs, by_seed=True), plain=run.with_name("s-plain-0"))
    assert [(row["run"], row["runs"]) for row in table] == [
        ("teacher", 2),
        ("plain", 1),
        ("best", 2),
    ]
    assert [row["AP"] for row in table] == pytest.approx([0.7, 0.5, 0.625])
    assert table[0]["spread"] == pytest.approx(0.02**0.5)
    assert table[1]["spread"] is None
    assert [row["closed"] for row in table] == pytest.approx([1, 0, 0.625])


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["plain-0", "plain-1", "plain-2"], {"plain": 3}),
        (["kd-0", "kd-1", "kd-mgd-0", "kd-mgd-1"], {"kd": 2, "kd-mgd": 2}),
        (["s-a-0", "s-a-1", "s-b-0"], {"a": 2, "b": 1}),
    ],
)
def test_a_row_of_seeds_has_the_name_that_is_left_without_them(names, groups):
    runs = [JudgedRun(Path("runs") / name, "x", None, {}, []) for name in names]
    assert {name: len(group) for name, group in by_row(runs, by_seed=True).items()} == groups


def test_a_difference_of_seeds_has_an_interval_over_them(run, scenes):
    judged = judge_run(run, scenes / "all.json")
    scores = {
        "s-plain-0": 0.5,
        "s-plain-1": 0.52,
        "s-best-0": 0.6,
        "s-best-1": 0.63,
        "s-one-0": 0.9,
    }
    runs = [
        replace(judged, run=run.with_name(name), scores=judged.scores | {"AP": score})
        for name, score in scores.items()
    ]
    groups = by_row(runs, by_seed=True)
    tests = paired_rows(groups, scenes / "all.json", draws=10)["rows"]
    plain, best, one = rows(groups, tests=tests)
    assert plain["over_seeds"] is None
    assert one["over_seeds"] is None
    assert best["over_seeds"] == welch_interval([0.6, 0.63], [0.5, 0.52])
    low, high = best["over_seeds"]
    assert (low + high) / 2 == pytest.approx(0.105)
    assert rows(groups)[1]["over_seeds"] is None


def test_the_table_fits_a_terminal_with_seeds_and_gap(run, scenes, tmp_path, capsys):
    truth = scenes / "all.json"
    judge_run(run, truth)
    for name in ("s-teacher-0", "s-teacher-1", "s-plain-0"):
        shutil.copytree(run, tmp_path / name)
        kept = tmp_path / name / "judged/all.json"
        tree = json.loads(kept.read_text())
        tree["cost"]["milliseconds"] = {"s-plain-0": 1234.0}.get(name, 12345.0)
        kept.write_text(json.dumps(tree))
    argv = [str(tmp_path / f"s-{name}") for name in ("teacher-0", "teacher-1", "plain-0")]
    argv += ["--gt", str(scenes / "all.json"), "--by-seed", "--plain", argv[2]]
    assert launch("compare", argv) == 0
    said = capsys.readouterr().out
    assert "…" not in said
    assert "±" in said
    assert "12.3s" in said
    assert "1.2s" in said
    assert max(map(len, said.splitlines())) <= 80


def test_two_runs_differ_as_eval_says_of_their_files(run, scenes, tmp_path, capsys):
    truth = scenes / "all.json"
    names, noises = ("r-plain", "r-best"), (0.12, 0.05)
    runs = []
    for seed, (name, noise) in enumerate(zip(names, noises, strict=True)):
        found = found_on(truth, seed, noise)
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
        runs.append(str(with_finds(run, name, truth, found)))
    results = [str(tmp_path / f"{name}.json") for name in names]
    argv = ["--gt", str(truth), "--dt", results[1], "--against", results[0]]
    assert launch("eval", [*argv, "--out", str(tmp_path / "judged")]) == 0
    against = json.loads((tmp_path / "judged/metrics.json").read_text())["against"]
    capsys.readouterr()

    out = tmp_path / "out"
    assert launch("compare", [*runs, "--gt", str(truth), "--out", str(out)]) == 0
    tree = json.loads((out / "comparison.json").read_text())
    said = tree["paired"]["rows"]["best"]
    assert tree["paired"]["against"] == "plain"
    assert said["unit"] == "sample"
    assert said["AP"].pop("p_adjusted") == against["AP"]["p"]  # of one row alone
    assert said == {key: value for key, value in against.items() if key != "file"}
    plain, best = tree["rows"]
    assert [best[key] for key in ("difference", "interval", "p")] == [
        against["AP"][key] for key in ("difference", "interval", "p")
    ]
    assert best["difference"] == pytest.approx(best["AP"] - plain["AP"])
    assert best["difference"] > 0
    assert plain["difference"] is None
    shown = f"{best['difference']:+.3f}"
    screen = capsys.readouterr().out
    assert max(map(len, screen.partition("written:")[0].splitlines())) <= 80
    for text in (screen, *((out / f"comparison.{end}").read_text() for end in ("html", "md"))):
        assert shown in text


def test_differences_are_from_the_plain_run_and_stricter_of_several(run, scenes, tmp_path):
    truth = scenes / "all.json"
    runs = [
        with_finds(run, f"r-{name}", truth, found_on(truth, seed, noise))
        for seed, (name, noise) in enumerate({"teacher": 0.02, "plain": 0.2, "kl": 0.1}.items())
    ]
    groups = by_row([judge_run(each, truth) for each in runs])
    said = paired_rows(groups, truth, plain=runs[1], draws=200)
    assert said["against"] == "plain"
    assert list(said["rows"]) == ["teacher", "kl"]
    table = rows(groups, plain=runs[1], tests=said["rows"])
    assert [row["difference"] is None for row in table] == [False, True, False]
    assert table[0]["difference"] > table[2]["difference"] > 0
    low, high = sorted(row["p"] for row in table if row["p"] is not None)
    assert min(row["p_adjusted"] or 1 for row in table) == min(2 * low, 1)
    assert max(row["p_adjusted"] or 0 for row in table) == max(2 * low, high)


def test_no_draws_no_test_and_fewer_than_none_are_refused(run, scenes, tmp_path, capsys):
    other = shutil.copytree(run, run.with_name("r-two"))
    argv = [str(run), str(other), "--gt", str(scenes / "all.json"), "--bootstrap"]
    assert launch("compare", [*argv, "0"]) == 0
    assert "less that of" not in capsys.readouterr().out
    assert launch("compare", [*argv, "-1"]) == 2
    assert "--bootstrap: -1 is negative; give 0 or more." in capsys.readouterr().err


def test_kept_detections_of_other_images_are_refused_in_a_sentence(run, scenes, capsys):
    truth = scenes / "all.json"
    found = found_on(truth, 0, 0.1)
    other = with_finds(run, "r-two", truth, found)
    kept = other / "judged/all.json"
    tree = json.loads(kept.read_text())
    tree["predictions"][3]["image_id"] = 4711
    kept.write_text(json.dumps(tree))
    assert launch("compare", [str(run), str(other), "--gt", str(truth)]) == 2
    said = capsys.readouterr().err
    assert f"error: {kept}" in said
    assert "4711" in said


def test_cka_by_hand_and_blind_to_rotation_scale_and_shift():
    x = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    y = torch.tensor([[1.0], [-1], [0], [0]])  # the first axis alone: 4 / (sqrt(8) * 2)
    assert cka(x, y) == pytest.approx(4 / (8**0.5 * 2))
    turned = 3 * x @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]) + 5
    assert cka(x, turned) == pytest.approx(1)
    assert cka(x, torch.zeros(4, 2)) == 0


def test_similarity_of_a_network_with_itself_is_one(run, scenes):
    network = Detector.load(run / "best.pt")
    data = CocoDataset(scenes / "all.json", image_size=network.image_size)
    images = [data[0][0], data[1][0]]
    start = start_of(RunFolder(run), network)
    found = similarity(start, network, Detector.load(run / "best.pt"), images)
    assert set(found) == {"c2", "c3", "c4", "c5", "p3", "p4"}
    assert all(each["after"] == pytest.approx(1) for each in found.values())
    assert all(0 <= each["before"] < 1 for each in found.values())


def test_a_network_begins_with_its_seed_and_with_the_heads_that_it_inherits(run, tmp_path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    network = Detector.load(run / "best.pt")
    experiment = read_experiment(
        "x", ["--config", str(run / "config.yaml")], description="", epilog=""
    )[0]
    data, _ = open_data(experiment)
    fabric = build_fabric(experiment.train)
    started = build_trainable(experiment, data.classes, build_loader(data, experiment, fabric))
    fresh = started.network.state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in begun(run, network).items())
    config["distill"] = {"teacher": str(run / "best.pt"), "heads": "inherit"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    theirs = network.state_dict()
    for key, value in begun(tmp_path, network).items():
        is_taken = key.startswith(("backbone.neck", "rpn", "roi_heads"))
        assert torch.equal(value, (theirs if is_taken else fresh)[key]), key
    config["distill"]["teacher"] = "gone.pt"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert all(torch.equal(value, fresh[key]) for key, value in begun(tmp_path, network).items())
    (tmp_path / "config.yaml").unlink()
    assert begun(tmp_path, network).keys() == fresh.keys()  # of seed 0


def begun(run, network):
    return start_of(RunFolder(run), network).state_dict()


def test_a_plain_run_that_is_not_compared_is_refused(run, scenes, capsys):
    argv = [str(run), "--gt", str(scenes / "all.json"), "--plain", "runs/other"]
    assert launch("compare", argv) == 2
    assert "runs/other is none of the runs" in capsys.readouterr().err


def test_the_truth_is_what_the_runs_have_in_common(run, scenes, tmp_path, capsys):
    assert validation_of([run, run]) == scenes / "all.json"
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["data"]["val"] = "else.json"
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    assert launch("compare", [str(run), str(other)]) == 2
    assert "other on else.json; name the ground truth" in capsys.readouterr().err
    (other / "config.yaml").unlink()
    assert launch("compare", [str(run), str(other)]) == 2
    assert "does not say on what" in capsys.readouterr().err


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, scenes, capsys):
    assert launch("compare", [str(tmp_path), "--gt", str(scenes / "all.json")]) == 2
    assert "best.pt: no such file" in capsys.readouterr().err
    assert launch("compare", [str(tmp_path), "--gt", "nowhere.json"]) == 2
