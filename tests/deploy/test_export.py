"""The exported graph finds what the detector finds, on every kind of frame."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import change_weights, take_over_graphs
from torch.onnx.errors import OnnxExporterError
from torchvision.ops import ps_roi_align

from detkd.cli.app import launch
from detkd.config import ModelConfig
from detkd.deploy.gate import compare
from detkd.deploy.graph import DetectionGraph
from detkd.deploy.made_frames import KINDS, made_frame
from detkd.deploy.onnx_model import OnnxDetector, OnnxNetwork, write_onnx, write_parts
from detkd.deploy.parity import Found, difference
from detkd.deploy.parts import Convolutions
from detkd.deploy.position_sensitive import position_sensitive
from detkd.deploy.ties import found_by
from detkd.models.detector import build_detector

SIZE = 96
ROOT = Path(__file__).parents[2]


def lively(**changes):
    """A detector of random weights that finds something nearly everywhere."""
    torch.manual_seed(0)
    sizes = {"anchor_sizes": [[16.0], [32.0], [64.0]], "levels": ["p2", "p3", "p4"]}
    small = {"neck_channels": 16, "head_width": 16, "proposals": 30, "detections": 40}
    settings = {"backbone": "shallow_x0.5_d1", "score_threshold": 0.05, **small, **sizes}
    detector = build_detector(ModelConfig(**{**settings, **changes}), ("a", "b", "c"), SIZE)
    made = [torch.from_numpy(made_frame(at, SIZE)[1]) for at in (0, 1, 2, 5)]
    with torch.no_grad():
        for norm in (m for m in detector.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.momentum = None  # measured below, so that deep features do not fade
        detector.train().backbone(detector.transform(made)[0].tensors)
    detector.eval()
    predictor, rpn = detector.roi_heads.box_predictor, detector.rpn.head
    with torch.no_grad():
        levels = list(detector.backbone(torch.rand(1, 3, SIZE, SIZE)).values())
        for layer, spread in ((rpn.cls_logits, 1.0), (rpn.bbox_pred, 0.3)):
            layer.weight *= spread / torch.cat([layer(rpn.conv(x)).flatten() for x in levels]).std()
        rpn.bbox_pred.bias += 0.01  # zeros would not be in the graph
        predictor.cls_score.weight *= 3
        predictor.bbox_pred.weight *= 3
    return detector


def in_torch(detector):
    graph = DetectionGraph(detector)

    @torch.no_grad()
    def run(frames):
        boxes, scores, labels, counts = (x.numpy() for x in graph(torch.from_numpy(frames)))
        return [
            Found(b[:n], s[:n], c[:n])
            for b, s, c, n in zip(boxes, scores, labels, counts, strict=True)
        ]

    return run


def maps_in_torch(detector):
    convolutions = Convolutions(detector)

    @torch.no_grad()
    def run(frames):
        return [x.numpy() for x in convolutions(torch.from_numpy(frames))]

    return run


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"neck": "fpn", "rpn": "full", "roi_size": 3},
        {
            "levels": ["p2", "p3", "p4", "p5", "p6"],
            "anchor_sizes": [[8.0], [16.0], [32.0], [64.0], [128.0]],
            "roi_scale": 60.0,
        },
        {"neck": "none", "levels": ["p4"], "anchor_sizes": [[16.0, 32.0]], "detections": 100},
        {"neck": "cem", "roi_features": "thin", "roi_channels": 6},
        {"neck": "bare_fpn", "roi_features": "thin", "roi_channels": 6},
        {"roi_features": "psroi", "roi_channels": 5, "roi_size": 5},
        {"classifier": "sigmoid"},
    ],
    ids=[
        "light",
        "full",
        "five levels",
        "one level",
        "thin",
        "bare",
        "position-sensitive",
        "sigmoid",
    ],
)
def test_graph_equals_the_detector(changes):
    detector = lively(**changes)
    graph, maps = in_torch(detector), maps_in_torch(detector)
    gate = compare(detector, graph, maps, dataset=None, made_frames=36)
    assert gate.failed == [] and gate.made == 36
    assert gate.detections > 100  # it compares something


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A folder with the graphs of `lively()`."""
    folder = tmp_path_factory.mktemp("export")
    write_onnx(lively(), folder / "model.onnx")
    write_parts(lively(), folder)
    return folder


@pytest.fixture(scope="module")
def exported(graphs):
    return (
        lively(),
        OnnxDetector(graphs / "model.onnx", threads=1),
        OnnxNetwork(graphs / "convolutions.onnx", threads=1),
    )


def test_onnx_equals_the_checkpoint(exported):
    gate = compare(*exported, dataset=None, made_frames=36)
    assert gate.passed, gate.failed
    assert gate.box_px < 0.05 and gate.score < 1e-4
    assert gate.detections > 100 and gate.undecided <= 12  # frames of one colour


@pytest.mark.parametrize(("kind", "classifier"), [("thin", "sigmoid"), ("psroi", "softmax")])
def test_onnx_equals_the_checkpoint_whatever_the_roi_features(kind, classifier, tmp_path):
    detector = lively(
        neck="cem", roi_features=kind, roi_channels=6, roi_size=5, classifier=classifier
    )
    write_onnx(detector, tmp_path / "model.onnx")
    write_parts(detector, tmp_path)
    model = OnnxDetector(tmp_path / "model.onnx", threads=1)
    maps = OnnxNetwork(tmp_path / "convolutions.onnx", threads=1)
    gate = compare(detector, model, maps, dataset=None, made_frames=18)
    assert gate.passed, gate.failed
    assert gate.detections > 100

    frame = np.random.default_rng(0).random((1, 3, 64, 96), np.float32)
    found = maps(frame)
    names = [each.name for each in maps.session.get_outputs()]
    assert names[9:] == ["reduced_p2", "reduced_p3", "reduced_p4"] and len(names) == 12
    pool = detector.roi_heads.box_roi_pool
    with torch.no_grad():
        expected = pool.reduced([torch.from_numpy(each) for each in found[:3]])
    for ours, theirs in zip(found[9:], expected, strict=True):
        assert np.abs(ours - theirs.numpy()).max() < 1e-4
    head = OnnxNetwork(tmp_path / "region_head.onnx", threads=1)
    assert head.session.get_inputs()[0].shape[1:] == [6, 5, 5]
    with torch.no_grad():  # one class believed more: the gate sees it
        detector.roi_heads.box_predictor.cls_score.bias[1] += 0.5
    assert not compare(detector, model, maps, dataset=None, made_frames=6).passed


@pytest.mark.parametrize("cells", [1, 3, 7])
@pytest.mark.parametrize("scale", [1 / 4, 1 / 16])
def test_position_sensitive_roi_align_is_torchvisions(cells, scale):
    """Boxes of every kind: of no size, of less than a cell, of the whole frame, beside it."""
    random = torch.Generator().manual_seed(0)
    level = torch.randn(3, 4 * cells**2, 9, 13, generator=random)
    coarse = torch.randn(3, 4 * cells**2, 5, 7, generator=random)
    width, height = 13 / scale, 9 / scale
    corners = torch.rand(200, 2, 2, generator=random) * 1.4 - 0.2
    boxes = (corners.sort(dim=1).values * torch.tensor([width, height])).view(-1, 4)
    special = [[0, 0, width, height], [5, 5, 5, 5], [-40, -40, -20, -9], [3, 2, 3.5, 2.25]]
    boxes = torch.cat([boxes, torch.tensor(special)])
    frames = torch.randint(3, (len(boxes), 1), generator=random)
    rois = torch.cat([frames.float(), boxes], dim=1)
    places = torch.arange(len(rois)) % 2
    ours = position_sensitive([level, coarse], rois, places, [scale, scale / 2], cells, 2)
    theirs = torch.where(
        (places == 0).view(-1, 1, 1, 1),
        ps_roi_align(level, rois, (cells, cells), scale, 2),
        ps_roi_align(coarse, rois, (cells, cells), scale / 2, 2),
    )
    assert ours.shape == theirs.shape == (204, 4, cells, cells)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert theirs.abs().amax((1, 2, 3)).gt(0.1).sum() > 150  # it compares something


def test_batch_gives_what_its_frames_give_alone(exported):
    _, model, _ = exported
    frames = np.stack([np.random.default_rng(at).random((3, 70, 96), np.float32) for at in (0, 1)])
    for alone, together in zip([model(f[None])[0] for f in frames], model(frames), strict=True):
        assert np.abs(alone.boxes - together.boxes).max() < 0.01
        assert (alone.labels == together.labels).all()


def test_a_frame_without_any_proposal_on_which_torchvisions_own_export_fails(graphs, tmp_path):
    """How many boxes survive is known only when it has run (pytorch/vision 4623, 8534, 8899)."""

    def shrunk(bias):
        bias[2::4] = -30.0  # every box shrinks to no width
        return bias

    detector = lively()
    with torch.no_grad():
        shrunk(detector.rpn.head.bbox_pred.bias)
    frame = np.full((1, 3, 40, 96), 0.5, np.float32)
    with torch.no_grad():
        [expected] = detector([torch.from_numpy(frame[0])])
    [found] = in_torch(detector)(frame)
    name = "convolutions.rpn_head.bbox_pred.bias"
    change_weights(graphs / "model.onnx", tmp_path / "model.onnx", name, shrunk)
    [exported] = OnnxDetector(tmp_path / "model.onnx", threads=1)(frame)
    assert len(expected["boxes"]) == len(found.scores) == len(exported.scores) == 0
    with pytest.raises(OnnxExporterError):
        torch.onnx.export(detector, ([torch.from_numpy(frame[0])],), dynamo=True, verbose=False)


@pytest.mark.parametrize("factor", [1.2, 1.01])
def test_changed_class_head_is_noticed_on_every_frame_that_differs(exported, factor):
    """Also where all anchors are equally good: another class head is no matter of rounding."""
    _, model, maps = exported
    other = lively()
    with torch.no_grad():
        other.roi_heads.box_predictor.cls_score.weight *= factor
    gate = compare(other, model, maps, dataset=None, made_frames=36)
    assert gate.undecided == 0 and not gate.passed
    assert len(gate.failed) == differing(other, model)


def test_changed_rpn_is_noticed_on_every_frame_that_differs(exported):
    _, model, maps = exported
    other = lively()
    with torch.no_grad():
        other.rpn.head.bbox_pred.weight *= 1.05
    gate = compare(other, model, maps, dataset=None, made_frames=36)
    assert gate.undecided == 0 and len(gate.failed) == differing(other, model) > 12


@pytest.mark.parametrize("classifier", ["softmax", "sigmoid"])
def test_another_choice_among_the_many_equals_of_a_flat_frame_is_a_tie(classifier):
    """Which of hundreds of equal cells come first is anyone's choice, and noise rarely makes it."""
    few = {"levels": ["p2"], "anchor_sizes": [[16.0]]}
    detector = lively(classifier=classifier, proposals=300, detections=100, nms=0.3, **few)
    graph, maps = in_torch(detector), maps_in_torch(detector)

    def chosen_otherwise(frames):
        random = torch.Generator().manual_seed(99)

        def hook(_module, _input, output):
            logits, deltas = output
            return logits + 1e-5 * torch.rand(logits.shape, generator=random), deltas

        handle = detector.roi_heads.box_predictor.register_forward_hook(hook)
        found = graph(frames)
        handle.remove()
        return found

    gate = compare(detector, chosen_otherwise, maps, dataset=None, made_frames=36)
    assert gate.passed, gate.failed
    assert gate.undecided > 3


def differing(detector, model):
    gaps = []
    for at in range(36):
        frame = made_frame(at, SIZE)[1]
        ours, theirs = found_by(detector, frame), model(frame[None])[0]
        gaps.append(difference(ours, theirs, score_threshold=0.05, limit=40))
    return sum(gap.alone > 0 for gap in gaps)


def test_parts_with_what_lies_between_make_the_detector(graphs, exported):
    """A runtime without NMS and RoIAlign computes those itself, between the two files."""
    detector, (_, _, maps) = lively(), exported
    head = OnnxNetwork(graphs / "region_head.onnx", threads=1)
    frame = made_frame(1, SIZE)[1]
    expected = found_by(detector, frame)
    levels = dict(zip(("p2", "p3", "p4"), map(torch.from_numpy, maps(frame[None])), strict=False))

    def apart(features):
        return tuple(map(torch.from_numpy, head(features.numpy())))

    detector.backbone.register_forward_hook(lambda *_: levels)
    detector.roi_heads.box_head = torch.nn.Identity()
    detector.roi_heads.box_predictor.forward = apart
    found = found_by(detector, frame)
    assert len(found.scores) == len(expected.scores) > 0
    assert np.abs(found.boxes - expected.boxes).max() < 0.05
    assert np.abs(found.scores - expected.scores).max() < 1e-4


def found(*rows):
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4], table[:, 5].astype(int))


A, B = (0, 0, 10, 10, 0.9, 1), (20, 0, 30, 10, 0.8, 1)


@pytest.mark.parametrize(
    "theirs, alone, ties",
    [
        ([A, B], 0, 0),
        ([B, A], 0, 0),  # the order of equal ones is nobody's
        ([A], 1, 0),
        ([A, (20, 0, 30.2, 10, 0.8, 1)], 2, 0),
        ([A, (20, 0, 30, 10, 0.8, 2)], 2, 0),
        ([A, (20, 0, 30, 10, 0.8005, 1)], 2, 0),
        ([A, B, (40, 0, 50, 10, 0.05001, 1)], 0, 1),
        ([A, B, (40, 0, 50, 10, 0.06, 1)], 1, 0),
        ([], 2, 0),
    ],
)
def test_difference(theirs, alone, ties):
    gap = difference(found(A, B), found(*theirs), score_threshold=0.05, limit=100)
    assert (gap.alone, gap.ties) == (alone, ties)


def test_made_frames_are_the_same_each_time_and_of_every_kind():
    frames = [made_frame(at, SIZE) for at in range(36)]
    assert {kind for kind, _ in frames} == set(KINDS)
    assert all(max(frame.shape[1:]) == SIZE and frame.dtype == np.float32 for _, frame in frames)
    assert (made_frame(8, SIZE)[1] == frames[8][1]).all()
    assert min(min(frame.shape[1:]) for _, frame in frames) < 5


def test_command_writes_a_folder_that_says_all(scenes, model_folder, tmp_path, monkeypatch, capsys):
    exported, checkpoint = model_folder
    take_over_graphs(monkeypatch, exported)
    out = tmp_path / "exported"
    gt = ["--gt", str(scenes / "all.json"), "--made-frames", "6"]
    command = ["--checkpoint", str(checkpoint), "--out", str(out), *gt]
    assert launch("export", command) == 0
    parity = json.loads((out / "parity.json").read_text())
    assert parity["passed"] and parity["images"] == 12 and parity["made"] == 6
    said = json.loads((out / "detkd.json").read_text())
    classes = [c["name"] for c in json.loads((scenes / "all.json").read_text())["categories"]]
    assert said["classes"] == classes and said["image_size"] == 96
    assert set(said["thresholds"].values()) == {0.5}
    assert sorted(each.name for each in (out / "model_parts").iterdir()) == [
        *("convolutions.onnx", "region_head.onnx")
    ]
    card = (out / "README.md").read_text()
    assert "no data-set card was given" in card and f"{parity['map_exported']:.4f} (" in card
    low, high = parity["map_interval"]["AP"]
    assert low <= parity["map_exported"] <= high and f"({low:.4f} to {high:.4f}, 95% of" in card
    assert said["card"] is None
    programs = [sys.executable, "-I"]
    for program in ("runner.py", "counting.pyz"):
        subprocess.run([*programs, str(out / program), "--help"], check=True, capture_output=True)
    assert "python counting.pyz found" in card
    (out / "mine.txt").write_text("x")
    capsys.readouterr()
    assert launch("export", command) == 2  # what would be lost is named
    error = capsys.readouterr().err
    assert "holds 'mine.txt'" in error and error.count("\n") == 1
    (out / "mine.txt").unlink()
    (out / "parity.json").write_text("{}")
    data = ["--um-per-px", "0.5", "--card", str(ROOT / "datasets/synthetic.yaml")]
    assert launch("export", [*command, *data]) == 0  # an earlier export is replaced
    said = json.loads((out / "detkd.json").read_text())
    assert said["um_per_px"] == 0.5 and said["shapes"]["navicula"] == "elliptic_prism"
    assert said["card"]["licence"] and said["card"]["licence"] in (out / "README.md").read_text()
    assert "| navicula | 0.500 | elliptic_prism |" in (out / "README.md").read_text()
    other = ["--card", str(ROOT / "datasets/bccd.yaml")]
    assert launch("export", [*command, *other]) == 2
    assert "--card: does not name the class" in capsys.readouterr().err
    assert json.loads((out / "parity.json").read_text()) == parity
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_no_parity_ends_in_pictures(model_folder, tmp_path, monkeypatch, capsys):
    exported, checkpoint = model_folder
    change_weights(
        exported / "model.onnx",
        tmp_path / "other.onnx",
        "region_head.box_predictor.cls_score.bias",
        lambda bias: bias + (np.arange(len(bias)) > 0).astype(bias.dtype),  # not the background's
    )
    take_over_graphs(monkeypatch, exported, tmp_path / "other.onnx")
    command = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    assert launch("export", [*command, "--made-frames", "12"]) == 1
    assert "no parity" in capsys.readouterr().out
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    pictures = sorted(each.name for each in (tmp_path / "out" / "worst").iterdir())
    assert not parity["passed"] and len(pictures) == min(20, parity["frames_that_differ"]) > 0


def test_refusals_are_sentences_and_leave_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    missing = ["--checkpoint", str(tmp_path / "no.pt"), "--out", str(out)]
    for more in ([], ["--made-frames", "0"], ["--um-per-px", "-1"]):
        assert launch("export", [*missing, *more]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
