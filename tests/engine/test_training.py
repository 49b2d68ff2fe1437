"""A training as a user runs it: what it leaves behind, and how it goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from forks import Fork

from detkd.cli.app import launch
from detkd.cli.arguments import read_experiment
from detkd.config import TrainConfig
from detkd.engine.devices import processes_begun
from detkd.engine.optimiser import build_optimizer
from detkd.engine.parts import open_data
from detkd.engine.predict import open_for_judging
from detkd.engine.run import RunFolder, read_log
from detkd.models.detector import Detector
from detkd.models.weights import read_checkpoint

# `--` keeps torchrun from reading --run as one of its own options.
TOOL = Path(__file__).parents[2] / "tools/train_det.py"


def train(config, run, *more):
    return launch("train", ["--config", str(config), "--run", str(run), *more])


def weights(run):
    return read_checkpoint(run / "last.pt")["training"]["trainable"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_leaves_what_the_design_names(tiny, tmp_path):
    assert train(tiny(), tmp_path / "run") == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {
        "config.yaml",
        "environment.txt",
        "log.jsonl",
        "tensorboard",
        "last.pt",
        "best.pt",
        "metrics.json",
        "predictions.json",
        "plots",
    }
    plots = {path.name for path in (tmp_path / "run/plots").iterdir()}
    assert plots == {"curves.png", "pr_curves.png", "per_class.png", "worst_images.png"}
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert set(metrics) == {"coco", "voc", "per_class", "counts", "intervals"}
    lines = read_log(RunFolder(tmp_path / "run"))
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(6))
    assert [line["epoch"] for line in lines if line["kind"] == "val"] == [1, 2]


def test_the_best_checkpoint_needs_nothing_else_to_be_used(tiny, tmp_path):
    train(tiny(), tmp_path / "run")
    detector = Detector.load(tmp_path / "run/best.pt")
    assert len(detector.classes) == 8
    assert not detector.training
    assert "training" not in read_checkpoint(tmp_path / "run/best.pt")
    assert set(detector([torch.rand(3, 60, 80)])[0]) == {"boxes", "labels", "scores"}


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tiny, tmp_path):
    train(tiny(), tmp_path / "a")
    train(tiny(), tmp_path / "b")
    train(tiny(), tmp_path / "c", "--train.seed", "1")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_data_workers_change_nothing(tiny, tmp_path):
    train(tiny(), tmp_path / "none")
    train(tiny(), tmp_path / "two", "--data.workers", "2")
    assert same(weights(tmp_path / "none"), weights(tmp_path / "two"))


def kill_in_the_middle(config, run, *more):
    """Train in a process of its own, and kill it in the second of four epochs of three steps."""
    command = ["train", "--config", config, "--run", run, *more]
    process = Fork(command, run.with_suffix(".log"))
    process.until(run / "log.jsonl", '"step": 4')
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    reached = read_checkpoint(run / "last.pt")["training"]["progress"]["step"]
    assert 0 < reached < 12


def same_course(one, other):
    """Whether two runs have the same weights and the same log, times and memory apart."""
    times = ("epoch_seconds", "data_wait", "memory_mib", "seconds")
    logs = [
        [{k: v for k, v in line.items() if k not in times} for line in read_log(RunFolder(run))]
        for run in (one, other)
    ]
    return logs[0] == logs[1] and same(weights(one), weights(other))


def goes_on_after_a_kill(config, folder, *more):
    """Assert that a run that was killed and resumed ends as the unbroken one, both in `folder`."""
    train(config, folder / "whole", *more)
    kill_in_the_middle(config, folder / "killed", *more)
    assert train(config, folder / "killed", *more, "--resume") == 0
    assert same_course(folder / "whole", folder / "killed")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tiny, tmp_path, workers):
    optimizer = "sgd" if workers else "adamw"
    more = ["--data.workers", str(workers), "--train.optimizer", optimizer]
    more += ["--train.save_every", "1", "--train.epochs", "4"]
    goes_on_after_a_kill(tiny(), tmp_path, *more)


# Everything of a distillation that has a memory: trained losses, schedules, balance, thawing.
REMEMBERS = {
    "heads": "freeze",
    "freeze_until": 0.6,
    "balance": "auto",
    "losses": [
        {"name": "mgd", "at": ["p3"], "weight": 0.5, "schedule": {"every": 2, "decay": "linear"}},
        {"name": "kl", "at": ["roi.logits"], "schedule": {"warmup": 8, "stop": 0.9}},
    ],
}


@pytest.mark.slow
def test_a_killed_distillation_goes_on_and_ends_with_the_same_weights(tiny, tmp_path):
    assert train(tiny("teacher", train__epochs=1), tmp_path / "teacher") == 0
    distill = {"teacher": str(tmp_path / "teacher/best.pt"), **REMEMBERS}
    config = tiny("student", distill=distill)
    more = ["--train.save_every", "1", "--train.epochs", "4"]
    goes_on_after_a_kill(config, tmp_path, *more)


def test_a_run_that_was_begun_before_a_key_was_there_goes_on(tiny, tmp_path):
    run = tmp_path / "run"
    assert train(tiny(), run) == 0
    tree = yaml.safe_load((run / "config.yaml").read_text())
    del tree["model"]["roi_features"], tree["model"]["roi_channels"]
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    assert train(tiny(), run, "--resume") == 0
    assert train(tiny(), run, "--resume", "--model.roi_features", "thin") == 2


@pytest.mark.parametrize(
    "stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_ctrl_c_saves_and_says_how_to_go_on(tiny, tmp_path, stop):
    run = tmp_path / "run"
    longer = ["--train.epochs", "200", "--data.workers", "1"]
    command = ["train", "--config", tiny(), "--run", run, *longer]
    process = Fork(command, tmp_path / "said.log")
    process.until(run / "log.jsonl", "step")
    if stop == signal.SIGINT:
        os.killpg(process.pid, stop)  # as a terminal does, to the loader's process as well
    else:
        process.send_signal(stop)
    assert process.wait(timeout=60) == 130
    assert "--resume" in process.said()
    assert "Traceback" not in process.said()
    assert read_checkpoint(run / "last.pt")["training"]["progress"]["step"] > 0


def test_a_distilled_student_is_saved_as_a_plain_one(tiny, tmp_path):
    teacher = tiny("teacher", model__backbone="mobilenet_v3_small@c4")
    train(teacher, tmp_path / "teacher")
    distill = {
        "teacher": str(tmp_path / "teacher/best.pt"),
        "heads": "inherit",
        "losses": [
            {"name": "kl", "at": ["roi.logits"], "weight": 1.0},
            {"name": "hint", "at": ["c3"], "weight": 0.1},
        ],
    }
    config = tiny("distilled", distill=distill)
    train(config, tmp_path / "whole", "--train.epochs", "3")
    train(tiny("plain"), tmp_path / "plain")
    plain, distilled = (
        read_checkpoint(tmp_path / name / "best.pt")["weights"] for name in ("plain", "whole")
    )
    assert {k: v.shape for k, v in plain.items()} == {k: v.shape for k, v in distilled.items()}
    line = read_log(RunFolder(tmp_path / "whole"))[0]
    assert {"kl@roi.logits", "hint@c3"} <= set(line)


OWN = {"exits": ["c2", "c3"], "alpha": 0.4, "temperature": 2.0}


def test_a_detector_that_was_its_own_teacher_is_saved_as_a_plain_one(tiny, tmp_path):
    more = ["--train.precision", "bf16", "--train.epochs", "3"]
    assert train(tiny("own", self_distill=OWN), tmp_path / "own", *more) == 0
    assert train(tiny("plain"), tmp_path / "plain") == 0
    for file in ("best.pt", "last.pt"):
        plain, own = (
            read_checkpoint(tmp_path / name / file)["weights"] for name in ("plain", "own")
        )
        assert {k: v.shape for k, v in plain.items()} == {k: v.shape for k, v in own.items()}
    assert isinstance(Detector.load(tmp_path / "own/best.pt"), Detector)
    assert any(key.startswith("exits.c3.") for key in weights(tmp_path / "own"))
    lines = [x for x in read_log(RunFolder(tmp_path / "own")) if x["kind"] == "train"]
    for term in ("loss_label", "kl", "hint"):
        assert all(line[f"{term}@{name}"] > 0 for line in lines for name in ("c2", "c3"))
    assert lines[-1]["loss_label@c2"] < lines[0]["loss_label@c2"]


@pytest.mark.slow
def test_a_killed_self_distillation_goes_on_and_ends_with_the_same_weights(tiny, tmp_path):
    config = tiny("own", self_distill=OWN)
    more = ["--train.save_every", "1", "--train.epochs", "4"]
    goes_on_after_a_kill(config, tmp_path, *more)
    other = ["--self_distill.alpha", "0.2", "--resume"]
    assert train(config, tmp_path / "killed", *more, *other) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"self_distill": {}}, "name stages in self_distill.exits"),
        ({"self_distill": {"exits": ["c9"]}}, "no exit can sit on 'c9'; there are c2, c3, c4"),
        ({"self_distill": OWN, "distill": {}}, "a network has a teacher or is its own"),
        ({"self_distill": {**OWN, "alpha": 1.5}}, "self_distill.alpha: 1.5 makes no sense"),
        ({"self_distill": {"exit": ["c2"]}}, "did you mean 'self_distill.exits'?"),
        ({"model__exits": ["c2"]}, "'model.exits' is a key of 'detkd train-cls'"),
    ],
)
def test_exits_that_cannot_be_taught_end_in_a_sentence(tiny, tmp_path, capsys, changes, said):
    if "distill" in changes:
        assert train(tiny("teacher", train__epochs=1), tmp_path / "teacher") == 0
        changes = {**changes, "distill": {"teacher": str(tmp_path / "teacher/best.pt")}}
    capsys.readouterr()
    assert train(tiny(**changes), tmp_path / "run") == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_accumulated_batches_count_as_one_step(tiny, tmp_path):
    train(tiny(), tmp_path / "run", "--train.accumulate", "3")
    steps = [
        line["step"] for line in read_log(RunFolder(tmp_path / "run")) if line["kind"] == "train"
    ]
    assert steps == [0, 1]


def test_an_epoch_of_less_than_a_step_is_refused(tiny, tmp_path, capsys):
    assert train(tiny(), tmp_path / "run", "--train.accumulate", "40") == 2
    said = capsys.readouterr().err
    assert "train.accumulate: 40 batches make a step, and an epoch has" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run/best.pt").exists()


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        ({}, (1, 1)),
        ({"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}, (2, 4)),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "interactive"}, (1, 1)),
        ({"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4"}, (1, 1)),  # without srun
        (
            {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_STEP_NUM_TASKS": "8"},
            (4, 8),
        ),
    ],
)
def test_a_training_is_as_many_processes_as_were_begun(monkeypatch, environment, processes):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name.endswith("WORLD_SIZE"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes_begun() == processes


def test_an_allocation_that_does_not_fit_ends_in_a_sentence(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_JOB_NAME", "batch")
    assert train(tiny(), tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "SLURM's allocation does not fit this training" in said
    assert len(said.splitlines()) == 1


def test_sgd_without_momentum_goes_down_the_gradient_alone():
    layer = torch.nn.Linear(2, 1, bias=False)
    settings = TrainConfig(optimizer="sgd", momentum=0.0, weight_decay=0.0, lr=0.5)
    optimizer, before = build_optimizer(layer, settings), layer.weight.detach().clone()
    for _ in range(2):
        layer.zero_grad()
        layer(torch.tensor([[1.0, 3.0]])).sum().backward()
        optimizer.step()
    assert torch.allclose(layer.weight, before - 2 * 0.5 * torch.tensor([[1.0, 3.0]]))


@pytest.mark.parametrize("schedule", ["step", "one_cycle", "constant"])
def test_every_schedule_trains(tiny, tmp_path, schedule):
    more = ("--train.schedule", schedule, "--train.precision", "bf16", "--train.epochs", "1")
    assert train(tiny(), tmp_path / "run", *more) == 0


def test_early_stop_ends_a_run_that_no_longer_gains(tiny, tmp_path):
    more = (
        "--train.lr",
        "0",
        "--train.early_stop",
        "2",
        "--train.epochs",
        "30",
        "--train.ema",
        "0",
    )
    assert train(tiny(), tmp_path / "run", *more) == 0
    judged = [line for line in read_log(RunFolder(tmp_path / "run")) if line["kind"] == "val"]
    assert len(judged) < 30


def test_a_loss_that_is_not_finite_ends_in_a_sentence(tiny, tmp_path, capsys):
    assert train(tiny(), tmp_path / "run", "--train.lr", "1e30", "--train.clip", "0") == 2
    said = capsys.readouterr().err
    assert "is not finite" in said
    assert "step" in said
    assert "Traceback" not in said


def train_with_two(config, run, port, *more):
    """Train with two processes on the CPU."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", str(port), "--", str(TOOL), "--config", str(config)]
    subprocess.run(
        [*command, "--run", str(run), *more],
        check=True,
        capture_output=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_two_processes_distil_with_terms_that_rest_and_parts_that_thaw(tiny, tmp_path):
    assert train(tiny("teacher", train__epochs=1), tmp_path / "teacher") == 0
    distill = {"teacher": str(tmp_path / "teacher/best.pt"), **REMEMBERS}
    config = tiny("student", distill=distill, train__batch_size=2)
    train_with_two(config, tmp_path / "two", 29612)
    steps = [line for line in read_log(RunFolder(tmp_path / "two")) if line["kind"] == "train"]
    assert len(steps) == 6
    assert all({"mgd@p3", "kl@roi.logits"} < set(line) for line in steps)
    assert [line["mgd@p3"] > 0 for line in steps] == [True, False, True, False, True, False]


@pytest.mark.slow
def test_two_processes_follow_one_with_the_doubled_batch(tiny, tmp_path):
    # Frozen norms and sampling without chance: what is left is how gradients are averaged.
    same_in_both = {
        "model__frozen_norm": True,
        "model__rpn_samples": 100000,
        "train__ema": 0.0,
        "train__epochs": 3,
        "train__lr": 1e-3,
        "train__clip": 0.0,
        "train__optimizer": "sgd",
    }
    train(tiny("one", train__batch_size=4, **same_in_both), tmp_path / "one")
    two = tiny("two", **same_in_both)
    train_with_two(two, tmp_path / "two", 29611, "--train.batch_size", "2")
    curves = []
    for name in ("one", "two"):
        lines = [x for x in read_log(RunFolder(tmp_path / name)) if x["kind"] == "train"]
        curves.append([x["loss_objectness"] + x["loss_rpn_box_reg"] for x in lines])
    assert len(curves[0]) == len(curves[1]) == 9
    # The log of the two is that of the first process, which saw half of each batch.
    means = [sum(curve) / len(curve) for curve in curves]
    assert means[1] == pytest.approx(means[0], rel=0.1)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    start = torch.cat([v.flatten() for k, v in a.items() if "rpn.head" in k])
    other = torch.cat([v.flatten() for k, v in b.items() if "rpn.head" in k])
    assert torch.allclose(start, other, atol=5e-3)


def test_the_levels_of_deep_images_go_with_the_checkpoint(scenes, tiny, tmp_path):
    """What is judged, predicted or exported later maps 16 bits as the training did."""
    document = json.loads((scenes / "all.json").read_text())
    document["info"]["detkd"]["sixteen_bit"] = {"low": 300, "high": 20000}
    (scenes / "deep.json").write_text(json.dumps(document))
    config = tiny(train__epochs=1, data__train=str(scenes / "deep.json"))
    assert train(config, tmp_path / "run") == 0
    assert Detector.load(tmp_path / "run/best.pt").levels == (300.0, 20000.0)
    _, dataset = open_for_judging(tmp_path / "run/best.pt", scenes / "all.json")
    assert dataset.levels == (300.0, 20000.0)
    # In the training, too, on the validation side; and a student sees what its teacher saw.
    document["info"]["detkd"]["sixteen_bit"] = {"low": 0, "high": 9000}
    (scenes / "other.json").write_text(json.dumps(document))
    for distill, levels in (
        (None, (0.0, 9000.0)),
        ({"teacher": str(tmp_path / "run/best.pt")}, (300.0, 20000.0)),
    ):
        student = tiny("student", distill=distill, data__train=str(scenes / "other.json"))
        experiment, _ = read_experiment("x", ["--config", str(student)], description="", epilog="")
        sides = open_data(experiment)
        assert [side.levels for side in sides] == [levels, levels]


def test_a_run_does_not_go_on_with_other_boxes(scenes, tiny, tmp_path, capsys):
    document = json.loads((scenes / "all.json").read_text())
    document["info"]["detkd"]["image_root"] = str(
        os.path.relpath(scenes / document["info"]["detkd"]["image_root"], tmp_path)
    )
    truth = tmp_path / "train.json"
    truth.write_text(json.dumps(document))
    config = tiny(train__epochs=1, data__train=str(truth))
    assert train(config, tmp_path / "run") == 0
    named = [{**image, "sample": "lake"} for image in document["images"]]
    truth.write_text(json.dumps({**document, "images": named}))
    assert train(config, tmp_path / "run", "--resume") == 0  # the same images and boxes
    document["annotations"][0]["bbox"][0] += 1
    truth.write_text(json.dumps(document))
    capsys.readouterr()
    assert train(config, tmp_path / "run", "--resume") == 2
    assert "was begun with other images or boxes" in capsys.readouterr().err
