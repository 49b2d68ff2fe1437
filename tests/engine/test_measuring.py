"""What a detector costs, and that the benchmarks measure what they say."""

import json
import math

import pytest
import torch

from detkd.cli.app import launch
from detkd.config import ModelConfig
from detkd.engine.profile import measure_cost
from detkd.models.detector import build_detector


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


def test_converting_is_measured_against_bare_parsing(tmp_path, monkeypatch):
    from detkd.engine import bench_convert

    monkeypatch.setattr(bench_convert, "MEMORY", (3, 6))
    out = tmp_path / "out.json"
    assert launch("bench", ["convert", "--images", "8", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["images"] == 8
    assert figures["ratio"] == figures["convert_s"] / figures["parse_s"]
    assert figures["peak_mb"].keys() == {"3", "6"}
