"""Trees with one defect each, and the answer that a careful person would give.

A row: what is done to a sound tree, and then the kind and the file that are told, the action, and
the images and boxes that stay. `note` marks what is worth knowing and no fault: check ends with 0.
"""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from detkd.cli.app import launch
from detkd.data.check import examine

SIZE = (100, 80)
HEAD = "<filename>{stem}.jpg</filename><size><width>100</width><height>80</height></size>"


def picture(path, seed, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).resize(size).save(path)
    return path


def thing(name="a", box=(11, 21, 30, 40), more=""):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    frame = "".join(f"<{tag}>{value}</{tag}>" for tag, value in sides)
    return f"<object><name>{name}</name>{more}<bndbox>{frame}</bndbox></object>"


def document(root, stem, *things, head=HEAD):
    path = root / f"Annotations/{stem}.xml"
    path.parent.mkdir(exist_ok=True)
    inside = head.format(stem=stem) + "".join(things or [thing()])
    path.write_text(f"<annotation>{inside}</annotation>", encoding="utf-8")
    return path


def voc(root, stems=("one", "two")):
    for seed, stem in enumerate(stems):
        picture(root / f"JPEGImages/{stem}.jpg", seed)
        document(root, stem)
    return root


def yolo(root, sides=("",)):
    for seed, side in enumerate(sides):
        for at, stem in enumerate(("one", "two")):
            picture(root / "images" / side / f"{stem}{side}.jpg", 10 * seed + at)
            label = root / "labels" / side / f"{stem}{side}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("0 .3 .3 .2 .2\n")
    (root / "classes.txt").write_text("a\n")
    return root


def coco(root, **changes):
    for seed, name in enumerate(("one.jpg", "two.jpg")):
        picture(root / name, seed)
    box = {"iscrowd": 0, "area": 400}
    whole = {
        "images": [
            {"id": at, "file_name": f"{name}.jpg", "width": 100, "height": 80}
            for at, name in ((1, "one"), (2, "two"))
        ],
        "annotations": [
            {"id": at, "image_id": at, "category_id": 1, "bbox": [10, 20, 20, 20], **box}
            for at in (1, 2)
        ],
        "categories": [{"id": 1, "name": "a"}],
    }
    (root / "all.json").write_text(json.dumps({**whole, **changes}))
    return root / "all.json"


def second(*things, head=HEAD):
    """A VOC tree whose second annotation holds these objects."""

    def make(root):
        document(voc(root), "two", *things, head=head)
        return root

    return make


def bytes_of_second(content):
    def make(root):
        (voc(root) / "Annotations/two.xml").write_bytes(content)
        return root

    return make


def changed(change, tree=voc):
    def make(root):
        change(tree(root))
        return root

    return make


def of_coco(**changes):
    return lambda root: coco(root, **changes)


def boxes_of_coco(first, other):
    return of_coco(annotations=[{**FIRST, "bbox": first}, {**BOX, "bbox": other}])


def lines(text):
    return changed(lambda root: (root / "labels/two.txt").write_text(text), yolo)


def renamed(old, new, tree=voc):
    def change(root):
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)

    return changed(change, tree)


def renamed_pair(new):
    def change(root):
        (root / "JPEGImages/two.jpg").rename(root / f"JPEGImages/{new}")
        stem = new.rsplit(".", 1)[0]
        (root / "Annotations/two.xml").unlink()
        document(root, stem)

    return changed(change)


def bomb(path):
    """A PNG of a few bytes that says it is 60,000 px a side."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


def with_bomb(root):
    (root / "JPEGImages/two.jpg").unlink()
    bomb(root / "JPEGImages/two.png")


def scene(root, name, turn):
    """The same scene, turned, in one of two sides."""
    random = np.random.default_rng(5)
    pixels = np.full((96, 96), 220, np.uint8)
    for _ in range(6):
        y, x = random.integers(5, 80, 2)
        pixels[y : y + 12, x : x + 9] = random.integers(20, 120)
    picture_of = Image.fromarray(turn(pixels)).convert("RGB")
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    picture_of.save(root / name, quality=90)


def similar(turn):
    def make(root):
        for side, each in (("train", lambda pixels: pixels), ("val", turn)):
            scene(root, f"images/{side}/{side}.jpg", each)
            (root / f"labels/{side}").mkdir(parents=True)
            (root / f"labels/{side}/{side}.txt").write_text("0 .3 .3 .2 .2\n")
        (root / "classes.txt").write_text("a\n")
        return root

    return make


def lists(**sides):
    def change(root):
        (root / "ImageSets/Main").mkdir(parents=True)
        for side, text in sides.items():
            (root / f"ImageSets/Main/{side}.txt").write_text(text)

    return changed(change)


def copy(source, target):
    return lambda root: (root / target).write_bytes((root / source).read_bytes())


def cut(root):
    path = root / "JPEGImages/two.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def link_out(root):
    outside = picture(root.parent / "outside.jpg", 3)
    (root / "JPEGImages/two.jpg").unlink()
    (root / "JPEGImages/two.jpg").symlink_to(outside)


def listed_in_yaml(text):
    def change(root):
        (root / "classes.txt").unlink()
        (root / "data.yaml").write_text(text)

    return changed(change, yolo)


def second_of_cvat(content):
    """Two CVAT documents, the second of which holds this."""

    def make(root):
        for seed, name in enumerate(("one.jpg", "two.jpg")):
            picture(root / name, seed)
        box = '<box label="a" xtl="10" ytl="20" xbr="30" ybr="40" occluded="0"/>'
        image = f'<image id="0" name="one.jpg" width="100" height="80">{box}</image>'
        (root / "one.xml").write_text(f"<annotations>{image}</annotations>")
        (root / "two.xml").write_bytes(content.replace(b"annotation>", b"annotations>"))
        return root

    return make


def same_with_other_boxes(root):
    copy("JPEGImages/one.jpg", "JPEGImages/two.jpg")(root)
    document(root, "two", thing(box=(50, 50, 60, 60)))


ENTITIES = b"<!DOCTYPE a [<!ENTITY x 'y'><!ENTITY z '&x;&x;&x;'>]><annotation>&z;</annotation>"
EXTERNAL = b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation>&x;</annotation>"
# Each mapping takes in the one before it eight times: 8^12 entries, if that is done.
MERGES = "m0: &m0 {k: v}\n" + "".join(
    f"m{at}: &m{at} {{!!merge <<: [{', '.join([f'*m{at - 1}'] * 8)}]}}\n" for at in range(1, 13)
)
DROP, LEAVE = "dropped box", "dropped image"
TWO, XML = "JPEGImages/two.jpg", "Annotations/two.xml"
GOOD = thing()
BOX = {"id": 2, "image_id": 2, "category_id": 1, "bbox": [10, 20, 20, 20]}
FIRST = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 20]}

# name: tree, kind, file, action, images that stay, boxes that stay
DEFECTS = {
    "empty box": (second(GOOD, thing(box=(5, 5, 4, 9))), "empty box", XML, DROP, 2, 2),
    "inverted box": (second(GOOD, thing(box=(9, 9, 5, 15))), "inverted box", XML, DROP, 2, 2),
    "outside": (second(GOOD, thing(box=(200, 5, 220, 9))), "box outside", TWO, DROP, 2, 2),
    "over the edge": (second(thing(box=(91, 5, 120, 9))), "box over the edge", TWO, "mended", 2, 2),
    "negative": (second(thing(box=(-4, 5, 20, 9))), "box over the edge", TWO, "mended", 2, 2),
    "not finite": (second(GOOD, thing(box=("nan", 5, 20, 9))), "not finite", XML, DROP, 2, 2),
    "infinite": (second(GOOD, thing(box=("1e999", 5, 20, 9))), "not finite", XML, DROP, 2, 2),
    "no number": (second(GOOD, thing(box=("ten", 5, 20, 9))), "not finite", XML, DROP, 2, 2),
    "no coordinate": (
        second(GOOD, thing().replace("<ymax>40</ymax>", "")),
        *("missing coordinate", XML, DROP, 2, 2),
    ),
    "no bndbox": (
        second(GOOD, "<object><name>a</name></object>"),
        *("missing coordinate", XML, DROP, 2, 2),
    ),
    "no name": (second(GOOD, thing(name=" ")), "object without name", XML, DROP, 2, 2),
    "twice": (second(GOOD, GOOD), "double box", TWO, DROP, 2, 2),
    "nearly twice": (
        second(GOOD, thing(box=(11, 21, 30, 41))),
        *("near-double box", TWO, "kept", 2, 3),
    ),
    "two classes": (
        second(GOOD, thing(name="b", box=(11, 21, 30, 41))),
        *("two classes on one object", TWO, "kept", 2, 3),
    ),
    "tiny": (second(thing(box=(10, 20, 10, 40))), "tiny box", TWO, "kept", 2, 2),
    "the whole image": (
        second(thing(box=(1, 1, 100, 80))),
        *("box of the whole image", TWO, "kept", 2, 2),
    ),
    "zero in VOC": (second(thing(box=(0, 5, 20, 9))), "zero coordinate", XML, "kept", 2, 2),
    "all boxes bad": (second(thing(box=(9, 9, 5, 15))), "no box left", TWO, LEAVE, 1, 1),
    "corners in COCO": (
        boxes_of_coco([60, 40, 90, 75], [50, 30, 80, 60]),
        *("other coordinate rule", None, "kept", 2, 2),
    ),
    "pixels in YOLO": (lines("0 30 30 10 10\n"), "other coordinate rule", None, "kept", 1, 1),
    "fractions in COCO": (
        boxes_of_coco([0.1, 0.2, 0.3, 0.3], [0, 0, 0.5, 1]),
        *("other coordinate rule", None, "kept", 2, 2),
    ),
    "image gone": (
        changed(lambda root: (root / TWO).unlink()),
        *("orphan annotation", XML, LEAVE, 1, 1),
    ),
    "COCO image gone": (
        lambda root: [coco(root), (root / "two.jpg").unlink()][0],
        *("missing image", "two.jpg", LEAVE, 1, 1),
    ),
    "annotation gone": (
        changed(lambda root: (root / XML).unlink()),
        *("unlabelled image", TWO, LEAVE, 1, 1),
    ),
    "orphan label": (
        changed(lambda root: (root / "labels/gone.txt").write_text("0 .5 .5 .1 .1\n"), yolo),
        *("orphan annotation", "labels/gone.txt", LEAVE, 2, 2),
    ),
    "two of one stem": (
        changed(lambda root: picture(root / "images/two.png", 5), yolo),
        *("two images of one stem", "images/two.png", "kept", 3, 3),
    ),
    "same content": (
        changed(copy("JPEGImages/one.jpg", TWO)),
        *("same content", TWO, "note", 2, 2),
    ),
    "same content, other boxes": (
        changed(same_with_other_boxes),
        *("same content", TWO, "kept", 2, 2),
    ),
    "cut off": (changed(cut), "truncated image", TWO, "kept", 2, 2),
    "no image": (
        changed(lambda root: (root / TWO).write_bytes(b"<html>not found</html>")),
        *("broken image", TWO, LEAVE, 1, 1),
    ),
    "empty image": (
        changed(lambda root: (root / TWO).write_bytes(b"")),
        *("broken image", TWO, LEAVE, 1, 1),
    ),
    "bomb": (changed(with_bomb), "broken image", "JPEGImages/two.png", LEAVE, 1, 1),
    "wrong extension": (
        changed(lambda root: Image.new("RGB", SIZE).save(root / TWO, format="PNG")),
        *("wrong extension", TWO, "kept", 2, 2),
    ),
    "upper-case suffix": (renamed(TWO, "JPEGImages/two.JPG"), "upper-case suffix",
                          "JPEGImages/two.JPG", "note", 2, 2),
    "blank in file name": (renamed_pair("t wo.jpg"), "blank in file name",
                           "JPEGImages/t wo.jpg", "note", 2, 2),
    "letters in file name": (renamed_pair("zwölf.jpg"), "letters in file name",
                             "JPEGImages/zwölf.jpg", "note", 2, 2),
    "Windows path": (
        second(GOOD, head=HEAD.replace("{stem}", "C:\\scans\\{stem}")),
        *("path inside", XML, "note", 2, 2),
    ),
    "absolute path": (
        second(GOOD, head=HEAD.replace("{stem}", "/home/lab/{stem}")),
        *("path inside", XML, "note", 2, 2),
    ),
    "other file inside": (
        second(GOOD, head=HEAD.replace("{stem}", "other")),
        *("wrong file name", XML, "mended", 2, 2),
    ),
    "malformed": (bytes_of_second(b"<annotation><object>"), "malformed annotation", XML,
                  LEAVE, 1, 1),
    "empty document": (bytes_of_second(b""), "malformed annotation", XML, LEAVE, 1, 1),
    "entities": (bytes_of_second(ENTITIES), "hostile annotation", XML, LEAVE, 1, 1),
    "external entity": (bytes_of_second(EXTERNAL), "hostile annotation", XML, LEAVE, 1, 1),
    "entities in CVAT": (second_of_cvat(ENTITIES), "hostile annotation", "two.xml", LEAVE, 1, 1),
    "external entity in CVAT": (second_of_cvat(EXTERNAL), "hostile annotation", "two.xml", LEAVE,
                                1, 1),
    "tag of Python": (
        listed_in_yaml("names: !!python/object/apply:os.getcwd []\ntrain: x\n"),
        *("tag in class list", "data.yaml", "mended", 2, 2),
    ),
    "mappings that merge each other": (
        listed_in_yaml(MERGES + "names: [a]\n"),
        *("tag in class list", "data.yaml", "mended", 2, 2),
    ),
    "undeclared Latin-1": (
        bytes_of_second("<annotation><x>é</x></annotation>".encode("latin-1")),
        *("malformed annotation", XML, LEAVE, 1, 1),
    ),
    "mark": (
        bytes_of_second(b"\xef\xbb\xbf<annotation><size/>" + GOOD.encode() + b"</annotation>"),
        *("encoding", XML, "note", 2, 2),
    ),
    "declared Latin-1": (
        bytes_of_second(
            b"<?xml version='1.0' encoding='iso-8859-1'?><annotation><size/>"
            + GOOD.encode() + b"</annotation>"
        ),
        *("encoding", XML, "note", 2, 2),
    ),
    "no size": (second(GOOD, head=""), "no size", XML, "note", 2, 2),
    "wrong size": (
        second(GOOD, head=HEAD.replace(">100<", ">640<")),
        *("wrong size", TWO, "mended", 2, 2),
    ),
    "unknown field": (
        second(thing(more="<viability>0.5</viability>")),
        *("fields kept", None, "note", 2, 2),
    ),
    "blank in class": (second(thing(name=" a ")), "blank in class", XML, "mended", 2, 2),
    "case of a class": (second(thing(name="A")), "class case", None, "kept", 2, 2),
    "spelling of a class": (
        lambda root: [voc(root), document(root, "one", thing(name="a b")),
                      document(root, "two", thing(name="A_b"))][0],
        *("class spelling", None, "kept", 2, 2),
    ),
    "unlisted class": (lines("7 .5 .5 .1 .1\n0 .3 .3 .2 .2\n"), "unlisted class", "labels/two.txt",
                       DROP, 2, 2),
    "unused class": (
        changed(lambda root: (root / "classes.txt").write_text("a\nb\n"), yolo),
        *("unused class", None, "kept", 2, 2),
    ),
    "ids that jump": (
        of_coco(
            categories=[{"id": 7, "name": "a"}],
            annotations=[{**FIRST, "category_id": 7}, {**BOX, "category_id": 7}],
        ),
        *("ids that jump", "all.json", "note", 2, 2),
    ),
    "image id twice": (
        of_coco(images=[{"id": 1, "file_name": f"{name}.jpg", "width": 100, "height": 80}
                        for name in ("one", "two")], annotations=[FIRST]),
        *("double image id", "all.json", LEAVE, 1, 1),
    ),
    "unknown image": (
        of_coco(annotations=[FIRST, BOX, {**BOX, "id": 3, "image_id": 77}]),
        *("unknown image", "all.json", DROP, 2, 2),
    ),
    "unknown category": (
        of_coco(annotations=[FIRST, BOX, {**BOX, "id": 3, "category_id": 9}]),
        *("unlisted class", "all.json", DROP, 2, 2),
    ),
    "path out of the root": (
        of_coco(
            images=[{"id": 1, "file_name": "one.jpg", "width": 100, "height": 80},
                    {"id": 2, "file_name": "../two.jpg", "width": 100, "height": 80}],
            annotations=[FIRST],
        ),
        *("path outside", "all.json", LEAVE, 1, 1),
    ),
    "link out of the root": (changed(link_out), "link", TWO, "refused", 1, 1),
    "decimal commas": (lines("0 0,5 0,5 0,1 0,1\n0 .3 .3 .2 .2\n"), "malformed line",
                       "labels/two.txt", DROP, 2, 2),
    "sixth number": (lines("0 .3 .3 .2 .2 .9\n"), "sixth number", "labels/two.txt", "mended", 2, 2),
    "listed and missing": (
        lists(train="one\nthree\n", val="two\n"),
        *("listed but missing", "ImageSets/Main/train.txt", LEAVE, 2, 2),
    ),
    "in two lists": (
        lists(train="one\ntwo\n", val="two\n"),
        *("image in two lists", TWO, "kept", 2, 2),
    ),
    "same file on two sides": (
        lambda root: [yolo(root, ("train", "val")),
                      copy("images/train/onetrain.jpg", "images/val/oneval.jpg")(root)][0],
        *("same image on two sides", "images/val/oneval.jpg", "kept", 4, 4),
    ),
    "turned on two sides": (similar(np.rot90), "similar images on two sides", "images/val/val.jpg",
                            "kept", 2, 2),
    "mirrored on two sides": (similar(np.fliplr), "similar images on two sides",
                              "images/val/val.jpg", "kept", 2, 2),
    "brighter on two sides": (
        similar(lambda pixels: (pixels * 0.7 + 30).astype(np.uint8)),
        *("similar images on two sides", "images/val/val.jpg", "kept", 2, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_tree_with_one_defect(name, tmp_path):
    make, kind, file, action, images, boxes = DEFECTS[name]
    root = tmp_path / "tree"
    root.mkdir()
    made = make(root)
    report = tmp_path / "report.json"
    code = launch("check", [str(made), "--report", str(report)])
    said = json.loads(report.read_text())
    told = {
        (p["kind"], p["file"], "note" if p.get("note") else p["action"]) for p in said["problems"]
    }
    assert (kind, file, action) in told
    assert (said["images"], said["boxes"]) == (images, boxes)
    faults = [p for p in said["problems"] if not p.get("note")]
    assert code == (1 if faults else 0)
    if action == "note":
        assert not faults
    before = sorted(root.rglob("*"))
    assert launch("convert", [str(made), str(tmp_path / "out.json")]) == 0
    out = json.loads((tmp_path / "out.json").read_text())
    assert (len(out["images"]), len(out["annotations"])) == (images, boxes)
    assert launch("convert", [str(made), str(tmp_path / "strict.json"), "--strict"]) == code
    assert (tmp_path / "strict.json").exists() == (code == 0)
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("make", [voc, yolo, coco])
def test_the_tree_without_defect_has_none(make, tmp_path, capsys):
    (tmp_path / "tree").mkdir()
    assert launch("check", [str(make(tmp_path / "tree"))]) == 0
    out = capsys.readouterr().out
    assert "no problems" in out
    assert "note" not in out


def test_a_tag_of_yaml_is_told_and_runs_nothing(tmp_path, capsys):
    root = yolo(tmp_path)
    (root / "classes.txt").unlink()
    target = tmp_path / "ran"
    (root / "data.yaml").write_text(f"names: !!python/object/apply:os.mkdir ['{target}']\n")
    report = tmp_path / "report.json"
    assert launch("check", [str(root), "--report", str(report)]) == 1
    capsys.readouterr()
    told = json.loads(report.read_text())["problems"]
    (tag,) = (problem for problem in told if problem["kind"] == "tag in class list")
    assert (tag["file"], tag["action"]) == ("data.yaml", "mended")
    assert "!!python/object/apply:os.mkdir" in tag["message"]
    assert not target.exists()


@pytest.mark.parametrize("tag", ["!!python/tuple", "!mine", "!!python/name:os.system", "!<x:y>"])
def test_what_stands_behind_a_tag_is_read_as_plain(tag, tmp_path):
    root = yolo(tmp_path)
    names = (root / "classes.txt").read_text().split()
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text(f"names: {tag} {json.dumps(names)}\n")
    found = examine(root)
    assert [problem.kind for problem in found.problems] == ["tag in class list"]
    assert {box.label for image in found.images for box in image.boxes} <= set(names)


def test_tags_that_yaml_knows_itself_are_no_problem(tmp_path):
    root = yolo(tmp_path)
    names = (root / "classes.txt").read_text().split()
    (root / "data.yaml").write_text(f"names: !!seq {json.dumps(names)}\n")
    assert not examine(root).problems
