"""Images of every state, and what becomes of them."""

import pytest
from PIL import Image

from detkd.data.check import examine
from detkd.data.images import measure


def add(root, name, **more):
    Image.new("RGB", (100, 80), (9, 99, 199)).save(root / name, **more)
    (root / name).with_suffix(".txt").write_text("0 .5 .5 .2 .2\n")
    (root / "classes.txt").write_text("a\n")
    return root / name


def kinds(found):
    return [(problem.kind, problem.action) for problem in found.problems]


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp"])
def test_images_of_every_kind_are_measured(tmp_path, suffix):
    add(tmp_path, f"a.{suffix}")
    found = examine(tmp_path)
    assert [(r.width, r.height) for r in found.images] == [(100, 80)]
    assert not found.problems


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_cut_off_anywhere_after_its_header_is_told(tmp_path, suffix):
    path = add(tmp_path, f"a.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert ("truncated image", "kept") in kinds(examine(tmp_path))
    path.write_bytes(whole + b"\0" * 100)
    assert not examine(tmp_path).problems


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image(tmp_path):
    path = add(tmp_path, "a.jpg", comment=b"thumbnail \xff\xd9 of the header")
    path.write_bytes(path.read_bytes()[:-20])
    assert measure(path).warning is not None


@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (100, 80)), (3, (100, 80)), (6, (80, 100)), (8, (80, 100))]
)
def test_fractions_are_of_the_displayed_frame(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    add(tmp_path, "a.jpg", exif=exif)
    (record,) = examine(tmp_path).images
    assert (record.width, record.height) == size
    assert record.boxes[0].xmax == pytest.approx(0.6 * size[0])


def test_a_broken_exif_block_costs_nothing(tmp_path):
    add(tmp_path, "a.jpg", exif=b"Exif\0\0garbage that is no TIFF header")
    assert len(examine(tmp_path).images) == 1


def test_a_decompression_bomb_is_told_and_not_decoded(tmp_path):
    add(tmp_path, "good.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    (tmp_path / "bomb.txt").write_text("0 .5 .5 .2 .2\n")
    found = examine(tmp_path)
    assert [record.file for record in found.images] == ["good.png"]
    assert kinds(found) == [("broken image", "dropped image")]


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"\x89PNG\r\n\x1a\n", bytes(range(256)) * 9])
def test_what_is_no_image_leaves_and_the_rest_goes_on(tmp_path, content):
    add(tmp_path, "good.png")
    add(tmp_path, "bad.png").write_bytes(content)
    found = examine(tmp_path)
    assert [record.file for record in found.images] == ["good.png"]
    assert kinds(found) == [("broken image", "dropped image")]


def test_a_broken_annotation_leaves_no_unlabelled_frame(tmp_path):
    add(tmp_path, "good.png")
    add(tmp_path, "bad.png").with_suffix(".txt").write_text("no numbers\n")
    add(tmp_path, "none.png").with_suffix(".txt").unlink()
    found = examine(tmp_path)
    assert found.unlabelled == ["none.png"]
    assert kinds(found) == [
        ("malformed line", "dropped box"),
        ("no box left", "dropped image"),
        ("unlabelled image", "dropped image"),
    ]
