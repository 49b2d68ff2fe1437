"""`detkd split`: groups from every kind of table, and refusals in one sentence."""

import json

import pytest

from detkd.cli.app import launch
from detkd.data.split import divide, groups_by_table


@pytest.fixture
def whole(tmp_path):
    """A COCO file of eight images without files, two a group, classes as the group is even."""
    images = [
        {"id": k, "file_name": f"day/{k:03}.png", "width": 9, "height": 9, "slide": k // 2}
        for k in range(8)
    ]
    boxes = [
        {"id": k, "image_id": k, "category_id": 1 + k // 2 % 2, "bbox": [0, 0, 5, 5]}
        for k in range(8)
    ]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "none"}]
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


@pytest.mark.parametrize(
    "table",
    [
        "file,group\nday/000.png,A\nday/001.png,A\n",
        "image,sample\n000.png,A\n001.png,A\n",
        "image_id,group_id\n000,A\n001,A\n",
        "\ufefffile;group\r\nother\\Day\\000.jpg;A\r\nother\\Day\\001.jpg; A \r\n",
        " file , group \nday/000.png,A\nday/001.png,A\n",
    ],
)
def test_rows_are_matched_by_path_name_or_stem(whole, tmp_path, table):
    (tmp_path / "g.csv").write_text(table, newline="")
    groups = groups_by_table(json.loads(whole.read_text()), tmp_path / "g.csv", None)
    assert groups[0] == groups[1] == "A"
    assert len({groups[k] for k in range(2, 8)}) == 6


def sides_of(folder):
    documents = [json.loads((folder / f"{side}.json").read_text()) for side in ("train", "val")]
    return {image["id"]: image for document in documents for image in document["images"]}


def test_what_was_split_by_is_judged_by(whole, tmp_path):
    document = json.loads(whole.read_text())
    document["images"][7]["sample"] = "named before"
    whole.write_text(json.dumps(document))
    (tmp_path / "g.csv").write_text("image,group\n000,A\n001,A\n")
    halves = [str(whole), "--ratios", "1", "1", "0", "--no-similar", "--out"]
    assert launch("split", [*halves, str(tmp_path / "a"), "--groups", str(tmp_path / "g.csv")]) == 0
    samples = {key: image.get("sample") for key, image in sides_of(tmp_path / "a").items()}
    assert samples == {0: "A", 1: "A", 7: "named before"} | dict.fromkeys(range(2, 7))
    assert launch("split", [*halves, str(tmp_path / "b"), "--groups", "slide"]) == 0
    samples = {key: image["sample"] for key, image in sides_of(tmp_path / "b").items()}
    assert samples == {key: str(key // 2) for key in range(7)} | {7: "named before"}


def test_images_of_no_group_are_samples_of_their_own(whole, tmp_path, capsys):
    command = [str(whole), "--ratios", "1", "1", "0", "--no-similar", "--out", str(tmp_path)]
    assert launch("split", command) == 0
    assert "8 images are in no group; each stands alone" in capsys.readouterr().out
    assert not any("sample" in image for image in sides_of(tmp_path).values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--groups", "colour"], "no image has the field 'colour'"),
        (["--groups", "{here}/none.csv"], "cannot be read as CSV"),
        (["--groups", "{here}/two.csv"], "puts '000' into two groups, 'A' and 'B'"),
        (["--groups", "{here}/two.csv", "--group-column", "x"], "it has file, group"),
        (["--ratios", "nan", "1", "1"], "nan 1 1 are not shares"),
        (["--ratios", "0", "0", "0"], "0 0 0 are not shares"),
        (["--ratios", "1", "1"], "expected 3 arguments"),
        (["--seed", "-1"], "-1 is negative"),
        (["--groups", "one"], "1 group cannot fill 3 sides; the nearest division has 1"),
        (["--out", "{here}/all.json/x"], "cannot be written"),
    ],
)
def test_refusals(whole, tmp_path, capsys, arguments, said):
    document = json.loads(whole.read_text())
    for image in document["images"]:
        image["one"] = "same"
    whole.write_text(json.dumps(document))
    (tmp_path / "two.csv").write_text("file,group\n000,A\n000,B\n")
    given = [text.format(here=tmp_path) for text in arguments]
    assert launch("split", [str(whole), "--out", str(tmp_path / "out"), *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "out").exists()


def test_thin_classes_are_told_and_every_side_gets_a_group(whole, tmp_path, capsys):
    command = [str(whole), "--out", str(tmp_path / "out"), "--groups", "slide"]
    assert launch("split", [*command, "--ratios", "0.98", "0.01", "0.01"]) == 0
    out = capsys.readouterr().out
    assert "class 'a' is in 2 groups: not every side can hold it" in out
    assert "class 'none' is in 0 groups" in out
    parts = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").iterdir())]
    assert sorted(len(part["images"]) for part in parts) == [2, 2, 4]
    assert {part["info"]["detkd"]["image_root"] for part in parts} == {".."}


def test_a_part_of_an_earlier_split_never_stays_beside_a_new_one(whole, tmp_path, capsys):
    command = [str(whole), "--out", str(tmp_path / "out"), "--groups", "slide", "--ratios"]
    assert launch("split", [*command, "2", "1", "1"]) == 0
    assert launch("split", [*command, "3", "1", "0"]) == 2
    assert "test.json: is of an earlier split" in capsys.readouterr().err


def test_folds_of_an_earlier_split_never_stay_beside_new_ones(whole, tmp_path, capsys):
    command = [str(whole), "--out", str(tmp_path / "out"), "--groups", "slide", "--folds"]
    assert launch("split", [*command, "3"]) == 0
    assert launch("split", [*command, "2"]) == 2
    assert "fold3: is of an earlier split" in capsys.readouterr().err
    assert launch("split", [*command, "3"]) == 0


def test_a_table_of_groups_may_be_a_spreadsheet_of_windows(whole, tmp_path):
    names = [image["file_name"] for image in json.loads(whole.read_text())["images"]]
    rows = "".join(f"{name};{at % 3}ü\n" for at, name in enumerate(names))
    (tmp_path / "g.csv").write_bytes(f"image;größe\n{rows}".encode("cp1252"))
    given = ["--groups", str(tmp_path / "g.csv"), "--group-column", "größe"]
    assert launch("split", [str(whole), "--out", str(tmp_path / "out"), *given]) == 0
    for side in (tmp_path / "out").iterdir():
        inside = {image["file_name"] for image in json.loads(side.read_text())["images"]}
        assert len({names.index(name) % 3 for name in inside}) == 1


def test_one_file_listed_twice_is_a_leak_even_where_it_is_missing(whole, tmp_path, capsys):
    document = json.loads(whole.read_text())
    for image in document["images"]:
        image["file_name"] = "same.png"
    whole.write_text(json.dumps(document))
    assert launch("split", [str(whole), "--out", str(tmp_path / "out"), "--groups", "slide"]) == 1
    assert "leak: same.png and same.png" in capsys.readouterr().out


def test_images_without_boxes_are_shared_out_too(whole):
    document = {**json.loads(whole.read_text()), "annotations": []}
    groups = {image["id"]: str(image["id"]) for image in document["images"]}
    sides = list(divide(document, groups, (0.5, 0.25, 0.25)).values())
    assert [sides.count(side) for side in ("train", "val", "test")] == [4, 2, 2]
