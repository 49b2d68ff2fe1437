"""What keeps a distillation from going wrong unseen: preflight, watch, and suggested weights."""

import json
import math

import pytest
import torch

from detkd.cli.app import launch
from detkd.data.dataset import CocoDataset
from detkd.engine import preflight
from detkd.engine.preflight import check_teacher
from detkd.engine.run import RunFolder, read_log
from detkd.engine.watch import Watch
from detkd.errors import UserError
from detkd.models.weights import read_checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def teacher(tiny, tmp_path):
    assert (
        launch("train", ["--config", str(tiny(train__epochs=1)), "--run", str(tmp_path / "t")]) == 0
    )
    return tmp_path / "t/best.pt"


def with_score(checkpoint, score):
    tree = torch.load(checkpoint, weights_only=True)
    torch.save({**tree, "score": score}, checkpoint)
    return str(checkpoint)


def test_a_best_checkpoint_says_what_it_reached(teacher):
    log = read_log(RunFolder(teacher.parent))
    assert torch.load(teacher, weights_only=True)["score"] == log[-1]["AP"]


def test_a_teacher_far_below_its_record_stops_the_run(teacher, tiny, scenes, tmp_path, capsys):
    path = with_score(teacher, 0.8)
    distill = {"teacher": path, "losses": [{"name": "pkd", "at": ["p3"]}]}
    config = tiny("student", distill=distill)
    assert launch("train", ["--config", str(config), "--run", str(tmp_path / "s")]) == 2
    said = capsys.readouterr().err
    assert launch("train", ["--config", str(config), "--suggest-weights"]) == 2
    assert capsys.readouterr().err == said
    assert "the teacher reached a mAP of 0.800" in said
    assert "on 12 images" in said
    # Told to trust it, the run goes on in the folder that was begun.
    trust = ["--distill.preflight", "0", "--train.epochs", "1"]
    assert launch("train", ["--config", str(config), "--run", str(tmp_path / "s"), *trust]) == 0


def test_a_teacher_as_good_as_its_record_passes(teacher, scenes, monkeypatch):
    dataset = CocoDataset(scenes / "all.json", image_size=96)
    keys = ("image_id", "category_id", "bbox")
    right = [
        {**{key: box[key] for key in keys}, "score": 0.9} for box in dataset.truth["annotations"]
    ]
    with monkeypatch.context() as patched:
        patched.setattr(preflight, "predict", lambda *_, **given: right)  # its mAP is 1
        check_teacher(with_score(teacher, 1.9), dataset, 12, CPU)
        with pytest.raises(UserError, match=r"has 1\.000 on 12 images"):
            check_teacher(with_score(teacher, 2.1), dataset, 12, CPU)
    check_teacher(with_score(teacher, 0.0), dataset, 8, CPU)  # without a record, nothing
    with pytest.raises(UserError, match="on 3 images"):
        check_teacher(with_score(teacher, 0.9), dataset, 3, CPU)
    check_teacher(with_score(teacher, 0.9), dataset, 0, CPU)


@pytest.mark.parametrize(
    ("images", "chosen"), [(3, [0, 4, 8]), (8, [0, 1, 3, 4, 6, 7, 9, 10]), (48, list(range(12)))]
)
def test_a_teacher_is_looked_at_all_over_the_data_set(teacher, scenes, monkeypatch, images, chosen):
    asked = []
    monkeypatch.setattr(
        preflight, "predict", lambda *_, **given: asked.extend(given["chosen"]) or []
    )
    dataset = CocoDataset(scenes / "all.json", image_size=96)
    with pytest.raises(UserError):
        check_teacher(with_score(teacher, 0.9), dataset, images, CPU)
    assert asked == chosen


def test_a_term_that_drowns_the_task_is_named():
    watch = Watch(after=10)
    losses = {
        "loss_classifier": 0.3,
        "loss_box_reg": 0.2,
        "pkd@p3": 2.0,
        "pkd@p4": 4.0,
        "kl@x": 4.9,
    }
    for step in range(10 + 49):
        watch.look(losses, step)
    with pytest.raises(UserError, match="step 59: the term 'pkd' was 12 times the task loss"):
        watch.look(losses, 59)


def test_a_term_is_not_measured_against_a_task_that_is_off():
    watch = Watch(after=0)
    for step in range(60):
        watch.look({"loss_classifier": 0.0, "pkd@p3": 2.0}, step)


def test_features_first_leave_nothing_behind_that_drowns_the_task():
    watch = Watch(after=0)
    for step in range(60):
        watch.look({"loss_classifier": 0.0, "hint@p3": 2.0}, step)
    for step in range(60, 200):
        watch.look({"loss_classifier": 1.0, "hint@p3": 2.0}, step)


def test_a_loss_from_outside_is_watched_whatever_its_file_is_called():
    watch = Watch(after=0)
    with pytest.raises(UserError, match="the term 'loss_mine:Mine' was 1000 times"):
        for step in range(50):
            watch.look({"loss_classifier": 0.5, "loss_mine:Mine@p3": 500.0}, step)


def test_a_weight_that_drowns_the_task_ends_the_training(teacher, tiny, tmp_path, capsys):
    losses = [{"name": "kl", "at": ["roi.logits"]}, {"name": "hint", "at": ["p3"], "weight": 1e6}]
    distill = {"teacher": str(teacher), "losses": losses, "heads": "none"}
    config = tiny("student", distill=distill, train__epochs=30)
    assert launch("train", ["--config", str(config), "--run", str(tmp_path / "s")]) == 2
    assert "the term 'hint' was" in capsys.readouterr().err


def test_pulls_are_in_the_log(teacher, tiny, tmp_path):
    losses = [{"name": "hint", "at": ["c3"], "weight": 0.5}]
    config = tiny("student", distill={"teacher": str(teacher), "losses": losses})
    assert launch("train", ["--config", str(config), "--run", str(tmp_path / "s")]) == 0
    first = read_log(RunFolder(tmp_path / "s"))[0]
    assert math.isfinite(first["pull/hint"])
    assert first["pull/hint"] > 0


def test_pulls_are_in_the_log_where_steps_are_of_several_batches(teacher, tiny, tmp_path):
    distill = {"teacher": str(teacher), "losses": [{"name": "pkd", "at": ["p3"]}]}
    config = tiny("student", distill=distill, train__epochs=1, train__accumulate=2)
    assert launch("train", ["--config", str(config), "--run", str(tmp_path / "s")]) == 0
    log = [line for line in read_log(RunFolder(tmp_path / "s")) if line["kind"] == "train"]
    assert "pull/pkd" in log[0] and "size/pkd@p3" in log[0]


def test_no_epoch_without_the_task_is_the_best_one_or_costs_patience(teacher, tiny, tmp_path):
    distill = {"teacher": str(teacher), "heads": "none", "task_from": 0.5}
    distill["losses"] = [{"name": "hint", "at": ["p3"]}]
    config = tiny("student", distill=distill, train__epochs=6, train__early_stop=1)
    run = ["--config", str(config), "--run"]
    assert launch("train", [*run, str(tmp_path / "a")]) == 0
    log = read_log(RunFolder(tmp_path / "a"))
    assert max(line["epoch"] for line in log if line["kind"] == "val") > 3
    assert launch("train", [*run, str(tmp_path / "b"), "--distill.task_from", "1.0"]) == 0
    best, last = (
        read_checkpoint(tmp_path / "b" / name)["weights"] for name in ("best.pt", "last.pt")
    )
    assert all(torch.equal(best[key], value) for key, value in last.items())
    # And another run begins with what that one has learned.
    plain = ["--config", str(tiny("plain", train__lr=0.0, train__ema=0)), "--run"]
    begins = ["--model.weights", str(tmp_path / "b/best.pt"), "--train.epochs", "1"]
    assert launch("train", [*plain, str(tmp_path / "c"), *begins]) == 0
    begun = read_checkpoint(tmp_path / "c/best.pt")["weights"]
    key = "backbone.body.stages.c3.0.pointwise.0.weight"
    assert torch.equal(begun[key], best[key])


def test_features_are_learned_from_images_without_a_box(teacher, tiny, scenes, tmp_path, capsys):
    tree = json.loads((scenes / "all.json").read_text())
    empty = scenes / "empty.json"
    empty.write_text(json.dumps({**tree, "annotations": []}))
    distill = {"teacher": str(teacher), "losses": [{"name": "hint", "at": ["p3"]}]}
    config = tiny("student", distill=distill, train__epochs=1, data__train=str(empty))
    run = ["--config", str(config), "--run", str(tmp_path / "s")]
    assert launch("train", run) == 2
    assert "holds no box to be learned from" in capsys.readouterr().err
    assert launch("train", [*run, "--distill.task_from", "1.0"]) == 0
    last = [line for line in read_log(RunFolder(tmp_path / "s")) if line["kind"] == "train"][-1]
    assert last["loss_classifier"] == 0 < last["hint@p3"]


def test_suggested_weights_give_half_of_the_tasks_pull(teacher, tiny, capsys):
    losses = [{"name": "hint", "at": ["c3"], "weight": 9.0, "schedule": {"start": 0.9}}]
    config = tiny("student", distill={"teacher": str(teacher), "losses": losses, "heads": "none"})
    assert launch("train", ["--config", str(config), "--suggest-weights"]) == 0
    said = capsys.readouterr().out
    pull = float(said.split("pull ")[1].split(";")[0])
    weight = float(said.split("weight: ")[1].split()[0])
    assert weight * pull == pytest.approx(0.5, rel=0.06)  # printed with two digits
    # Whatever weight was typed, it is the same.
    losses[0]["weight"] = 1.0
    config = tiny("other", distill={"teacher": str(teacher), "losses": losses, "heads": "none"})
    assert launch("train", ["--config", str(config), "--suggest-weights"]) == 0
    assert f"weight: {weight:g}\n" in capsys.readouterr().out

    plain = tiny("plain")
    assert launch("train", ["--config", str(plain), "--suggest-weights"]) == 2
    assert "no distill.losses to measure" in capsys.readouterr().err


def test_a_classifier_that_has_learned_its_images_is_not_held_against_a_loss_of_nothing():
    watch = Watch(after=0, guessing=math.log(6))
    for step in range(60):
        watch.look({"loss_label": 0.01, "kl@logits": 3.0}, step)
    watch = Watch(after=0, guessing=math.log(6))
    with pytest.raises(UserError, match="the term 'kl' was 17 times what guessing costs"):
        for step in range(50):
            watch.look({"loss_label": 0.01, "kl@logits": 30.0}, step)
    # As long as the task costs more, it is the measure.
    watch = Watch(after=0, guessing=math.log(6))
    with pytest.raises(UserError, match="the term 'kl' was 15 times the task loss"):
        for step in range(50):
            watch.look({"loss_label": 2.0, "kl@logits": 30.0}, step)


def test_a_large_loss_that_pulls_little_drowns_nothing():
    losses = {"loss_label": 0.5, "hint@c4": 30.0}
    watch = Watch(after=0)
    watch.measured({"pull/hint": 0.3, "size/hint@c4": 60.0})
    for step in range(60):
        watch.look(losses, step)
    watch.measured({"pull/hint": 4.0})
    with pytest.raises(UserError, match="the term 'hint' was 60 times the task loss"):
        watch.look(losses, 60)
