"""Crops, and the boxes of a detector, called by a classifier from a checkpoint or an export."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detkd.cli.app import launch
from detkd.config import ClassDataConfig, ClassifierConfig, ClassifierExperiment
from detkd.data.class_dataset import ClassDataset
from detkd.data.class_inputs import images_of, pixels_of
from detkd.data.labelled_images import read_labelled
from detkd.evaluation.decisions import Decisions
from detkd.evaluation.early import stops
from detkd.models.classifier import Classifier, build_classifier, cut_at

CLASSES = ("ant", "bee", "cat")


def checkpoint_of(path, *, unknown=0.5, exits=(), **more):
    """A network whose weights nobody trained, with temperature 2, as a checkpoint."""
    torch.manual_seed(0)
    config = ClassifierConfig("shallow_x0.5_d1", exits=list(exits))
    network = build_classifier(config, CLASSES, 32)
    with torch.no_grad():
        network.train()
        for _ in range(3):  # statistics of real activations
            network.read(network.batch(torch.rand(8, 3, 32, 32)))
        network.head.classes.weight.mul_(20)  # so that it says more than one class
    experiment = ClassifierExperiment(ClassDataConfig("crops", image_size=32), config)
    tree = {
        "version": "0",
        "network": "classifier",
        "config": experiment.as_dict(),
        "classes": list(CLASSES),
        "weights": network.state_dict(),
        "decisions": vars(Decisions(2.0, 0.95, unknown, None, {"side": "val"})),
        **more,
    }
    torch.save(tree, path)
    return path


def timm_checkpoint(path):
    config = ClassifierConfig("timm/test_mambaout", exits=["c2"])
    network = build_classifier(config, CLASSES, 32)
    experiment = ClassifierExperiment(ClassDataConfig("crops", image_size=32), config)
    tree = {"config": experiment.as_dict(), "weights": network.state_dict()}
    return checkpoint_of(path, **tree)


@pytest.fixture
def frames(tmp_path):
    """Two frames of noise and a broken one."""
    random = np.random.default_rng(0)
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        pixels = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        pixels[:, :40] //= 4
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def table(path, delimiter=","):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter=delimiter))


def classify(*argv):
    return launch("classify", [str(word) for word in argv])


def test_images_of_a_folder_get_a_class_or_unknown(frames, tmp_path, capsys):
    best, out = checkpoint_of(tmp_path / "best.pt"), tmp_path / "classes.csv"
    assert classify(frames, "--checkpoint", best, "--out", out, "--threshold", "0") == 1
    rows = table(out)
    assert [row["file"] for row in rows] == ["a.png", "b.png", "broken.png"]
    assert rows[2]["label"] == rows[2]["probability"] == ""
    assert "cannot be read as an image" in rows[2]["note"]
    assert "1 were passed over: broken.png cannot be read" in capsys.readouterr().out
    network = Classifier.load(best)
    (tmp_path / "x").mkdir()
    for name, label in (("a.png", "ant"), ("b.png", "bee")):  # as they are seen when judged
        (tmp_path / "x" / label).mkdir()
        (frames / name).rename(tmp_path / "x" / label / name)
    data = ClassDataset(read_labelled(tmp_path / "x"), image_size=32)
    for at in (0, 1):
        probabilities = (network([data[at][0]])[0]["logits"].detach() / 2).softmax(0)
        assert rows[at]["label"] == rows[at]["most_likely"] == CLASSES[int(probabilities.argmax())]
        assert float(rows[at]["probability"]) == pytest.approx(float(probabilities.max()), abs=1e-4)
    sure = sorted(float(row["probability"]) for row in rows[:2])
    between = sum(sure) / 2
    best = checkpoint_of(tmp_path / "best.pt", unknown=between)
    assert classify(tmp_path / "x", "--checkpoint", best, "--out", out) == 0
    for row in table(out):
        known = float(row["probability"]) >= between
        assert row["label"] == (row["most_likely"] if known else "unknown")
    assert {row["label"] for row in table(out)} > {"unknown"}


def test_boxes_of_a_table_are_cut_as_crops_are(frames, tmp_path):
    best, out = checkpoint_of(tmp_path / "best.pt"), tmp_path / "second.csv"
    found = tmp_path / "results.csv"
    lines = [
        "frame,class,score,x1,y1,x2,y2,counted",
        "a.png,bee,0.9,10,10,40,30,1",
        "a.png,ant,0.8,-5,-5,12,20,0",
        "b.png,cat,0.7,70,50,79,59,1",
        "a.png,cat,0.7,nan,1,2,3,1",
        "a.png,cat,0.7,1e308,1,1e309,3,1",
        "a.png,cat,0.7,much,1,2,3,1",
        "a.png,cat,0.7,500,500,520,520,1",
        "a.png,cat,0.7,20,20,10,10,1",
        "../a.png,cat,0.7,1,1,9,9,1",
        "broken.png,cat,0.7,1,1,9,9,1",
        "none.png,cat,0.7,1,1,9,9,1",
    ]
    found.write_text("\n".join(lines) + "\n")
    argv = [frames, "--checkpoint", best, "--out", out, "--threshold", "0"]
    assert classify(*argv, "--boxes", found) == 1
    rows = table(out)
    assert [",".join(row[k] for k in lines[0].split(",")) for row in rows] == lines[1:]
    assert [bool(row["label"]) for row in rows] == [True] * 3 + [False] * 8
    assert all(bool(row["note"]) != bool(row["label"]) for row in rows)
    assert "within the folder" in rows[8]["note"]
    # What was there under a name of ours is kept beside it.
    found.write_text("image,label,label_before,xmin,ymin,xmax,ymax\na.png,bee,x,10,10,40,30\n")
    assert classify(*argv, "--boxes", found) == 0
    [row] = table(out)
    assert (row["label_before_"], row["label_before"]) == ("bee", "x")
    assert row["label"] == rows[0]["label"]
    # A spreadsheet's semicolons and decimal commas.
    found.write_text("frame;class;x1;y1;x2;y2\na.png;bee;10,0;10,0;40,0;30,0\n")
    assert classify(*argv, "--boxes", found) == 0
    [row] = table(out, ";")
    assert (row["probability"], row["x2"]) == (rows[0]["probability"], "40,0")
    found.write_bytes(out.read_bytes())  # it reads what it has written
    assert classify(*argv, "--boxes", found) == 0
    before = {f"{k}_before": row[k] for k in ("label", "probability", "most_likely", "note")}
    assert table(out, ";") == [row | before]
    # A table without a box keeps its columns.
    found.write_text(lines[0] + "\n")
    assert classify(*argv, "--boxes", found) == 0
    assert out.read_text().splitlines() == [f"{lines[0]},label,probability,most_likely,note"]
    # The same boxes, cut by `detkd crop` and called as images of a folder.
    images = [{"id": at, "file_name": f"{name}.png"} for at, name in enumerate("ab")]
    boxes = [(0, [10, 10, 30, 20]), (0, [-5, -5, 17, 25]), (1, [70, 50, 9, 9])]
    document = {
        "images": images,
        "annotations": [
            {"id": at, "image_id": image, "category_id": 1, "bbox": box}
            for at, (image, box) in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "it"}],
    }
    (frames / "all.json").write_text(json.dumps(document))
    assert launch("crop", [str(frames / "all.json"), str(tmp_path / "crops")]) == 0
    argv[0] = tmp_path / "crops"
    assert classify(*argv) == 0
    told = [(row["label"], row["probability"]) for row in table(out)]
    assert told == [(row["label"], row["probability"]) for row in rows[:3]]
    # And as COCO results.
    results = [
        {"image_id": image, "category_id": 1, "bbox": box, "score": 0.5} for image, box in boxes
    ]
    results += [{"image_id": 7}, None]
    for each in document["images"]:
        each |= {"width": 80, "height": 60}
    (frames / "all.json").write_text(json.dumps(document))
    (tmp_path / "found.json").write_text(json.dumps(results))
    argv = [frames, "--checkpoint", best, "--out", out, "--threshold", "0"]
    argv += ["--boxes", tmp_path / "found.json"]
    assert classify(*argv, "--gt", frames / "all.json") == 1
    rows = table(out)
    assert [(row["label"], row["probability"]) for row in rows[:3]] == told
    assert [row["class"] for row in rows] == ["it"] * 3 + [""] * 2
    assert [row["frame"] for row in rows[3:]] == ["results[3]", "results[4]"]


def test_frames_of_sixteen_bits_are_shown_as_their_crops_were(tmp_path):
    levels = {"low": 0.0, "high": 1200.0}
    frame = np.full((60, 80), 100, dtype=np.uint16)
    frame[20:40, 30:60] = np.random.default_rng(0).integers(300, 1200, (20, 30))
    Image.fromarray(frame).save(tmp_path / "a.png")
    document = {
        "info": {"detkd": {"sixteen_bit": levels}},
        "images": [{"id": 0, "file_name": "a.png", "width": 80, "height": 60}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [30, 20, 30, 20]}],
        "categories": [{"id": 1, "name": "it"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(document))
    assert launch("crop", [str(tmp_path / "all.json"), str(tmp_path / "crops")]) == 0
    best, out = checkpoint_of(tmp_path / "best.pt"), tmp_path / "x.csv"
    (tmp_path / "found.csv").write_text("frame,class,score,x1,y1,x2,y2\na.png,it,1,30,20,60,40\n")
    argv = ["--checkpoint", best, "--out", out, "--threshold", "0"]
    assert classify(tmp_path / "crops", *argv) == 0
    [crop] = table(out)
    argv = [tmp_path, *argv, "--boxes", tmp_path / "found.csv"]
    assert classify(*argv, "--gt", tmp_path / "all.json") == 0
    [box] = table(out)
    assert box["probability"] == crop["probability"]
    assert classify(*argv) == 1
    [box] = table(out)
    assert "is of 16 bits" in box["note"] and not box["label"]


def test_what_cannot_be_classified_with_is_refused_in_a_sentence(frames, tmp_path, capsys):
    out = tmp_path / "x.csv"
    best = checkpoint_of(tmp_path / "best.pt")
    older = checkpoint_of(tmp_path / "older.pt", decisions=None)
    (tmp_path / "t.csv").write_text("frame,score\na.png,1\n")
    (tmp_path / "r.json").write_text("[]")
    for argv, said in (
        ([tmp_path / "no", "--checkpoint", best], "no such folder, or no image in it"),
        ([frames, "--checkpoint", older], "holds no threshold, for its training has not ended"),
        ([frames, "--checkpoint", best, "--threshold", "2"], "is no probability"),
        ([frames, "--checkpoint", best, "--boxes", tmp_path / "t.csv"], "four of a box"),
        ([frames, "--checkpoint", best, "--boxes", tmp_path / "r.json"], "--gt names"),
        ([frames, "--model", frames], "detkd.json: no such file"),
    ):
        assert classify(*argv, "--out", out) == 2
        assert said in capsys.readouterr().err
        assert not out.exists()
    assert classify(frames, "--checkpoint", best, "--out", tmp_path) == 2
    assert f"--out: {tmp_path} is a folder" in capsys.readouterr().err


def test_an_export_says_what_its_checkpoint_says(frames, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    best = checkpoint_of(tmp_path / "best.pt", sixteen_bit=(10.0, 4000.0))
    exported = tmp_path / "exported"
    argv = ["--checkpoint", str(best), "--out", str(exported), "--made-frames", "8"]
    assert launch("export", argv) == 0
    assert "8 made images: logits within" in capsys.readouterr().out
    parity = json.loads((exported / "parity.json").read_text())
    assert parity["passed"]
    assert parity["logit"] < 1e-4
    said = json.loads((exported / "detkd.json").read_text())
    assert said["sixteen_bit"] == {"low": 10.0, "high": 4000.0}
    tables = []
    for model in (["--model", exported], ["--checkpoint", best]):
        assert classify(frames, *model, "--out", tmp_path / "x.csv") == 1
        tables.append(table(tmp_path / "x.csv"))
    for one, other in zip(*tables, strict=True):
        for key in ("file", "label", "most_likely", "note"):
            assert one[key] == other[key]
        if one["probability"]:
            assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=2e-4)
    # The page's own lines, without detkd.
    page = (Path(__file__).parents[2] / "docs/export.md").read_text()
    code = page.split("## A classifier without detkd")[1].split("```python")[1].split("```")[0]
    (frames / "a.png").rename(tmp_path / "crop.png")
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    label, probability = said.stdout.split()
    assert label == tables[0][0]["label"]
    assert float(probability) == pytest.approx(float(tables[0][0]["probability"]), abs=1e-4)
    assert launch("export", [*argv, "--gt", "x.json"]) == 2
    assert "--gt: is for detectors" in capsys.readouterr().err
    argv = [str(frames), "--model", str(exported), "--out", str(tmp_path / "found")]
    assert launch("predict", argv) == 2
    assert "holds no detector; 'detkd classify' takes it" in capsys.readouterr().err
    (exported / "model.onnx").write_bytes(b"broken")
    assert classify(frames, "--model", exported, "--out", tmp_path / "x.csv") == 2
    assert "no intact ONNX file" in capsys.readouterr().err


def test_an_export_with_exits_stops_where_its_checkpoint_does(frames, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    from detkd.deploy.class_export import read_exported
    from detkd.deploy.onnx_exits import OnnxExits

    best = checkpoint_of(tmp_path / "best.pt", exits=["c2", "c3"], attention="eca")
    network = Classifier.load(best)
    looked = pixels_of(images_of(frames).asked, frames, image_size=32, levels=None, margin=0.1)
    seen = np.stack([each for each in looked if not isinstance(each, str)])
    with torch.no_grad():
        by_exit = torch.stack([each["exits"] for each in network(torch.from_numpy(seen))], 1)
    sure = sorted(by_exit[0].softmax(1).amax(1).tolist())
    chosen = Decisions(9.0, 0.95, 0.99, sum(sure) / 2, {"side": "val"}, 2.0, 0.0)
    checkpoint = torch.load(best, weights_only=True)
    torch.save({**checkpoint, "decisions": vars(chosen)}, best)
    exported = tmp_path / "exported"
    argv = ["--checkpoint", str(best), "--out", str(exported), "--made-frames", "4"]
    assert launch("export", argv) == 0
    assert sorted(path.name for path in (exported / "exits").iterdir()) == [
        "c2.onnx",
        "c3.onnx",
        "last.onnx",
    ]
    assert read_exported(exported).exits is None
    exits = read_exported(exported, exits=True).exits
    assert isinstance(exits, OnnxExits)
    for (name, logits), own in zip(exits(seen), by_exit.numpy(), strict=True):
        np.testing.assert_allclose(logits, own, atol=1e-4, err_msg=name)
    ran = []
    parts = {name: lambda x, n=name, p=p: ran.append(n) or p(x) for name, p in exits.parts.items()}
    exits.parts = parts
    next(iter(exits(seen)))
    assert ran == ["c2"]  # what lies behind does not run
    tables = []
    for model in (["--model", exported], ["--checkpoint", best]):
        assert classify(frames, *model, "--out", tmp_path / "x.csv", "--early") == 1
        tables.append(table(tmp_path / "x.csv"))
    assert [row["exit"] == "c2" for row in tables[0]].count(True) == 1
    for one, other in zip(*tables, strict=True):
        for key in ("file", "label", "most_likely", "exit"):
            assert one[key] == other[key]
        if one["probability"]:
            assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=2e-4)
    # The page's own lines, without detkd.
    page = (Path(__file__).parents[2] / "docs/export.md").read_text()
    code = [block.split("```")[0] for block in page.split("```python")[1:3]]
    (frames / "a.png").rename(tmp_path / "crop.png")
    code.append("print(name, *logits)")
    said = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[-1]
    where, *logits = said.split()
    assert where == tables[0][0]["exit"]
    own = by_exit[("c2", "c3", "last").index(where), 0]
    assert [float(z) * 2 for z in logits] == pytest.approx(own.tolist(), abs=1e-3)
    capsys.readouterr()
    kept = json.loads((exported / "detkd.json").read_text())
    for named, said in (
        ([], "the export has no exits"),
        (["../c2", "last"], "cannot be"),
        (["c2"], "cannot be"),
    ):
        (exported / "detkd.json").write_text(json.dumps({**kept, "exits": named}))
        assert classify(frames, "--model", exported, "--out", tmp_path / "x.csv", "--early") == 2
        assert said in capsys.readouterr().err
    (exported / "detkd.json").write_text(json.dumps(kept))
    (exported / "exits/c3.onnx").unlink()
    assert classify(frames, "--model", exported, "--out", tmp_path / "x.csv", "--early") == 2
    assert "a file of exits/, is missing" in capsys.readouterr().err
    assert classify(frames, "--model", exported, "--out", tmp_path / "x.csv") == 1  # needs none


def test_a_network_that_was_cut_is_exported_with_nothing_of_the_rest(tmp_path):
    onnx = pytest.importorskip("onnx")
    best = checkpoint_of(tmp_path / "best.pt", exits=["c2"])
    whole = Classifier.load(best)
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["config"]["model"]["cut"] = "c2"
    checkpoint["weights"] = cut_at(whole, "c2").state_dict()
    torch.save(checkpoint, tmp_path / "c2.pt")
    argv = ["--checkpoint", str(tmp_path / "c2.pt"), "--out", str(tmp_path / "e")]
    assert launch("export", [*argv, "--made-frames", "4"]) == 0
    names = [each.name for each in onnx.load(tmp_path / "e/model.onnx").graph.initializer]
    assert not [name for name in names if "stages.c3" in name or "stages.c5" in name]
    from detkd.deploy.class_export import read_exported

    image = torch.rand(1, 3, 32, 32)
    ours = whole(image)[0]["exits"][0].detach().numpy()
    np.testing.assert_allclose(
        read_exported(tmp_path / "e").network(image.numpy())[0], ours, atol=1e-4
    )


def test_an_image_stops_at_the_first_exit_that_is_sure(frames, tmp_path, capsys):
    # What is chosen for those that stop early counts, and not the head's.
    chosen = vars(Decisions(9.0, 0.95, 0.99, None, {"side": "val"}, 2.0, 0.0))
    best = checkpoint_of(tmp_path / "best.pt", exits=["c2", "c3"])
    checkpoint = torch.load(best, weights_only=True)
    network, out = Classifier.load(best), tmp_path / "x.csv"
    looked = pixels_of(images_of(frames).asked, frames, image_size=32, levels=None, margin=0.1)
    seen = torch.from_numpy(np.stack([each for each in looked if not isinstance(each, str)]))
    with torch.no_grad():
        exits = torch.stack([each["exits"] for each in network(seen)])  # [N, E, K]
    sure = sorted(exits[:, 0].softmax(1).amax(1).tolist())
    for early, places in ((sure[1], None), (0.0, [0, 0]), (1.0, [2, 2])):
        torch.save({**checkpoint, "decisions": {**chosen, "early": early}}, best)
        assert classify(frames, "--checkpoint", best, "--out", out, "--early") == 1
        at = stops(exits.numpy(), early)
        assert places is None or at.tolist() == places
        said = capsys.readouterr().out
        for row, place, logits in zip(table(out), at, exits, strict=False):
            assert row["exit"] == ("c2", "c3", "last")[place]
            assert f"{row['exit']}: {(at == place).sum()}" in said
            found = (logits[place] / 2).softmax(0)
            assert row["label"] == row["most_likely"]
            assert row["most_likely"] == CLASSES[int(found.argmax())]
            assert float(row["probability"]) == pytest.approx(float(found.max()), abs=1e-4)
        assert table(out)[2]["exit"] == ""  # could not be looked at
    for model, said in (
        (["--checkpoint", checkpoint_of(tmp_path / "none.pt")], "has no exits"),
        (["--checkpoint", checkpoint_of(tmp_path / "y.pt", exits=["c2"])], "no exit was sure"),
        (
            ["--checkpoint", checkpoint_of(tmp_path / "z.pt", exits=["c2"], decisions=None)],
            "does not say when an exit is sure",
        ),
        (
            [
                "--checkpoint",
                checkpoint_of(
                    tmp_path / "o.pt",
                    exits=["c2"],
                    decisions=vars(Decisions(2.0, 0.95, 0.0, 0.5, {"side": "val"})),
                ),
            ],
            "of an older detkd",
        ),
        (
            ["--checkpoint", timm_checkpoint(tmp_path / "timm.pt")],
            "network of timm runs as a whole",
        ),
    ):
        assert classify(frames, *model, "--out", out, "--early") == 2
        assert said in capsys.readouterr().err
