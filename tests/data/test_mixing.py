"""Mixed images: boxes still lie on their cells, and nothing else of the image changes."""

import numpy as np
import pytest

from detkd.cli.app import launch
from detkd.data.dataset import CocoDataset
from detkd.data.mixing import _turned, overlay, paste_cells
from detkd.errors import ConfigError


def plain(level=200, size=(80, 100)):
    return np.full((*size, 3), level, np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


def with_cells(level=150):
    """Two dark cells of their own colours on a plain ground."""
    image = plain(level)[0]
    boxes = np.array([[10, 12, 30, 27], [50, 40, 62, 70]], np.float32)
    for (x0, y0, x1, y1), colour in zip(
        boxes.astype(int), ((20, 60, 20), (60, 20, 20)), strict=True
    ):
        image[y0:y1, x0:x1] = colour
    return image, boxes, np.array([1, 2])


@pytest.mark.parametrize("seed", range(6))
def test_pasted_cells_lie_in_their_boxes_and_take_the_places_brightness(seed):
    image, boxes, labels = paste_cells(plain(200), with_cells(150), np.random.default_rng(seed))
    assert sorted(labels.tolist()) == [1, 2]
    outside = np.ones(image.shape[:2], bool)
    for (x0, y0, x1, y1), label in zip(boxes.round().astype(int), labels, strict=True):
        outside[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1] = False
        middle = image[(y0 + y1) // 2, (x0 + x1) // 2].astype(int)
        # The surroundings went from 150 to 200, and the cell with them.
        assert np.abs(middle - ((70, 110, 70) if label == 1 else (110, 70, 70))).max() <= 2
        # A cell's colour fills its box up to the fading at the rim.
        inside = image[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3].astype(int)
        assert np.abs(inside - middle).max() <= 2
        assert sorted((x1 - x0, y1 - y0)) in ([15, 20], [12, 30])
    assert np.abs(image[outside].astype(int) - 200).max() <= 2


def test_cells_are_pasted_into_free_places_alone():
    full = (plain()[0], np.array([[0, 0, 100, 80]], np.float32), np.array([1]))
    image, boxes, labels = paste_cells(full, with_cells(), np.random.default_rng(0))
    assert len(boxes) == len(labels) == 1
    assert np.array_equal(image, full[0])


def test_a_view_that_is_mixed_is_not_changed_itself():
    view, donor = plain(), with_cells()
    paste_cells(view, donor, np.random.default_rng(0))
    assert np.array_equal(view[0], plain()[0])
    assert np.array_equal(donor[0], with_cells()[0])


@pytest.mark.parametrize("way", range(8))
def test_turned_patches_keep_their_box(way):
    patch = np.zeros((9, 13, 3), np.uint8)
    patch[2:5, 3:10] = 255
    turned, (x0, y0, x1, y1) = _turned(patch, np.array([3, 2, 10, 5], np.float32), way)
    filled = np.zeros(turned.shape[:2], bool)
    filled[int(y0) : int(y1), int(x0) : int(x1)] = True
    assert np.array_equal(turned[..., 0] > 0, filled)


def test_an_overlay_shows_both_images_with_the_boxes_of_both():
    a, b = with_cells(100), plain(200, size=(90, 60))
    b = (b[0], np.array([[1, 2, 3, 4]], np.float32), np.array([3]))
    image, boxes, labels = overlay(a, b, np.random.default_rng(1))
    assert image.shape == (90, 100, 3)
    assert labels.tolist() == [1, 2, 3]
    assert np.array_equal(boxes, np.concatenate([a[1], b[1]]))
    share = (200 - image[0, 0, 0]) / 100
    assert 0.3 <= share <= 0.7


def test_a_data_set_mixes_by_its_draw(scenes):
    def read(**chances):
        data = CocoDataset(scenes / "all.json", image_size=96, **chances)
        return data, [data[(at, 7 * at)] for at in range(len(data))]

    data, plain_views = read()
    _, mixed = read(copy_paste=1.0)
    _, again = read(copy_paste=1.0)
    more = [
        len(b[1]["boxes"]) - len(a[1]["boxes"]) for a, b in zip(plain_views, mixed, strict=True)
    ]
    assert min(more) >= 0
    assert sum(more) > 5
    for (image, target), (same_image, same_target) in zip(mixed, again, strict=True):
        assert image.equal(same_image)
        assert target["boxes"].equal(same_target["boxes"])
    # As it is, an image is never mixed.
    mixing = CocoDataset(scenes / "all.json", image_size=96, copy_paste=1.0, overlay=1.0)
    assert mixing[3][0].equal(data[3][0])


def test_a_chance_that_is_none_is_refused(scenes, tiny, tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"data\.overlay: 2 is no chance"):
        CocoDataset(scenes / "all.json", image_size=96, overlay=2)
    config = tiny(data__copy_paste=0.5, data__overlay=0.5, train__epochs=1)
    assert launch("train", ["--config", str(config), "--run", str(tmp_path / "r")]) == 0
