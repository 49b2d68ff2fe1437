"""Stacks, 16 bits, turned images: what is measured, what is read, what is written."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from detkd.cli.app import launch
from detkd.data.check import examine
from detkd.data.dataset import CocoDataset, load_image
from detkd.data.images import measure


def deep(root, name, low=200, high=4000):
    """A 12-bit ramp in a 16-bit file."""
    ramp = np.linspace(low, high, 80 * 100).reshape(80, 100).astype(np.uint16)
    Image.fromarray(ramp).save(root / name)
    (root / name).with_suffix(".txt").write_text("0 .5 .5 .2 .2\n")
    (root / "classes.txt").write_text("a\n")


def stack(path, pages=3):
    images = [Image.new("L", (100, 80 + page), 40 * page + 40) for page in range(pages)]
    images[0].save(path, save_all=True, append_images=images[1:])


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_sixteen_bits_are_mapped_by_the_percentiles_that_the_record_keeps(tmp_path, suffix):
    root = tmp_path / "tree"
    root.mkdir()
    for stem in "ab":
        deep(root, f"{stem}.{suffix}", high=4000 if stem == "a" else 3000)
    assert launch("convert", [str(root), str(tmp_path / "all.json")]) == 0
    said = json.loads((tmp_path / "all.json").read_text())["info"]["detkd"]["sixteen_bit"]
    assert said["low"] == pytest.approx(200, abs=10)
    assert said["high"] == pytest.approx(4000, abs=20)
    assert "percentiles" in said["rule"]
    image, _ = CocoDataset(tmp_path / "all.json", image_size=100)[0]
    assert image.min() < 0.02
    assert image.max() > 0.98
    dark, _ = load_image(root / f"a.{suffix}", 100)
    assert dark.max() == 4000 >> 8  # without a record: divided by 256


def test_both_conversions_of_a_tree_map_alike(tmp_path):
    for side, high in (("train", 4000), ("val", 900)):
        (tmp_path / "images" / side).mkdir(parents=True)
        deep(tmp_path / "images" / side, f"{side}.tif", high=high)
    levels = [examine(tmp_path, subset=side).sixteen_bit for side in ("train", "val")]
    assert levels[0] == levels[1]


def test_eight_bits_need_no_levels(tmp_path):
    Image.new("L", (50, 40), 9).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("")
    assert examine(tmp_path).sixteen_bit is None


def test_each_page_of_a_stack_is_an_image(tmp_path):
    root = tmp_path / "tree"
    root.mkdir()
    stack(root / "s.tif")
    (root / "s#page=2.txt").write_text("0 .5 .5 .2 .2\n")
    (root / "s.txt").write_text("0 .25 .5 .2 .2\n")
    (root / "classes.txt").write_text("a\n")
    found = examine(root)
    assert [(r.file, r.height) for r in found.images] == [
        ("s.tif#page=1", 80),
        ("s.tif#page=2", 81),
    ]
    assert found.unlabelled == ["s.tif#page=3"]
    assert launch("convert", [str(root), str(tmp_path / "all.json")]) == 0
    data = CocoDataset(tmp_path / "all.json", image_size=100)
    assert [round(float(data[at][0].mean()) * 255) for at in (0, 1)] == [40, 80]
    for target in ("voc", "yolo"):
        command = ["convert", [str(tmp_path / "all.json"), str(tmp_path / target), "--to", target]]
        assert launch(*command) == 0
        copies = examine(tmp_path / target).images
        assert [r.file.split("/")[-1] for r in copies] == ["s_page1.png", "s_page2.png"]
        assert [len(r.boxes) for r in copies] == [1, 1]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_measured_is_what_is_read(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (100, 80)).save(tmp_path / f"a.{suffix}", exif=exif)
    size = measure(tmp_path / f"a.{suffix}")
    _, shape = load_image(tmp_path / f"a.{suffix}", 100)
    assert (size.height, size.width) == shape
    assert size.stored == (100, 80)


@pytest.mark.parametrize("orientation", range(5, 9))
def test_boxes_of_the_stored_frame_are_turned_with_it(tmp_path, orientation):
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[20:40, 10:40] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    sides = "<xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>40</ymax>"
    (tmp_path / "a.xml").write_text(
        "<annotation><size><width>100</width><height>80</height></size>"
        f"<object><name>a</name><bndbox>{sides}</bndbox></object></annotation>"
    )
    found = examine(tmp_path)
    assert [p.kind for p in found.problems] == ["turned image"]
    xmin, ymin, xmax, ymax = map(int, found.images[0].boxes[0].xyxy)
    image, _ = load_image(tmp_path / "a.png", 100)
    assert image[ymin:ymax, xmin:xmax].min() == 255
    assert (image > 0).sum() == 3 * (xmax - xmin) * (ymax - ymin)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1", "F", "I"])
def test_modes_of_every_kind_become_rgb(tmp_path, mode):
    suffix = "tif" if mode in "FI" else "png"
    Image.new(mode, (50, 40)).save(tmp_path / f"a.{suffix}")
    image, _ = load_image(tmp_path / f"a.{suffix}", 50)
    assert (image.shape, image.dtype) == ((40, 50, 3), np.uint8)


def test_colour_of_sixteen_bits_stays_colour(tmp_path):
    pixels = np.zeros((40, 50, 3), np.uint16)
    pixels[..., 2] = 60000
    for name in ("a.tif", "a.png"):
        cv2.imwrite(str(tmp_path / name), pixels)
        assert measure(tmp_path / name).deep
        assert load_image(tmp_path / name, 50)[0][0, 0].tolist() == [60000 >> 8, 0, 0]


def test_decode_finds_what_headers_hide(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "classes.txt").write_text("")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2] + data[-12:])
    assert "broken image" not in [p.kind for p in examine(tmp_path).problems]
    found = examine(tmp_path, decode=True)
    assert ("broken image", "dropped image") in [(p.kind, p.action) for p in found.problems]
