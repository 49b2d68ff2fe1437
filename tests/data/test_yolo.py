"""YOLO: where labels, names of classes and subsets may lie, and what lines may hold."""

import pytest
from PIL import Image

from detkd.cli.app import launch
from detkd.data.check import examine
from detkd.data.formats import guess
from detkd.errors import DataError

LINE = "1 .5 .5 .2 .2\n"


def add(root, image, label=None, lines=LINE):
    (root / image).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80)).save(root / image)
    if label:
        (root / label).parent.mkdir(parents=True, exist_ok=True)
        (root / label).write_text(lines)


def kinds(found):
    return [problem.kind for problem in found.problems]


@pytest.mark.parametrize(
    ("image", "label", "names"),
    [
        ("images/a.jpg", "labels/a.txt", "classes.txt"),
        ("images/train/x/a.jpg", "labels/train/x/a.txt", "labels/classes.txt"),
        ("train/images/a.b.jpg", "train/labels/a.b.txt", "data.yaml"),
        ("a.jpg", "a.txt", "obj.names"),
        ("deep/er/a.jpg", "deep/er/a.txt", "data.yaml"),
    ],
)
def test_layouts(tmp_path, image, label, names):
    add(tmp_path, image, label)
    text = "names: [cell, no]\n" if names.endswith("yaml") else "\ufeffcell\r\nno"
    (tmp_path / names).write_bytes(text.encode())
    assert guess(tmp_path) == "yolo"
    found = examine(tmp_path)
    assert found.data.classes == ["cell", "no"]
    assert [(r.file, r.boxes[0].label) for r in found.images] == [(image, "no")]
    assert kinds(found) == ["unused class"]


@pytest.mark.parametrize(
    "entry",
    [
        "train: images/day1\n",
        "path: images\ntrain: day1\n",
        "train: [images/day1]\n",
        "train: ../images/day1\n",
        "train: list.txt\n",
    ],
)
def test_a_subset_is_what_data_yaml_says(tmp_path, entry):
    for day in ("1", "2"):
        add(tmp_path, f"images/day{day}/a.jpg", f"labels/day{day}/a.txt")
    (tmp_path / "list.txt").write_text("./images/day1/a.jpg\n")
    (tmp_path / "data.yaml").write_text(entry + "names: {0: a, 1: b}\n")
    found = examine(tmp_path, subset="train")
    assert [record.file for record in found.images] == ["images/day1/a.jpg"]


def test_a_subset_is_a_folder_otherwise_and_must_be_there(tmp_path):
    for side in ("train", "val"):
        add(tmp_path, f"images/{side}/a.jpg", f"labels/{side}/a.txt")
    assert [r.file for r in examine(tmp_path, subset="val").images] == ["images/val/a.jpg"]
    with pytest.raises(DataError, match="no images of a subset 'test'; there are train, val"):
        examine(tmp_path, subset="test")


@pytest.mark.parametrize("entry", ["/etc", "..", "../..", "../outside"])
def test_a_subset_never_leaves_the_root(tmp_path, entry):
    add(tmp_path / "outside", "b.jpg", "b.txt")
    add(tmp_path / "tree", "images/a.jpg", "labels/a.txt")
    (tmp_path / "tree/data.yaml").write_text(f"val: {entry}\nnames: [a, b]\n")
    with pytest.raises(DataError, match="no images of a subset"):
        examine(tmp_path / "tree", subset="val")


def test_a_label_that_is_a_link_out_of_the_root_is_not_read(tmp_path):
    (tmp_path / "secret.txt").write_text("secret words\n")
    add(tmp_path / "tree", "a.jpg")
    (tmp_path / "tree/a.txt").symlink_to(tmp_path / "secret.txt")
    found = examine(tmp_path / "tree", source_format="yolo")
    assert found.unlabelled == ["a.jpg"]
    assert not any("secret" in problem.message for problem in found.problems)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ({"classes.txt": "a\n b \n"}, "blank in class"),
        ({"classes.txt": "a\nb\na\n"}, "double class"),
        ({"classes.txt": "a\nb\n", "data.yaml": "names: [a, c]\n"}, "second class list"),
        ({"classes.txt": "a\nb\n", "data.yaml": "names: {"}, "malformed class list"),
        ({}, "no class names"),
    ],
)
def test_lists_of_classes_with_flaws_are_told(tmp_path, names, kind):
    add(tmp_path, "a.jpg", "a.txt")
    for file, text in names.items():
        (tmp_path / file).write_text(text)
    found = examine(tmp_path)
    assert found.images[0].boxes[0].label == ("b" if names else "class_1")
    assert kind in kinds(found)


@pytest.mark.parametrize(
    "text",
    [
        "names: {",
        "names: {999999999999: a}",
        "names: 7",
        "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]",
        "names: [[[[]]]]",
        "[" * 3000,
        "names: {x: y}",
    ],
)
def test_names_that_cannot_be_read_are_refused_not_guessed(tmp_path, text):
    add(tmp_path, "a.jpg", "a.txt")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"data\.yaml: has no readable list 'names'"):
        examine(tmp_path)


def test_wanted_classes_name_the_numbers_where_the_tree_does_not(tmp_path):
    add(tmp_path, "a.jpg", "a.txt")
    found = examine(tmp_path, classes=["zero", "one"])
    assert [box.label for box in found.images[0].boxes] == ["one"]


@pytest.mark.parametrize(
    ("line", "kind", "stays"),
    [
        ("0 0,5 0,5 0,1 0,1", "malformed line", False),
        ("1e300 .5 .5 .1 .1", "unlisted class", False),
        ("-1 .5 .5 .1 .1", "unlisted class", False),
        ("0.5 .5 .5 .1 .1", "unlisted class", False),
        ("0 .5 .5 1e999 .1", "not finite", False),
        ("0 .5 .5 -.1 .1", "inverted box", False),
        ("0 50 40 10 8", "box outside", False),
        ("0 .5 .5 .1 .1 .93", "sixth number", True),
        ("0 .95 .5 .2 .1", "box over the edge", True),
    ],
)
def test_a_line_with_a_flaw_is_named_and_costs_no_other(tmp_path, line, kind, stays):
    add(tmp_path, "a.jpg", "a.txt", f"0 .2 .2 .1 .1\n{line}\r\n\n")
    found = examine(tmp_path)
    assert kind in kinds(found)
    assert len(found.images[0].boxes) == 1 + stays


def test_orphan_labels_are_told_and_other_texts_are_not(tmp_path):
    add(tmp_path, "a.jpg", "a.txt")
    (tmp_path / "b.txt").write_text(LINE)
    (tmp_path / "README.txt").write_text("1 of five words here\n")
    found = examine(tmp_path)
    orphans = [p.file for p in found.problems if p.kind == "orphan annotation"]
    assert orphans == ["b.txt"]


def test_polygons_go_out_and_come_back(tmp_path):
    add(tmp_path / "tree", "a.jpg", "a.txt", "0 .1 .1 .3 .1 .3 .5\n1 .5 .5 .2 .2\n")
    (tmp_path / "tree/classes.txt").write_text("a\nb\n")
    out = tmp_path / "out"
    assert launch("convert", [str(tmp_path / "tree"), str(out), "--to", "yolo-seg"]) == 0
    first, second = examine(out).images[0].boxes
    assert first.extra["segmentation"][0] == pytest.approx([10, 8, 30, 8, 30, 40])
    assert second.xyxy == pytest.approx((40, 32, 60, 48))


def test_of_several_rings_the_largest_goes_out_and_that_is_told(tmp_path):
    from detkd.data.formats.yolo import write
    from detkd.data.records import BoxRecord, DataSet, ImageRecord, Rule

    rings = [[0, 0, 2, 0, 2, 2], [10, 10, 40, 10, 40, 40, 10, 40]]
    boxes = (
        BoxRecord("a", 0, 0, 40, 40, extra={"segmentation": rings}),
        BoxRecord("a", 0, 0, 50, 80, extra={"segmentation": {"counts": "x", "size": [80, 100]}}),
    )
    data = DataSet("coco", Rule("coco", ""), ["a"], [ImageRecord("a.jpg", 100, 80, boxes)])
    assert write(data, tmp_path, polygons=True) == [
        "annotations[].segmentation (further parts)",
        "annotations[].segmentation (run lengths)",
    ]
    lines = (tmp_path / "labels/a.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [9, 9]
    assert list(map(float, lines[0].split()))[1:3] == [0.1, 0.125]
