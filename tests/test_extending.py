"""A loss, a backbone and a format from outside the package: one file and one line each."""

from types import ModuleType

import pytest
import torch
from torch import nn

from detkd.cli.app import launch
from detkd.data import formats
from detkd.data.check import examine
from detkd.engine.run import RunFolder, read_log
from detkd.models.backbones import STAGES, build_backbone


def test_a_loss(tiny, tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(
        "from torch import nn\n"
        "class Mean(nn.Module):\n"
        "    needs_equal_width = True\n"
        "    def __init__(self, power: float = 1.0):\n"
        "        super().__init__()\n"
        "        self.power = power\n"
        "    def forward(self, student, teacher, view):\n"
        "        distance = (student - teacher).abs().mean(1, keepdim=True) ** self.power\n"
        "        mask = view.valid(student)\n"
        "        return (distance * mask).sum() / mask.sum()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    teacher = tiny("teacher", train__epochs=1)
    assert launch("train", ["--config", str(teacher), "--run", str(tmp_path / "t")]) == 0
    loss = {"name": "my_losses:Mean", "at": ["c3"], "weight": 0.5, "options": {"power": 2.0}}
    distill = {"teacher": str(tmp_path / "t/best.pt"), "losses": [loss]}
    config = tiny("student", distill=distill, train__epochs=1)
    assert launch("train", ["--config", str(config), "--run", str(tmp_path / "s")]) == 0
    assert "my_losses:Mean@c3" in read_log(RunFolder(tmp_path / "s"))[0]


def test_a_backbone(monkeypatch):
    def stages(net: nn.Module) -> dict[str, nn.Module]:
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        return {"c2": nn.Sequential(stem, net.layer1), "c3": net.layer2}

    monkeypatch.setitem(STAGES, "mine", ("resnet18", stages, ("fc.", "layer3.", "layer4.")))
    backbone = build_backbone("mine").eval()
    assert {k: str(v) for k, v in backbone.features.items()} == {
        "c2": "64 ch, stride 4",
        "c3": "128 ch, stride 8",
    }
    assert backbone(torch.zeros(1, 3, 32, 32))["c3"].shape == (1, 128, 4, 4)


def test_a_format(tmp_path, monkeypatch):
    from PIL import Image

    from detkd.data.records import BoxRecord, DataSet, ImageRecord, Rule

    points = ModuleType("points")

    def read(root):
        lines = (root / "points.txt").read_text().split("\n")
        records = []
        for line in filter(None, lines):
            file, label, x, y = line.split()
            box = BoxRecord(label, float(x) - 5, float(y) - 5, float(x) + 5, float(y) + 5)
            records.append(ImageRecord(file, 0, 0, boxes=(box,)))
        return DataSet("points", Rule("points", "10 px around"), [], records)

    points.recognise = lambda path: (path / "points.txt").is_file()
    points.read = read
    monkeypatch.setitem(formats.FORMATS, "points", points)
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    (tmp_path / "points.txt").write_text("a.png cell 20 10\n")
    found = examine(tmp_path)
    assert found.data.source_format == "points"
    assert found.data.images[0].boxes[0].xyxy == (15, 5, 25, 15)


@pytest.mark.parametrize("name", ["loss", "backbone", "format"])
def test_the_page_shows_how(name):
    from pathlib import Path

    assert f"## A {name}" in (Path(__file__).parents[1] / "docs/extending.md").read_text()
