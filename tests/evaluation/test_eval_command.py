"""`detkd eval` as a person types it."""

import json
import re
from pathlib import Path

import pytest
from reference import made

from detkd.cli.app import launch

FILES = {"metrics.json", "predictions.json", "counts.csv", "report.html", "plots"}


@pytest.fixture
def files(tmp_path):
    """gt.json, and results good.json and poor.json, of which the second lacks detections."""
    truth, results = made(3, images=40)
    perfect = [
        {key: box[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for box in truth["annotations"]
    ]
    documents = {
        "gt": truth,
        "good": results + perfect,
        "poor": results + perfect[::3],
    }
    for name, document in documents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    return tmp_path


def judged(files, *argv, gt="gt.json", dt="good.json"):
    return launch("eval", ["--gt", str(files / gt), "--dt", str(files / dt), *map(str, argv)])


def test_everything_is_written_and_the_page_stands_alone(files):
    argv = ["--out", files / "out", "--bootstrap", 20, "--um-per-px", 0.5]
    assert judged(files, *argv, "--against", files / "poor.json") == 0
    assert {path.name for path in (files / "out").iterdir()} == FILES
    page = (files / "out/report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    for heading in ("Against the other results", "Counts by sample", "Diameters in µm", "c7"):
        assert heading in page
    assert page.count("data:image/png;base64,") == len(list((files / "out/plots").iterdir()))
    metrics = json.loads((files / "out/metrics.json").read_text())
    assert {"coco", "voc", "per_class", "counts", "intervals", "against"} < set(metrics)
    assert {"errors", "confusion", "f1", "calibration", "sizes"} < set(metrics)
    assert metrics["against"]["AP"]["difference"] > 0


def test_what_was_judged_is_judged_the_same_again(files, capsys):
    assert judged(files, "--out", files / "out") == 0
    assert judged(files, "--out", files / "again", dt="out/predictions.json") == 0
    first, again = ((files / f / "metrics.json").read_text() for f in ("out", "again"))
    assert first == again


def test_the_engines_print_the_same(files, capsys):
    said = []
    for engine in ("hotcoco", "pycocotools"):
        assert judged(files, "--engine", engine) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_a_page_takes_no_markup_from_the_names(files):
    truth = json.loads((files / "gt.json").read_text())
    for name, category in zip(("<b>bold", "[red]", "c"), truth["categories"], strict=True):
        category["name"] = name
    (files / "gt.json").write_text(json.dumps(truth))
    assert judged(files, "--out", files / "out") == 0
    page = (files / "out/report.html").read_text()
    assert "&lt;b&gt;bold" in page
    assert "<b>bold" not in page


def test_thresholds_chosen_on_one_file_are_used_on_another(files, capsys):
    (files / "val.json").write_text((files / "gt.json").read_text() + "\n")
    argv = ["--choose-threshold", "counts", "--out", files / "val"]
    assert judged(files, *argv, gt="val.json") == 0
    chosen = json.loads((files / "val/thresholds.json").read_text())
    assert chosen["truth"]["split"] == "val"
    argv = ["--thresholds", files / "val/thresholds.json", "--out", files / "out"]
    assert judged(files, *argv) == 0
    assert "flattered" not in capsys.readouterr().out
    counts = json.loads((files / "out/metrics.json").read_text())["counts"]
    assert counts["thresholds"]["c1"] == chosen["classes"]["c1"]["threshold"]
    assert judged(files, *argv, gt="val.json") == 0
    assert "was chosen on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--choose-threshold", "f1"], "name the folder for thresholds.json with --out"),
        (["--choose-threshold", "best", "--out", "out"], "'best' is none of f1, counts"),
        (["--bootstrap", "-1"], "--bootstrap: -1 is negative"),
        (["--um-per-px", "0", "--out", "out"], "has um_per_px 0.0; a number above 0"),
        (["--thresholds", "none.json"], "none.json: no such file"),
        (["--against", "none.json"], "none.json: no such file"),
    ],
)
def test_what_cannot_be_is_refused(files, capsys, monkeypatch, argv, said):
    monkeypatch.chdir(files)
    assert judged(files, *argv) == 2
    assert said in capsys.readouterr().err
    assert not (files / "out").exists()


def test_choosing_on_a_test_split_is_refused_before_anything_is_written(files, capsys):
    (files / "test.json").write_text((files / "gt.json").read_text())
    argv = ["--choose-threshold", "f1", "--out", files / "out"]
    assert judged(files, *argv, gt="test.json") == 2
    assert "test.json: is of a test split" in capsys.readouterr().err
    assert not (files / "out").exists()


def test_yolo_texts_and_a_table_are_judged_like_the_json(files, capsys):
    truth, results = (json.loads((files / f"{name}.json").read_text()) for name in ("gt", "good"))
    names = {category["id"]: category["name"] for category in truth["categories"]}
    lines = ["image,class,score,xmin,ymin,xmax,ymax"]
    (files / "labels").mkdir()
    (files / "classes.txt").write_text("\n".join(names.values()))
    places = {key: at for at, key in enumerate(names)}
    for r in results:
        x, y, w, h = r["bbox"]
        file = f"{r['image_id']}.jpg"
        row = (file, names[r["category_id"]], r["score"], x, y, x + w, y + h)
        lines.append(",".join(map(str, row)))
        centre = [(x + w / 2) / 200, (y + h / 2) / 200, w / 200, h / 200]
        with (files / "labels" / f"{r['image_id']}.txt").open("a") as text:
            print(places[r["category_id"]], *centre, r["score"], file=text)
    (files / "good.csv").write_text("\n".join(lines))
    said = []
    for form in ("good.json", "good.csv", "labels"):
        assert judged(files, dt=form) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize(
    "change", ["no truths", "no images", "no classes", "all crowd", "no finds"]
)
def test_a_page_of_next_to_nothing_is_written(files, change):
    truth = json.loads((files / "gt.json").read_text())
    if change == "all crowd":
        for box in truth["annotations"]:
            box["iscrowd"] = 1
    elif change != "no finds":
        truth["annotations"] = []
    if change == "no images":
        truth["images"] = []
    if change == "no classes":
        truth["categories"] = []
    found = "[]" if change in ("no images", "no finds") else (files / "good.json").read_text()
    (files / "gt.json").write_text(json.dumps(truth))
    (files / "dt.json").write_text(found)
    argv = ["--out", files / "out", "--bootstrap", 3, "--um-per-px", 1]
    assert judged(files, *argv, "--against", files / "dt.json", dt="dt.json") == 0
    assert (files / "out/report.html").is_file()


def keys_of(document, names):
    """Every key in a JSON document but the names of classes and samples, and the bins of a list."""
    if isinstance(document, list):
        return set().union(*(keys_of(each, names) for each in document)) if document else set()
    if not isinstance(document, dict):
        return set()
    inside = set().union(*(keys_of(each, names) for each in document.values()), set())
    return inside | {key for key in document if key not in names}


def test_every_key_of_the_metrics_is_explained(files):
    argv = ["--out", files / "out", "--bootstrap", 5, "--um-per-px", 1]
    assert judged(files, *argv, "--against", files / "poor.json") == 0
    metrics = json.loads((files / "out/metrics.json").read_text())
    names = {"c1", "c3", "c7", "S0", "S1", "S2", "S3"}
    page = (Path(__file__).parents[2] / "docs/judging.md").read_text()
    missing = {key for key in keys_of(metrics, names) if f"`{key}`" not in page}
    assert not missing
