"""Faster forms of an exported model: made, measured, and kept only for a reason."""

import json

import numpy as np
import pytest
from exports import take_over_graphs

from detkd.cli.app import launch
from detkd.deploy import runner, variants
from detkd.deploy.made_frames import made_frame


@pytest.mark.parametrize(
    "ratio, loss, images, kept, said",
    [
        (0.9, 0.004, 12, True, "takes 0.90 of the time and loses 0.0040 mAP on 12 images"),
        (0.9, -0.01, 10, True, "loses -0.0100 mAP"),
        (0.96, 0.0, 12, False, "takes 0.96 times as long"),
        (0.5, 0.006, 12, False, "loses 0.0060 mAP, and 0.005 is allowed"),
        (2.0, 0.1, 12, False, "takes 2.00 times as long as model.onnx and loses 0.1000 mAP"),
        (0.5, 0.0, 9, False, "could be judged on 9 images alone, and 10 are needed"),
    ],
)
def test_a_form_stays_if_it_is_faster_and_loses_little(ratio, loss, images, kept, said):
    verdict = variants.verdict(ratio, loss, 0.005, images)
    assert verdict[0] is kept and said in verdict[1]


@pytest.mark.parametrize(
    ("length", "number"), [(0, 0), (1, 1), (100, 100), (101, 100), (199, 100), (1028, 100)]
)
def test_no_more_images_calibrate_than_is_said_and_they_are_spread_over_all(length, number):
    places = variants.spread(length, 100)
    assert len(set(places)) == len(places) == number
    assert places == sorted(places) and set(places) <= set(range(length))
    if number > 1:
        assert places[0] == 0 and places[-1] == length - 1
        assert max(np.diff(places)) - min(np.diff(places)) <= 1


@pytest.fixture(scope="module")
def everything(scenes, model_folder, tmp_path_factory):
    """An export whose forms are all kept, whatever they take and lose."""
    pytest.importorskip("openvino")
    out = tmp_path_factory.mktemp("forms") / "exported"
    gt = str(scenes / "all.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "FASTER", 1e9)
        take_over_graphs(patch, model_folder[0])
        command = ["--checkpoint", str(model_folder[1]), "--gt", gt, "--made-frames", "1"]
        forms = ["--to", "int8", "fp16", "openvino", "--calibrate", gt, "--max-loss", "1"]
        more = ["--frame", "128x96", "--out", str(out)]
        assert launch("export", [*command, *forms, *more]) == 0
    return out


def test_forms_find_nearly_the_same(everything):
    """OpenVINO within rounding, half precision and integers within theirs."""
    frame = made_frame(1, 96)[1]
    frame = np.ascontiguousarray(np.resize(frame, (3, 72, 96)))  # as 128x96 becomes
    plain = runner.Model(everything, 1).detect(frame)
    assert len(plain.scores) > 5
    for name, near in (("openvino", 1e-4), ("fp16", 0.02), ("int8", 0.2)):
        found = runner.Model(everything, 1, name).detect(frame)
        assert abs(len(found.scores) - len(plain.scores)) <= 5
        assert np.abs(found.scores[:5] - plain.scores[:5]).max() < near, name


def test_a_form_for_one_size_refuses_others(everything):
    with pytest.raises(runner.RefusedError, match="takes frames of 96x72 px"):
        runner.Model(everything, 1, "openvino").detect(np.zeros((3, 96, 96), np.float32))


def test_the_report_says_what_was_measured(everything):
    told = json.loads((everything / "parity.json").read_text())["variants"]
    assert [each["name"] for each in told] == ["int8", "fp16", "openvino"]
    for each in told:
        assert each["images"] == 12 and each["why"].endswith("on 12 images")
        assert each["kept"] and each["ms"] > 0 and (everything / each["file"]).is_file()
        assert each["loss"] == pytest.approx(told[2]["map"] + told[2]["loss"] - each["map"])


def test_what_is_refused_leaves_no_file(scenes, model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(variants, "FASTER", 0.0)
    take_over_graphs(monkeypatch, model_folder[0])
    command = ["--checkpoint", str(model_folder[1]), "--gt", str(scenes / "all.json")]
    out = ["--out", str(tmp_path / "out"), "--made-frames", "1"]
    assert launch("export", [*command, *out, "--to", "fp16"]) == 0
    assert "fp16: refused, it takes" in capsys.readouterr().out
    assert not (tmp_path / "out" / "variants").exists()
    assert json.loads((tmp_path / "out" / "detkd.json").read_text())["variants"] == {}
    with pytest.raises(runner.RefusedError, match="the export kept none"):
        runner.Model(tmp_path / "out", 1, "fp16")


def test_what_cannot_be_measured_is_a_sentence(scenes, model_folder, tmp_path, monkeypatch, capsys):
    take_over_graphs(monkeypatch, model_folder[0])
    checkpoint = ["--checkpoint", str(model_folder[1]), "--out", str(tmp_path / "out")]
    gt = ["--gt", str(scenes / "all.json"), "--made-frames", "1"]
    for more, said in (
        (["--to", "fp16"], "name ground truth with --gt"),
        ([*gt, "--to", "int8"], "--calibrate"),
        ([*gt, "--to", "int8", "--calibrate", "no.json"], "no.json"),
        ([*gt, "--to", "openvino", "--frame", "large"], "is no size"),
        ([*gt, "--to", "openvino", "--frame", "500x100"], "becomes 96x19 px"),
    ):
        assert launch("export", [*checkpoint, *more]) == 2
        told = capsys.readouterr()
        assert said in told.err and told.err.startswith("error: ") and told.err.count("\n") == 1
        assert ("writing" in told.out) is ("96x19" in said)  # the rest is known before
    assert list(tmp_path.iterdir()) == []
