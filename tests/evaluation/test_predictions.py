"""Results of any detector, as they lie on disk."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkd.errors import DataError
from detkd.evaluation.predictions import read_results

TRUTH = {
    "images": [
        {"id": 7, "file_name": "S1/a.png", "width": 200, "height": 100},
        {"id": 8, "file_name": "S2/a.png", "width": 200, "height": 100},
        {"id": 9, "file_name": "S2/b.png", "width": 200, "height": 100},
    ],
    "categories": [{"id": 2, "name": "two"}, {"id": 1, "name": "one"}],
    "annotations": [],
}


def entry(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_coco_results_are_taken_as_they_are(tmp_path):
    found = [entry(7, 1, [1, 2, 3, 4], 0.5)]
    (tmp_path / "dt.json").write_text(json.dumps(found))
    assert read_results(tmp_path / "dt.json", TRUTH) == found


def test_yolo_texts_with_scores(tmp_path):
    (tmp_path / "S1").mkdir()
    (tmp_path / "S1/a.txt").write_text("1 0.5 0.5 0.1 0.2 0.75\n\n0 0.25 0.5 0.5 1 0.5\n")
    (tmp_path / "b.txt").write_text("")
    assert read_results(tmp_path, TRUTH) == [
        entry(7, 2, [pytest.approx(90), pytest.approx(40), pytest.approx(20), 20], 0.75),
        entry(7, 1, [0, 0, 100, 100], 0.5),
    ]


def test_yolo_classes_go_by_name_where_names_are_listed(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("two\nelse\none\n")
    (tmp_path / "labels/b.txt").write_text("0 .5 .5 1 1 .5\n1 .5 .5 1 1 .5\n2 .5 .5 1 1 .5\n")
    found = read_results(tmp_path / "labels", TRUTH)
    assert [each["category_id"] for each in found] == [2, "class else", 1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 .5 .5 1 1", "line 1 has no score"),
        ("0 .5 .5 1 1 .5 .5 .5", "line 1 has 8 numbers"),
        ("0 .5 nan 1 1 .5", "line 1 has 'nan' where a finite number"),
        ("x .5 .5 1 1 .5", "line 1 has 'x' where"),
        ("2 .5 .5 1 1 .5", "line 1 has the class 2; there are 2"),
        ("-1 .5 .5 1 1 .5", "line 1 has the class -1"),
    ],
)
def test_yolo_lines_that_cannot_be_understood_are_named(tmp_path, line, said):
    (tmp_path / "b.txt").write_text(line)
    with pytest.raises(DataError, match=said) as refusal:
        read_results(tmp_path, TRUTH)
    assert "b.txt" in str(refusal.value)


def test_a_yolo_text_of_no_image_or_of_several_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="image 'a'; the truth lists several of that name"):
        read_results(tmp_path, TRUTH)
    (tmp_path / "a.txt").rename(tmp_path / "c.txt")
    with pytest.raises(DataError, match="image 'c'; the truth lists none of that name"):
        read_results(tmp_path, TRUTH)


@pytest.mark.parametrize(
    "table",
    [
        "image,class,score,xmin,ymin,xmax,ymax\nS1/a.png,one,0.5,10,20,40,60\n",
        "Filename,Label,Confidence,x,y,width,height\r\nframes/S1/a.png,one,0.5,10,20,30,40\r\n",
        "image_id,category_id,conf,x1,y1,x2,y2\n7,1,0.5,10,20,40,60\n",
    ],
)
def test_tables_by_their_first_line(tmp_path, table):
    (tmp_path / "dt.csv").write_text(table)
    assert read_results(tmp_path / "dt.csv", TRUTH) == [entry(7, 1, [10, 20, 30, 40], 0.5)]


def test_a_file_named_like_the_id_of_another_image_is_itself(tmp_path):
    images = [{"id": at, "file_name": f"{9 - at}.png", "width": 10, "height": 10} for at in (4, 5)]
    truth = {**TRUTH, "images": images}
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/4.txt").write_text("0 .5 .5 1 1 .5")
    assert read_results(tmp_path / "labels", truth)[0]["image_id"] == 5
    for column, image in (("image", 5), ("image_id", 4)):
        (tmp_path / "dt.csv").write_text(f"{column},class,score,x,y,w,h\n4,one,.5,1,1,1,1\n")
        assert read_results(tmp_path / "dt.csv", truth)[0]["image_id"] == image


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "names no column 'image'"),
        ("image,class,xmin,ymin,xmax,ymax\n", "names no column 'score'"),
        ("image,class,score,xmin,ymin\n", "names no box"),
        ("image,class,score,x,y,w,h\nb.png,one,high,1,1,1,1\n", "line 2 has 'high'"),
        ("image,class,score,x,y,w,h\nb.png,one,.5,1,1,1\n", "line 2 has '' where"),
        ("image,class,score,x,y,w,h\nnone.png,one,.5,1,1,1,1\n", "line 2 is of image 'none.png'"),
        ("image,class,score,x1,y1,x2,y2\nb.png,one,.5,9,1,1,1\n", "line 2 has a box whose end"),
        ("image,class,score,x,y,w,h\n" + "9" * 200000, "line 1 is no row of a table"),
    ],
)
def test_tables_that_cannot_be_understood_are_refused_by_line(tmp_path, table, said):
    (tmp_path / "dt.csv").write_text(table)
    with pytest.raises(DataError, match=said):
        read_results(tmp_path / "dt.csv", TRUTH)


def test_results_that_are_not_there_are_refused(tmp_path):
    for name in ("dt.json", "dt.csv"):
        with pytest.raises(DataError, match="no such file"):
            read_results(tmp_path / name, TRUTH)
    with pytest.raises(DataError, match=r"holds no \.txt"):
        read_results(tmp_path, TRUTH)


@pytest.mark.parametrize("side", [None, 0, -5, "200", float("nan")])
def test_yolo_needs_the_size_of_the_image(tmp_path, side):
    truth = {**TRUTH, "images": [{"id": 1, "file_name": "b.png", "width": side, "height": 9}]}
    (tmp_path / "b.txt").write_text("0 .5 .5 1 1 .5")
    with pytest.raises(DataError, match="does not say its image's width and height"):
        read_results(tmp_path, truth)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["b.txt", "dt.csv", "dt.json"]))
def test_any_bytes_are_results_or_a_sentence(tmp_path, content, name):
    header = b"image,class,score,x,y,w,h\n" if name == "dt.csv" else b""
    folder = tmp_path / "any"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / name).write_bytes(header + content)
    with contextlib.suppress(DataError):
        read_results(folder if name == "b.txt" else folder / name, TRUTH)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_tables_may_have_semicolons_and_decimal_commas(tmp_path, encoding):
    (tmp_path / "dt.csv").write_text(
        "image;class;score;xmin;ymin;xmax;ymax\nb.png;one;0,5;1,5;2;4;8\n", encoding=encoding
    )
    assert read_results(tmp_path / "dt.csv", TRUTH) == [entry(9, 1, [1.5, 2, 2.5, 6], 0.5)]
    (tmp_path / "dt.csv").write_text('image,class,score,x,y,w,h\nb.png,one,"0,5",1,2,4,8\n')
    with pytest.raises(DataError, match="line 2 has '0,5' where a finite number"):
        read_results(tmp_path / "dt.csv", TRUTH)


@pytest.mark.parametrize("name", ["stack#page=2", "stack_page2", "S1/stack#page=2"])
def test_texts_of_pages_are_those_of_their_page(tmp_path, name):
    pages = [
        {"id": at, "file_name": f"S1/stack.tif#page={at}", "width": 200, "height": 100}
        for at in (1, 2, 3)
    ]
    path = tmp_path / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("0 .5 .5 1 1 .5\n")
    (found,) = read_results(tmp_path, {**TRUTH, "images": pages})
    assert found["image_id"] == 2
    path.rename(tmp_path / "stack.txt")
    with pytest.raises(DataError, match="the truth lists none of that name"):
        read_results(tmp_path, {**TRUTH, "images": pages})
