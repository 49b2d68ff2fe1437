"""VOC beyond coordinates: what a tree may look like, what an annotation may say besides."""

import os
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detkd.data.check import examine
from detkd.data.formats import voc

OBJECT = (
    "<object><name>a</name>{more}<bndbox><xmin>10</xmin><ymin>20</ymin>"
    "<xmax>19</xmax><ymax>29</ymax></bndbox></object>"
)


PLAIN = OBJECT.format(more="")


def add(root, image, annotation, inside=PLAIN):
    for path in (root / image, root / annotation):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80)).save(root / image)
    (root / annotation).write_text(f"<annotation>{inside}</annotation>", encoding="utf-8")


def kinds(found):
    return [problem.kind for problem in found.problems]


@pytest.mark.parametrize(
    ("image", "annotation"),
    [
        ("VOC2012/JPEGImages/a.jpg", "VOC2012/Annotations/a.xml"),
        ("one/two/a.jpg", "one/two/a.xml"),
        ("a.png", "labels/a.xml"),
        ("photos/day 1/a.b.jpg", "xml/day 1/a.b.xml"),
        ("a.JPG", "a.XML"),
    ],
)
def test_an_image_is_found_beside_or_across_from_its_annotation(tmp_path, image, annotation):
    add(tmp_path, image, annotation)
    found = examine(tmp_path)
    assert [record.file for record in found.images] == [image]
    assert not found.problems


def test_equal_stems_in_two_folders_stay_apart(tmp_path):
    for day in ("1", "2"):
        add(tmp_path, f"images/{day}/a.jpg", f"xml/{day}/a.xml")
    found = examine(tmp_path)
    assert [len(record.boxes) for record in found.images] == [1, 1]
    assert not found.problems


@pytest.mark.parametrize(
    ("more", "difficult", "truncated", "attributes"),
    [
        ("", None, None, {}),
        ("<difficult>0</difficult>", False, None, {}),
        ("<DIFFICULT> 1 </DIFFICULT><Truncated>0</Truncated>", True, False, {}),
        ("<occluded>1</occluded><pose>Left</pose>", None, None, {"occluded": 1, "pose": "Left"}),
        (
            "<part><name>head</name></part><part><name>tail</name></part>",
            None,
            None,
            {"part": [{"name": "head"}, {"name": "tail"}]},
        ),
    ],
)
def test_what_an_object_says_besides(tmp_path, more, difficult, truncated, attributes):
    add(tmp_path, "a.jpg", "a.xml", OBJECT.format(more=more))
    (box,) = examine(tmp_path).images[0].boxes
    assert (box.difficult, box.truncated, box.attributes) == (difficult, truncated, attributes)


def test_sample_and_source_of_an_image(tmp_path):
    source = "<source><database>sea</database><sample>S7</sample></source>"
    add(tmp_path, "a.jpg", "a.xml", source)
    (record,) = examine(tmp_path).images
    assert record.sample == "S7"
    assert record.extra == {"voc": {"source": {"database": "sea"}}}


@pytest.mark.parametrize("line", ["a b", "a b -1", "a b.jpg", "a b  1"])
def test_a_list_names_stems_with_blanks_flags_and_suffixes(tmp_path, line):
    add(tmp_path, "JPEGImages/a b.jpg", "Annotations/a b.xml")
    add(tmp_path, "JPEGImages/c.jpg", "Annotations/c.xml")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    found = examine(tmp_path, subset="val")
    assert [record.file for record in found.images] == ["JPEGImages/a b.jpg"]
    assert not found.problems


@pytest.mark.parametrize("said", ["a.b", "a.b.jpg", "a.b.JPEG", "C:\\photos\\a.b.jpg", "", "."])
def test_a_name_inside_with_or_without_folder_and_suffix_is_no_problem(tmp_path, said):
    add(tmp_path, "a.b.jpg", "a.b.xml", f"<filename>{said}</filename>" + PLAIN)
    assert not examine(tmp_path).problems


def test_a_document_of_another_kind_makes_no_negative(tmp_path):
    add(tmp_path, "a.jpg", "a.xml")
    add(tmp_path, "b.jpg", "b.xml")
    (tmp_path / "b.xml").write_text("<project><task/></project>")
    found = examine(tmp_path)
    assert [record.file for record in found.images] == ["a.jpg"]
    assert kinds(found) == ["malformed annotation"]


def test_bom_other_encodings_and_harmless_document_types_are_read(tmp_path):
    for stem, content in {
        "bom": b"\xef\xbb\xbf<annotation>%s</annotation>",
        "blank": b"\n <?xml version='1.0'?><annotation>%s</annotation>",
        "latin": b"<?xml version='1.0' encoding='latin-1'?><annotation>%s<x>\xe9</x></annotation>",
        "type": b"<!DOCTYPE annotation><annotation>%s</annotation>",
        "space": b"<annotation xmlns='http://x.org/voc'>%s</annotation>",
    }.items():
        add(tmp_path, f"{stem}.jpg", f"{stem}.xml")
        (tmp_path / f"{stem}.xml").write_bytes(content % PLAIN.encode())
    found = examine(tmp_path)
    assert [len(record.boxes) for record in found.images] == [1] * 5
    assert not found.problems


def test_deep_nesting_is_no_crash(tmp_path):
    add(tmp_path, "a.jpg", "a.xml", "<x>" * 5000 + "</x>" * 5000 + PLAIN)
    assert len(examine(tmp_path).images) == 1


def test_an_orphan_is_named_and_a_second_annotation_too(tmp_path):
    add(tmp_path, "JPEGImages/a.jpg", "Annotations/a.xml")
    (tmp_path / "Annotations/lost.xml").write_text("<annotation/>")
    (tmp_path / "Other").mkdir()
    (tmp_path / "Other/a.xml").write_text("<annotation/>")
    found = examine(tmp_path)
    assert len(found.images[0].boxes) == 1
    assert sorted((p.kind, p.file) for p in found.problems) == [
        ("orphan annotation", "Annotations/lost.xml"),
        ("second annotation", "Other/a.xml"),
    ]


def test_a_link_to_a_folder_is_told(tmp_path):
    add(tmp_path / "tree", "a.jpg", "a.xml")
    (tmp_path / "tree/loop").symlink_to(tmp_path / "tree", target_is_directory=True)
    (tmp_path / "tree/nothing.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found = examine(tmp_path / "tree")
    assert [(p.kind, p.file) for p in found.problems] == [("link", "loop"), ("link", "nothing.jpg")]


@pytest.mark.skipif(os.name != "posix", reason="names of bytes are POSIX's")
def test_names_that_are_no_text_are_read(tmp_path):
    add(tmp_path, os.fsdecode(b"\xff\xfe.jpg"), os.fsdecode(b"\xff\xfe.xml"))
    assert len(examine(tmp_path).images) == 1


def test_records_come_as_a_stream(tmp_path):
    for stem in "abc":
        add(tmp_path, f"{stem}.jpg", f"{stem}.xml")
    data = voc.read(tmp_path)
    first = next(iter(data.images))
    assert first.file == "a.jpg"
    assert [record.file for record in data.images] == ["b.jpg", "c.jpg"]


def test_a_line_that_several_lists_repeat_is_told_once(tmp_path):
    add(tmp_path, "JPEGImages/a.jpg", "Annotations/a.xml")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for name, text in (
        ("train", "a\ngone\n"),
        ("trainval", "a\ngone\n"),
        ("cat_train", "a -1\nx 1\n"),
    ):
        (tmp_path / f"ImageSets/Main/{name}.txt").write_text(text)
    found = examine(tmp_path)
    assert [(p.kind, p.file, p.where) for p in found.problems] == [
        ("listed but missing", "ImageSets/Main/train.txt", "line 2")
    ]


TEXTS = st.sampled_from(
    ["", "0", "1", " 1", "7", "12.5", "-3", "nan", "1e400", "true", "a", " a", "x"]
)
PARTS = st.sampled_from(
    ["name", "pose", "truncated", "difficult", "Difficult", "occluded", "other"]
)


@given(
    st.lists(st.tuples(PARTS, TEXTS), max_size=5),
    st.lists(st.tuples(st.sampled_from([*voc.SIDES, "depth"]), TEXTS), max_size=5),
    st.tuples(TEXTS, TEXTS, TEXTS, TEXTS),
    st.booleans(),
    st.integers(0, 1),
)
def test_the_short_way_reads_what_the_long_one_reads(parts, more, corners, nested, first):
    element = ElementTree.Element("object")
    for tag, text in [("name", "a"), *parts]:
        ElementTree.SubElement(element, tag).text = text
    frame = ElementTree.SubElement(element, "bndbox")
    for tag, text in [*zip(voc.SIDES, corners, strict=True), *more]:
        ElementTree.SubElement(frame, tag).text = text
    if nested:
        ElementTree.SubElement(element[0], "pose").text = "b"
    short = voc._usual_object(element, first)
    if short is not None:
        assert voc._read_object(element, 0, "a.xml", first == 0) == (short, [])


def test_the_short_way_takes_the_usual_object():
    text = (
        "<object><name>a</name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult>"
        "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>19</xmax><ymax>29</ymax></bndbox></object>"
    )
    box = voc._usual_object(ElementTree.fromstring(text), 1)
    assert box is not None
    assert box.xyxy == (9, 19, 19, 29)
    assert (box.difficult, box.truncated, dict(box.attributes)) == (True, False, {"pose": "Left"})
