"""Reading and writing annotations: coordinates by hand, round trips, broken files."""

import json
import math
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detkd.cli.app import launch
from detkd.data.check import examine
from detkd.data.formats import guess
from detkd.errors import DataError


def image(path, size=(100, 80), **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path, **more)


def voc_object(name="a", box=(10, 20, 19, 29), extra=""):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    frame = "".join(f"<{tag}>{value}</{tag}>" for tag, value in sides)
    return f"<object><name>{name}</name>{extra}<bndbox>{frame}</bndbox></object>"


def voc(root, objects=(), stem="one", size=(100, 80), layout="2012"):
    folders = {"2012": ("JPEGImages", "Annotations"), "beside": ("", "")}[layout]
    image(root / folders[0] / f"{stem}.jpg", size)
    path = root / folders[1] / f"{stem}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><filename>{stem}.jpg</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height></size>{''.join(objects)}</annotation>"
    )
    return path


def boxes_of(source, **options):
    found = examine(source, **options)
    return [box.xyxy for record in found.data.images for box in record.boxes]


def kinds(found):
    return sorted((problem.kind, problem.action) for problem in found.problems)


def test_voc_counts_from_one_and_includes_the_last_pixel(tmp_path):
    voc(tmp_path, [voc_object()])
    assert boxes_of(tmp_path) == [(9, 19, 19, 29)]
    assert boxes_of(tmp_path, zero_based=True) == [(10, 20, 20, 30)]


@pytest.mark.parametrize("layout", ["2012", "beside"])
def test_voc_layouts(tmp_path, layout):
    voc(tmp_path, [voc_object()], layout=layout)
    assert guess(tmp_path) == "voc"
    assert len(boxes_of(tmp_path)) == 1


def test_voc_tags_in_any_case_and_what_else_they_say(tmp_path):
    extra = "<Difficult>1</Difficult><truncated>1</truncated><pose>Left</pose>"
    voc(tmp_path, [voc_object(extra=extra)])
    box = examine(tmp_path).data.images[0].boxes[0]
    assert box.difficult
    assert box.truncated
    assert box.attributes == {"pose": "Left"}


def test_voc_subset_reads_its_list_and_names_what_is_missing(tmp_path):
    for stem in ("one", "two"):
        voc(tmp_path, [voc_object()], stem=stem)
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("two\nthree\n")
    found = examine(tmp_path, subset="train")
    assert [record.file for record in found.data.images] == ["JPEGImages/two.jpg"]
    assert kinds(found) == [("listed but missing", "dropped image")]
    with pytest.raises(DataError, match="no list 'val' in ImageSets/Main; there are train"):
        examine(tmp_path, subset="val")


def test_an_annotation_belongs_to_the_image_of_its_own_stem(tmp_path):
    path = voc(tmp_path, [voc_object()])
    path.write_text(path.read_text().replace("one.jpg", "../../etc/passwd"))
    found = examine(tmp_path)
    assert [record.file for record in found.data.images] == ["JPEGImages/one.jpg"]
    assert kinds(found) == [("wrong file name", "mended")]


@pytest.mark.parametrize(
    ("box", "kind", "action", "left"),
    [
        ((10, 20, 9, 29), "empty box", "dropped box", None),
        ((10, 20, 5, 29), "inverted box", "dropped box", None),
        ((200, 20, 210, 29), "box outside", "dropped box", None),
        ((91, 20, 120, 29), "box over the edge", "mended", (90, 19, 100, 29)),
        ((-5, 20, 19, 29), "box over the edge", "mended", (0, 19, 19, 29)),
        ((10, 20, 10, 20), "tiny box", "kept", (9, 19, 10, 20)),
        (("nan", 20, 19, 29), "not finite", "dropped box", None),
        (("inf", 20, 19, 29), "not finite", "dropped box", None),
        (("ten", 20, 19, 29), "not finite", "dropped box", None),
        ((0, 20, 19, 29), "zero coordinate", "kept", (0, 19, 19, 29)),
    ],
)
def test_a_bad_box_leaves_alone_and_is_named(tmp_path, box, kind, action, left):
    voc(tmp_path, [voc_object(box=(50, 50, 59, 59)), voc_object(box=box)])
    found = examine(tmp_path)
    assert (kind, action) in kinds(found)
    good = (49, 49, 59, 59)
    assert boxes_of(tmp_path) == ([good] if left is None else [good, left])
    problem = next(p for p in found.problems if p.kind == kind)
    assert problem.file.endswith(("one.jpg", "one.xml"))
    assert "2" in problem.where


def test_an_image_whose_boxes_all_left_is_no_negative(tmp_path):
    voc(tmp_path, [voc_object(box=(10, 20, 5, 29))])
    voc(tmp_path, [], stem="empty")
    found = examine(tmp_path)
    assert [(r.file, len(r.boxes)) for r in found.data.images] == [("JPEGImages/empty.jpg", 0)]
    assert ("no box left", "dropped image") in kinds(found)


def test_an_image_without_annotation_is_unlabelled(tmp_path):
    voc(tmp_path, [voc_object()])
    image(tmp_path / "JPEGImages/lonely.jpg")
    found = examine(tmp_path)
    assert found.unlabelled == ["JPEGImages/lonely.jpg"]
    assert len(found.data.images) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"   ",
        b"<annotation>",
        b"\x00\xff garbage",
        b"<!DOCTYPE a [<!ENTITY x 'y'>]><annotation>&x;</annotation>",
        b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation>&x;</annotation>",
        b"<annotation><object></object></annotation>",
        b"<annotation><object><name>a</name></object></annotation>",
        "<annotation><object><name>é</name></object></annotation>".encode("latin-1"),
    ],
)
def test_a_broken_annotation_is_named_and_the_rest_goes_on(tmp_path, content):
    voc(tmp_path, [voc_object()])
    voc(tmp_path, [voc_object()], stem="broken").write_bytes(content)
    found = examine(tmp_path)
    assert [record.file for record in found.data.images] == ["JPEGImages/one.jpg"]
    assert any("broken" in (problem.file or "") for problem in found.problems)


@given(st.binary(max_size=200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_crash_the_readers(tmp_path, content):
    root = tmp_path / "any"
    if not root.exists():
        voc(root / "voc", [voc_object()])
        image(root / "yolo/one.jpg")
        image(root / "yolo/two.jpg")
        (root / "yolo/two.txt").write_text("0 .5 .5 .1 .1\n")
    (root / "voc/Annotations/one.xml").write_bytes(content)
    (root / "yolo/one.txt").write_bytes(content)
    (root / "coco.json").write_bytes(content)
    examine(root / "voc", source_format="voc")
    examine(root / "yolo", source_format="yolo")
    with pytest.raises(DataError):
        examine(root / "coco.json")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut"])
def test_a_broken_image_is_named(tmp_path, content):
    voc(tmp_path, [voc_object()])
    voc(tmp_path, [voc_object()], stem="broken")
    (tmp_path / "JPEGImages/broken.jpg").write_bytes(content)
    assert ("broken image", "dropped image") in kinds(examine(tmp_path))


def test_an_image_that_is_cut_off_is_told(tmp_path):
    voc(tmp_path, [voc_object()])
    path = tmp_path / "JPEGImages/one.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    assert ("truncated image", "kept") in kinds(examine(tmp_path))


def test_the_displayed_frame_is_measured(tmp_path):
    voc(tmp_path, [voc_object()])
    exif = Image.Exif()
    exif[0x0112] = 6
    image(tmp_path / "JPEGImages/one.jpg", (100, 80), exif=exif)
    record = examine(tmp_path).data.images[0]
    assert (record.width, record.height) == (80, 100)


def test_a_wrong_size_inside_is_told_and_the_real_one_wins(tmp_path):
    path = voc(tmp_path, [voc_object()])
    path.write_text(path.read_text().replace("<width>100", "<width>640"))
    found = examine(tmp_path)
    assert kinds(found) == [("wrong size", "mended")]
    assert found.data.images[0].width == 100


def test_classes_blanks_and_case(tmp_path):
    voc(tmp_path, [voc_object(" a "), voc_object("A", (40, 40, 49, 49))])
    found = examine(tmp_path)
    assert found.data.classes == ["A", "a"]
    assert kinds(found) == [("blank in class", "mended"), ("class case", "kept")]


def test_of_identical_boxes_one_stays(tmp_path):
    voc(tmp_path, [voc_object(), voc_object()])
    assert boxes_of(tmp_path) == [(9, 19, 19, 29)]


def test_a_link_out_of_the_root_is_not_followed(tmp_path):
    image(tmp_path / "outside/secret.jpg")
    root = tmp_path / "tree"
    voc(root, [voc_object()])
    (root / "JPEGImages/secret.jpg").symlink_to(tmp_path / "outside/secret.jpg")
    (root / "loop").symlink_to(root)
    found = examine(root)
    assert [record.file for record in found.data.images] == ["JPEGImages/one.jpg"]


def yolo(root, lines, names="a\nb\n", subset=""):
    image(root / "images" / subset / "one.jpg")
    label = root / "labels" / subset / "one.txt"
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text(lines)
    if names:
        (root / "classes.txt").write_text(names)


def test_yolo_centres_and_sides_are_fractions(tmp_path):
    yolo(tmp_path, "1 0.5 0.25 0.2 0.1\n")
    box = examine(tmp_path).data.images[0].boxes[0]
    assert box.label == "b"
    assert box.xyxy == pytest.approx((40, 16, 60, 24))


def test_yolo_polygons_give_boxes_and_stay_as_segmentation(tmp_path):
    yolo(tmp_path, "0 .1 .1 .3 .1 .3 .5 .1 .5\n")
    box = examine(tmp_path).data.images[0].boxes[0]
    assert box.xyxy == pytest.approx((10, 8, 30, 40))
    assert box.extra["segmentation"][0][:4] == pytest.approx([10, 8, 30, 8])


@pytest.mark.parametrize(
    ("shape", "points", "keypoints"),
    [
        ("[2, 3]", ".1 .25 2 .5 .5 1", [10, 20, 2, 50, 40, 1]),
        ("[2, 3]", ".1 .25 2 0 0 0", [10, 20, 2, 0, 0, 0]),
        ("[2, 2]", ".1 .25 0 0", [10, 20, 2, 0, 0, 0]),  # of odd length, as a polygon is
    ],
)
def test_yolo_poses_are_boxes_with_keypoints(tmp_path, shape, points, keypoints):
    yolo(tmp_path, f"1 .5 .25 .2 .1 {points}\n", names="")
    (tmp_path / "data.yaml").write_text(f"names: [a, b]\nkpt_shape: {shape}\n")
    found = examine(tmp_path)
    box = found.data.images[0].boxes[0]
    assert (box.label, box.xyxy) == ("b", pytest.approx((40, 16, 60, 24)))
    assert box.extra["keypoints"] == pytest.approx(keypoints)
    assert box.extra["num_keypoints"] == sum(v > 0 for v in keypoints[2::3])
    assert [kind for kind, _ in kinds(found)] == ["unused class"]


@pytest.mark.parametrize(
    "shape", ["[0, 3]", "[2, 4]", "17", "[a, b]", "[1, 2, 3]", "{1: 2}", "null"]
)
def test_a_shape_of_keypoints_that_is_none_changes_nothing(tmp_path, shape):
    yolo(tmp_path, "0 .5 .25 .2 .1\n", names="")
    (tmp_path / "data.yaml").write_text(f"names: [a]\nkpt_shape: {shape}\n")
    assert examine(tmp_path).data.images[0].boxes[0].extra == {}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("0 0.5 0.5 0.1", "malformed line"),
        ("zero 0.5 0.5 0.1 0.1", "malformed line"),
        ("7 0.5 0.5 0.1 0.1", "unlisted class"),
        ("0 nan 0.5 0.1 0.1", "not finite"),
        ("0 .1 .1 .3 .1 .3 1e308 .1 .5", "not finite"),  # in px it is not
        ("0 0.5 0.5 0 0.1", "empty box"),
    ],
)
def test_a_bad_yolo_line_leaves_alone(tmp_path, line, kind):
    yolo(tmp_path, f"0 0.3 0.3 0.1 0.1\n{line}\n")
    found = examine(tmp_path)
    assert (kind, "dropped box") in kinds(found)
    assert len(found.data.images[0].boxes) == 1


def test_an_empty_yolo_file_is_a_negative_and_a_missing_one_is_not(tmp_path):
    yolo(tmp_path, "")
    image(tmp_path / "images/two.jpg")
    found = examine(tmp_path, source_format="yolo")
    assert [(r.file, r.boxes) for r in found.data.images] == [("images/one.jpg", ())]
    assert found.unlabelled == ["images/two.jpg"]


def test_yolo_names_from_data_yaml_never_run_code(tmp_path):
    yolo(tmp_path, "1 .5 .5 .2 .2\n", names="", subset="train")
    (tmp_path / "data.yaml").write_text("names: {0: x, 1: y}\n")
    found = examine(tmp_path, subset="train")
    assert found.data.images[0].boxes[0].label == "y"
    (tmp_path / "data.yaml").write_text("names: !!python/object/apply:os.system ['true']\n")
    (tag,) = (p for p in examine(tmp_path).problems if p.kind == "tag in class list")
    assert (tag.file, tag.action) == ("data.yaml", "mended")


def coco(path, **changes):
    image(path.parent / "one.jpg")
    document = {
        "images": [{"id": 7, "file_name": "one.jpg", "width": 100, "height": 80, "note": "x"}],
        "annotations": [
            {
                "id": 0,
                "image_id": 7,
                "category_id": 5,
                "bbox": [10, 20, 30, 40],
                "area": 900.5,
                "iscrowd": 1,
                "segmentation": {"size": [80, 100], "counts": "abc"},
                "attributes": {"difficult": 1, "occluded": True},
            },
        ],
        "categories": [{"id": 5, "name": "a"}, {"id": 9, "name": "b"}],
        **changes,
    }
    path.write_text(json.dumps(document))
    return path


def test_coco_to_coco_keeps_what_it_does_not_know(tmp_path):
    source = coco(tmp_path / "in.json")
    assert launch("convert", [str(source), str(tmp_path / "out.json")]) == 0
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["images"] == [
        {"note": "x", "id": 1, "file_name": "one.jpg", "width": 100, "height": 80}
    ]
    (box,) = out["annotations"]
    assert box == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [10, 20, 30, 40],
        "area": 900.5,
        "iscrowd": 1,
        "segmentation": {"size": [80, 100], "counts": "abc"},
        "attributes": {"difficult": 1, "occluded": True},
    }
    assert out["categories"] == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]


@pytest.mark.parametrize("name", ["/etc/x.jpg", "../x.jpg", "..\\x.jpg", "C:\\x.jpg"])
def test_coco_names_that_leave_the_root_are_not_followed(tmp_path, name):
    images = [
        {"id": 7, "file_name": "one.jpg", "width": 100, "height": 80},
        {"id": 8, "file_name": name, "width": 1, "height": 1},
    ]
    found = examine(coco(tmp_path / "in.json", images=images))
    assert [record.file for record in found.data.images] == ["one.jpg"]
    assert ("path outside", "dropped image") in kinds(found)


@pytest.mark.parametrize(
    "change",
    [
        {"annotations": [{"image_id": 7, "category_id": 5, "bbox": [1, 2, 3]}]},
        {"annotations": [{"image_id": 7, "category_id": 5, "bbox": [1, 2, "x", 3]}]},
        {"annotations": [{"image_id": 7, "category_id": 77, "bbox": [1, 2, 3, 3]}]},
        {"annotations": [{"image_id": 99, "category_id": 5, "bbox": [1, 2, 3, 3]}, 5, None]},
        {"images": [{"id": 7}, 3, {"id": [1], "file_name": "one.jpg"}]},
        {"annotations": [{"image_id": {}, "category_id": [], "bbox": {}}]},
    ],
)
def test_broken_coco_entries_are_named_and_nothing_crashes(tmp_path, change):
    assert examine(coco(tmp_path / "in.json", **change)).problems


def convert(source, destination, *more):
    assert launch("convert", [str(source), str(destination), *more]) == 0
    return destination


def content(path):
    document = json.loads(path.read_text())
    names = {c["id"]: c["name"] for c in document["categories"]}
    files = {i["id"]: i["file_name"].split("/")[-1] for i in document["images"]}
    return sorted(
        (files[b["image_id"]], names[b["category_id"]], *b["bbox"], str(b.get("attributes")))
        for b in document["annotations"]
    )


def test_voc_to_coco_to_voc_to_coco_is_equal(scenes, tmp_path):
    there = convert(scenes / "all.json", tmp_path / "voc", "--to", "voc")
    back = convert(there, tmp_path / "back.json")
    assert content(back) == content(scenes / "all.json")
    samples = [
        [image.get("sample") for image in json.loads(path.read_text())["images"]]
        for path in (back, scenes / "all.json")
    ]
    assert samples[0] == samples[1]


def test_through_yolo_boxes_stay_within_the_printed_precision(scenes, tmp_path):
    there = convert(scenes / "all.json", tmp_path / "yolo", "--to", "yolo")
    back = content(convert(there, tmp_path / "back.json"))
    for ours, theirs in zip(back, content(scenes / "all.json"), strict=True):
        assert ours[:2] == theirs[:2]
        assert all(
            math.isclose(a, b, abs_tol=1e-5) for a, b in zip(ours[2:6], theirs[2:6], strict=True)
        )


def test_strict_writes_nothing_and_leaves_the_old_file(tmp_path):
    voc(tmp_path / "tree", [voc_object(), voc_object(box=(10, 20, 5, 29))])
    out, report = tmp_path / "out.json", tmp_path / "report.json"
    out.write_text("old")
    more = ["--strict", "--report", str(report)]
    assert launch("convert", [str(tmp_path / "tree"), str(out), *more]) == 1
    assert out.read_text() == "old"
    said = json.loads(report.read_text())
    assert [p["kind"] for p in said["problems"]] == ["inverted box"]
    assert set(said) >= {"images", "boxes", "classes", "rule", "problems"}


def test_existing_folders_and_unknown_trees_are_refused(tmp_path, capsys):
    voc(tmp_path / "tree", [voc_object()])
    (tmp_path / "there").mkdir()
    assert launch("convert", [str(tmp_path / "tree"), str(tmp_path / "there"), "--to", "voc"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert launch("check", [str(tmp_path / "there")]) == 2
    assert "holds no annotations of a known format" in capsys.readouterr().err
    assert launch("check", [str(tmp_path / "nowhere")]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_wanted_classes_decide_order_and_what_stays(tmp_path):
    voc(tmp_path / "tree", [voc_object("b"), voc_object("c", (40, 40, 49, 49))])
    (tmp_path / "classes.txt").write_text("c\nb2\n")
    more = ["--classes", str(tmp_path / "classes.txt")]
    out = convert(tmp_path / "tree", tmp_path / "out.json", *more)
    assert [row[1] for row in content(out)] == ["c"]
    assert json.loads(out.read_text())["info"]["detkd"]["classes"] == {"c": 1, "b2": 2}


def test_bccd_converts_with_its_two_one_pixel_boxes_told_and_more(real_data):
    found = examine(real_data / "bccd", similar=True)
    assert len(found.data.images) == 364
    assert sum(len(record.boxes) for record in found.data.images) == 4888
    assert kinds(found) == [
        *[("near-double box", "kept")] * 7,
        ("similar images on two sides", "kept"),
        *[("tiny box", "kept")] * 2,
    ]
    leak = next(p for p in found.problems if p.kind.startswith("similar"))
    assert leak.file == "JPEGImages/BloodImage_00038.jpg"
    assert "BloodImage_00037.jpg (val)" in leak.message
    assert len(examine(real_data / "bccd", subset="train").data.images) == 205


def test_microalgae_converts_whole(real_data):
    found = examine(real_data / "microalgae", similar=True)
    assert len(found.data.images) == 1475
    assert sum(len(record.boxes) for record in found.data.images) == 5408
    counts = Counter(kind for kind, _ in kinds(found))
    assert counts["same content"] == 8
    assert counts["similar images on two sides"] > 100
    [told] = [note.message for note in found.notes if note.kind == "class told by frame"]
    assert told.startswith("237 of the 237 frames with 'Chaetoceros' have 600x600 px, and 0 of")
