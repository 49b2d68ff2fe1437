"""Every parameter, operation and ms of a detector belongs to the part that it is spent in."""

import json
from collections import Counter

import pytest
import torch

from detkd.cli.app import launch
from detkd.config import ModelConfig
from detkd.deploy.cost_subjects import at_size, noise_frame, untrained_detector
from detkd.deploy.cost_table import Candidate, measure, tables, undisturbed
from detkd.deploy.onnx_times import OnnxTimes, parts_of_nodes, times_of_runs
from detkd.deploy.torch_times import torch_times
from detkd.models.costs import PARTS, flops_by_part, parameters_by_part
from detkd.models.detector import Detector

SIZE, CLASSES = 96, 3


def small(**changes):
    settings = {"neck_channels": 16, "head_width": 24, "levels": ["p2", "p3"], "proposals": 30}
    config = ModelConfig(**{"backbone": "shallow_x0.5_d1", "roi_size": 5, **settings, **changes})
    return untrained_detector(config, CLASSES, SIZE, [noise_frame(SIZE)])


def test_parameters_add_up():
    detector = small()
    found = parameters_by_part(detector)
    assert list(found) == list(PARTS)
    assert sum(found.values()) == sum(p.numel() for p in detector.parameters())
    head = 16 * 25 * 24 + 24 + 24 * 24 + 24 + (24 + 1) * 5 * (CLASSES + 1)
    assert found["roi_head"] == head
    assert found["proposals"] == found["roi_align"] == found["detections"] == found["rest"] == 0


def test_operations_of_the_heads_are_those_worked_by_hand():
    """A cell's are 2 * inputs * outputs; the padded frame has 24x24 and 12x12 cells."""
    found = flops_by_part(small(), noise_frame(SIZE))
    cells = 24 * 24 + 12 * 12
    assert found["rpn_head"] == 2 * cells * (25 * 16 + 16 * 16 + 16 * 3 + 16 * 12)
    roi = 16 * 25 * 24 + 24 * 24 + 24 * 5 * (CLASSES + 1)
    assert found["roi_head"] == 2 * 30 * roi
    assert found["backbone"] > 0 < found["neck"]
    assert found["proposals"] == found["roi_align"] == found["rest"] == 0


def test_an_untrained_detector_proposes_as_many_boxes_as_its_config_says():
    [row] = measure(
        [Candidate("small", small(), [noise_frame(SIZE)])], repeats=4, onnx=False, threads=1
    )
    assert row["proposals"] == 30
    assert row["detections"] > 0
    ms = row["torch_ms"]
    assert sum(ms[part] for part in PARTS) == pytest.approx(ms["whole"])
    assert min(ms[part] for part in PARTS) > 0


class Clock:
    """Time that passes only where a module is made to take some."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def slow(self, detector, path, seconds):
        def pass_time(*_):
            self.now += seconds

        detector.get_submodule(path).register_forward_hook(pass_time)


@pytest.mark.parametrize(
    ("path", "part", "calls"),
    [
        ("transform", "rest", 1),
        ("backbone.body.stages.c3", "backbone", 1),
        ("backbone.neck.lateral.c4", "neck", 1),
        ("rpn.head.conv", "rpn_head", 2),
        ("rpn.anchor_generator", "proposals", 1),
        ("roi_heads.box_head.fc6", "roi_head", 1),
        ("roi_heads.box_predictor.cls_score", "roi_head", 1),
        ("roi_heads.box_roi_pool.reduce", "roi_head", 2),
    ],
)
def test_time_is_counted_where_it_passes(path, part, calls):
    detector, clock = small(roi_features="thin"), Clock()
    clock.slow(detector, path, 2.0)
    found = torch_times(detector, noise_frame(SIZE), clock)
    assert found == {**dict.fromkeys(PARTS, 0.0), part: 2.0 * calls}


@pytest.mark.parametrize(
    ("owner", "method", "part"),
    [
        ("rpn", "filter_proposals", "proposals"),
        ("roi_heads", "postprocess_detections", "detections"),
        ("roi_heads.box_roi_pool", "forward", "roi_align"),
        ("transform", "postprocess", "rest"),
    ],
)
def test_time_between_modules_is_counted_where_it_passes(owner, method, part, monkeypatch):
    detector, clock = small(), Clock()
    module = detector.get_submodule(owner)
    real = getattr(module, method)

    def slow(*arguments):
        clock.now += 3.0
        return real(*arguments)

    monkeypatch.setattr(module, method, slow)
    found = torch_times(detector, noise_frame(SIZE), clock)
    assert found == {**dict.fromkeys(PARTS, 0.0), part: 3.0}


def test_no_hook_stays_behind():
    detector = small()
    torch_times(detector, noise_frame(SIZE))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in detector.modules())


def test_a_profile_is_cut_into_runs_and_parts():
    def node(name, ts, dur):
        return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur}

    def run(ts, dur):
        return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur}

    events = [
        {"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 900},
        *[node("conv", 1000, 30), node("conv_1", 1040, 10), node("pad", 1060, 5)],
        *[run(1000, 100), node("conv", 2001, 40), run(2000, 50)],
    ]
    parts = {"conv": "backbone", "conv_1": "neck", "pad": "rest"}
    first, second = times_of_runs(events, parts)
    assert first["backbone"] == pytest.approx(30e-6)
    assert first["neck"] == pytest.approx(10e-6)
    assert first["rest"] == pytest.approx(60e-6)  # the padding, and what no node has
    assert (second["backbone"], second["rest"]) == pytest.approx((40e-6, 10e-6))


def test_runs_that_were_disturbed_do_not_count():
    quiet = {**dict.fromkeys(PARTS, 0.001), "rest": 0.003}  # 10 ms in all
    slower = {**quiet, "neck": 0.003}
    disturbed = {**quiet, "backbone": 1.0}
    found = undisturbed([disturbed, slower, quiet, disturbed, *[disturbed] * 4])
    assert found["neck"] == pytest.approx(2.0)  # the mean of the two fastest of eight
    assert found["whole"] == pytest.approx(11.0)
    assert found["spread"] == pytest.approx(0.2)
    assert found["median"] == pytest.approx(1009.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    detector = small(roi_features="psroi")
    return detector, OnnxTimes(detector, tmp_path_factory.mktemp("times"))


@pytest.mark.slow
def test_every_node_of_the_optimised_graph_finds_its_part(exported):
    import onnx

    detector, times = exported
    graph = onnx.load(times.folder / "optimised.onnx")
    part_of = parts_of_nodes(onnx.load(times.folder / "model.onnx"), graph)
    found = Counter((part_of[node.name], node.op_type) for node in graph.graph.node)

    def convolutions(path):
        modules = detector.get_submodule(path).modules()
        return sum(isinstance(module, torch.nn.Conv2d) for module in modules)

    assert found["backbone", "Conv"] == convolutions("backbone.body")
    assert found["neck", "Conv"] == convolutions("backbone.neck")
    assert found["rpn_head", "Conv"] == 2 * convolutions("rpn.head")
    assert found["roi_head", "Conv"] == 2  # the reduction of each level
    assert found["proposals", "NonMaxSuppression"] == 2
    assert found["detections", "NonMaxSuppression"] == 1
    aligning = Counter(part for (part, op), n in found.items() if op == "RoiAlign")
    assert set(aligning) == {"roi_align"}
    assert found["roi_head", "Gemm"] + found["roi_head", "FusedGemm"] == 4
    assert found["rest", "Pad"] == found["detections", "Softmax"] == 1


@pytest.mark.slow
def test_the_profile_of_the_exported_graph_adds_up(exported):
    _, times = exported
    for _ in range(2):
        times(noise_frame(SIZE).numpy())
    runs = times.times()
    assert len(runs) == 2
    assert all(run[part] > 0 for run in runs for part in PARTS)


def test_the_command_writes_figures_tables_and_a_picture(tiny, tmp_path, capsys):
    out = tmp_path / "out" / "cost.json"
    vary = ["--vary", "model.proposals=10", "--vary", "model.levels=[p3]", "model.roi_size=3"]
    command = ["cost", "--config", str(tiny()), *vary, "--no-onnx", "--repeat", "4"]
    assert launch("bench", [*command, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [row["name"] for row in found["rows"]] == [
        "tiny",
        "proposals=10",
        "levels=[p3], roi_size=3",
    ]
    assert [row["model"]["proposals"] for row in found["rows"]] == [30, 10, 30]
    assert found["rows"][0]["classes"] == 8  # as the training file says
    assert found["rows"][0]["frame"] == [96, 96]
    assert found["rows"][2]["parameters"]["roi_head"] < found["rows"][0]["parameters"]["roi_head"]
    text = out.with_suffix(".md").read_text()
    assert "| proposals=10 |" in text and found["measured"] in text
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert found["measured"] in said and "levels=[p3]" in said
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "cost.json",
        "cost.md",
        "cost.png",
    ]


@pytest.mark.slow
def test_a_checkpoint_at_another_size_and_exported(model_folder, tmp_path):
    _, checkpoint = model_folder
    command = ["cost", "--checkpoint", str(checkpoint), "--image-size", "64", "--repeat", "4"]
    assert launch("bench", [*command, "--out", str(tmp_path / "cost.json")]) == 0
    [row] = json.loads((tmp_path / "cost.json").read_text())["rows"]
    assert row["name"] == str(checkpoint.parent / "best") and row["frame"] == [64, 64]
    detector = Detector.load(checkpoint)
    flops = flops_by_part(at_size(detector, 64), noise_frame(64))
    assert row["flops"] == flops != flops_by_part(Detector.load(checkpoint), noise_frame(SIZE))
    assert row["parameters"] == parameters_by_part(detector)
    for runtime in ("torch_ms", "onnx_ms"):
        assert all(row[runtime][part] > 0 for part in PARTS)


def test_real_frames_and_a_study(tiny, scenes, tmp_path):
    config = tiny()
    study = tmp_path / "study.yaml"
    changes = {"a": {}, "b": {"train.lr": 0.1}, "c": {"model.rpn": "full"}}
    rows = {name: {"config": config.name, "set": change} for name, change in changes.items()}
    study.write_text(json.dumps({"rows": rows}))
    out = tmp_path / "cost.json"
    command = ["cost", "--study", str(study), "--gt", str(scenes / "all.json"), "--frames", "2"]
    more = ["--no-onnx", "--repeat", "4", "--image-size", "64", "--out", str(out)]
    assert launch("bench", [*command, *more]) == 0
    found = json.loads(out.read_text())
    assert [row["name"] for row in found["rows"]] == ["a", "c"]  # b costs what a costs
    assert found["rows"][0]["frame"] == [48, 64]
    assert "the first 2 images of" in found["measured"]
    assert launch("bench", [*command, *more, "--rows", "c"]) == 0
    assert [row["name"] for row in json.loads(out.read_text())["rows"]] == ["c"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "give one of --config, --checkpoint and --study"),
        (["--config", "CONFIG", "--repeat", "1"], "--repeat: 1 is less than 4"),
        (["--config", "CONFIG", "--vary", "model.proposals"], "is no KEY=VALUE"),
        (["--config", "CONFIG", "--vary", "model.propsals=3"], "did you mean 'model.proposals'"),
        (["--config", "CONFIG", "--against", "CONFIG"], "'tiny': is named twice"),
        (["--checkpoint", "no.pt", "--vary", "model.nms=1"], "--vary changes a --config"),
        (["--checkpoint", "no.pt"], "no.pt"),
        (["--checkpoint", "no.pt", "--rows", "a"], "--rows are a --study's"),
        (["--config", "CONFIG", "--gt", "no.json"], "no.json"),
        (["--config", "CONFIG", "--data.train", "no.json"], "unrecognized arguments"),
        (["--config", "CONFIG", "--out", "cost.csv"], "does not end in .json"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(tiny, tmp_path, capsys, argv, said):
    config = str(tiny())
    argv = [config if word == "CONFIG" else word for word in argv]
    assert launch("bench", ["cost", "--no-onnx", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_a_config_without_its_data_needs_the_number_of_classes(tiny, capsys):
    config = tiny(data__train="no/train.json")
    assert launch("bench", ["cost", "--no-onnx", "--config", str(config)]) == 2
    assert "--classes N" in capsys.readouterr().err


def test_one_detector_has_one_table_and_several_are_set_side_by_side():
    ms = {**dict.fromkeys(PARTS, 1.0), "whole": 8.0, "spread": 0.0}
    costs = {"parameters": dict.fromkeys(PARTS, 5), "flops": dict.fromkeys(PARTS, 1_000_000)}
    row = {"name": "a", **costs, "torch_ms": ms}
    [alone] = tables([row])
    assert alone[1] == ["backbone", "5", "1.0", "1.00", "12%"]
    assert alone[-1] == ["whole", "40", "8.0", "8.00", "100%"]
    slow = {**row, "name": "b", "torch_ms": {**ms, "neck": 5.0, "whole": 12.0}}
    whole, by_part, _ = tables([row, slow])
    assert whole[2] == ["b", "40", "8", "12.0", "150%"]
    assert by_part[2][:4] == ["b", "1.0", "5.0", "1.0"]
