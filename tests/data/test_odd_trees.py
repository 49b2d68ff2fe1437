"""Trees as labs have them: formats side by side, odd letters, turned shapes, pages and stems."""

import json
import math
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks

from detkd.cli.app import launch
from detkd.data.check import examine
from detkd.data.masks import box_of_mask

VOC = (
    "<annotation><size><width>100</width><height>80</height></size><object><name>a</name>{flags}"
    "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>60</ymax></bndbox></object>"
    "</annotation>"
)
COMPOSED = "zwölf"
TAKEN_APART = unicodedata.normalize("NFD", COMPOSED)


def picture(path, size=(100, 80), **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **more)


def coco(path, annotations, name="one.jpg"):
    entries = [{"image_id": 1, "category_id": 1, "iscrowd": 0, **each} for each in annotations]
    document = {
        "images": [{"id": 1, "file_name": name, "width": 100, "height": 80}],
        "annotations": [{"id": at, **each} for at, each in enumerate(entries, start=1)],
        "categories": [{"id": 1, "name": "a"}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def told(found):
    return {(problem.kind, problem.action) for problem in [*found.problems, *found.notes]}


def boxes(found):
    return [box.xyxy for image in found.images for box in image.boxes]


def converted(source, target):
    assert launch("convert", [str(source), str(target)]) == 0
    document = json.loads(target.read_text())
    return {key: document[key] for key in ("images", "annotations", "categories")}


def test_annotations_of_another_format_are_told_unless_one_is_named(tmp_path):
    for name in "abc":
        picture(tmp_path / f"{name}.jpg")
    for name in "ab":
        (tmp_path / f"{name}.xml").write_text(VOC.format(flags=""))
    (tmp_path / "c.txt").write_text("0 .5 .5 .2 .2\n")
    found = examine(tmp_path)
    (other,) = (problem for problem in found.problems if problem.kind == "other format")
    assert other.message == "annotations of yolo that are not read: 1; --from yolo reads them"
    assert not any(
        p.kind == "other format" for p in examine(tmp_path, source_format="voc").problems
    )


@pytest.mark.parametrize("flags", ["", "<truncated>1</truncated>", "<difficult>0</difficult>"])
def test_a_round_trip_invents_no_flags(tmp_path, flags):
    picture(tmp_path / "tree/JPEGImages/one.jpg")
    (tmp_path / "tree/Annotations").mkdir()
    (tmp_path / "tree/Annotations/one.xml").write_text(VOC.format(flags=flags))
    first = converted(tmp_path / "tree", tmp_path / "first.json")
    assert (
        launch("convert", [str(tmp_path / "first.json"), str(tmp_path / "v"), "--to", "voc"]) == 0
    )
    assert converted(tmp_path / "v", tmp_path / "second.json") == first


def test_boxes_of_other_formats_get_both_flags_of_voc(tmp_path):
    picture(tmp_path / "one.jpg")
    source = coco(tmp_path / "all.json", [{"bbox": [10, 20, 20, 40]}])
    assert launch("convert", [str(source), str(tmp_path / "v"), "--to", "voc"]) == 0
    text = (tmp_path / "v/Annotations/one.xml").read_text()
    assert "<truncated>0</truncated>" in text
    assert "<difficult>0</difficult>" in text


def cvat_ellipse(root, degrees):
    shape = f'<ellipse label="a" cx="50" cy="40" rx="20" ry="5" rotation="{degrees}"/>'
    image = f'<image id="0" name="one.jpg" width="100" height="80">{shape}</image>'
    (root / "all.xml").write_text(f"<annotations><version>1.1</version>{image}</annotations>")


def label_studio_ellipse(root, degrees):
    value = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 6.25, "rotation": degrees}
    result = {
        "type": "ellipselabels",
        "value": {**value, "ellipselabels": ["a"]},
        "original_width": 100,
        "original_height": 80,
    }
    task = {"data": {"image": "one.jpg"}, "annotations": [{"result": [result]}]}
    (root / "all.json").write_text(json.dumps([task]))


def via_ellipse(root, degrees):
    shape = {"name": "ellipse", "cx": 50, "cy": 40, "rx": 20, "ry": 5}
    cells = (json.dumps({**shape, "theta": math.radians(degrees)}), json.dumps({"species": "a"}))
    quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
    head = "filename,region_shape_attributes,region_attributes\n"
    (root / "all.csv").write_text(f"{head}one.jpg,{quoted}\n")


@pytest.mark.parametrize("write", [cvat_ellipse, label_studio_ellipse, via_ellipse])
@pytest.mark.parametrize("degrees", [0, 30, 90])
def test_the_box_of_a_turned_ellipse_touches_it(tmp_path, write, degrees):
    picture(tmp_path / "one.jpg")
    write(tmp_path, degrees)
    found = examine(tmp_path)
    # Of the points of the ellipse, one by one.
    at, turn = np.linspace(0, 2 * np.pi, 100_000), math.radians(degrees)
    x = 50 + 20 * np.cos(at) * math.cos(turn) - 5 * np.sin(at) * math.sin(turn)
    y = 40 + 20 * np.cos(at) * math.sin(turn) + 5 * np.sin(at) * math.cos(turn)
    assert boxes(found) == [pytest.approx((x.min(), y.min(), x.max(), y.max()), abs=1e-5)]
    assert (("rotated box", "mended") in told(found)) == bool(degrees)


@pytest.mark.parametrize("kind", ["rotation", "oriented_rectangle"])
def test_a_turned_rectangle_of_labelme_becomes_the_box_around_it(tmp_path, kind):
    picture(tmp_path / "one.jpg")
    shape = {
        "label": "a",
        "points": [[10, 10], [20, 5], [25, 15], [15, 20]],
        "shape_type": kind,
    }
    (tmp_path / "one.json").write_text(json.dumps({"shapes": [shape], "imagePath": "one.jpg"}))
    found = examine(tmp_path)
    assert boxes(found) == [(10, 5, 25, 20)]
    assert ("rotated box", "mended") in told(found)


def as_csv(root, name):
    (root / "all.csv").write_text(f"image,class,xmin,ymin,xmax,ymax\n{name}.jpg,a,1,2,30,40\n")
    return root


def as_coco(root, name):
    return coco(root / "all.json", [{"bbox": [1, 2, 29, 38]}], f"{name}.jpg")


@pytest.mark.parametrize("write", [as_csv, as_coco])
@pytest.mark.parametrize(
    ("stored", "said"), [(COMPOSED, TAKEN_APART), (TAKEN_APART, COMPOSED)], ids=["NFC", "NFD"]
)
def test_letters_may_be_written_in_two_ways(tmp_path, write, stored, said):
    picture(tmp_path / f"{stored}.jpg")
    found = examine(write(tmp_path, said))
    assert boxes(found) == [(1, 2, 30, 40)]
    assert [image.file for image in found.images] == [f"{stored}.jpg"]


def test_classes_of_the_same_letters_are_told(tmp_path):
    picture(tmp_path / "one.jpg")
    rows = "".join(f"one.jpg,{name},1,2,30,{40 + at}\n" for at, name in
                   enumerate((COMPOSED, TAKEN_APART)))  # fmt: skip
    (tmp_path / "all.csv").write_text(f"image,class,xmin,ymin,xmax,ymax\n{rows}")
    found = examine(tmp_path)
    assert ("class spelling", "kept") in told(found)
    assert len(found.data.classes) == 2


@pytest.mark.parametrize("letters", ["cp1252", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("file", ["classes.txt", "data.yaml"])
def test_a_list_of_classes_may_have_other_letters(tmp_path, file, letters):
    picture(tmp_path / "images/one.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/one.txt").write_text("0 .5 .5 .2 .2\n")
    text = "größe\n" if file == "classes.txt" else "names: [größe]\n"
    (tmp_path / file).write_bytes(text.encode(letters))
    found = examine(tmp_path)
    assert found.data.classes == ["größe"]
    assert ("encoding", "kept") in told(found)


@pytest.mark.parametrize("letters", ["utf-16", "utf-8-sig"])
def test_documents_may_begin_with_a_mark(tmp_path, letters):
    picture(tmp_path / "one.jpg")
    cvat_ellipse(tmp_path, 0)
    text = (tmp_path / "all.xml").read_text()
    (tmp_path / "all.xml").write_bytes(text.encode(letters))
    coco(tmp_path / "c/all.json", [{"bbox": [1, 2, 29, 38]}])
    picture(tmp_path / "c/one.jpg")
    label_studio_ellipse(tmp_path / "c", 0)
    for source in (tmp_path / "all.xml", tmp_path / "c/all.json"):
        source.write_bytes(source.read_text(encoding=letters if "xml" in source.name else "utf-8")
                           .encode(letters))  # fmt: skip
        found = examine(source)
        assert len(boxes(found)) == 1
        assert ("encoding", "kept") in told(found)


def test_a_coco_box_may_be_that_of_its_segmentation(tmp_path):
    picture(tmp_path / "one.jpg")
    mask = np.zeros((80, 100), np.uint8, order="F")
    mask[10:30, 20:50] = 1
    counts = masks.encode(mask)["counts"].decode()
    found = examine(
        coco(
            tmp_path / "all.json",
            [
                {"segmentation": [[1, 1, 10, 1, 10, 12]]},
                {"bbox": [], "segmentation": {"size": [80, 100], "counts": counts}},
                {"segmentation": {"size": [80, 100], "counts": "PPP"}},
                {"segmentation": [[1, 2, 3]]},
            ],
        )
    )
    assert boxes(found) == [(1, 1, 10, 12), (20, 10, 50, 30)]
    actions = [p.action for p in found.problems if p.kind == "missing coordinate"]
    assert sorted(actions) == ["dropped box"] * 2 + ["mended"] * 2


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_masks_have_the_boxes_of_their_pixels(share):
    random = np.random.default_rng(0)
    for _ in range(200):
        height, width = random.integers(1, 30, 2).tolist()
        mask = np.asfortranarray(random.random((height, width)) < share, np.uint8)
        flat = mask.ravel(order="F")
        ends = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff([0, *ends, len(flat)]).tolist()
        runs = [0, *runs] if flat[0] else runs
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None
        size = [height, width]
        assert box_of_mask({"size": size, "counts": runs}) == box
        packed = masks.encode(mask)["counts"].decode()
        assert box_of_mask({"size": size, "counts": packed}) == box


def test_what_cannot_be_turned_with_the_image_is_told(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "one.jpg", exif=exif)
    said = {"bbox": [10, 20, 20, 40], "keypoints": [11, 21, 2], "segmentation": {"counts": "x"}}
    found = examine(
        coco(tmp_path / "all.json", [said, {"bbox": [1, 2, 3, 4], "segmentation": [5]}])
    )
    (turned,) = (problem for problem in found.problems if problem.kind == "turned image")
    assert "keypoints, segmentation left out" in turned.message
    assert boxes(found)[0] == (20, 10, 60, 30)
    assert all("keypoints" not in box.extra for image in found.images for box in image.boxes)


def test_a_coco_file_of_another_computer_finds_its_images(tmp_path):
    picture(tmp_path / "images/one.jpg")
    found = examine(coco(tmp_path / "all.json", [{"bbox": [1, 2, 29, 38]}], "C:\\lab\\one.jpg"))
    assert [image.file for image in found.images] == ["images/one.jpg"]
    assert ("path inside", "kept") in told(found)


def test_images_of_a_coco_file_may_lie_in_another_folder(tmp_path, capsys):
    picture(tmp_path / "train/one.jpg")
    source = coco(tmp_path / "annotations/train.json", [{"bbox": [1, 2, 29, 38]}])
    out = tmp_path / "all.json"
    assert launch("convert", [str(source), str(out)]) == 2
    assert "--images" in " ".join(capsys.readouterr().out.split())
    assert launch("convert", [str(source), str(out), "--images", str(tmp_path / "train")]) == 0
    document = json.loads(out.read_text())
    assert document["info"]["detkd"]["image_root"] == "train"
    assert len(document["annotations"]) == 1
    assert launch("check", [str(tmp_path), "--from", "csv", "--images", str(tmp_path)]) == 2
    assert "--images: is for a COCO file" in capsys.readouterr().err


def test_no_threshold_is_chosen_on_a_part_that_was_made_for_testing(tmp_path, capsys):
    tree = tmp_path / "tree"
    for name in "abcd":
        picture(tree / f"JPEGImages/{name}.jpg", (100, 80 + ord(name) % 7))
        (tree / f"{name}.xml").write_text(VOC.format(flags=""))
    (tree / "ImageSets/Main").mkdir(parents=True)
    (tree / "ImageSets/Main/test.txt").write_text("a\nb\n")
    first, whole, again = (tmp_path / f"{name}.json" for name in ("first", "whole", "again"))
    assert launch("convert", [str(tree), str(first), "--subset", "test"]) == 0
    converted(tree, whole)
    assert launch("split", [str(whole), "--out", str(tmp_path), "--ratios", "1", "0", "1"]) == 0
    (tmp_path / "test.json").rename(tmp_path / "second.json")
    converted(tmp_path / "second.json", again)
    (tmp_path / "dt.json").write_text("[]")
    choose = ["--dt", str(tmp_path / "dt.json"), "--out", str(tmp_path / "o"), "--choose-threshold"]
    for truth in (first, tmp_path / "second.json", again):
        capsys.readouterr()
        assert launch("eval", ["--gt", str(truth), *choose, "f1"]) == 2
        assert "is of a test split" in capsys.readouterr().err
    assert launch("eval", ["--gt", str(whole), *choose, "f1"]) == 0


def test_a_crowd_is_no_double_of_the_object_in_it(tmp_path):
    picture(tmp_path / "one.jpg")
    box = {"bbox": [10, 20, 20, 40]}
    found = examine(coco(tmp_path / "all.json", [{**box, "iscrowd": 1}, box, box]))
    assert [box.crowd for image in found.images for box in image.boxes] == [True, False]
    assert ("double box", "dropped box") in told(found)


@pytest.mark.parametrize(
    "text",
    [
        "one.png;1,5;2,5;30,5;40,5;a\n",
        "image_id,label,xmin,ymin,xmax,ymax\none,a,1.5,2.5,30.5,40.5\n",
    ],
    ids=["decimal commas without header", "names without suffix"],
)
def test_tables_as_spreadsheets_and_tools_write_them(tmp_path, text):
    picture(tmp_path / "one.png")
    (tmp_path / "all.csv").write_text(text)
    assert boxes(examine(tmp_path)) == [(1.5, 2.5, 30.5, 40.5)]


def test_two_images_of_one_stem_are_told_though_one_annotation_is_there(tmp_path):
    picture(tmp_path / "one.jpg")
    picture(tmp_path / "one.png")
    (tmp_path / "one.xml").write_text(VOC.format(flags=""))
    found = examine(tmp_path)
    (stem,) = (problem for problem in found.problems if problem.kind == "two images of one stem")
    assert (stem.file, stem.message) == (
        "one.png",
        "shares its stem with one.jpg, which has their annotation",
    )


def test_a_blank_at_the_beginning_of_a_name_is_told(tmp_path):
    picture(tmp_path / " one.jpg")
    (tmp_path / " one.xml").write_text(VOC.format(flags=""))
    assert ("blank in file name", "kept") in told(examine(tmp_path))


@pytest.mark.skipif(os.name != "posix", reason="names of bytes are POSIX's")
def test_names_that_are_no_text_go_through_every_command(tmp_path, capsys):
    """A Latin-1 name: OpenCV crashes on it, and UTF-8 cannot hold it."""
    tree = tmp_path / "tree"
    for at, name in enumerate((os.fsdecode(b"gr\xfcn.jpg"), "$^{$.jpg", "b.jpg")):
        picture(tree / name, (100 + at, 80))
        (tree / name).with_suffix(".txt").write_text("0 .5 .5 .2 .2\n1 .2 .2 .1 .1\n")
    (tree / "classes.txt").write_text("a$^{$b\nc\n")
    page = tmp_path / "page.html"
    assert launch("check", [str(tree), "--html", str(page)]) == 0
    assert page.stat().st_size
    out = tmp_path / "all.json"
    document = converted(tree, out)
    results = [{**{key: box[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9}
               for box in document["annotations"]]  # fmt: skip
    (tmp_path / "dt.json").write_text(json.dumps(results))
    judged = ["--dt", str(tmp_path / "dt.json"), "--out", str(tmp_path / "judged")]
    assert launch("eval", ["--gt", str(out), *judged]) == 0
    assert (tmp_path / "judged/plots/worst_images.png").is_file()
    assert launch("split", [str(out), "--out", str(tmp_path / "sides")]) == 0
    assert launch("crop", [str(out), str(tmp_path / "crops")]) == 0
    assert len(examine(out).images) == 3


def test_crops_of_a_class_without_a_name_are_refused(tmp_path, capsys):
    picture(tmp_path / "one.jpg")
    coco(tmp_path / "all.json", [{"bbox": [10, 10, 20, 20]}])
    document = json.loads((tmp_path / "all.json").read_text())
    document["categories"][0]["name"] = " "
    (tmp_path / "all.json").write_text(json.dumps(document))
    assert launch("crop", [str(tmp_path / "all.json"), str(tmp_path / "crops")]) == 2
    assert "category 1 of its COCO file has no name" in capsys.readouterr().err
    assert not (tmp_path / "crops").exists()
