"""COCO: what is kept, what is refused, and any JSON that calls itself COCO."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detkd.data.check import examine
from detkd.data.convert import write_dataset
from detkd.data.formats import coco
from detkd.errors import DataError

DOCUMENT = {
    "info": {"year": 2024},
    "licenses": [{"id": 1, "name": "CC0"}],
    "images": [{"id": 3, "file_name": "a.png", "width": 50, "height": 40, "license": 1}],
    "annotations": [
        {"id": 9, "image_id": 3, "category_id": 2, "bbox": [1, 2, 3, 4], "area": 8, "iscrowd": 0}
    ],
    "categories": [{"id": 2, "name": "a", "supercategory": "cell"}],
}


@pytest.fixture
def written(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")

    def write(**changes):
        path = tmp_path / "in.json"
        path.write_text(json.dumps({**copy.deepcopy(DOCUMENT), **changes}))
        return path

    return write


def kinds(found):
    return [problem.kind for problem in found.problems]


def box(**changes):
    return {**DOCUMENT["annotations"][0], **changes}


def test_fields_of_the_file_its_images_and_its_classes_are_kept(written, tmp_path):
    write_dataset(examine(written()), tmp_path / "out.json", "coco")
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["licenses"] == DOCUMENT["licenses"]
    assert out["info"]["year"] == 2024
    assert out["images"][0]["license"] == 1
    assert out["categories"] == [{"id": 1, "name": "a", "supercategory": "cell"}]
    assert out["annotations"][0]["area"] == 8


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, 0, 4], "empty box"),
        ([1, 2, -3, 4], "inverted box"),
        ([1, 2, 3], "missing coordinate"),
        (None, "missing coordinate"),
        ([1, 2, "3", 4], "not finite"),
        ([1, 2, None, 4], "not finite"),
        ([1, 2, 10**400, 4], "not finite"),
        ([1, 2, float("nan"), 4], "not finite"),
        ([1, 2, float("inf"), 4], "not finite"),
        ([100, 2, 3, 4], "box outside"),
        ([1, 2, 3, 4], "double box"),
    ],
)
def test_a_bad_box_leaves_alone(written, values, kind):
    found = examine(written(annotations=[box(), box(id=10, bbox=values)]))
    assert kind in kinds(found)
    assert [b.xyxy for b in found.images[0].boxes] == [(1, 2, 4, 6)]


def test_numbers_that_are_not_finite_are_told_and_written_as_null(written, tmp_path):
    found = examine(written(annotations=[box(score=float("nan"))]))
    assert kinds(found) == ["not finite"]
    write_dataset(found, tmp_path / "out.json", "coco")
    assert json.loads((tmp_path / "out.json").read_text())["annotations"][0]["score"] is None


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"images": [*DOCUMENT["images"], {**DOCUMENT["images"][0], "file_name": "b.png"}]},
         "double image id"),
        ({"images": [*DOCUMENT["images"], {**DOCUMENT["images"][0], "id": 4}]},
         "image listed twice"),
        ({"images": [*DOCUMENT["images"], {"id": 5, "file_name": "no.png"}]}, "missing image"),
        ({"images": [*DOCUMENT["images"], {"id": 5, "file_name": "a\0b.png"}]}, "path outside"),
        ({"images": [*DOCUMENT["images"], {"id": 5, "file_name": "a\ud800.png"}]}, "missing image"),
        ({"annotations": [box(), box(image_id=77)]}, "unknown image"),
        ({"categories": [*DOCUMENT["categories"], {"id": 3, "name": "a"}]}, "double class"),
        ({"categories": [*DOCUMENT["categories"], {"id": 3}]}, "malformed entry"),
        ({"categories": [{"id": 2, "name": " a\n"}]}, "blank in class"),
    ],
)  # fmt: skip
def test_a_broken_entry_is_named_and_the_rest_goes_on(written, changes, kind):
    found = examine(written(**changes))
    assert kind in kinds(found)
    assert found.images[0].boxes[0].label == "a"


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"images": []}', "9" * 5000, "[" * 100_000])
def test_what_is_no_coco_file_is_refused_in_one_sentence(tmp_path, text):
    (tmp_path / "in.json").write_text(text)
    with pytest.raises(DataError, match=r"in\.json: is no"):
        examine(tmp_path / "in.json")


@pytest.mark.parametrize("root", ["/etc", "C:\\x", "\\\\host\\x"])
def test_an_absolute_image_root_is_refused(written, root):
    with pytest.raises(DataError, match="make it relative to the file"):
        examine(written(info={"detkd": {"image_root": root}}))


def test_backslashes_in_names_are_folders(tmp_path):
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (50, 40)).save(tmp_path / "sub/a.png")
    images = [{"id": 3, "file_name": "sub\\a.png", "width": 50, "height": 40}]
    (tmp_path / "in.json").write_text(json.dumps({**DOCUMENT, "images": images}))
    assert [r.file for r in examine(tmp_path / "in.json").images] == ["sub/a.png"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": [*DOCUMENT["images"]] * 2}, r"images\[1\] has no id of its own"),
        ({"images": [{"id": 3, "file_name": "../a.png"}]}, r"images\[0\] has no usable name"),
        ({"annotations": [box(image_id=8)]}, r"annotations\[0\] has an unknown image_id"),
        ({"annotations": [box(category_id=8)]}, r"annotations\[0\] has an unknown category_id"),
        ({"annotations": [5]}, r"annotations\[0\] has an unknown image_id"),
    ],
)
def test_a_document_whose_ids_do_not_hold_is_not_split(written, changes, said):
    with pytest.raises(DataError, match=said):
        coco.read_document(written(**changes))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def entry(*keys):
    return st.dictionaries(st.sampled_from(keys), VALUES, max_size=len(keys)) | VALUES


@given(
    images=st.lists(entry("id", "file_name", "width", "height", "sample"), max_size=3),
    annotations=st.lists(
        entry("id", "image_id", "category_id", "bbox", "iscrowd", "attributes"), max_size=3
    ),
    categories=st.lists(entry("id", "name"), max_size=3),
    info=VALUES,
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_crashes_the_reader(written, tmp_path, images, annotations, categories, info):
    path = written(
        images=[*DOCUMENT["images"], *images],
        annotations=[*DOCUMENT["annotations"], *annotations],
        categories=[*DOCUMENT["categories"], *categories],
        info={} if isinstance(info, dict) else info,
    )
    found = examine(path)
    json.dumps(found.report(), allow_nan=False)
    write_dataset(found, tmp_path / "out.json", "coco")
    assert examine(tmp_path / "out.json").images
