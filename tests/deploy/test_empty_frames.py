"""What the cheap test for empty frames would lose is counted right."""

import json

import cv2
import numpy as np
import pytest

from detkd.cli.app import launch


def test_shares_are_counted_by_hand(tmp_path, capsys):
    """Two frames, one with a plain object in its upper left ninth, one with a pale one there."""
    images, boxes = [], []
    for at, shade in enumerate((20, 117), start=1):
        image = np.full((288, 288, 3), 120, np.uint8)
        image[20:50, 20:50] = shade
        cv2.imwrite(str(tmp_path / f"{at}.png"), image)
        images.append({"id": at, "file_name": f"{at}.png", "width": 288, "height": 288})
        box = {"id": at, "image_id": at, "category_id": 1, "bbox": [20, 20, 30, 30]}
        boxes.append({**box, "area": 900, "iscrowd": 0})
    truth = tmp_path / "truth.json"
    categories = [{"id": 1, "name": "a"}]
    document = {"images": images, "annotations": boxes, "categories": categories}
    truth.write_text(json.dumps(document))
    out = tmp_path / "out.json"
    assert launch("bench", ["empty", "--gt", str(truth), "--out", str(out)]) == 0
    said = json.loads(out.read_text())
    assert (said["images"], said["objects"], said["empty_parts"]) == (2, 2, 16)
    assert said["limits"]["4"] == {
        "frames": 0.5,  # the pale one
        "objects_lost": 0.5,
        "empty_parts": 1.0,
        "objects_lost_in_parts": 0.5,
    }
    capsys.readouterr()
    assert launch("bench", ["empty"]) == 2
    assert capsys.readouterr().err == "error: bench empty: name annotated images, --gt FILE.\n"
    (tmp_path / "1.png").write_bytes(b"no image")
    assert launch("bench", ["empty", "--gt", str(truth)]) == 2
    assert "1.png: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("side", [1, 7, 31, 33])
def test_small_frames_have_a_busyness(side):
    from detkd.deploy.runner import busyness

    assert np.isfinite(busyness(np.full((side, side, 3), 7, np.uint8)))
