"""Any bytes in an annotation file: a sentence or a report, never a traceback."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detkd.data.check import examine
from detkd.errors import UserError

# For each format: the file that holds annotations, and a sound one to be damaged.
VOC = (
    "<annotation><size><width>50</width><height>40</height></size><object><name>a</name><bndbox>"
    "<xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
LABELME = json.dumps(
    {"shapes": [{"label": "a", "points": [[1, 2], [9, 9]], "shape_type": "rectangle"}],
     "imagePath": "one.png", "imageHeight": 40, "imageWidth": 50}
)  # fmt: skip
CVAT = (
    '<annotations><image id="0" name="one.png" width="50" height="40"><box label="a" xtl="1" '
    'ytl="2" xbr="9" ybr="9"/></image><track id="1" label="a"><polygon frame="0" outside="0" '
    'points="1,2;3,4;5,9"/></track></annotations>'
)
STUDIO = json.dumps(
    [{"data": {"image": "one.png"}, "annotations": [{"result": [{"type": "rectanglelabels",
      "original_width": 50, "original_height": 40, "value": {"x": 1, "y": 2, "width": 9,
      "height": 9, "rotation": 5, "rectanglelabels": ["a"]}}]}]}]
)  # fmt: skip
COCO = json.dumps(
    {"images": [{"id": 1, "file_name": "one.png", "width": 50, "height": 40}],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 8, 7]}],
     "categories": [{"id": 1, "name": "a"}]}
)  # fmt: skip
SOUND = {
    "voc": ("one.xml", VOC),
    "labelme": ("one.json", LABELME),
    "cvat": ("all.xml", CVAT),
    "label_studio": ("all.json", STUDIO),
    "csv": ("all.csv", "filename,class,xmin,ymin,xmax,ymax\none.png,a,1,2,9,9\n"),
    "yolo": ("one.txt", "0 .5 .5 .1 .1\n"),
    "yolo names": ("data.yaml", "names: {0: a}\ntrain: list.txt\n"),
    "yolo darknet": ("obj.data", "train = list.txt\nnames = obj.names\n"),
    "voc lists": ("ImageSets/Main/train.txt", "one\n"),
    "coco": ("all.json", COCO),
}


@st.composite
def damaged(draw, text):
    """Any bytes at all, or a sound file with parts cut out, doubled or replaced."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=120))
    data = bytearray(text.encode())
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 12)))
        some = st.sampled_from(
            [b"", b"\0", b"nan", b"1e999", b"-1", b"null", b"[", b"{}", b'"', b"<", b"&x;", b"\xff",
             b"9" * 400, b"true", b",", b"\n", b"\xef\xbb\xbf", b"..", b"/", b"#", b"'"]
        )  # fmt: skip
        data[begin:end] = draw(some | st.binary(max_size=4))
    return bytes(data)


@pytest.mark.parametrize("name", SOUND)
@given(st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_end_in_a_traceback(tmp_path, name, data):
    file, text = SOUND[name]
    kind = name.split()[0]
    if not (tmp_path / "one.png").exists():
        Image.new("RGB", (50, 40)).save(tmp_path / "one.png")
        Image.new("RGB", (50, 40), (9, 9, 9)).save(tmp_path / "two.png")
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        if kind == "voc":
            (tmp_path / "two.xml").write_text(VOC)
    (tmp_path / file).write_bytes(data.draw(damaged(text)))
    of_one_file = kind in ("coco", "cvat", "label_studio", "csv")
    for said in (kind, None):
        try:
            found = examine(tmp_path / file if of_one_file else tmp_path, source_format=said)
        except UserError as error:
            assert str(error)
        else:
            json.dumps(found.report(), allow_nan=False)


@pytest.mark.parametrize("name", ["voc", "labelme", "cvat", "label_studio", "csv", "yolo", "coco"])
def test_the_sound_file_is_read(tmp_path, name):
    file, text = SOUND[name]
    Image.new("RGB", (50, 40)).save(tmp_path / "one.png")
    (tmp_path / file).write_text(text)
    source = tmp_path / file if name == "coco" else tmp_path
    assert [len(record.boxes) for record in examine(source).images] == [1]
