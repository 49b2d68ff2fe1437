"""LabelMe, CVAT, Label Studio, CSV and Darknet lists: what each says, by hand."""

import json
from zlib import crc32

import pytest
from PIL import Image

from detkd.cli.app import launch
from detkd.data.check import examine
from detkd.data.formats import guess
from detkd.errors import DataError

SQUARE = [[10, 20], [30, 20], [30, 40], [10, 40]]


def image(root, name, size=(100, 80)):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    # Of a colour of its own: equal files would be told.
    colour = tuple(crc32(name.encode()) >> shift & 255 for shift in (0, 8, 16))
    Image.new("RGB", size, colour).save(root / name)


def kinds(found):
    return [(problem.kind, problem.action) for problem in found.problems]


def boxes(found):
    return {r.file: [(b.label, *map(round, b.xyxy)) for b in r.boxes] for r in found.images}


def labelme(root, shapes, stem="a", **more):
    image(root, f"{stem}.png")
    document = {"version": "5.0", "flags": {}, "shapes": shapes, "imagePath": f"{stem}.png",
                "imageData": None, "imageHeight": 80, "imageWidth": 100, **more}  # fmt: skip
    (root / f"{stem}.json").write_text(json.dumps(document))


def shape(kind, points, label="cell", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        ("rectangle", [[10, 20], [30, 40]], (10, 20, 30, 40)),
        ("rectangle", [[30, 40], [10, 20]], (10, 20, 30, 40)),
        ("polygon", SQUARE, (10, 20, 30, 40)),
        ("circle", [[50, 40], [50, 50]], (40, 30, 60, 50)),
    ],
)
def test_labelme_shapes_become_boxes(tmp_path, kind, points, box):
    labelme(tmp_path, [shape(kind, points)])
    assert guess(tmp_path) == "labelme"
    found = examine(tmp_path)
    assert boxes(found) == {"a.png": [("cell", *box)]}
    assert not found.problems
    extra = found.images[0].boxes[0].extra
    ring = [10, 20, 30, 20, 30, 40, 10, 40]
    assert extra == ({"segmentation": [ring]} if kind == "polygon" else {})


def test_labelme_points_and_lines_leave_told_and_make_no_negative(tmp_path):
    labelme(tmp_path, [shape("point", [[1, 2]])], stem="dot")
    labelme(tmp_path, [shape("line", [[1, 2], [9, 9]]), shape("rectangle", SQUARE[::2])])
    labelme(tmp_path, [], stem="none")
    found = examine(tmp_path)
    assert boxes(found) == {"a.png": [("cell", 10, 20, 30, 40)], "none.png": []}
    assert sorted(kinds(found)) == [
        ("no box left", "dropped image"),
        ("shape without area", "dropped box"),
        ("shape without area", "dropped box"),
    ]


def test_labelme_says_groups_flags_and_fields_of_its_own(tmp_path):
    more = {"group_id": 3, "flags": {"difficult": True, "dead": True}, "score": 0.5}
    labelme(tmp_path, [shape("rectangle", SQUARE[::2], **more)], flags={"blurred": True})
    (record,) = examine(tmp_path).images
    assert record.boxes[0].difficult is True
    assert record.boxes[0].attributes == {"group_id": 3, "dead": 1, "score": 0.5}
    assert record.extra == {"labelme": {"flags": ["blurred"]}}


@pytest.mark.parametrize("said", ["../../etc/passwd.png", "C:\\scan\\a.png", "/data/a.png"])
def test_labelme_never_follows_image_path(tmp_path, said):
    labelme(tmp_path, [shape("rectangle", SQUARE[::2])], imagePath=said)
    found = examine(tmp_path)
    assert list(boxes(found)) == ["a.png"]
    assert [p.kind for p in [*found.problems, *found.notes]] == [
        "wrong file name" if "passwd" in said else "path inside"
    ]


def test_labelme_with_the_image_inside_alone_is_an_orphan_that_says_so(tmp_path):
    labelme(tmp_path, [shape("rectangle", SQUARE[::2])])
    labelme(tmp_path, [shape("rectangle", SQUARE[::2])], stem="gone", imageData="AAAA")
    (tmp_path / "gone.png").unlink()
    (problem,) = examine(tmp_path).problems
    assert (problem.kind, problem.file) == ("orphan annotation", "gone.json")
    assert "holds the image inside" in problem.message


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><size>{size}</size></task></meta>{inside}</annotations>
"""
CVAT_BOX = '<box label="cell" occluded="{o}" xtl="10" ytl="20" xbr="30" ybr="40" {more}>{in_}</box>'


def cvat(root, inside, size=2, name="annotations.xml"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(CVAT.format(inside=inside, size=size))
    return root / name


def test_cvat_images_boxes_polygons_and_attributes(tmp_path):
    for name in ("images/day 1/a.png", "images/b.png", "images/c.png"):
        image(tmp_path, name)
    attribute = '<attribute name="alive">yes</attribute>'
    inside = (
        '<image id="0" name="day 1/a.png" width="100" height="80">'
        + CVAT_BOX.format(o=1, more='z_order="0"', in_=attribute)
        + '<polygon label="diatom" points="50.0,10.0;60.0,10.0;60.0,30.0" occluded="0"/>'
        '<points label="cell" points="1,2"/></image>'
        '<image id="1" name="b.png" width="100" height="80"/>'
        '<image id="2" name="gone.png" width="100" height="80"/>'
    )
    cvat(tmp_path, inside)
    assert guess(tmp_path) == "cvat"
    found = examine(tmp_path)
    assert boxes(found) == {
        "images/b.png": [],
        "images/day 1/a.png": [("cell", 10, 20, 30, 40), ("diatom", 50, 10, 60, 30)],
    }
    first, second = found.images[1].boxes
    assert first.attributes == {"occluded": 1, "alive": "yes"}
    assert second.extra["segmentation"] == [[50, 10, 60, 10, 60, 30]]
    assert found.unlabelled == ["images/c.png"]
    assert [p.kind for p in found.problems] == [
        "missing image",
        "shape without area",
        "unlabelled image",
    ]


def test_cvat_tracks_leave_out_what_is_outside_and_mark_what_is_interpolated(tmp_path):
    for frame in range(3):
        image(tmp_path, f"frame_{frame:06d}.PNG")
    shapes = "".join(
        CVAT_BOX.format(o=0, more=f'frame="{frame}" outside="{outside}" keyframe="{key}"', in_="")
        for frame, outside, key in ((0, 0, 1), (1, 0, 0), (2, 1, 1))
    )
    cvat(tmp_path, f'<track id="7" label="cell">{shapes.replace("label=", "name=")}</track>', 3)
    found = examine(tmp_path)
    assert [len(r.boxes) for r in found.images] == [1, 1, 0]
    assert found.images[1].boxes[0].attributes["interpolated"] == 1
    assert "interpolated" not in found.images[0].boxes[0].attributes
    assert not found.problems


@pytest.mark.parametrize(("size", "kind", "left"), [(2, "frames by order", 2), (9, "missing", 0)])
def test_frames_without_their_own_names_are_told_or_refused(tmp_path, size, kind, left):
    for name in ("x.png", "y.png"):
        image(tmp_path, name)
    shapes = CVAT_BOX.format(o=0, more='frame="1" outside="0" keyframe="1"', in_="")
    cvat(tmp_path, f'<track id="7" label="cell">{shapes}</track>', size)
    found = examine(tmp_path)
    assert any(p.kind.startswith(kind) for p in found.problems)
    assert [len(r.boxes) for r in found.images] == [0, 1][:left]


def test_a_turned_box_becomes_the_box_around_it(tmp_path):
    image(tmp_path, "a.png")
    box = CVAT_BOX.format(o=0, more='rotation="90.0"', in_="").replace('xbr="30"', 'xbr="50"')
    cvat(tmp_path, f'<image id="0" name="a.png" width="100" height="80">{box}</image>')
    found = examine(tmp_path)
    assert boxes(found) == {"a.png": [("cell", 20, 10, 40, 50)]}
    assert kinds(found) == [("rotated box", "mended")]


def test_cvat_that_declares_entities_is_hostile(tmp_path):
    image(tmp_path, "a.png")
    bomb = "<!DOCTYPE a [<!ENTITY x 'y'>]><annotations><version>&x;</version></annotations>"
    (tmp_path / "annotations.xml").write_text(bomb)
    assert ("hostile annotation", "dropped image") in kinds(examine(tmp_path))


def test_cvat_that_ends_midway_keeps_what_was_whole(tmp_path):
    for name in ("a.png", "b.png"):
        image(tmp_path, name)
    whole = "<image id='0' name='a.png' width='100' height='80'></image><image name='b.png'"
    (tmp_path / "annotations.xml").write_text(f"<annotations>{whole}")
    found = examine(tmp_path)
    assert list(boxes(found)) == ["a.png"]
    assert ("malformed annotation", "dropped image") in kinds(found)


def result(label="cell", kind="rectanglelabels", **value):
    value = {"x": 10, "y": 25, "width": 20, "height": 25, "rotation": 0, kind: [label], **value}
    return {"id": "r", "type": kind, "original_width": 100, "original_height": 80, "value": value}


def label_studio(root, tasks):
    (root / "export.json").write_text(json.dumps(tasks))
    return root / "export.json"


def task(name, *annotations):
    made = [{"result": results, **more} for results, more in annotations]
    return {"data": {"image": name}, "annotations": made}


def test_label_studio_counts_in_percent_and_knows_its_own_names(tmp_path):
    for name in ("a.png", "sub/b c.png", "none.png", "open.png"):
        image(tmp_path, name)
    path = label_studio(
        tmp_path,
        [
            task("/data/upload/1/0a1b2c3d-a.png", ([result()], {})),
            task("/data/local-files/?d=x/sub/b%20c.png", ([result("b", x=50)], {})),
            task("s3://bucket/none.png?x=1", ([], {})),
            task("open.png"),
            task("/data/upload/1/gone.png", ([result()], {})),
        ],
    )
    assert guess(tmp_path) == guess(path) == "label_studio"
    found = examine(path)
    assert boxes(found) == {
        "a.png": [("cell", 10, 20, 30, 40)],
        "none.png": [],
        "sub/b c.png": [("b", 50, 20, 70, 40)],
    }
    assert found.unlabelled == ["open.png"]
    assert sorted(p.kind for p in found.problems) == ["missing image", "unlabelled image"]


def test_label_studio_takes_truth_or_newest_and_no_cancelled_one(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        image(tmp_path, name)
    old, new = {"updated_at": "2024-01-01"}, {"updated_at": "2025-01-01"}
    label_studio(
        tmp_path,
        [
            task("a.png", ([result("old")], old), ([result("new")], new)),
            task("b.png", ([result("true")], {"ground_truth": True, **old}), ([result()], new)),
            task("c.png", ([result()], {"was_cancelled": True})),
        ],
    )
    found = examine(tmp_path)
    assert {f: b[0][0] for f, b in boxes(found).items()} == {"a.png": "new", "b.png": "true"}
    assert sorted(p.kind for p in found.problems if p.kind != "unlabelled image") == [
        "cancelled annotation",
        "no box left",
        "several annotations",
        "several annotations",
    ]


def test_label_studio_shapes_rotations_and_labels_apart(tmp_path):
    image(tmp_path, "a.png")
    apart = result(kind="rectangle")
    del apart["value"]["rectangle"]
    name = {"id": "r", "type": "labels", "value": {"labels": ["apart"]}}
    polygon = {"type": "polygonlabels", "value": {"points": SQUARE, "polygonlabels": ["p"]}}
    ellipse = {
        "type": "ellipselabels",
        "value": {"x": 50, "y": 50, "radiusX": 10, "radiusY": 25, "ellipselabels": ["e"]},
    }
    turned = result("t", x=50, y=50, rotation=90)
    point = {"type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": ["k"]}}
    choice = {"type": "choices", "value": {"choices": ["sharp"]}}
    every = [apart, name, polygon, ellipse, turned, point, choice]
    label_studio(tmp_path, [task("a.png", (every, {}))])
    found = examine(tmp_path)
    assert boxes(found)["a.png"] == [
        ("apart", 10, 20, 30, 40),
        ("p", 10, 16, 30, 32),
        ("e", 40, 20, 60, 60),
        ("t", 30, 40, 50, 60),
    ]
    assert kinds(found) == [("rotated box", "mended"), ("shape without area", "dropped box")]


def test_label_studio_min(tmp_path):
    image(tmp_path, "a.png")
    small = {**result()["value"], "original_width": 100, "original_height": 80}
    label_studio(tmp_path, [{"image": "/data/upload/3/a.png", "id": 1, "label": [small]}])
    assert boxes(examine(tmp_path)) == {"a.png": [("cell", 10, 20, 30, 40)]}


@pytest.mark.parametrize(
    "text",
    [
        "a.png,10,20,30,40,cell\nb.png,,,,,\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,100,80,cell,10,20,30,40\nb.png,,,,,,,\n",
        "image_path;label;x;y;w;h\n/home/x/a.png;cell;10,0;20,0;20,0;20,0\nb.png;;;;;\n",
        "\ufeffFile Name\tSpecies\tX center\tY center\tWidth\tHeight\n"
        "C:\\d\\a.png\tcell\t20\t30\t20\t20\nb.png\n",
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,"
        'region_attributes\na.png,1,{},1,0,"{""name"":""rect"",""x"":10,""y"":20,""width"":20,'
        '""height"":20}","{""class"":""cell""}"\nb.png,1,{},0,0,{},{}\n',
    ],
)
def test_tables_by_header_and_without(tmp_path, text):
    for name in ("a.png", "b.png"):
        image(tmp_path, name)
    (tmp_path / "boxes.csv").write_bytes(text.encode())
    assert guess(tmp_path) == "csv"
    found = examine(tmp_path)
    assert boxes(found) == {"a.png": [("cell", 10, 20, 30, 40)], "b.png": []}
    assert not found.problems


def test_a_stated_map_of_columns_and_what_else_a_row_says(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        image(tmp_path, name)
    (tmp_path / "t.csv").write_text("f,who,l,t,r,b,depth\na.png,cell,10,20,30,40,5 m\n")
    assert launch("check", [str(tmp_path / "t.csv"), "--from", "csv"]) == 2
    assert "--columns image=file" in capsys.readouterr().err
    said = {"image": "f", "class": "who", "xmin": "l", "ymin": "t", "xmax": "r", "ymax": "b"}
    text = ",".join(f"{part}={column}" for part, column in said.items())
    out = tmp_path / "out.json"
    command = [str(tmp_path / "t.csv"), str(out), "--from", "csv", "--columns", text]
    assert launch("convert", command) == 0
    (box,) = json.loads(out.read_text())["annotations"]
    assert box["bbox"] == [10, 20, 20, 20]
    assert box["attributes"] == {"depth": "5 m"}
    assert launch("check", [str(tmp_path), "--columns", "left=l"]) == 2
    assert "names no column of a part" in capsys.readouterr().err


def test_flawed_rows_leave_alone_and_are_named_by_their_line(tmp_path):
    image(tmp_path, "a.png")
    rows = ("a.png,10,20,30,40,cell", "a.png,1,2,3,,cell", "a.png,1,2,x,4,cell")
    more = ("gone.png,1,2,3,4,c", "a.png,1,2,3,4,")
    (tmp_path / "t.csv").write_text("\n".join((*rows, *more)))
    found = examine(tmp_path)
    assert boxes(found) == {"a.png": [("cell", 10, 20, 30, 40)]}
    assert [(p.kind, p.where.split(" (")[0]) for p in found.problems] == [
        ("missing image", "line 4"),
        ("missing coordinate", "line 2"),
        ("not finite", "line 3"),
        ("object without name", "line 5"),
    ]


def test_a_table_of_groups_is_no_table_of_boxes(tmp_path):
    image(tmp_path, "a.png")
    (tmp_path / "GROUPS.csv").write_text("image_id,group_id,split\na.png,1,train\n")
    with pytest.raises(DataError, match="no annotations of a known format"):
        examine(tmp_path)


def test_darknet_lists_names_and_data(tmp_path):
    for stem in ("a", "b", "c"):
        image(tmp_path, f"data/obj/{stem}.png")
        (tmp_path / f"data/obj/{stem}.txt").write_text("1 .5 .5 .2 .25\n")
    (tmp_path / "data/plankton.names").write_text("x\ncell\n")
    (tmp_path / "data/obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nvalid=data/test.txt\nnames = data/plankton.names\n"
    )
    (tmp_path / "data/train.txt").write_text("data/obj/a.png\nC:\\darknet\\data\\obj\\b.png\n")
    (tmp_path / "data/test.txt").write_text("data/obj/c.png\n")
    assert guess(tmp_path) == "yolo"
    found = examine(tmp_path, subset="train")
    assert boxes(found) == {
        "data/obj/a.png": [("cell", 40, 30, 60, 50)],
        "data/obj/b.png": [("cell", 40, 30, 60, 50)],
    }
    assert list(boxes(examine(tmp_path, subset="val"))) == ["data/obj/c.png"]


@pytest.mark.parametrize("kind", ["labelme", "cvat", "label_studio", "csv"])
def test_every_new_reader_leads_to_coco_and_on(tmp_path, kind):
    tree = tmp_path / "tree"
    image(tree, "a.png")
    if kind == "labelme":
        labelme(tree, [shape("rectangle", SQUARE[::2])])
    elif kind == "cvat":
        inside = CVAT_BOX.format(o=0, more="", in_="")
        cvat(tree, f'<image id="0" name="a.png" width="100" height="80">{inside}</image>')
    elif kind == "label_studio":
        label_studio(tree, [task("a.png", ([result()], {}))])
    else:
        (tree / "t.csv").write_text("a.png,10,20,30,40,cell\n")
    assert launch("convert", [str(tree), str(tmp_path / "all.json")]) == 0
    for target in ("voc", "yolo"):
        command = [str(tmp_path / "all.json"), str(tmp_path / target), "--to", target]
        assert launch("convert", command) == 0
        found = examine(tmp_path / target)
        assert [b[0][:5] for b in boxes(found).values()] == [("cell", 10, 20, 30, 40)]


def test_class_folders_are_read_when_asked_for(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        image(tmp_path, name)
    with pytest.raises(DataError, match="no annotations of a known format"):
        examine(tmp_path)
    found = examine(tmp_path, source_format="folders")
    assert found.data.classes == ["a", "b"]
    assert boxes(found)["b/1.png"] == [("b", 0, 0, 100, 80)]
    assert not found.problems


def test_plankton_crops_convert_with_their_one_contradiction_told(real_data):
    found = examine(real_data / "plankton_crops", source_format="folders")
    assert (len(found.images), len(found.data.classes)) == (1819, 19)
    (problem,) = found.problems
    assert (problem.kind, problem.action) == ("same content", "kept")
    assert "Spionidae" in problem.file
    assert "Polychaeta" in problem.message
