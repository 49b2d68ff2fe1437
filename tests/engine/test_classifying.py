"""A classifier's training as a user runs it: what it leaves, how it goes on and is judged."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from forks import Fork
from PIL import Image

from detkd.cli.app import launch
from detkd.cli.arguments import read_kind
from detkd.config import ClassDataConfig
from detkd.data.class_dataset import ClassDataset
from detkd.data.labelled_images import read_labelled
from detkd.engine.average import Average
from detkd.engine.class_parts import digest_of_division, sides_of
from detkd.engine.class_preflight import check_knowledge, seen_before
from detkd.engine.figures import class_figures
from detkd.engine.run import RunFolder, read_log
from detkd.engine.study import plan, read_study
from detkd.evaluation.class_judge import read_predictions
from detkd.evaluation.decisions import Decisions
from detkd.models.classifier import Classifier, without_exits
from detkd.models.weights import read_checkpoint
from detkd.shipped import shipped

ODD = ["[/b]", "[red]", "$x_1$"]
EXITS = {"backbone": "shallow_x0.5_d1", "exits": ["c2", "c3"]}
CONFIGS = [
    ("marine", "teacher"),
    ("marine", "student"),
    ("marine", "distill"),
    ("land_use", "teacher"),
    ("land_use", "student"),
    ("land_use", "distill"),
    ("self_distill", "resnet18_full"),
    ("self_distill", "resnet18_student"),
    ("self_distill", "resnet18_distill"),
    ("self_distill", "vgg11_full"),
    ("self_distill", "vgg11_student"),
    ("self_distill", "vgg11_distill"),
]


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Crops of rendered cells, as class folders' table; groups are the rendered samples."""
    from detkd.data.synthetic import write_scenes

    folder = tmp_path_factory.mktemp("crops")
    write_scenes(folder / "scenes", 16, seed=5, size=(96, 128), samples=8)
    assert launch("convert", [str(folder / "scenes"), str(folder / "all.json")]) == 0
    assert launch("crop", [str(folder / "all.json"), str(folder / "crops")]) == 0
    table = (folder / "crops/crops.csv").read_text().splitlines()
    common = [row for row in table[1:] if row.split(",")[1] in _common(table)]
    (folder / "crops/some.csv").write_text("\n".join([table[0], *common]) + "\n")
    return folder / "crops/some.csv"


def _common(table):
    """The three classes that lie in most samples."""
    held = {}
    for row in table[1:]:
        _, label, group, *_ = row.split(",")
        held.setdefault(label, set()).add(group)
    return sorted(held, key=lambda label: (-len(held[label]), label))[:3]


@pytest.fixture
def tiny(crops, tmp_path):
    """Writes the config of a training of a second or two; returns its path."""

    def write(name="tiny", **changes):
        tree = {
            "name": name,
            "data": {"train": str(crops), "image_size": 32, "ratios": [0.6, 0.2, 0.2]},
            "model": {"backbone": "shallow_x0.5_d1"},
            "train": {"epochs": 2, "batch_size": 8, "warmup": 2, "threads": 1, "device": "cpu"},
        }
        for key, value in changes.items():
            part, _, field = key.partition("__")
            if field:
                tree.setdefault(part, {})[field] = value
            else:
                tree[part] = value
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


def train(config, run, *more):
    return launch("train-cls", ["--config", str(config), "--run", str(run), *more])


def weights(run):
    return read_checkpoint(run / "last.pt")["training"]["trainable"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_terms_may_be_far_above_a_task_that_costs_next_to_nothing(tiny, tmp_path, capsys):
    assert train(tiny("teacher"), tmp_path / "t") == 0
    losses = [{"name": "kl", "at": ["logits"], "weight": 10.0}]
    distill = {"teacher": str(tmp_path / "t/best.pt"), "losses": losses, "preflight": 0}
    given = {"train__epochs": 18, "train__judge_every": 18, "loss": {"weight": 0.01}}
    assert train(tiny("s", distill=distill, **given), tmp_path / "s") == 0
    log = [line for line in read_log(RunFolder(tmp_path / "s")) if line["kind"] == "train"][-50:]
    assert len(log) == 50
    assert sum(line["kl@logits"] for line in log) > 10 * sum(line["loss_label"] for line in log)
    losses[0]["weight"] = 1e4
    assert train(tiny("d", distill=distill, **given), tmp_path / "d") == 2
    assert "and drowns the task. Divide its weight by" in capsys.readouterr().err


def test_a_run_leaves_what_the_design_names(tiny, tmp_path):
    assert train(tiny(), tmp_path / "run") == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"config.yaml", "log.jsonl", "last.pt", "best.pt", "metrics.json", "plots"}
    plots = {path.name for path in (tmp_path / "run/plots").iterdir()}
    assert {"curves.png", "confusion.png", "calibration.png"} <= plots
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert set(metrics["classes"]) == {"top1", "top5", "balanced_accuracy", "macro_f1"}
    best = read_checkpoint(tmp_path / "run/best.pt")
    assert best["score"] == metrics["classes"]["balanced_accuracy"]
    network = Classifier.load(tmp_path / "run/best.pt")
    assert not network.training
    assert network([torch.rand(3, 32, 32)])[0]["logits"].shape == (3,)
    lines = read_log(RunFolder(tmp_path / "run"))
    assert [line["epoch"] for line in lines if line["kind"] == "val"] == [1, 2]


MIXED = {
    "data__mixup": 0.4,
    "data__cutmix": 1.0,
    "data__balance": 1.0,
    "data__randaugment": 1,
    "loss": {"name": "logit_adjusted"},
}


def test_the_same_seed_gives_the_same_weights_with_any_number_of_workers(tiny, tmp_path):
    config = tiny(**MIXED, train__epochs=1)
    train(config, tmp_path / "a")
    train(config, tmp_path / "b", "--data.workers", "2")
    train(config, tmp_path / "c", "--train.seed", "1")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tiny, tmp_path):
    own = {"self_distill": {}, "model": EXITS, "train__epochs": 4}
    config = tiny(**own)
    more = ["--train.save_every", "1"]
    assert train(config, tmp_path / "whole", *more) == 0
    run = tmp_path / "killed"
    command = ["train-cls", "--config", config, "--run", run, *more]
    process = Fork(command, tmp_path / "said.log")
    process.until(run / "log.jsonl", '"epoch": 1')
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert train(config, run, *more, "--resume") == 0
    assert same(weights(tmp_path / "whole"), weights(run))


def test_a_student_learns_from_a_teacher_and_its_cache_changes_nothing(tiny, tmp_path):
    teacher = tiny("t", model={"backbone": "shallow_x1"}, data__augment="turns", data__views=2)
    assert train(teacher, tmp_path / "t") == 0
    found = []
    for name, cache in (("live", False), ("cached", True)):
        distill = {
            "teacher": str(tmp_path / "t/best.pt"),
            "cache": cache,
            "cache_folder": str(tmp_path / "kept"),
            "losses": [
                {"name": "kl", "at": ["logits"], "options": {"temperature": 4.0}},
                {"name": "cosine", "at": ["pooled"]},
            ],
        }
        config = tiny(name, distill=distill, data__views=2, train__epochs=3)
        assert train(config, tmp_path / name) == 0
        found.append(weights(tmp_path / name))
    assert (tmp_path / "kept").is_dir()
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        assert torch.allclose(value.float(), found[1][key].float(), atol=1e-4), key
    log = read_log(RunFolder(tmp_path / "live"))
    assert {"loss_label", "kl@logits", "cosine@pooled", "pull/kl"} <= set(log[0])


def test_a_teacher_that_has_learned_from_what_is_kept_back_is_refused(tiny, tmp_path, capsys):
    assert train(tiny("t", train__epochs=1), tmp_path / "t") == 0
    losses = [{"name": "kl", "at": ["logits"]}]
    distill = {"teacher": str(tmp_path / "t/best.pt"), "losses": losses, "preflight": 0}
    config = tiny("s", distill=distill, train__epochs=1)
    capsys.readouterr()
    for more in (["--data.split_seed", "3"], ["--data.folds", "2"]):
        assert train(config, tmp_path / "s", *more) == 2
        said = capsys.readouterr().err
        assert "the teacher has learned from images of" in said and said.count("\n") == 1
        assert not (tmp_path / "s").exists()
    assert train(config, tmp_path / "s") == 0
    # To begin as a network that has seen them is allowed, and told.
    begun = ["--model.weights", str(tmp_path / "t/best.pt")]
    assert train(tiny("w", train__epochs=1), tmp_path / "w", *begun, "--data.split_seed", "3") == 0
    assert "best.pt has learned from images of" in capsys.readouterr().out


def seen(checkpoint, source, **data):
    """What a student is told of its teacher: a sentence's end, or nothing."""
    ratios = {} if "val" in data else {"ratios": [0.6, 0.2, 0.2]}
    config = ClassDataConfig(str(source), image_size=32, **ratios, **data)
    return seen_before(checkpoint, config, digest_of_division(config))


def test_what_a_network_has_learned_from_is_found_by_content(tiny, tmp_path, crops):
    shutil.copytree(crops.parent, tmp_path / "theirs")
    source = tmp_path / "theirs/some.csv"
    assert train(tiny(train__epochs=1), tmp_path / "t", "--data.train", str(source)) == 0
    teacher = read_checkpoint(tmp_path / "t/best.pt")
    assert seen(teacher, source) is None
    assert seen(teacher, crops) is None  # a copy, divided alike
    for same in (source, crops):
        assert "are kept back now, " in seen(teacher, same, split_seed=3)
    # What its own images have become is nothing to a student of others.
    rows = source.read_text().splitlines()
    for left in (rows[:2], rows[:-1]):  # no classes any more; one image less
        source.write_text("\n".join(left) + "\n")
        assert seen(teacher, crops, split_seed=3) is None
    assert "that were others then" in seen(teacher, source)
    source.unlink()
    assert seen(teacher, crops, split_seed=3) is None


def test_a_teacher_that_was_validated_elsewhere_has_learned_from_all_of_its_own(
    tiny, tmp_path, crops, capsys
):
    train_table, val_table = halves(crops)
    argv = sources(train_table, val_table)
    assert train(tiny(train__epochs=1), tmp_path / "t", *argv) == 0
    assert "are called as samples" not in capsys.readouterr().out
    teacher = read_checkpoint(tmp_path / "t/best.pt")
    assert "are kept back now, " in seen(teacher, train_table)
    assert "are kept back now, " in seen(teacher, val_table, val=str(train_table))
    assert seen(teacher, train_table, val=str(val_table)) is None
    # Other images of a sample that is learned from are told.
    rows = train_table.read_text().splitlines()
    train_table.write_text("\n".join(rows[:-1]) + "\n")
    val_table.write_text("\n".join([*val_table.read_text().splitlines(), rows[-1]]) + "\n")
    assert train(tiny(train__epochs=1), tmp_path / "u", *argv) == 0
    sample = rows[-1].split(",")[2]
    assert f"1 of its samples are called as samples of {train_table} are, '{sample}'" in (
        capsys.readouterr().out
    )


def test_a_class_that_is_left_alone_is_nothing_to_tell_apart(tiny, tmp_path, crops, capsys):
    labels = sorted({row.split(",")[1] for row in crops.read_text().splitlines()[1:]})
    for left_out, said in ((labels[1:], labels[0]), (labels, "no class")):
        assert train(tiny(data__leave_out=left_out), tmp_path / "run") == 2
        assert f"data.leave_out: leaves {said} of" in capsys.readouterr().err


def halves(crops):
    """Two tables of crops, by their groups: all but the last, and the last."""
    head, *rows = crops.read_text().splitlines()
    last = sorted({row.split(",")[2] for row in rows})[-1]
    tables = crops.with_name("most.csv"), crops.with_name("rest.csv")
    for at, table in enumerate(tables):
        kept = [row for row in rows if (row.split(",")[2] == last) == bool(at)]
        table.write_text("\n".join([head, *kept]) + "\n")
    return tables


def sources(train_table, val_table):
    return ["--data.train", str(train_table), "--data.val", str(val_table)]


def test_an_image_that_goes_over_to_a_validation_source_of_its_own_is_noticed(
    tiny, tmp_path, crops, capsys
):
    config, run = tiny(train__epochs=1), tmp_path / "run"
    train_table, val_table = halves(crops)
    assert train(config, run, *sources(train_table, val_table)) == 0
    best = ["--checkpoint", run / "best.pt"]
    assert judge(*best) == 0
    capsys.readouterr()
    assert judge(*best, "--data", train_table) == 0  # the very images that were learned from
    n = len(train_table.read_text().splitlines()) - 1
    assert f"{n} of the {n} images are among those that it has learned" in capsys.readouterr().out
    assert judge(*best, "--data", val_table) == 0
    assert "has learned" not in capsys.readouterr().out
    rows = train_table.read_text().splitlines()
    train_table.write_text("\n".join(rows[:-1]) + "\n")
    val_table.write_text(val_table.read_text() + rows[-1] + "\n")
    for refused in (
        train(config, run, *sources(train_table, val_table), "--resume"),
        judge(*best),
    ):
        assert refused == 2
    assert capsys.readouterr().err.count("divided otherwise than when") == 2
    train_table, val_table = halves(crops)
    moved = [each.rename(each.with_name(f"moved-{each.name}")) for each in (train_table, val_table)]
    for flags, said in (
        ([], "--train-data names where"),
        (["--train-data", moved[0]], "--val-data names where"),
    ):
        assert judge(*best, *flags) == 2
        assert said in capsys.readouterr().err
    assert judge(*best, "--train-data", moved[0], "--val-data", moved[1]) == 0


def test_validation_images_that_are_learned_from_are_refused(tiny, tmp_path, crops, capsys):
    twice = ["--data.val", str(crops)]
    assert train(tiny(), tmp_path / "run", *twice) == 2
    assert "are among those of" in capsys.readouterr().err


def test_what_would_do_nothing_beside_a_teacher_is_refused(tiny, tmp_path, capsys):
    assert train(tiny("t", train__epochs=1), tmp_path / "t") == 0
    losses = [{"name": "kl", "at": ["logits"]}]
    distill = {"teacher": str(tmp_path / "t/best.pt"), "losses": losses, "preflight": 0}
    config = tiny("s", distill=distill, loss={"weight": 0.0}, train__epochs=1)
    capsys.readouterr()
    for more, said in (
        (["--suggest-weights"], "with loss.weight 0 there is no task"),
        (["--distill.balance", "auto"], "goes by how the task pulls"),
        (
            ["--distill.cache", "true", "--data.mixup", "0.4", "--data.views", "2"],
            "ever new images",
        ),
    ):
        assert train(config, tmp_path / "s", *more) == 2
        assert said in capsys.readouterr().err
    assert train(config, tmp_path / "s") == 0  # from the teacher alone
    log = read_log(RunFolder(tmp_path / "s"))
    assert log[0]["kl@logits"] > 0


def test_suggested_weights_bring_back_a_term_that_pulls_too_hard(
    tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert train(tiny("t"), tmp_path / "t") == 0

    def config(weight):
        losses = [{"name": "hint", "at": ["c3"], "weight": weight}]
        losses.append({"name": "kl", "at": ["logits"], "options": {"temperature": 4.0}})
        distill = {"teacher": str(tmp_path / "t/best.pt"), "losses": losses, "preflight": 0}
        return tiny("student", distill=distill, train__epochs=1)

    def suggested(weight):
        path = config(weight)
        capsys.readouterr()
        before = {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*")}
        assert launch("train-cls", ["--config", str(path), "--suggest-weights"]) == 0
        assert {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*")} == before
        told = capsys.readouterr().out.splitlines()
        said = [line for line in told if line.startswith("  ")]
        assert [line.split(":")[0] for line in said] == ["  hint at [c3]", "  kl at [logits]"]
        for line in said:
            pull, own = (float(line.split(word)[1].split(";")[0]) for word in ("pull ", "weight: "))
            assert own * pull == pytest.approx(0.5, rel=0.06)  # printed with two digits
        return float(said[0].split("weight: ")[1])

    weight = suggested(1.0)
    assert suggested(100 * weight) == weight
    pulls = []
    for each in (weight, 100 * weight):
        run = tmp_path / f"run-{each:g}"
        assert train(config(each), run) == 0
        pulls.append(read_log(RunFolder(run))[0]["pull/hint"])
    assert 0.1 < pulls[0] < 2.5
    assert pulls[1] == pytest.approx(100 * pulls[0], rel=1e-3)
    capsys.readouterr()
    assert launch("train-cls", ["--config", str(tiny("plain")), "--suggest-weights"]) == 2
    assert "no distill.losses to measure" in capsys.readouterr().err


def test_a_teacher_that_is_far_from_what_it_was_is_not_believed(tiny, tmp_path, capsys):
    assert train(tiny("t"), tmp_path / "t") == 0
    checkpoint = torch.load(tmp_path / "t/best.pt", weights_only=True)
    for key, value in checkpoint["weights"].items():
        if key.startswith("head.classes."):
            value.zero_()
    torch.save({**checkpoint, "score": 0.9}, tmp_path / "spoilt.pt")
    distill = {"teacher": str(tmp_path / "spoilt.pt")}
    assert train(tiny("s", distill=distill), tmp_path / "s") == 2
    assert "reached a balanced accuracy of 0.900" in capsys.readouterr().err


def test_images_that_came_later_do_not_turn_what_was_learned_from_into_a_test(
    tiny, tmp_path, crops, capsys
):
    table = crops.with_name("more.csv")
    rows = crops.read_text().splitlines()
    table.write_text("\n".join(rows[:-1]) + "\n")
    config, run = tiny(data__train=str(table)), tmp_path / "run"
    assert train(config, run) == 0
    best = ["--checkpoint", str(run / "best.pt"), "--side", "test"]
    assert judge(*best) == 0
    table.write_text("\n".join(rows) + "\n")
    capsys.readouterr()
    resume = ["--config", str(config), "--run", str(run), "--resume"]
    for command, argv in (("eval-cls", best), ("train-cls", resume)):
        assert launch(command, argv) == 2
        said = capsys.readouterr().err
        assert "its images are divided otherwise than when" in said
        assert len(said.splitlines()) == 1
    assert judge("--checkpoint", str(run / "best.pt"), "--data", str(table)) == 0
    table.write_text("\n".join(rows[:1] + rows[-2:0:-1]) + "\n")  # in another order
    assert judge(*best) == 0
    table.unlink()


def test_early_stopping_and_folds(tiny, tmp_path):
    config = tiny(data__folds=3, data__fold=2, train__early_stop=1, train__epochs=30)
    assert train(config, tmp_path / "a", "--train.lr", "0") == 0
    assert read_checkpoint(tmp_path / "a/last.pt")["training"]["progress"]["epoch"] < 30


def test_folds_are_judged_as_one(tiny, tmp_path, capsys):
    runs = [tmp_path / f"fold-{at}" for at in (0, 1)]
    config = tiny(data__folds=2, data__ratios=[0.5, 0.5, 0], train__epochs=1)
    for at, run in enumerate(runs):
        assert train(config, run, "--data.fold", str(at)) == 0
    assert judge("--folds", *runs, "--out", tmp_path / "all") == 0
    parts = [read_predictions(run / "predictions.json") for run in runs]
    whole = read_predictions(tmp_path / "all/predictions.json")
    assert whole.files == parts[0].files + parts[1].files
    assert (tmp_path / "all/plots/worst_mistakes.png").is_file()
    metrics = json.loads((tmp_path / "all/metrics.json").read_text())
    right = sum(int((part.logits.argmax(1) == part.labels).sum()) for part in parts)
    assert metrics["classes"]["top1"] == pytest.approx(right / len(whole.files))
    assert metrics["measured_on"] == {
        "side": "val",
        "source": "2 folds",
        "images": len(whole.files),
        "samples": len(set(whole.groups)),
    }
    assert judge("--folds", *runs, "--against", tmp_path / "all") == 0
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    tree = yaml.safe_load((other / "config.yaml").read_text())
    tree["data"]["split_seed"] = 7
    (other / "config.yaml").write_text(yaml.safe_dump(tree))
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.yaml").write_text("data:\n")
    wider = tmp_path / "wider"
    shutil.copytree(runs[1], wider)
    tree = yaml.safe_load((runs[1] / "config.yaml").read_text())
    tree["model"]["backbone"] = "shallow_x1"
    (wider / "config.yaml").write_text(yaml.safe_dump(tree))
    capsys.readouterr()
    for argv, said in (
        ([runs[0]], "of the 2 folds 1 is missing"),
        ([runs[0], runs[0] / "../fold-0", runs[1]], "fold 0 is named twice"),
        ([*runs, runs[1]], "fold 1 is named twice"),
        ([runs[0], other, runs[1]], "differ in data.fold alone"),
        ([runs[0], wider], "model.backbone is 'shallow_x1' in one"),
        ([runs[0], tmp_path], "holds no config.yaml of a run"),
        ([runs[0], empty], "holds no config.yaml of a run"),
        ([*runs, "--cut", "c2"], "--cut: is for a checkpoint"),
    ):
        assert judge("--folds", *argv) == 2
        assert said in capsys.readouterr().err


def test_averaged_weights_that_are_far_worse_than_the_newest_are_told(
    tiny, tmp_path, monkeypatch, capsys
):
    config = tiny(train__epochs=12, train__judge_every=12, data__augment="none")
    assert train(config, tmp_path / "a", "--train.lr", "0") == 0
    assert "the newest weights have" not in capsys.readouterr().out
    monkeypatch.setattr(Average, "update", lambda *_: None)  # so that they stay at the start
    assert train(config, tmp_path / "b") == 0
    out = capsys.readouterr()
    assert re.search(r"the newest weights have 0\.\d+, the averaged ones", out.out + out.err)
    assert train(config, tmp_path / "c", "--train.ema", "0") == 0
    assert "the newest weights have" not in capsys.readouterr().out


def test_training_ends_early_at_an_epoch_that_was_judged(tiny, tmp_path):
    config = tiny(train__early_stop=1, train__judge_every=2, train__epochs=9, train__lr=0.0)
    assert train(config, tmp_path / "a") == 0
    judged = [
        line["epoch"] for line in read_log(RunFolder(tmp_path / "a")) if line["kind"] == "val"
    ]
    assert judged == [2, 4]  # the second one is no better


def test_a_teacher_is_looked_at_all_over_the_images(tiny, tmp_path, crops, monkeypatch):
    assert train(tiny(), tmp_path / "t") == 0
    checkpoint = read_checkpoint(tmp_path / "t/best.pt")
    network = Classifier.load(tmp_path / "t/best.pt")
    data = ClassDataset(read_labelled(crops), image_size=32)
    assert list(network.classes) == list(data.classes)
    looked: list[int] = []
    original = ClassDataset.__getitem__
    monkeypatch.setattr(
        ClassDataset, "__getitem__", lambda self, at: looked.append(at) or original(self, at)
    )
    check_knowledge({**checkpoint, "score": 1e-9}, "t/best.pt", data, len(data) - 1)
    assert len(looked) == len(data) - 1
    assert (looked[0], looked[-1]) == (0, len(data) - 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"self_distill": {}}, "there is no exit to be taught"),
        ({"model": EXITS}, "exits are trained by self_distill"),
        ({"model": {**EXITS, "cut": "c3"}, "self_distill": {}}, "has no deeper one to teach it"),
        ({"model": {**EXITS, "cut": "c3"}}, "has no others; leave one of the two out"),
        ({"model": {**EXITS, "exits": [], "cut": "c3"}, "train__batch_size": 1}, "take 2 images"),
        ({"data__ratios": [1, 0, 0]}, "leave nothing to train or to judge on"),
        ({"data__leave_out": ["elephant"]}, "has no class 'elephant' to leave out"),
        ({"data__augment": "upside"}, "no augmentation 'upside'"),
        ({"data__folds": 3, "data__fold": 3}, "there is no fold 3 of 3"),
        ({"data__folds": 3, "data__val": "x"}, "folds are made of data.train alone"),
        ({"train__batch_size": 1}, "take 2 images or more"),
        ({"train__epoch": 3}, "did you mean 'train.epochs'?"),
        ({"model__necks": 3}, "unknown key 'model.necks'"),
        ({"loss__smoothing": 2.0}, "loss.smoothing: 2.0 makes no sense"),
    ],
)
def test_a_config_that_cannot_be_is_refused_in_a_sentence(tiny, tmp_path, capsys, changes, said):
    assert train(tiny(**changes), tmp_path / "run") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def judge(*argv):
    return launch("eval-cls", [str(word) for word in argv])


def test_a_run_is_judged_on_its_test_side_against_another(tiny, tmp_path, capsys, crops):
    for name, seed in (("a", 0), ("b", 1)):
        assert train(tiny(name), tmp_path / name, "--train.seed", str(seed)) == 0
    best = tmp_path / "b/best.pt"
    assert judge("--checkpoint", best, "--out", tmp_path / "val", "--against", tmp_path / "a") == 0
    shown = capsys.readouterr().out
    assert "right alone" in shown
    assert "McNemar" not in shown  # images of one sample are not independent
    assert "were chosen on these images" in shown
    said = json.loads((tmp_path / "val/metrics.json").read_text())
    assert said["classes"] == json.loads((tmp_path / "b/metrics.json").read_text())["classes"]
    other = json.loads((tmp_path / "a/metrics.json").read_text())["classes"]
    assert said["against"]["top1"]["difference"] == pytest.approx(
        said["classes"]["top1"] - other["top1"]
    )
    test = ["--checkpoint", best, "--side", "test", "--bootstrap", "20", "--out", tmp_path / "test"]
    assert judge(*test) == 0
    metrics = json.loads((tmp_path / "test/metrics.json").read_text())
    assert metrics["intervals"]["groups"] == 1
    assert metrics["intervals"]["top1"] is None
    assert "all images are of one sample" in capsys.readouterr().out
    assert metrics["calibration"]["temperature"] == said["calibration"]["temperature"]
    on_run = json.loads((tmp_path / "b/metrics.json").read_text())
    for found, side in ((on_run, "val"), (said, "val"), (metrics, "test")):
        assert found["measured_on"]["side"] == side
        assert found["measured_on"]["samples"] == found["intervals"]["groups"]
        assert found["chosen_on"]["side"] == "val"
        assert found["chosen_on"]["images"] == said["measured_on"]["images"]
        assert found["chosen_on"]["measured_there"] == (side == "val")
    groups, on_val = (
        set(read_predictions(tmp_path / side / "predictions.json").groups)
        for side in ("test", "val")
    )
    assert not groups & on_val
    newer = {**read_checkpoint(best)}
    newer["config"] = {**newer["config"], "data": {**newer["config"]["data"], "warp": 9}}
    torch.save(newer, tmp_path / "newer.pt")
    capsys.readouterr()
    assert judge("--checkpoint", tmp_path / "newer.pt") == 2
    assert "names no data as this version knows them" in capsys.readouterr().err
    assert judge("--checkpoint", best, "--side", "test", "--against", tmp_path / "a") == 2
    assert "is not of the same images" in capsys.readouterr().err
    assert judge("--checkpoint", best, "--data", crops, "--out", tmp_path / "all") == 0
    metrics = json.loads((tmp_path / "all/metrics.json").read_text())
    low, high = metrics["intervals"]["top1"]
    assert low <= metrics["classes"]["top1"] <= high


@pytest.mark.parametrize(("pattern", "gap"), [(r"([^/]+)\+", 0), (r"\+(\d+)", 500)])
def test_other_images_are_grouped_as_the_trainings_are(crops, tiny, tmp_path, capsys, pattern, gap):
    samples = []
    for at, row in enumerate(crops.read_text().splitlines()[1:]):
        file, label, group, *_ = row.split(",")
        samples += [group] * (group not in samples)
        clock = 1000 * samples.index(group) + at
        for folder, name in (("own", f"{group}+{clock}.png"), ("foreign", f"{at}.png")):
            copy = tmp_path / folder / label / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((crops.parent / file).read_bytes())
    own = str(tmp_path / "own")
    config = tiny(data__train=own, data__group_pattern=pattern, data__group_gap=gap)
    assert train(config, tmp_path / "run") == 0
    groups = {}
    for folder in ("own", "foreign"):
        argv = ["--checkpoint", tmp_path / "run/best.pt", "--data", tmp_path / folder]
        capsys.readouterr()
        assert judge(*argv, "--out", tmp_path / f"judged_{folder}") == 0
        said = read_predictions(tmp_path / f"judged_{folder}/predictions.json")
        groups[folder] = len(set(said.groups)), len(said.files)
        unmatched = "without a group stands alone" in capsys.readouterr().out
        assert unmatched == (folder == "foreign")
    assert groups["own"][0] == len(samples) < groups["own"][1]
    assert groups["foreign"][0] == groups["foreign"][1]


def test_other_images_are_judged_without_those_of_the_training(tiny, tmp_path, crops, capsys):
    own = tmp_path / "own"
    shutil.copytree(crops.parent, own)
    config = tiny(data__train=str(own / "some.csv"))
    assert train(config, tmp_path / "run") == 0
    own.rename(tmp_path / "away")
    best, out = tmp_path / "run/best.pt", tmp_path / "judged"
    argv = ["--checkpoint", best, "--data", tmp_path / "away/some.csv", "--out", out]
    assert judge(*argv) == 0
    judged, of_run = (
        json.loads((folder / "metrics.json").read_text()) for folder in (out, tmp_path / "run")
    )
    assert judged["calibration"]["temperature"] == of_run["calibration"]["temperature"]
    assert judged["unknown"]["threshold"] == of_run["unknown"]["threshold"]
    assert judged["measured_on"]["side"] is None
    assert judged["chosen_on"] == {**of_run["chosen_on"], "measured_there": False}
    checkpoint = read_checkpoint(best)
    assert checkpoint.pop("decisions")["chosen_on"]["images"] == of_run["measured_on"]["images"]
    torch.save(checkpoint, tmp_path / "older.pt")  # without them, they are chosen anew
    assert judge("--checkpoint", tmp_path / "older.pt", *argv[2:]) == 2
    assert "own/some.csv: is gone" in capsys.readouterr().err
    assert judge("--checkpoint", tmp_path / "older.pt", *argv[2:], "--train-data", argv[3]) == 0
    again = json.loads((out / "metrics.json").read_text())
    assert again["calibration"] == pytest.approx(judged["calibration"])


def test_images_of_one_class_are_judged_and_none_can_be_learned_from(tiny, tmp_path, crops, capsys):
    assert train(tiny(), tmp_path / "run") == 0
    header, *rows = crops.read_text().splitlines()
    name = rows[0].split(",")[1]
    one = crops.parent / "one.csv"
    one.write_text("\n".join([header, *(row for row in rows if row.split(",")[1] == name)]))
    out = tmp_path / "judged"
    argv = ["--checkpoint", tmp_path / "run/best.pt", "--data", one]
    assert judge(*argv, "--out", out) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    classes = metrics["classes"]
    assert classes["balanced_accuracy"] == classes["top1"] == metrics["per_class"][name]["recall"]
    assert (out / "plots").is_dir()
    capsys.readouterr()
    assert train(tiny("alone", data__train=str(one)), tmp_path / "alone") == 2
    assert f"holds images of '{name}' alone; two classes" in capsys.readouterr().err
    # A validation set may hold one, too.
    rest = crops.parent / "rest.csv"
    rest.write_text("\n".join([header, *rows[: len(rows) // 2]]))
    last = [row for row in rows[len(rows) // 2 :] if row.split(",")[1] == rows[-1].split(",")[1]]
    one.write_text("\n".join([header, *last]))
    config = tiny("val", data__train=str(rest), data__val=str(one), train__epochs=1)
    assert train(config, tmp_path / "val") == 0
    left_out = ["--data.leave_out", json.dumps([rows[-1].split(",")[1]])]
    assert train(config, tmp_path / "none", *left_out) == 2
    assert "alone, which data.leave_out leaves out" in capsys.readouterr().err


def test_the_validation_images_are_known_wherever_one_stands(tiny, tmp_path, crops, monkeypatch):
    header, *rows = crops.read_text().splitlines()
    here = tmp_path / "here"
    shutil.copytree(crops.parent, here)
    for name, part in (("a", rows[::2]), ("b", rows[1::2])):
        (here / f"{name}.csv").write_text("\n".join([header, *part]))
    monkeypatch.chdir(tmp_path)
    config = tiny(train__epochs=1, data__train="here/a.csv", data__val="here/b.csv")
    assert train(config, tmp_path / "run") == 0
    shutil.copytree(here, tmp_path / "trap/here")  # other images under the same names
    for row in rows[1::2]:
        picture = tmp_path / "trap/here" / row.split(",")[0]
        picture.write_bytes(picture.read_bytes() + b"more")
    argv = ["--checkpoint", tmp_path / "run/best.pt", "--out", tmp_path / "judged", "--data"]
    for stand, source, there in (
        (here, "./b.csv", True),
        (here, "../here/b.csv", True),
        (here, "a.csv", False),
        (tmp_path / "trap", "here/b.csv", False),
    ):
        monkeypatch.chdir(stand)
        assert judge(*argv, source) == 0
        told = json.loads((tmp_path / "judged/metrics.json").read_text())["chosen_on"]
        assert told["measured_there"] is there


def test_images_of_classes_that_it_does_not_know_are_judged_as_unknown(
    tiny, tmp_path, crops, capsys
):
    rows = [row.split(",") for row in crops.read_text().splitlines()]
    names = sorted({row[1] for row in rows[1:]})
    assert train(tiny(data__leave_out=names[:1]), tmp_path / "run") == 0
    argv = ["--checkpoint", tmp_path / "run/best.pt", "--data", crops]
    assert judge(*argv) == 2
    assert f"'--unknown {names[0]}' judges" in capsys.readouterr().err
    for wrong, said in (("elephant", "has no class 'elephant'"), (names[1], "knows; leave it out")):
        assert judge(*argv, "--unknown", names[0], wrong) == 2
        assert said in capsys.readouterr().err
    assert judge(*argv, "--unknown", names[0], "--out", tmp_path / "judged") == 0
    metrics = json.loads((tmp_path / "judged/metrics.json").read_text())
    count = sum(row[1] == names[0] for row in rows[1:])
    foreign = metrics["unknown"]["foreign"]
    assert foreign["images"] == foreign["per_class"][names[0]]["images"] == count
    assert metrics["measured_on"]["images"] == len(rows) - 1 - count
    assert list(metrics["per_class"]) == names[1:]
    out = capsys.readouterr().out
    assert f"of {count} images of other classes" in out
    assert metrics["unknown"]["threshold"] is None  # of so few validation images
    assert "or these were too few to tell: all are 'unknown'" in " ".join(out.split())


def test_a_network_is_cut_at_an_exit_into_a_checkpoint_of_its_own(tiny, tmp_path, capsys):
    assert train(tiny(self_distill={}, model=EXITS), tmp_path / "run") == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    exits = metrics["early"]["exits"]
    assert list(exits) == ["c2", "c3", "last"]
    assert sum(row["share"] for row in exits.values()) == pytest.approx(1)
    early = metrics["early"]
    spent = sum(row["share"] * row["flops"] for row in exits.values())
    assert early["flops_alone"] < exits["last"]["flops"]  # without the exits on the way
    assert early["saved"] == pytest.approx(1 - spent / early["flops_alone"])
    assert exits["c2"]["flops"] < exits["c3"]["flops"] < exits["last"]["flops"]
    best, cut = tmp_path / "run/best.pt", tmp_path / "c3.pt"
    checkpoint = torch.load(best, weights_only=True)
    apart = Decisions(9.0, 0.95, 0.9, 0.4, checkpoint["decisions"]["chosen_on"], 2.0, 0.3)
    torch.save({**checkpoint, "decisions": vars(apart)}, tmp_path / "apart.pt")
    assert judge("--checkpoint", tmp_path / "apart.pt", "--out", tmp_path / "apart") == 0
    told = json.loads((tmp_path / "apart/metrics.json").read_text())
    for part, temperature, threshold in ((told, 9.0, 0.9), (told["early"], 2.0, 0.3)):
        assert part["calibration"]["temperature"] == temperature
        assert part["unknown"]["threshold"] == threshold
    assert "'unknown' below 0.30 there" in capsys.readouterr().out
    made = ["--checkpoint", best, "--cut", "c3", "--cut-out", cut]
    assert judge(*made, "--out", tmp_path / "j") == 0
    judged = json.loads((tmp_path / "j/metrics.json").read_text())
    assert judged["classes"]["top1"] == exits["c3"]["top1"]
    whole, part = Classifier.load(best), Classifier.load(cut)
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(whole(x)[0]["exits"][1], part(x)[0]["logits"])
    assert cut.stat().st_size < best.stat().st_size
    capsys.readouterr()
    assert judge("--checkpoint", cut, "--out", tmp_path / "again") == 0
    again = json.loads((tmp_path / "again/metrics.json").read_text())
    assert again["calibration"] == judged["calibration"]
    assert "early" not in again
    made = ["--checkpoint", best, "--cut-out", tmp_path / "head.pt"]
    assert judge(*made, "--cut", "last", "--out", tmp_path / "j") == 0
    head = Classifier.load(tmp_path / "head.pt")
    assert torch.equal(whole(x)[0]["logits"], head(x)[0]["logits"])
    assert not head.exits
    assert not [key for key in head.state_dict() if key.startswith("exits")]
    judged = json.loads((tmp_path / "j/metrics.json").read_text())
    assert judged["classes"]["top1"] == exits["last"]["top1"]
    capsys.readouterr()
    assert judge("--checkpoint", tmp_path / "head.pt", "--cut", "last") == 2
    assert "there are none" in capsys.readouterr().err
    assert judge("--checkpoint", best, "--cut", "c4") == 2
    assert "no exit on 'c4' to cut the network at; there are c2, c3" in capsys.readouterr().err


def test_a_network_that_runs_as_a_whole_has_exits_and_none_to_stop_at(tiny, tmp_path):
    timm = {"backbone": "timm/test_mambaout", "exits": ["c2"]}
    assert train(tiny(self_distill={}, model=timm, train__epochs=1), tmp_path / "run") == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["classes"]["top1"] is not None
    assert "early" not in metrics
    found = class_figures(tmp_path / "run")
    assert found["exits"] == {}
    assert found["gflops"] > 0


def test_a_classifier_knows_the_shades_that_it_learned_from(tiny, tmp_path):
    random = np.random.default_rng(0)
    for at in range(12):
        path = tmp_path / f"deep/{'ab'[at % 2]}/{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shades = random.integers(500, 4000, (24, 24)) // (1 + at % 2)
        Image.fromarray(shades.astype(np.uint16)).save(path)
    config = tiny(data__train=str(tmp_path / "deep"), self_distill={}, model=EXITS)
    assert train(config, tmp_path / "run") == 0
    best = tmp_path / "run/best.pt"
    low, high = Classifier.load(best).levels
    assert 0 < low < 600
    assert 3900 < high < 4001
    assert judge("--checkpoint", best, "--out", tmp_path / "j") == 0
    said = [json.loads((tmp_path / at / "metrics.json").read_text()) for at in ("run", "j")]
    assert said[0]["calibration"] == said[1]["calibration"]
    assert judge("--checkpoint", best, "--cut", "c2", "--cut-out", tmp_path / "cut.pt") == 0
    assert Classifier.load(tmp_path / "cut.pt").levels == (low, high)
    assert without_exits(Classifier.load(best)).levels == (low, high)


def test_class_names_are_shown_as_they_are(tiny, tmp_path, crops, capsys):
    table = crops.with_name("odd.csv")
    lines = crops.read_text().splitlines()
    names = dict(zip(sorted({line.split(",")[1] for line in lines[1:]}), ODD, strict=True))
    rows = [line.split(",") for line in lines]
    table.write_text("\n".join(",".join([r[0], names.get(r[1], r[1]), *r[2:]]) for r in rows))
    assert train(tiny(data__train=str(table)), tmp_path / "run") == 0
    capsys.readouterr()
    assert judge("--checkpoint", tmp_path / "run/best.pt") == 0
    shown = capsys.readouterr()
    assert all(name in shown.out for name in ODD)
    assert judge("--checkpoint", tmp_path / "run/best.pt", "--bootstrap", "-1") == 2
    assert "-1 is negative" in capsys.readouterr().err


def test_a_classifier_is_not_taken_for_a_detector(tiny, tmp_path, capsys, scenes):
    assert train(tiny(), tmp_path / "run") == 0
    argv = ["--gt", str(scenes / "all.json"), "--checkpoint", str(tmp_path / "run/best.pt")]
    assert launch("eval", argv) == 2
    assert "holds a classifier" in capsys.readouterr().err


@pytest.mark.parametrize(("study", "role"), CONFIGS, ids=["/".join(c) for c in CONFIGS])
def test_the_configs_that_come_along_train_an_epoch(study, role, crops, tmp_path, monkeypatch):
    """On class folders of tiny crops; its teacher is trained in the place that it names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETKD_CACHE", str(tmp_path / "kept"))
    samples: list[str] = []
    for at, row in enumerate(crops.read_text().splitlines()[1:]):
        file, label, group, *_ = row.split(",")
        samples += [group] * (group not in samples)
        clock = 10**6 + 10**4 * samples.index(group) + at  # casts lie hours apart
        copy = tmp_path / f"own/{label}/SPC-PWSSC-{clock}-{at}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((crops.parent / file).read_bytes())
    own = str(tmp_path / "own")
    small = ["--data.train", own, "--data.image_size", "32", "--train.epochs", "1"]
    small += ["--data.ratios", "[0.6, 0.2, 0.2]", "--train.threads", "1", "--train.device", "cpu"]
    tree = yaml.safe_load(shipped("configs", study, f"{role}.yaml").read_text())
    if "distill" in tree:
        # Any teacher serves here, a small one quickest.
        teacher = ["--config", str(shipped("configs", study, "teacher.yaml")), *small]
        assert launch("train-cls", [*teacher, "--model.backbone", "shallow_x1"]) == 0
    config = ["--config", str(shipped("configs", study, f"{role}.yaml")), *small]
    assert launch("train-cls", config) == 0
    metrics = json.loads((tmp_path / "runs" / tree["name"] / "metrics.json").read_text())
    assert metrics["classes"]["top1"] is not None
    on_val = read_predictions(tmp_path / "runs" / tree["name"] / "predictions.json")
    if pattern := tree["data"].get("group_pattern"):
        clocks = {re.search(pattern, file)[1] for file in on_val.files}
        assert len(clocks) == len(on_val.files) > len(set(on_val.groups))
        assert set(on_val.groups) <= clocks  # a cast is called by its first clock


def test_real_crops_can_be_learned(real_data, tmp_path):
    crops = real_data / "plankton_crops/data"
    if not crops.is_dir():
        pytest.skip(f"no plankton_crops in {real_data}")
    config = ["--config", str(shipped("configs", "marine", "student.yaml"))]
    config += ["--data.train", str(crops), "--data.image_size", "48", "--train.epochs", "3"]
    config += ["--train.judge_every", "3", "--train.threads", "1", "--train.device", "cpu"]
    config += ["--train.warmup", "5", "--train.lr", "0.005", "--train.ema", "0"]
    assert launch("train-cls", [*config, "--run", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["classes"]["balanced_accuracy"] > 0.1  # chance is 0.053


@pytest.mark.slow
def test_the_exits_of_a_study_and_the_networks_that_end_there_are_told(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = {"backbone": "shallow_x0.5_d1"}
    sides = {"data__ratios": [0.4, 0.2, 0.4]}
    tiny("student", train__epochs=1, model=model, **sides)
    tiny("distill", train__epochs=1, model=EXITS, self_distill={}, **sides)
    rows = {
        "own": {"config": "distill.yaml", "gap": []},
        "alone_c2": {
            "config": "student.yaml",
            "gap": [],
            "against": ["own @ c2", "own"],
            "set": {"model.cut": "c2"},
        },
    }
    study = {"name": "small", "command": "train-cls", "rows": rows}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    assert launch("study", ["."]) == 0
    found = json.loads((tmp_path / "docs/results/small.json").read_text())["rows"]
    [exits] = found["own"]["exits"]
    early = json.loads((tmp_path / "runs/small/own-0/metrics.json").read_text())["early"]["exits"]
    assert list(exits) == ["c2", "c3"]
    for name, said in exits.items():
        assert said["val_top1"] == early[name]["top1"]
        assert said["val_balanced"] == early[name]["balanced_accuracy"]
    out = ["--cut", "c2", "--side", "test", "--out", tmp_path / "judged"]
    assert judge("--checkpoint", tmp_path / "runs/small/own-0/best.pt", *out) == 0
    judged = json.loads((tmp_path / "judged/metrics.json").read_text())
    assert exits["c2"]["test_macro_f1"] == pytest.approx(judged["classes"]["macro_f1"])
    intervals = found["own"]["exit_intervals"]
    assert list(intervals) == ["c2", "c3"]
    for name in ("top1", "balanced_accuracy", "macro_f1"):
        assert intervals["c2"][name] == pytest.approx(judged["intervals"][name])
    alone = found["alone_c2"]
    assert alone["exits"] == [{}]
    # The same network, of the same cost.
    assert alone["parameters"] == exits["c2"]["parameters"] < found["own"]["parameters"]
    assert alone["gflops"] == exits["c2"]["gflops"] == early["c2"]["flops"] / 1e9
    table = (tmp_path / "docs/results/small.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:6]] == [
        "| own", "| own @ c2", "| own @ c3", "| alone_c2",
    ]  # fmt: skip
    titles = table[0].split(" | ")
    shown = table[3].split(" | ")[titles.index("test balanced, 95 %")]
    assert shown == "{:.3f} to {:.3f}".format(*intervals["c2"]["balanced_accuracy"])
    assert [test["against"] for test in alone["paired"]] == ["own @ c2", "own"]
    others = (exits["c2"]["test_balanced"], found["own"]["test_balanced"][0])
    for test, other in zip(alone["paired"], others, strict=True):
        assert test["balanced_accuracy"]["value"] == pytest.approx(alone["test_balanced"][0])
        assert test["balanced_accuracy"]["other"] == pytest.approx(other)
    assert table[7].split(" | ")[:2] == ["| row", "less"]
    assert table[9].startswith("| alone_c2 | own @ c2 | ")
    assert table[10].startswith("| alone_c2 | own | ")


def test_figures_of_another_division_are_not_mixed(tiny, tmp_path, monkeypatch, crops):
    monkeypatch.chdir(tmp_path)
    table = crops.with_name("growing.csv")
    rows = crops.read_text().splitlines()
    table.write_text("\n".join(rows[:-1]) + "\n")
    tiny("student", data__train=str(table))
    study = {"name": "s", "command": "train-cls", "rows": {"plain": {"config": "student.yaml"}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**study, "gap": []}))

    def task():
        asked = read_study(tmp_path)

        def resolve(arguments):
            kind = asked.kind.experiment
            return read_kind(kind, "x", arguments, description="", epilog="")[0]

        return plan(asked, [0], resolve)[0]

    before = task()
    assert before.data and task().data == before.data
    table.write_text("\n".join(rows) + "\n")  # one image more divides all others anew
    assert task().data != before.data
    table.unlink()
    assert task().data is None


def test_a_study_of_classifiers_ends_in_its_table(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sides = {"data__ratios": [0.4, 0.2, 0.4]}
    for name in ("teacher", "student"):
        tiny(name, train__epochs=1, **sides)
    losses = [{"name": "kl", "at": ["logits"]}]
    distill = {"teacher": "of the row's own", "losses": losses}
    tiny("distill", train__epochs=1, distill=distill, **sides)
    rows = {
        "teacher": {"config": "teacher.yaml"},
        "plain": {"config": "student.yaml"},
        "kl": {
            "config": "distill.yaml",
            "set": {"distill.preflight": 0},
            "gap": ["teacher", "plain"],
        },
    }
    study = {"name": "small", "command": "train-cls", "rows": rows}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    assert launch("study", [".", "--rows", "kl"]) == 0
    found = json.loads((tmp_path / "docs/results/small.json").read_text())["rows"]
    assert list(found) == ["teacher", "kl"]
    metrics = json.loads((tmp_path / "runs/small/kl-0/metrics.json").read_text())["classes"]
    assert found["kl"]["val_top1"] == [metrics["top1"]]
    assert found["kl"]["val_balanced"] == [metrics["balanced_accuracy"]]
    assert found["kl"]["val_macro_f1"] == [metrics["macro_f1"]]
    out = tmp_path / "judged"
    best = tmp_path / "runs/small/kl-0/best.pt"
    assert judge("--checkpoint", best, "--side", "test", "--out", out) == 0
    judged = json.loads((out / "metrics.json").read_text())
    metrics = judged["classes"]
    for name in ("top1", "balanced_accuracy", "macro_f1"):
        assert found["kl"]["interval"][name] == judged["intervals"][name]
    [paired] = found["kl"]["paired"]
    assert (paired["against"], paired["unit"]) == ("teacher", "sample")
    line = paired["balanced_accuracy"]
    own, other = (found[row]["test_balanced"][0] for row in ("kl", "teacher"))
    assert line["difference"] == pytest.approx(own - other)
    assert line["interval"][0] <= line["difference"] <= line["interval"][1]
    assert "paired" not in found["teacher"]
    kept = read_predictions(tmp_path / "runs/small/kl-0/judged/test.json")
    assert kept.files == read_predictions(out / "predictions.json").files
    assert found["kl"]["test_top1"] == [metrics["top1"]]
    assert found["kl"]["test_balanced"] == [metrics["balanced_accuracy"]]
    assert found["kl"]["test_macro_f1"] == [metrics["macro_f1"]]
    assert found["kl"]["gflops"] > 0
    assert found["kl"]["seconds"][0] > 0
    assert found["kl"]["command"] == "detkd study . --rows kl --seeds 0"
    assert found["kl"]["parameters"] > found["kl"]["backbone_parameters"] > 0
    table = (tmp_path / "docs/results/small.md").read_text().splitlines()
    assert "| val top-1 | val balanced | val macro F1 | test top-1 | test bal" in table[0]
    assert "| params | MFLOPs | seconds |" in table[0]
    assert "| gap closed | test balanced, 95 % | less plain, 95 % |" in table[0]
    row = next(line for line in table if line.startswith("| kl"))
    assert f"{paired['balanced_accuracy']['difference']:+.3f} (" in row
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**study, "command": "learn"}))
    assert launch("study", ["."]) == 2
    assert "command: is train or train-cls" in capsys.readouterr().err


def child_of(parent):
    """The process that `parent` has begun, by Linux's tables."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                return int(stat.parent.name)
    raise AssertionError(f"{parent} has no child")


def is_stopped(process):
    """Whether a process that was told to stop does so already."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def is_waiting_for(process, number):
    """Whether a signal was sent to a process that has not taken it yet."""
    status = Path(f"/proc/{process}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if "Pnd:" in line]
    return any(mask >> (number - 1) & 1 for mask in masks)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="reads Linux's process tables")
def test_a_study_that_is_stopped_goes_on_where_it_was(tiny, tmp_path, monkeypatch, capsys):
    """Stopped within a training and begun again, it ends with the scores of an unbroken one."""
    monkeypatch.chdir(tmp_path)
    tiny("student", train__epochs=30)
    study = {"command": "train-cls", "rows": {"plain": {"config": "student.yaml"}}}
    for name in ("whole", "stopped"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **study}))
    assert launch("study", ["whole.yaml"]) == 0
    code = "import sys; from detkd.cli.app import launch; sys.exit(launch('study'))"
    command = [sys.executable, "-c", code, "stopped.yaml"]
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        # A shell has its background jobs ignore Ctrl-C, and these tests may be run by one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    log = tmp_path / "runs/stopped/plain-0/log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.is_file() and '"epoch": 1' in log.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    training = child_of(process.pid)  # which is held, so that it cannot end before the signal
    os.kill(training, signal.SIGSTOP)
    while not is_stopped(training):  # one that waits for a core would take the other first
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    while not is_waiting_for(training, signal.SIGTERM):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(training, signal.SIGCONT)
    assert process.wait() == 130
    ended = tmp_path / "runs/stopped/plain-0/metrics.json"
    assert not ended.exists()
    capsys.readouterr()
    assert launch("study", ["stopped.yaml"]) == 0
    assert "plain, seed 0: begun" in capsys.readouterr().out
    one, other = (
        json.loads((tmp_path / f"docs/results/{name}.json").read_text())["rows"]["plain"]
        for name in ("whole", "stopped")
    )
    for key in one.keys() - {"seconds", "command"}:
        assert one[key] == other[key], key
    assert same(weights(tmp_path / "runs/whole/plain-0"), weights(ended.parent))
    assert launch("study", ["stopped.yaml"]) == 0
    assert "begun" not in capsys.readouterr().out


def test_a_broken_test_image_is_told_before_the_training(tiny, tmp_path, crops, capsys):
    shutil.copytree(crops.parent, tmp_path / "crops")
    table = tmp_path / "crops/some.csv"
    config = tiny(data__train=str(table))
    data = ClassDataConfig(**yaml.safe_load(config.read_text())["data"])
    held = sides_of(data).of("test").images[0].file
    (table.parent / held).write_bytes(b"no picture")
    assert train(config, tmp_path / "run") == 2
    assert held in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("cache", [True, False])
def test_a_feature_that_the_teacher_lacks_is_named(tiny, tmp_path, capsys, cache):
    assert train(tiny(), tmp_path / "teacher") == 0
    distill = {
        "teacher": str(tmp_path / "teacher/best.pt"),
        "losses": [{"name": "kl", "at": ["logit"]}],
        "cache": cache,
        "cache_folder": str(tmp_path / "kept"),
    }
    assert train(tiny("student", distill=distill, data__views=2), tmp_path / "run") == 2
    assert "no feature 'logit' in the" in capsys.readouterr().err


def test_what_a_run_said_of_its_own_is_not_written_over(tiny, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(tiny(), run) == 0
    before = (run / "predictions.json").read_bytes(), (run / "best.pt").read_bytes()
    checkpoint = str(run / "best.pt")
    assert judge("--checkpoint", checkpoint, "--side", "test", "--out", str(run)) == 2
    assert "is a run folder" in capsys.readouterr().err
    assert judge("--checkpoint", checkpoint, "--cut", "last", "--cut-out", checkpoint) == 2
    assert "is a run folder" in capsys.readouterr().err
    assert judge("--checkpoint", str(run)) == 2
    assert f"name its checkpoint, {run}/best.pt" in capsys.readouterr().err
    assert judge("--checkpoint", checkpoint, "--against", str(run), "--bootstrap", "0") == 2
    assert "--bootstrap a number" in capsys.readouterr().err
    assert ((run / "predictions.json").read_bytes(), (run / "best.pt").read_bytes()) == before
    assert launch("compare", [str(run), str(run)]) == 2
    assert "detkd eval-cls" in capsys.readouterr().err
    assert train(tiny(), run, "--resume") == 0
    assert "has ended after epoch 2" in capsys.readouterr().err
