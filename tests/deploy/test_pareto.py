"""Accuracy against time: who is on the front, and the command from a study to the picture."""

import json

import numpy as np
import pytest

from detkd.cli.app import launch
from detkd.deploy.pareto import Foreign, Point, front, pareto_table, take_times, write_names
from detkd.evaluation.canvas import pyplot


def test_the_front_is_what_no_other_one_beats():
    slow_best, fast = Point("slow", [0.5], 9.0), Point("fast", [0.2], 1.0)
    middle = Point("middle", [0.4, 0.3], 3.0)
    beaten = Point("beaten", [0.3], 4.0)
    as_fast = Point("as fast", [0.1], 1.0)
    twin = Point("twin", [0.5], 10.0)
    points = [slow_best, beaten, twin, middle, as_fast, fast]
    assert [point.name for point in front(points)] == ["fast", "middle", "slow"]
    table = pareto_table(points, "test mAP")
    on_front = [line[0] for line in table[1:] if line[-1]]
    assert sorted(on_front) == ["fast", "middle", "slow"]
    assert table[3][:5] == ["middle", "-", "3.0", "0.350 ± 0.071", "2"]


def test_names_of_points_that_lie_close_cover_neither_each_other_nor_a_point():
    random = np.random.default_rng(0)
    close = [(f"configuration_{at}", *random.uniform((8, 0.34), (9, 0.36))) for at in range(12)]
    names = [*close, ("twin", *close[0][1:]), ("at the edge", 60.0, 0.5), ("far", 30.0, 0.2)]
    figure, axis = pyplot().subplots(figsize=(9, 6))
    axis.plot(*np.array([place for _, *place in names]).T, "o")
    axis.set_xscale("log")
    texts = write_names(axis, names)
    figure.canvas.draw()
    renderer, frame = figure.canvas.get_renderer(), axis.get_window_extent()
    boxes = {each.get_text(): pyplot().Text.get_window_extent(each, renderer) for each in texts}
    pyplot().close(figure)
    assert boxes.keys() == {name for name, *_ in names}
    for name, box in boxes.items():
        assert box.count_overlaps([each for other, each in boxes.items() if other != name]) == 0
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1
        for x, y in axis.transData.transform([place for _, *place in names]):
            assert not box.contains(x, y)
    off = axis.transData.transform(names[-1][1:]) - boxes["far"].min
    assert np.abs(off).max() < 30  # where there is room, a name is beside its point


def test_sessions_take_turns_on_their_own_frames():
    calls = []

    def session(name):
        return lambda frame: calls.append((name, float(frame[0])))

    frames = [[np.array([1.0])], [np.array([2.0]), np.array([3.0])]]
    ms = take_times([session("a"), session("b")], frames, 4)
    assert len(ms) == 2 and min(ms) >= 0
    assert {frame for name, frame in calls if name == "a"} == {1.0}
    assert {frame for name, frame in calls if name == "b"} == {2.0, 3.0}
    assert [name for name, _ in calls] == ["a", "b"] * (4 + 3)  # each once a round, 3 to warm up


@pytest.fixture
def study(tiny, scenes, tmp_path, monkeypatch):
    """A study of two rows and of one that has not been run, with figures as a study writes them."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    config = tiny()
    rows = {"a": {}, "b": {"model.rpn": "full"}, "later": {"model.proposals": 5}}
    tree = {
        "name": "s",
        "test": str(scenes / "all.json"),
        "rows": {name: {"config": config.name, "set": change} for name, change in rows.items()},
    }
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(tree))

    def figures(**changes):
        found = {
            "a": {"seeds": [0, 1], "val_map": [0.5, 0.6], "test_map": [0.3, 0.4]},
            "b": {"seeds": [0], "val_map": [0.7], "test_map": [0.6]},
        }
        for name, change in changes.items():
            found[name] |= change
        results = tmp_path / "docs/results/s.json"
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps({"study": "s", "rows": found}))
        return path

    return figures


def another(path, shape=(1, 3, 32, 48), kind=1, inputs=1):
    """Write an ONNX model that means over its input; returns its path."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    values = [helper.make_tensor_value_info(f"x{at}", kind, shape) for at in range(inputs)]
    node = helper.make_node("ReduceMean", ["x0"], ["y"], keepdims=0)
    output = helper.make_tensor_value_info("y", kind, ())
    graph = helper.make_graph([node], "g", values, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.slow
def test_from_a_study_to_the_table_and_the_picture(study, scenes, tmp_path, capsys):
    truth = json.loads((scenes / "all.json").read_text())
    perfect = [
        {key: box[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        for box in truth["annotations"]
    ]
    said = tmp_path / "said.json"
    said.write_text(json.dumps(perfect))
    model = another(tmp_path / "other.onnx")
    command = ["pareto", str(study()), "--other", "other", str(model), str(said), "--repeat", "4"]
    assert launch("bench", [*command, "--out", "out/pareto.json"]) == 0
    found = json.loads((tmp_path / "out/pareto.json").read_text())
    points = {point["name"]: point for point in found["points"]}
    assert list(points) == ["a", "b", "other"]  # what has not been run has no point
    assert found["metric"] == "test_map"
    assert points["a"]["score"] == pytest.approx(0.35) and points["a"]["scores"] == [0.3, 0.4]
    assert points["other"]["scores"] == [pytest.approx(1.0)] and not points["other"]["ours"]
    assert points["b"]["parameters"] > points["a"]["parameters"] > 0
    assert all(point["ms"] > 0 for point in points.values())
    text = (tmp_path / "out/pareto.md").read_text()
    assert "0.350 ± 0.071" in text and found["measured"] in text
    assert (tmp_path / "out/pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "test mAP" in capsys.readouterr().out


def test_where_a_row_has_no_test_images_validation_counts_for_all(study, tmp_path, monkeypatch):
    monkeypatch.setattr("detkd.deploy.pareto.exported", lambda *_: lambda frame: [])  # no graphs
    path = study(b={"test_map": [None]})
    command = ["pareto", str(path), "--repeat", "4", "--out", "pareto.json"]
    assert launch("bench", command) == 0
    found = json.loads((tmp_path / "pareto.json").read_text())
    assert found["metric"] == "val_map"
    assert [point["scores"] for point in found["points"]] == [[0.5, 0.6], [0.7]]


def test_frames_are_resized_to_what_another_model_takes(tmp_path):
    pytest.importorskip("onnxruntime")
    fixed = Foreign(another(tmp_path / "other.onnx"), 1)
    frame = np.full((3, 20, 30), 0.25, np.float32)
    assert fixed.fitted(frame).shape == (3, 32, 48)
    assert fixed(fixed.fitted(frame))[0] == pytest.approx(0.25)
    free = Foreign(another(tmp_path / "free.onnx", ["n", 3, "h", "w"]), 1)
    assert (free.fitted(frame) == frame).all()
    assert free(frame)[0] == pytest.approx(0.25)


def test_what_cannot_be_shown_is_refused_in_a_sentence(study, tmp_path, capsys):
    path = study()
    (tmp_path / "none.json").write_text("[]")
    (tmp_path / "broken.onnx").write_text("no model")
    grey = another(tmp_path / "grey.onnx", (1, 1, 32, 32))
    double = another(tmp_path / "double.onnx", kind=11)
    two = another(tmp_path / "two.onnx", inputs=2)

    def refused(*argv):
        assert launch("bench", ["pareto", *map(str, argv)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    for model in (grey, double, two):
        assert "one input [1, 3, H, W] of float32" in refused(
            path, "--other", "x", model, "none.json"
        )
    assert "broken.onnx: cannot be read as an ONNX model" in refused(
        path, "--other", "x", "broken.onnx", "none.json"
    )
    model = another(tmp_path / "other.onnx")
    assert "no.json" in refused(path, "--other", "x", model, "no.json", "--repeat", "4")
    assert "a name is there twice" in refused(path, *["--other", "x", model, "none.json"] * 2)
    assert "does not end in .json" in refused(path, "--out", "pareto.csv")
    assert "--repeat: 1 is less than 4" in refused(path, "--repeat", "1")
    assert "no mAP of test images" in refused(
        study(b={"test_map": [None]}), "--other", "x", model, "none.json"
    )
    (tmp_path / "docs/results/s.json").unlink()
    assert "has no figures of" in refused(path)
