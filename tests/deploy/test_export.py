"""The exported graph finds what the detector finds, on every kind of frame."""

import json
import logging
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from exports import change_weights, take_over_graphs
from torch.onnx.errors import OnnxExporterError
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, ps_roi_align

from detkd.cli.app import launch
from detkd.config import ModelConfig
from detkd.deploy.figures import figures
from detkd.deploy.gate import Gate, compare
from detkd.deploy.graph import DetectionGraph
from detkd.deploy.made_frames import KINDS, made_frame
from detkd.deploy.onnx_model import OnnxDetector, OnnxNetwork, write_onnx, write_parts
from detkd.deploy.parity import Found, difference
from detkd.deploy.parts import Convolutions, RegionHead
from detkd.deploy.position_sensitive import position_sensitive
from detkd.deploy.ties import found_by, rounding_of
from detkd.evaluation.bootstrap import bootstrap_numbers
from detkd.evaluation.case import build_case
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


def parts_in_torch(detector):
    """The two networks as `compare` takes them."""

    def network(module):
        @torch.no_grad()
        def run(array):
            return [x.numpy() for x in module(torch.from_numpy(array))]

        return run

    return network(Convolutions(detector)), network(RegionHead(detector))


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
    gate = compare(
        detector, in_torch(detector), *parts_in_torch(detector), dataset=None, made_frames=36
    )
    assert gate.faults == [] and gate.made == 36 and gate.batches == 4
    assert gate.detections > 100  # it compares something


class Said(logging.Handler):
    """What is logged while it listens."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.records = []

    def emit(self, record):
        self.records.append(record.getMessage())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the graphs of `lively()`, and all warnings that writing them has raised."""
    folder, said = tmp_path_factory.mktemp("export"), Said()
    loggers = [logging.getLogger(name) for name in (None, "torch", "onnxscript", "onnx_ir")]
    for logger in loggers:
        logger.addHandler(said)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        write_onnx(lively(), folder / "model.onnx")
        write_parts(lively(), folder)
    for logger in loggers:
        logger.removeHandler(said)
    return folder, [*(str(each.message) for each in raised), *said.records]


@pytest.fixture(scope="module")
def graphs(written):
    return written[0]


def test_the_exporter_warns_of_nothing(written):
    assert written[1] == []


@pytest.fixture(scope="module")
def exported(graphs):
    return (
        lively(),
        OnnxDetector(graphs / "model.onnx", threads=1),
        OnnxNetwork(graphs / "convolutions.onnx", threads=1),
        OnnxNetwork(graphs / "region_head.onnx", threads=1),
    )


def test_onnx_equals_the_checkpoint(exported):
    gate = compare(*exported, dataset=None, made_frames=36)
    assert gate.faults == [], gate.failed
    assert gate.box_px < 0.05 and gate.score < 1e-4
    assert gate.detections > 100 and gate.undecided <= 12  # frames of one colour


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "classifier"), [("thin", "sigmoid"), ("psroi", "softmax")])
def test_onnx_equals_the_checkpoint_whatever_the_roi_features(kind, classifier, tmp_path):
    light = {"neck": "cem", "roi_features": kind, "roi_channels": 6, "roi_size": 5}
    few = {"levels": ["p2", "p3"], "anchor_sizes": [[16.0], [32.0]]}
    detector = lively(**light, **few, classifier=classifier)
    write_onnx(detector, tmp_path / "model.onnx")
    write_parts(detector, tmp_path)
    model = OnnxDetector(tmp_path / "model.onnx", threads=1)
    maps = OnnxNetwork(tmp_path / "convolutions.onnx", threads=1)
    head = OnnxNetwork(tmp_path / "region_head.onnx", threads=1)
    gate = compare(detector, model, maps, head, dataset=None, made_frames=18)
    assert gate.faults == [], gate.failed
    assert gate.detections > 100

    frame = np.random.default_rng(0).random((1, 3, 64, 96), np.float32)
    found = maps(frame)
    names = [each.name for each in maps.session.get_outputs()]
    assert names[6:] == ["reduced_p2", "reduced_p3"] and len(names) == 8
    pool = detector.roi_heads.box_roi_pool
    with torch.no_grad():
        expected = pool.reduced([torch.from_numpy(each) for each in found[:2]])
    for ours, theirs in zip(found[6:], expected, strict=True):
        assert np.abs(ours - theirs.numpy()).max() < 1e-4
    assert head.session.get_inputs()[0].shape[1:] == [6, 5, 5]
    with torch.no_grad():  # one class believed more: the gate sees it
        detector.roi_heads.box_predictor.cls_score.bias[1] += 0.5
    assert compare(detector, model, maps, head, dataset=None, made_frames=6).verdict == "failed"


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
    model = exported[1]
    frames = np.stack([np.random.default_rng(at).random((3, 70, 96), np.float32) for at in (0, 1)])
    for alone, together in zip([model(f[None])[0] for f in frames], model(frames), strict=True):
        assert np.abs(alone.boxes - together.boxes).max() < 0.01
        assert (alone.labels == together.labels).all()


def shrunk(bias):
    bias[2::4] = -30.0  # every box shrinks to no width
    return bias


def shy(bias):
    bias[0] += 4.0  # nearly everything is background
    return bias


@pytest.mark.parametrize(
    ("number", "name", "change"),
    [
        (0, "rpn.head.bbox_pred.bias", shrunk),
        (1, "roi_heads.box_predictor.cls_score.bias", shy),
        (40, "roi_heads.box_predictor.cls_score.bias", lambda bias: bias),
    ],
    ids=["none", "one", "a crowd"],
)
def test_frames_of_no_one_and_many_objects_which_torchvisions_own_export_does_not_take(
    graphs, tmp_path, number, name, change
):
    """What has as many rows as there are boxes (pytorch/vision 4623, 8534, 8899) is fixed here."""
    detector = lively()
    with torch.no_grad():
        change(detector.get_parameter(name))
    kind, frame = made_frame(8, SIZE)
    expected = found_by(detector, frame)
    ours = name.replace("rpn.head", "convolutions.rpn_head").replace("roi_heads", "region_head")
    change_weights(graphs / "model.onnx", tmp_path / "model.onnx", ours, change)
    [exported] = OnnxDetector(tmp_path / "model.onnx", threads=1)(frame[None])
    assert kind == "hundreds of objects" and len(expected.scores) == number
    for found in (in_torch(detector)(frame[None])[0], exported):
        gap = difference(expected, found, score_threshold=0.05, limit=40)
        assert (gap.alone, gap.ties) == (0, 0)


def test_torchvisions_own_export_fails_for_the_number_of_boxes():
    """The reason for `DetectionGraph`; where it no longer fails, it is time to look again."""
    torch.manual_seed(0)
    backbone = torch.nn.Conv2d(3, 8, 3, 4, 1)
    backbone.out_channels = 8
    theirs = FasterRCNN(
        backbone,
        min_size=SIZE,
        max_size=SIZE,
        rpn_anchor_generator=AnchorGenerator(((16,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
        box_head=TwoMLPHead(72, 16),
        box_predictor=FastRCNNPredictor(16, 4),
    )
    frame = torch.from_numpy(made_frame(8, SIZE)[1])
    with torch.no_grad():
        assert len(theirs.eval()([frame])) == 1
    with pytest.raises(OnnxExporterError, match="data-dependent"):
        torch.onnx.export(theirs, ([frame],), dynamo=True, verbose=False)


@pytest.mark.parametrize("factor", [pytest.param(1.2, marks=pytest.mark.slow), 1.01])
def test_changed_class_head_is_noticed_on_every_frame_that_differs(exported, factor):
    """Also where all anchors are equally good: another class head is no matter of rounding."""
    model = exported[1]
    other = lively()
    with torch.no_grad():
        other.roi_heads.box_predictor.cls_score.weight *= factor
    gate = compare(other, *exported[1:], dataset=None, made_frames=36)
    assert gate.undecided == 0 and gate.verdict == "failed"
    assert len(single(gate)) == differing(other, model)
    assert gate.parts["region_head"][0] > 1e-3 > 1e-4 > gate.parts["convolutions"][0]


def test_changed_rpn_is_noticed_on_every_frame_that_differs(exported):
    other = lively()
    with torch.no_grad():
        other.rpn.head.bbox_pred.weight *= 1.05
    gate = compare(other, *exported[1:], dataset=None, made_frames=36)
    assert gate.undecided == 0 and len(single(gate)) == differing(other, exported[1]) > 12
    assert gate.parts["convolutions"][0] > 1e-3 > 1e-4 > gate.parts["region_head"][0]


def single(gate):
    """The failed frames that were seen alone."""
    return [each for each in gate.failed if "of a batch" not in each["frame"]]


@pytest.mark.parametrize("part", ["convolutions", "region_head"])
def test_a_part_that_alone_is_wrong_is_noticed(exported, part):
    """Runtimes without NMS use these files, though the gate's model is another one."""
    detector, model, *parts = exported
    at = ["convolutions", "region_head"].index(part)

    def wrong(array):
        *others, last = parts[at](array)
        return [*others, last + 0.01]

    networks = [*parts[:at], wrong, *parts[at + 1 :]]
    gate = compare(detector, model, *networks, dataset=None, made_frames=2)
    assert [said.split(",")[0] for said in gate.faults] == [f"{part}.onnx differs"]
    document = gate.document()
    assert document["verdict"] == "failed" and document["parts"][part]["gap"] > 1e-4
    networks[at] = lambda array: [each * np.nan for each in parts[at](array)]
    gate = compare(detector, model, *networks, dataset=None, made_frames=2)
    assert gate.verdict == "failed" and gate.document()["parts"][part]["gap"] is None


def test_a_model_that_mixes_up_the_frames_of_a_batch_is_noticed(exported):
    detector, model, *parts = exported
    gate = compare(
        detector, lambda frames: model(frames)[::-1], *parts, dataset=None, made_frames=12
    )
    assert gate.batches == 2 and single(gate) == []
    assert {each["frame"].split(", ")[2] for each in gate.failed} == {
        *("first of a batch", "third of a batch")
    }


def test_only_what_was_compared_is_proven():
    gate = Gate(made=999, parts={"convolutions": (0.0, "a"), "region_head": None})
    assert gate.verdict == "partial" and not gate.document()["passed"]
    assert [said.split(" (")[0] for said in gate.left_out] == [
        *("images of ground truth", "1,000 made frames", "region_head.onnx")
    ]
    gate.made, gate.images = 1000, 1
    gate.parts["region_head"] = (1e-4, "a")
    assert gate.left_out == ["mAP (the ground truth has no box)"]
    gate.map_checkpoint = gate.map_exported = 0.5
    assert gate.verdict == "passed" and gate.document()["passed"]
    gate.map_exported = 0.5002
    assert gate.verdict == "failed" and gate.faults == ["mAP differs"]


@pytest.mark.parametrize("classifier", ["softmax", "sigmoid"])
def test_another_choice_among_the_many_equals_of_a_flat_frame_is_a_tie(classifier):
    """Which of hundreds of equal cells come first is anyone's choice, and noise rarely makes it."""
    few = {"levels": ["p2"], "anchor_sizes": [[16.0]]}
    detector = lively(classifier=classifier, proposals=300, detections=100, nms=0.3, **few)
    graph = in_torch(detector)

    def chosen_otherwise(frames):
        random = torch.Generator().manual_seed(99)

        def hook(_module, _input, output):
            logits, deltas = output
            return logits + 1e-5 * torch.rand(logits.shape, generator=random), deltas

        handle = detector.roi_heads.box_predictor.register_forward_hook(hook)
        found = graph(frames)
        handle.remove()
        return found

    gate = compare(
        detector, chosen_otherwise, *parts_in_torch(detector), dataset=None, made_frames=36
    )
    assert gate.faults == [], gate.failed
    assert gate.undecided > 3


def differing(detector, model):
    gaps = []
    for at in range(36):
        frame = made_frame(at, SIZE)[1]
        ours, theirs = found_by(detector, frame), model(frame[None])[0]
        gaps.append(difference(ours, theirs, score_threshold=0.05, limit=40))
    return sum(gap.alone > 0 for gap in gaps)


def test_parts_with_what_lies_between_make_the_detector(exported):
    """A runtime without NMS and RoIAlign computes those itself, between the two files."""
    detector, (_, _, maps, head) = lively(), exported
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


def test_made_frames_are_the_same_each_time_and_of_every_kind_and_shape():
    frames = [made_frame(at, SIZE) for at in range(2 * SIZE)]
    assert {kind for kind, _ in frames[: len(KINDS)]} == set(KINDS)
    assert all(frame.dtype == np.float32 for _, frame in frames)
    assert all(0 <= frame.min() <= frame.max() <= 1 for _, frame in frames)
    shapes = [frame.shape[1:] for _, frame in frames]
    assert all(max(shape) == SIZE for shape in shapes)
    every = list(range(1, SIZE + 1))
    assert sorted(min(shape) for shape in shapes[:SIZE]) == every  # each side once
    lying = {(side, SIZE) for side in every}
    assert set(shapes) == lying | {shape[::-1] for shape in lying}  # and then the other way
    assert (made_frame(8, SIZE)[1] == frames[8][1]).all()


def test_hundreds_are_objects_apart_where_there_is_room():
    for at in range(KINDS.index("hundreds of objects"), 60, len(KINDS)):
        kind, frame = made_frame(at, 256)
        grey = frame.mean(axis=0)
        dark = (grey < 0.88 * np.median(grey)).astype(np.uint8)
        number = cv2.connectedComponents(dark, connectivity=4)[0] - 1
        assert kind == "hundreds of objects" and dark.mean() < 0.5
        if min(frame.shape[1:]) >= 16:
            assert 200 < number <= 350, frame.shape
        assert number >= 20


def test_command_writes_a_folder_that_says_all(scenes, model_folder, tmp_path, monkeypatch, capsys):
    exported, checkpoint = model_folder
    take_over_graphs(monkeypatch, exported)
    out = tmp_path / "exported"
    gt = ["--gt", str(scenes / "all.json"), "--made-frames", "6"]
    command = ["--checkpoint", str(checkpoint), "--out", str(out), *gt]
    assert launch("export", command) == 0
    told = capsys.readouterr().out
    parity = json.loads((out / "parity.json").read_text())
    assert parity["images"] == 12 and parity["made"] == 6 and parity["batches"] == 2
    assert parity["verdict"] == "partial" and not parity["passed"] and parity["faults"] == []
    assert "1,000 made frames (there were 6)" in told and "no data-set card (--card)" in told
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
    assert "It passed, but was not compared on 1,000 made frames" in card
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
    chosen = {name: {"threshold": 0.05 + at / 100} for at, name in enumerate(classes)}
    (tmp_path / "thresholds.json").write_text(json.dumps({"classes": chosen}))
    data += ["--thresholds", str(tmp_path / "thresholds.json")]
    assert launch("export", [*command, *data]) == 0  # an earlier export is replaced
    assert "no data-set card" not in capsys.readouterr().out
    said = json.loads((out / "detkd.json").read_text())
    assert said["thresholds"] == {name: row["threshold"] for name, row in chosen.items()}
    assert said["um_per_px"] == 0.5 and said["shapes"]["navicula"] == "elliptic_prism"
    card = (out / "README.md").read_text()
    assert said["card"]["licence"] and said["card"]["licence"] in card
    threshold = said["thresholds"]["navicula"]
    assert f"| navicula | {threshold:.3f} | elliptic_prism |" in card
    new = json.loads((out / "parity.json").read_text())
    row = new["figures"]["per_class"]["navicula"]
    assert f"| {row['recall']:.3f} | {row['counted']} | {row['annotated']} |" in card
    assert {**new, "figures": 0} == {**parity, "figures": 0}
    assert new["figures"]["counts"]["counted"] > parity["figures"]["counts"]["counted"]
    (tmp_path / "thresholds.json").write_text('{"classes": {}}')
    assert launch("export", [*command, *data]) == 2
    assert "has no threshold for class" in capsys.readouterr().err
    other = ["--card", str(ROOT / "datasets/bccd.yaml")]
    assert launch("export", [*command, *other]) == 2
    assert "--card: does not name the class" in capsys.readouterr().err
    (tmp_path / "card.yaml").write_text("classes: [a]\nshapes: {a: blob}\n")
    assert launch("export", [*command, "--card", str(tmp_path / "card.yaml")]) == 2
    error = capsys.readouterr().err
    assert "card.yaml: no shape 'blob'; there are sphere, " in error and error.count("\n") == 1
    assert json.loads((out / "parity.json").read_text()) == new
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


@pytest.mark.slow
def test_no_parity_ends_in_pictures_and_leaves_an_earlier_export_alone(
    model_folder, tmp_path, monkeypatch, capsys
):
    exported, checkpoint = model_folder
    change_weights(
        exported / "model.onnx",
        tmp_path / "other.onnx",
        "region_head.box_predictor.cls_score.bias",
        lambda bias: bias + (np.arange(len(bias)) > 0).astype(bias.dtype),  # not the background's
    )
    good, failed = tmp_path / "out", tmp_path / "out.failed"
    shutil.copytree(exported, good)
    before = {path: path.read_bytes() for path in good.rglob("*") if path.is_file()}
    take_over_graphs(monkeypatch, exported, tmp_path / "other.onnx")
    command = ["--checkpoint", str(checkpoint), "--out", str(good), "--made-frames", "12"]
    for _ in range(2):  # a failed one replaces a failed one
        assert launch("export", command) == 1
        told = capsys.readouterr().out
        assert "no parity" in told and f"{failed}/parity.json" in told
        assert f"{good} is what it was" in told
        parity = json.loads((failed / "parity.json").read_text())
        pictures = sorted(each.name for each in (failed / "worst").iterdir())
        assert parity["verdict"] == "failed" and not parity["passed"]
        assert len(pictures) == min(20, parity["frames_that_differ"]) > 0
        assert {path: path.read_bytes() for path in good.rglob("*") if path.is_file()} == before
    assert "**It did not pass: " in (failed / "README.md").read_text()
    shutil.rmtree(good)
    assert launch("export", command) == 1
    assert not good.exists() and "is what it was" not in capsys.readouterr().out
    (failed / "mine.txt").write_text("x")
    assert launch("export", command) == 2
    assert "out.failed: holds 'mine.txt'" in capsys.readouterr().err
    assert {each.name for each in tmp_path.iterdir()} == {"other.onnx", "out.failed"}


def test_figures_are_those_worked_by_hand():
    """Two images of samples of their own, two classes, one detection too many and one too few."""
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    images = [{"id": at, "file_name": f"{at}.png", "sample": str(at)} for at in (1, 2)]

    def box(image, category, x, **more):
        place = {"image_id": image, "category_id": category, "bbox": [x, 0, 10, 10]}
        return {**place, **more}

    truths = [box(1, 1, 0), box(1, 1, 20), box(2, 1, 0), box(2, 2, 40)]
    truths = [{**each, "id": at + 1, "area": 100, "iscrowd": 0} for at, each in enumerate(truths)]
    truth = {"images": images, "categories": categories, "annotations": truths}
    found = [(1, 1, 0, 0.9), (1, 1, 20, 0.3), (2, 1, 0, 0.8), (2, 1, 60, 0.7), (2, 2, 80, 0.2)]
    case = build_case(truth, [box(*place, score=score) for *place, score in found])
    said = figures(case, bootstrap_numbers(case, draws=50), {"a": 0.5, "b": 0.6})
    a, b = said["per_class"]["a"], said["per_class"]["b"]
    assert (a["precision"], a["recall"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (a["annotated"], a["counted"]) == (3, 3) and 0 <= a["interval"][0] <= a["AP"]
    assert (b["precision"], b["recall"], b["AP"], b["counted"]) == (None, 0.0, 0.0, 0)
    assert b["interval"] is None  # of one sample
    assert said["counts"]["mean_absolute_error"] == 0.5 and said["counts"]["bias"] == -0.5
    assert said["counts"]["sample_mean_absolute_error"] == 0.5


def test_refusals_are_sentences_and_leave_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    missing = ["--checkpoint", str(tmp_path / "no.pt"), "--out", str(out)]
    for more in ([], ["--made-frames", "0"], ["--um-per-px", "-1"]):
        assert launch("export", [*missing, *more]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_next_to_one_a_step_of_a_probability_is_many_logits():
    logits = torch.tensor([0.0, 14.0, -14.0, 40.0])
    found = rounding_of(logits).tolist()
    step = 2.0**-23
    slope = np.exp(-14) / (1 + np.exp(-14)) ** 2
    assert found == pytest.approx(
        [1e-4 + 4 * step, 1e-4 + step / slope, 1e-4 + step / slope, 1e-4 + 1], rel=1e-5
    )
    for at in (0, 1):  # in single precision that is a step of the probability, and not much more
        p = [float(z.sigmoid()) for z in (logits[at], logits[at] + found[at])]
        assert step / 2 <= p[1] - p[0] <= 3e-5
