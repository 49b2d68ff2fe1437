"""A class that its frames tell."""

import json

import pytest
from PIL import Image

from detkd.data.check import examine
from detkd.data.frame_watch import FrameWatch


def told(frames):
    watch = FrameWatch()
    for width, height, labels, times in frames:
        for _ in range(times):
            watch.look(width, height, labels)
    return [note.message for note in watch.notes()]


def test_a_size_of_its_own_tells_the_class():
    first, _ = told([(600, 600, ["a", "a"], 19), (640, 480, ["a", "b"], 1), (640, 480, ["b"], 39)])
    assert first.startswith(
        "19 of the 20 frames with 'a' have 600x600 px, and 0 of the 39 without it"
    )


def test_a_shape_of_its_own_tells_the_class_whatever_the_size():
    square = [(side, side, ["a"], 1) for side in range(100, 120)]
    wide = [(2 * side, side, [], 1) for side in range(100, 115)]  # frames without an object, too
    assert told(square + wide)[0].startswith(
        "20 of the 20 frames with 'a' have a width of 1.00 heights, and 0 of the 15 without it"
    )


@pytest.mark.parametrize(
    "frames",
    [
        [(600, 600, ["a"], 20), (640, 480, ["b"], 9)],  # few others
        [(600, 600, ["a"], 9), (640, 480, ["b"], 40)],  # few of its own
        [(600, 600, ["a"], 18), (640, 480, ["a"], 2), (640, 480, ["b"], 40)],  # 90 %
        [(600, 600, ["a"], 20), (640, 480, ["b"], 37), (600, 600, ["b"], 3)],  # 7.5 % of others
        [(600, 600, ["a"], 50)],  # no others
    ],
)
def test_what_may_be_chance_is_not_told(frames):
    assert not any("'a'" in message for message in told(frames))


def test_the_check_tells_it_as_a_note(tmp_path):
    images, boxes = [], []
    for at in range(24):
        width = 40 if at % 2 else 30
        Image.new("RGB", (width, 30)).save(tmp_path / f"{at}.png")
        images.append({"id": at, "file_name": f"{at}.png", "width": width, "height": 30})
        box = {"id": at, "image_id": at, "category_id": 1 + at % 2, "bbox": [5, 5, 9, 9]}
        boxes.append(box | {"area": 81, "iscrowd": 0})
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    document = {"images": images, "annotations": boxes, "categories": categories}
    path = tmp_path / "all.json"
    path.write_text(json.dumps(document))
    found = examine(path)
    notes = [note for note in found.notes if note.kind == "class told by frame"]
    assert [note.message.split(":")[0] for note in notes] == [
        "12 of the 12 frames with 'a' have 30x30 px, and 0 of the 12 without it",
        "12 of the 12 frames with 'b' have 40x30 px, and 0 of the 12 without it",
    ]
    assert not any(problem.kind == "class told by frame" for problem in found.problems)
