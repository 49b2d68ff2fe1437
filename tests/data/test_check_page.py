"""The page of check: it stands alone, shows each kind, and no name in it is obeyed."""

import re

import numpy as np
import pytest
from PIL import Image

from detkd.cli.app import launch


def tree(root, names="a\nb\n", lines="0 .3 .3 .2 .2\n0 .3 .3 .2 .205\n1 .5 .5 .2 -.1\n"):
    for at, stem in enumerate(("one", "two", "broken")):
        pixels = np.random.default_rng(at).integers(0, 255, (80, 100, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{stem}.png")
        (root / f"{stem}.txt").write_text(lines)
    (root / "broken.png").write_bytes(b"\x89PNG")
    (root / "classes.txt").write_text(names)
    return root


def page(root, tmp_path):
    out = tmp_path / "page.html"
    assert launch("check", [str(root), "--html", str(out)]) in (0, 1)
    return out.read_text()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def test_it_stands_alone_and_shows_each_kind(root, tmp_path):
    said = page(tree(root), tmp_path)
    assert not re.findall(r'(?:src|href)="(?!data:)', said)
    headings = re.findall("<h2>(.*?)</h2>", said)
    for kind in ("inverted box: dropped box", "near-double box: kept", "Classes", "Boxes"):
        assert kind in headings
    pictures = re.findall('<img alt="(.*?)"', said)
    assert pictures == ["inverted box", "near-double box", "Classes", "Boxes"]
    assert "broken.png" in said


def test_names_are_shown_and_not_obeyed(root, tmp_path):
    said = page(tree(root, names="<script>alert(1)</script>\nb<b>\n"), tmp_path)
    assert "<script" not in said
    assert "&lt;script&gt;" in said


def test_pairs_stand_side_by_side(root, tmp_path):
    tree(root, lines="0 .3 .3 .2 .2\n", names="a\n")
    (root / "two.png").write_bytes((root / "one.png").read_bytes())
    (root / "two.txt").write_text("0 .6 .6 .2 .2\n")
    assert '<img alt="same content"' in page(root, tmp_path)


def test_a_tree_without_boxes_has_a_page(root, tmp_path):
    Image.new("RGB", (9, 9)).save(root / "a.png")
    (root / "a.txt").write_text("")
    (root / "classes.txt").write_text("a\n")
    assert "<h1>tree: check</h1>" in page(root, tmp_path)


def test_a_page_that_cannot_be_written_is_a_sentence(root, tmp_path, capsys):
    tree(root)
    (tmp_path / "file").write_text("")
    assert launch("check", [str(root), "--html", str(tmp_path / "file/page.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
