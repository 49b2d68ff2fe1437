"""What a detector costs, and that the benchmarks measure what they say."""

import json
import math

import pytest
import torch
import yaml

from detkd.cli.app import launch
from detkd.config import (
    ClassDataConfig,
    ClassifierConfig,
    ClassifierExperiment,
    ModelConfig,
    TeachConfig,
    TrainConfig,
)
from detkd.data.class_dataset import ClassDataset
from detkd.distill.classifier_distiller import build_classifier_distiller
from detkd.engine.class_benchmarks import (
    CLASSES,
    TERM,
    _crops,
    _exits,
    _with_exits,
    _with_its_batch,
)
from detkd.engine.profile import measure_cost
from detkd.errors import CheckpointError
from detkd.models.classifier import build_classifier
from detkd.models.detector import build_detector
from detkd.models.early_exit import exit_flops
from detkd.shipped import shipped


def cost_of(backbone):
    torch.manual_seed(0)
    model = ModelConfig(
        backbone=backbone,
        neck_channels=16,
        head_width=16,
        levels=["p3", "p4"],
        anchor_sizes=[[16.0], [32.0]],
    )
    detector = build_detector(model, ("a", "b"), 64)
    return detector, measure_cost(detector, torch.rand(3, 64, 64), repeats=1)


def test_parameters_are_those_of_the_saved_detector():
    detector, cost = cost_of("shallow_x1")
    assert cost.parameters == sum(p.numel() for p in detector.parameters())
    assert cost.backbone == sum(p.numel() for p in detector.backbone.body.parameters())
    assert 0 < cost.backbone < cost.parameters


def test_operations_count_multiply_and_add_apart():
    """Of two detectors alike but for the backbone, the difference is the backbones' own."""
    small, of_small = cost_of("shallow_x1")
    large, of_large = cost_of("shallow_x2")

    def convolutions(detector):
        """2 * C_in / groups * k * k * C_out * H * W of every convolution, read as they run."""
        counted = []

        def count(module, _, out):
            kernel = math.prod(module.kernel_size) * module.in_channels // module.groups
            counted.append(2 * kernel * out.numel())

        hooks = [
            m.register_forward_hook(count)
            for m in detector.backbone.modules()
            if isinstance(m, torch.nn.Conv2d)
        ]
        with torch.no_grad():
            detector.eval()([torch.rand(3, 64, 64)])
        for hook in hooks:
            hook.remove()
        return sum(counted)

    by_hand = convolutions(large) - convolutions(small)
    assert of_large.gflops - of_small.gflops == pytest.approx(by_hand / 1e9, rel=1e-6)


def test_measuring_leaves_the_number_of_threads_alone():
    before = torch.get_num_threads()
    cost_of("shallow_x0.5_d1")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("train", {"teacher", "student"}),
        ("distill", {"plain_step_s", "teacher_forward_s", "distilling_step_s", "to_sum"}),
        pytest.param("classify", {"training", "answering", "exits"}, marks=pytest.mark.slow),
        ("loading", {"data_wait", "epochs"}),
    ],
)
def test_each_benchmark_runs_and_writes_its_figures(name, keys, tmp_path, capsys):
    out = tmp_path / "figures.json"
    options = ["--steps", "1", "--image-size", "64", "--batch-size", "2", "--out", str(out)]
    assert launch("bench", [name, *options]) == 0
    figures = json.loads(out.read_text())
    assert keys <= set(figures)
    assert json.loads(capsys.readouterr().out) == figures
    if name == "classify":
        assert figures["answering"]["student_logits"] == pytest.approx(10, rel=0.2)
        assert figures["answering"]["student_difference"] < 1e-4


def test_the_step_of_a_lab_s_own_pair_is_measured(tmp_path, capsys):
    files = {
        name: shipped("configs", "microalgae", f"{name}.yaml") for name in ("distill", "teacher")
    }
    small = tmp_path / "small.yaml"
    tree = yaml.safe_load(files["distill"].read_text())
    tree["data"]["image_size"], tree["train"]["batch_size"] = 64, 2
    small.write_text(yaml.safe_dump(tree))
    pair = ["--config", str(small), "--teacher", str(files["teacher"])]
    assert launch("bench", ["distill", "--steps", "1", *pair]) == 0
    assert json.loads(capsys.readouterr().out)["cached_to_plain"] > 0
    assert launch("bench", ["distill", *pair[:2]]) == 2
    assert "give both, --config of the student and --teacher" in capsys.readouterr().err
    assert launch("bench", ["distill", "--config", pair[3], "--teacher", pair[3]]) == 2
    assert "has no 'distill'; name the config of a distilled student" in capsys.readouterr().err


def test_what_exits_save_is_counted_with_the_shares_of_a_run(tmp_path):
    torch.manual_seed(0)
    model = ClassifierConfig("shallow_x0.5_d1", exits=["c2", "c4"])
    network = build_classifier(model, ("a", "b"), 64)
    run = tmp_path / "run"
    run.mkdir()
    experiment = ClassifierExperiment(ClassDataConfig("crops", image_size=64), model)
    torch.save(
        {
            "version": "0",
            "network": "classifier",
            "config": experiment.as_dict(),
            "classes": ["a", "b"],
            "weights": network.state_dict(),
        },
        run / "best.pt",
    )
    with pytest.raises(CheckpointError, match=r"has no metrics\.json of a network with exits"):
        _with_exits(64, run)
    shares = {"c2": 0.5, "c4": 0.25, "last": 0.25}
    early = {"exits": {name: {"share": share} for name, share in shares.items()}}
    (run / "metrics.json").write_text(json.dumps({"early": early}))
    found = _exits(1, *_with_exits(64, run))
    alone = found["alone"]["mflops"]
    spent = sum(share * found[name]["mflops"] / alone for name, share in shares.items())
    assert found["run"]["flops_saved"] == pytest.approx(1 - spent)
    until = exit_flops(network, 64)
    assert found["c4"]["mflops"] == until["c4"] / 1e6
    assert alone < found["last"]["mflops"]  # which passes the exits
    spent = sum(share * found[name]["ms"] / found["alone"]["ms"] for name, share in shares.items())
    assert found["run"]["time_saved"] == pytest.approx(1 - spent)


def test_the_timed_steps_learn_what_they_say(tmp_path):
    """A cached step reads the views that its data set marks, and its teacher rests."""
    marked = ClassDataset(_crops(tmp_path / "c", 4, 32), image_size=32, mark_views=True)
    teacher = build_classifier(ClassifierConfig("shallow_x1"), CLASSES, 32).eval()
    student = build_classifier(ClassifierConfig("shallow_x0.5_d1"), CLASSES, 32)
    teach = TeachConfig("", [TERM], cache=True, cache_folder=str(tmp_path / "kept"))
    distiller = build_classifier_distiller(student, teacher, teach, images=4, views=1)
    step = _with_its_batch(distiller, TrainConfig(), marked, "cpu")
    asked = []
    teacher.backbone.register_forward_hook(lambda *_: asked.append(1))
    before = student.head.classes.weight.clone()
    for _ in range(4):
        step()
    assert len(asked) == 2  # to be kept, and once more to be checked
    assert len(list((tmp_path / "kept").rglob("*.maps"))) == 4
    assert not torch.equal(before, student.head.classes.weight)


def test_converting_is_measured_against_bare_parsing(tmp_path, monkeypatch):
    from detkd.engine import bench_convert

    monkeypatch.setattr(bench_convert, "MEMORY", (3, 6))
    out = tmp_path / "out.json"
    assert launch("bench", ["convert", "--images", "8", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["images"] == 8
    assert figures["ratio"] == figures["convert_s"] / figures["parse_s"]
    assert figures["peak_mb"].keys() == {"3", "6"}
