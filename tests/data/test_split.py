import json
from collections import Counter, defaultdict

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


def command(path, *more):
    known = [str(path / "all.json"), "--out", str(path / "out"), "--report", str(path / "r.json")]
    return launch("split", [*known, *more])


def written(path, data):
    (path / "all.json").write_text(json.dumps(data))
    return path


def read(path, name):
    return json.loads((path / "out" / name).read_text())


def report(path):
    return json.loads((path / "r.json").read_text())


@pytest.mark.parametrize("ratios", ["0.5 0.5 0", "0 1 1", "0 0 1", "1 0 1"])
def test_any_side_may_be_left_out(tmp_path, ratios):
    written(tmp_path, document())
    assert command(tmp_path, "--groups", "sample", "--ratios", *ratios.split()) == 0
    sides = zip(("train", "val", "test"), ratios.split(), strict=True)
    for side, ratio in sides:
        assert (tmp_path / f"out/{side}.json").exists() == (ratio != "0")


def test_classes_alone_divide_as_in_the_first_version(tmp_path):
    written(tmp_path, document())
    assert command(tmp_path, "--groups", "sample", "--stratify", "classes", "--seed", "3") == 0
    held = {side: {int(image["sample"][1:]) for image in read(tmp_path, f"{side}.json")["images"]}
            for side in ("val", "test")}  # fmt: skip
    # Written down from the first version.
    assert held == {"val": {11, 16, 19}, "test": {0, 3, 7}}


def test_folds_hold_each_image_once_and_no_group_twice(tmp_path):
    data = written(tmp_path, document()) and document()
    assert command(tmp_path, "--groups", "sample", "--folds", "4") == 0
    seen = []
    for fold in range(1, 5):
        train, val = (read(tmp_path, f"fold{fold}/{side}.json") for side in ("train", "val"))
        samples = [{image["sample"] for image in part["images"]} for part in (train, val)]
        assert not samples[0] & samples[1]
        assert len(train["images"]) + len(val["images"]) == len(data["images"])
        seen += [image["id"] for image in val["images"]]
    assert sorted(seen) == [image["id"] for image in data["images"]]
    assert report(tmp_path)["sides"]["fold1"]["asked"] == 0.25


def test_groups_after_a_pattern_in_the_names(tmp_path, capsys):
    data = document()
    for image in data["images"]:
        image["file_name"] = f"{image.pop('sample')}_{image['id']}.png"
    written(tmp_path, data)
    assert command(tmp_path, "--group-pattern", r"^(S\d+)_") == 0
    names = [{i["file_name"].split("_")[0] for i in read(tmp_path, f"{s}.json")["images"]}
             for s in ("train", "val", "test")]  # fmt: skip
    assert sum(map(len, names)) == len(set.union(*names)) == 20
    for pattern, said in (("(", "no regular expression"), ("^X", "matches none")):
        assert command(tmp_path, "--group-pattern", pattern) == 2
        assert said in capsys.readouterr().err


def test_images_with_few_and_with_many_boxes_are_on_each_side(tmp_path):
    data = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    for at in range(1, 201):
        data["images"].append({"id": at, "file_name": f"{at}.png", "width": 9, "height": 9})
        # Ten in a hundred are crowded, ten are empty.
        for _ in range({0: 0, 1: 30}.get(at % 10, 2)):
            data["annotations"].append(
                {"id": len(data["annotations"]) + 1, "image_id": at, "category_id": 1,
                 "bbox": [0, 0, 5, 5]}
            )  # fmt: skip
    written(tmp_path, data)
    assert command(tmp_path, "--ratios", "0.5", "0.25", "0.25") == 0
    for side, share in (("train", 0.5), ("val", 0.25), ("test", 0.25)):
        part = read(tmp_path, f"{side}.json")
        boxes = Counter(box["image_id"] for box in part["annotations"])
        assert sum(count == 30 for count in boxes.values()) == pytest.approx(20 * share, abs=1)
        assert len(part["images"]) - len(boxes) == pytest.approx(20 * share, abs=1)
        assert len(part["images"]) == pytest.approx(200 * share, abs=3)


def test_groups_that_cannot_be_divided_so_give_a_sentence_and_the_nearest(tmp_path, capsys):
    data = document(samples=10)
    for image in data["images"][:24]:
        image["sample"] = "all of one day"
    written(tmp_path, data)
    assert command(tmp_path, "--groups", "sample", "--ratios", "0.5", "0.5", "0") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "80 / 20 / 0 % is the nearest" in out
    assert "'all of one day', holds 80 %" in out
    assert report(tmp_path)["sides"]["train"]["reached"] == 0.8


def test_similar_images_are_told_or_kept_together(tmp_path, capsys):
    import numpy as np
    from PIL import Image

    data = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    for scene in range(8):
        pixels = np.random.default_rng(scene).integers(0, 255, (12, 12), np.uint8)
        for turn in range(2):
            name = f"{scene}_{turn}.png"
            Image.fromarray(np.rot90(pixels, turn)).resize((96, 96)).save(tmp_path / name)
            data["images"].append(
                {"id": len(data["images"]) + 1, "file_name": name, "width": 96, "height": 96}
            )
    written(tmp_path, data)
    assert command(tmp_path, "--ratios", "1", "1", "0") == 0
    assert "similar images on two sides; --join-similar keeps" in capsys.readouterr().out
    assert report(tmp_path)["similar"]
    assert command(tmp_path, "--ratios", "1", "1", "0", "--join-similar") == 0
    assert not report(tmp_path)["similar"]
    names = [image["file_name"] for image in read(tmp_path, "train.json")["images"]]
    assert Counter(name[0] for name in names).keys() == {n[0] for n in names if n[2] == "1"}


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
