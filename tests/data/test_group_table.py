"""Groups of a table: rows that write paths otherwise than the data, and what is refused."""

import itertools

import pytest

from detkd.data.group_table import groups_of_names
from detkd.data.split import SIDES, divide, groups_by_table
from detkd.errors import DataError

SLIDES = {"A": 4, "B": 8, "C": 12, "D": 16, "E": 20, "F": 24}


def groups(tmp_path, rows, names, column=None):
    table = tmp_path / "g.csv"
    table.write_text("file,group\n" + "".join(f"{name},{group}\n" for name, group in rows))
    return groups_of_names(table, names, column)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("./{slide}/{k:03d}.png", "{slide}/{k:03d}.png"),
        ("{slide}/{k:03d}.png", "images/{slide}/{k:03d}.png"),
        ("C:\\slides\\{slide}\\{k:03d}.PNG", "{slide}/{k:03d}.png"),
        ("/mnt/raw/{slide}/{k:03d}.czi", "images/{slide}/{k:03d}.png"),
        ("../raw/{slide}/{k:03d}", "here/raw/{slide}/{k:03d}.png"),
        ("{slide}//{k:03d}.tif", "{slide}/{k:03d}.tif#page=2"),
    ],
)
def test_a_slide_is_on_one_side_however_the_table_writes_its_paths(tmp_path, row, name):
    places = [(slide, k) for slide, count in SLIDES.items() for k in range(count)]
    table = tmp_path / "g.csv"
    lines = [f"{row.format(slide=slide, k=k)},slide {slide}" for slide, k in places]
    table.write_text("file,group\n" + "\n".join(lines))
    document = {
        "images": [
            {"id": at, "file_name": name.format(slide=slide, k=k)}
            for at, (slide, k) in enumerate(places)
        ],
        "annotations": [],
        "categories": [],
    }
    found = groups_by_table(document, table, None)
    assert [found[at] for at in range(len(places))] == [f"slide {slide}" for slide, _ in places]
    sides = divide(document, found, (0.6, 0.2, 0.2))
    for _, same in itertools.groupby(range(len(places)), key=lambda at: places[at][0]):
        assert len({sides[at] for at in same}) == 1
    assert set(sides.values()) == set(SIDES)


def test_an_image_that_no_row_names_does_not_take_that_of_another_folder(tmp_path):
    rows = [("x/A/1.png", "A"), ("x/B/1.png", "B")]
    names = ["A/1.png", "B/1.png", "C/1.png", "A/2.png"]
    assert groups(tmp_path, rows, names) == ["A", "B", None, None]
    assert groups(tmp_path, [("B/1.png", "B")], names) == [None, "B", None, None]


def test_pages_and_copies_of_another_suffix_go_with_their_file(tmp_path):
    names = [f"A/s.tif#page={page}" for page in (1, 2, 3)]
    assert groups(tmp_path, [("A/s.tif", "S")], names) == ["S"] * 3
    assert groups(tmp_path, [("s", "S")], names) == ["S"] * 3
    of_each = [(names[0], "one"), (names[1], "two"), (names[2], "two")]
    assert groups(tmp_path, of_each, names) == ["one", "two", "two"]
    copies = ["A/7.png", "A/7.jpg", "B/7.jpg"]
    assert groups(tmp_path, [("A/7.png", "seven")], copies) == ["seven", "seven", None]
    # Two rows beside it disagree, so that it stands alone.
    assert groups(tmp_path, of_each[:2], names) == ["one", "two", None]


def test_what_follows_a_point_is_no_suffix_where_it_is_a_number(tmp_path):
    names = ["day_1.1.png", "day_1.2.png", "day_1.png"]
    rows = [("day_1.1", "one"), ("day_1.2", "two"), ("day_1.3", "three")]
    assert groups(tmp_path, rows, names) == ["one", "two", None]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [("x/1.png", "A"), ("y/1.png", "B")],
            "line 2 ('x/1.png') and line 3 ('y/1.png') may both mean A/1.png, and put it into two "
            "groups, 'A' and 'B'",
        ),
        ([("1.png", "A")], "line 2: '1.png' may mean A/1.png or B/1.png"),
        ([("1", "A")], "line 2: '1' may mean A/1.png or B/1.png"),
        ([("./A/1.png", "A"), ("A\\1.png", "B")], "puts 'A\\1.png' into two groups, 'A' and 'B'"),
        ([("Z/9.png", "A"), ("", "B")], "names none of the images"),
    ],
)
def test_what_a_table_leaves_open_is_refused(tmp_path, rows, said):
    with pytest.raises(DataError) as refused:
        groups(tmp_path, rows, ["A/1.png", "B/1.png", "A/2.png"])
    assert said in str(refused.value)


def test_rows_by_name_alone_serve_where_they_agree_or_names_are_unique(tmp_path):
    names = ["A/1.png", "B/2.png"]
    assert groups(tmp_path, [("1.png", "x"), ("other/2.png", "y")], names) == ["x", "y"]
    twice = [("x/1.png", "same"), ("y/1.png", "same"), ("y/2.png", "two")]
    assert groups(tmp_path, twice, names) == ["same", "two"]


def test_a_row_whose_image_is_not_there_takes_no_other_slides(tmp_path):
    rows = [(f"C:\\slides\\{slide}\\{k}.tif", slide) for slide in "AB" for k in range(6)]
    names = [f"images/{slide}/{k}.png" for slide in "ABC" for k in range(6)]
    names.remove("images/A/5.png")
    assert groups(tmp_path, rows, names) == ["A"] * 5 + ["B"] * 6 + [None] * 6
    rows = [("C:\\slides\\A\\001.tif", "A"), ("C:\\slides\\B\\002.tif", "B")]
    assert groups(tmp_path, rows, ["images/B/001.png", "images/B/002.png"]) == [None, "B"]
    rows = [("A/1.tif", "A"), ("A/2.tif", "A"), ("Z/3.tif", "Z")]
    assert groups(tmp_path, rows, ["A/1.png", "A/2.png", "A/3.png"]) == ["A", "A", None]
    # A bare name beside rows with folders means any.
    rows = [("A/1.png", "A"), ("2.png", "two")]
    assert groups(tmp_path, rows, ["A/1.png", "A/2.png"]) == ["A", "two"]


def test_stems_may_hold_points(tmp_path):
    stems = ["a_jpg.rf.abc123", "b_jpg.rf.0bc123", "c_jpg.rf.ffe", "slide.A", "slide.B", "img.left"]
    rows = [(stem, f"g{at}") for at, stem in enumerate(stems)]
    names = [*(f"{stem}.jpg" for stem in stems), "img.jpg"]
    assert groups(tmp_path, rows, names) == [*(group for _, group in rows), None]


@pytest.mark.parametrize(
    ("rows", "names", "found"),
    [
        # A slide that the table does not name takes nothing of one that the data has not.
        (
            [("x/A/1.tif", "A"), ("x/D/1.tif", "D"), ("x/E/2.tif", "E")],
            ["A/1.png", "C/1.png", "C/2.png"],
            ["A", None, None],
        ),
        (
            [("b1/A/1", "1A"), ("b1/B/1", "1B")],
            ["b1/B/1.png", "b2/A/1.png", "b2/B/1.png"],
            ["1B", None, None],
        ),
        # A path that is equal goes before all.
        ([("A/1.png", "A"), ("test/A/1.png", "T")], ["A/1.png"], ["A"]),
        ([("1.png", "r")], ["1.png", "A/1.png"], ["r", None]),
        # Last folders that tell nothing apart, of one side or of both.
        (
            [("C:\\slides\\A\\1.tif", "A"), ("C:\\slides\\B\\1.tif", "B")],
            ["images/A/crop/1.png", "images/C/crop/1.png"],
            ["A", None],
        ),
        (
            [("A/raw/1.png", "A"), ("B/raw/2.png", "B")],
            ["A/1.png", "A/2.png", "B/3.png"],
            ["A", None, None],
        ),
        (
            [("x/B/img/1", "B"), ("x/D/img/1", "D")],
            ["C/img/1.png", "D/img/1.png"],
            [None, "D"],
        ),
        # Case and accents of another system, a way up, two suffixes, and a group left empty.
        (
            [("slides/a/IMG_1.TIF", "A"), ("slides/b/o\u0308.tif", "B")],
            ["A/img_1.png", "B/ö.png"],
            ["A", "B"],
        ),
        ([("a/1.png", "small"), ("A/1.png", "big")], ["a/1.png", "A/1.png"], ["small", "big"]),
        ([("A/B/../1.png", "A")], ["B/1.png", "A/1.png"], [None, "A"]),
        ([("A/s.ome.tif", "S")], ["A/s.png"], ["S"]),
        ([("A/1.png", ""), ("A/1.png", "A"), ("A/2.png", "")], ["A/1.png", "A/2.png"], ["A", ""]),
        # Pages of stacks with another suffix.
        (
            [("A/s.tiff#page=1", "one"), ("A/s.tiff#page=2", "two")],
            ["A/s.TIF#page=1", "A/s.TIF#page=2"],
            ["one", "two"],
        ),
    ],
)
def test_which_row_means_which_image(tmp_path, rows, names, found):
    assert groups(tmp_path, rows, names) == found


@pytest.mark.parametrize(
    "rows", [[("other/1.png", "A")], [("other/1.png", "A"), ("other/9.png", "B")]]
)
def test_names_in_other_folders_are_believed_where_they_are_those_of_all_images(tmp_path, rows):
    assert groups(tmp_path, rows, ["day/1.png"]) == ["A"]
    with pytest.raises(DataError, match=r"line 2 \('other/1.png'\) is called as day/1.png is, but"):
        groups(tmp_path, rows, ["day/1.png", "day/2.png"])
    with pytest.raises(DataError, match=r"A row names one as the data does, such as data/day/1"):
        groups(tmp_path, [("data/night/1.png", "A")], ["data/day/1.png"])
