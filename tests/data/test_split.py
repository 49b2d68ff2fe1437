import json
from collections import defaultdict

import pytest

from detkd.cli.app import launch
from detkd.data.split import divide, groups_by_field


def document(samples=20, an_image=3):
    images, boxes = [], []
    for sample in range(samples):
        for _ in range(an_image):
            images.append(
                {
                    "id": len(images) + 1,
                    "file_name": f"{len(images) + 1}.png",
                    "width": 9,
                    "height": 9,
                    "sample": f"S{sample}",
                }
            )
            # Class 1 is everywhere, class 2 in every fourth sample.
            for category in (1, 1, 2) if sample % 4 == 0 else (1, 1):
                boxes.append(
                    {
                        "id": len(boxes) + 1,
                        "image_id": len(images),
                        "category_id": category,
                        "bbox": [0, 0, 5, 5],
                    }
                )
    return {
        "images": images,
        "annotations": boxes,
        "categories": [{"id": 1, "name": "often"}, {"id": 2, "name": "seldom"}],
    }


def test_no_group_is_divided_and_every_class_is_in_proportion():
    data = document()
    groups = groups_by_field(data, "sample")
    sides = divide(data, groups, (0.6, 0.2, 0.2))
    of_group = defaultdict(set)
    for image, side in sides.items():
        of_group[groups[image]].add(side)
    assert all(len(found) == 1 for found in of_group.values())
    for category, total in ((1, 120), (2, 15)):
        held = sum(
            box["category_id"] == category and sides[box["image_id"]] == "train"
            for box in data["annotations"]
        )
        assert held == pytest.approx(0.6 * total, abs=0.1 * total + 1)


def test_the_same_seed_divides_alike_and_a_side_of_zero_stays_empty():
    data = document()
    groups = groups_by_field(data, "sample")
    assert divide(data, groups, (0.5, 0.5, 0)) == divide(data, groups, (0.5, 0.5, 0))
    assert divide(data, groups, (0.5, 0.5, 0)) != divide(data, groups, (0.5, 0.5, 0), seed=1)
    assert set(divide(data, groups, (0.5, 0.5, 0)).values()) == {"train", "val"}


def test_the_command_writes_parts_that_find_their_images(scenes, tmp_path):
    from detkd.data.dataset import CocoDataset

    out = tmp_path / "deep/er"
    assert launch("split", [str(scenes / "all.json"), "--out", str(out)]) == 0
    parts = [CocoDataset(out / f"{side}.json", image_size=64) for side in ("train", "val", "test")]
    assert sum(map(len, parts)) == 12
    samples = [{image["sample"] for image in part.truth["images"]} for part in parts]
    assert (
        not samples[0] & samples[1] and not samples[0] & samples[2] and not samples[1] & samples[2]
    )


@pytest.mark.parametrize(
    ("table", "code", "said"),
    [
        ("image,group\n{first},g\n", 0, "11 images are in no group"),
        ("image,colour\nx,y\n", 2, "needs a column of images"),
        ("image,group\nnothing,g\n", 2, "names none of the images"),
    ],
)
def test_groups_of_a_table(scenes, tmp_path, capsys, table, code, said):
    first = json.loads((scenes / "all.json").read_text())["images"][0]["file_name"]
    (tmp_path / "g.csv").write_text(table.format(first=first))
    command = [
        str(scenes / "all.json"),
        "--out",
        str(tmp_path),
        "--groups",
        str(tmp_path / "g.csv"),
    ]
    assert launch("split", command) == code
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_equal_images_on_two_sides_are_a_leak(tmp_path, capsys):
    from PIL import Image

    for name in ("a", "b"):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{name}.png")
    images = [
        {"id": k, "file_name": f"{n}.png", "width": 9, "height": 9} for k, n in ((1, "a"), (2, "b"))
    ]
    data = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "all.json").write_text(json.dumps(data))
    command = [str(tmp_path / "all.json"), "--out", str(tmp_path), "--ratios", "1", "1", "0"]
    assert launch("split", command) == 1
    assert "leak: a.png and b.png" in capsys.readouterr().out


def test_microalgae_splits_by_its_groups(real_data, tmp_path):
    assert launch("convert", [str(real_data / "microalgae"), str(tmp_path / "all.json")]) == 0
    command = [
        str(tmp_path / "all.json"),
        "--out",
        str(tmp_path),
        "--groups",
        str(real_data / "microalgae/GROUPS.csv"),
    ]
    assert launch("split", command) == 0
    sizes = [
        len(json.loads((tmp_path / f"{s}.json").read_text())["images"])
        for s in ("train", "val", "test")
    ]
    assert sum(sizes) == 1475
    assert sizes[0] == pytest.approx(0.7 * 1475, rel=0.03)
