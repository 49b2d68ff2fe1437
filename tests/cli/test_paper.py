"""The 2020 paper's study: its configs on a tree laid out like PMID2019, to the table."""

import json
import re

import pytest

from detkd.cli.app import launch
from detkd.data.synthetic.taxa import TAXA
from detkd.shipped import shipped

# Smaller and shorter than the paper; networks, losses and what is shared are the config's own.
SMALL = {
    "data.image_size": 96,
    "model.anchor_sizes": "[[8, 16, 32, 64]]",
    "model.neck_channels": 8,
    "model.head_width": 16,
    "model.roi_samples": 16,
    "model.proposals": 20,
    "train.epochs": 1,
    "train.batch_size": 4,
    "train.warmup": 1,
    "train.judge_every": 1,
    "train.threads": 1,
    "train.device": "cpu",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Scenes of the 24 taxa with PMID2019's capital D."""
    monkeypatch.chdir(tmp_path)
    assert launch("synth", ["VOC2012", "--images", "8", "--taxa", "all", "--size", "96", "96"]) == 0
    for path in (tmp_path / "VOC2012/Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace("difficult>", "Difficult>"))
    lists = tmp_path / "VOC2012/ImageSets/Main"
    names = (lists / "all.txt").read_text().split()
    (lists / "train.txt").write_text("\n".join(names[:4]))
    (lists / "val.txt").write_text("\n".join(names[4:]))
    return tmp_path


@pytest.mark.slow
def test_the_papers_line_from_its_tree_to_the_table(tree, capsys):
    card = shipped("datasets", "pmid2019.yaml")
    for subset in ("train", "val"):
        out = f"datasets/pmid2019/{subset}.json"
        source = ["VOC2012", out, "--subset", subset, "--classes", str(card)]
        assert launch("convert", source) == 0
        coco = json.loads((tree / out).read_text())
        assert [category["name"] for category in coco["categories"]] == list(TAXA)
    assert any("difficult" in box["attributes"] for box in coco["annotations"])
    for role in ("teacher", "student", "distill"):
        settings = SMALL | ({"model.weights": "null"} if role == "teacher" else {})
        options = [f"--{key}={value}" for key, value in settings.items()]
        config = shipped("configs", "pmid2019", f"{role}.yaml")
        assert launch("train", ["--config", str(config), *options]) == 0
    capsys.readouterr()
    runs = [f"runs/pmid2019-{role}" for role in ("teacher", "student", "distill")]
    assert launch("compare", [*runs, "--gt", "datasets/pmid2019/val.json"]) == 0
    said = capsys.readouterr().out
    networks = ("teacher +vgg16", "student +vgg11", "distill +vgg11")
    assert all(re.search(words, said) for words in networks)
    student, distilled = (
        json.loads((tree / run / "judged/val.json").read_text())["cost"] for run in runs[1:]
    )
    student.pop("milliseconds"), distilled.pop("milliseconds")
    assert student == distilled
