"""Many records: they come one by one, lie on disk, and are written one by one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detkd.data import json_stream
from detkd.data.keys import Keys
from detkd.data.records import BoxRecord, ImageRecord, Problem
from detkd.data.spool import Spool
from detkd.errors import DataError


def record(name, boxes=2):
    each = tuple(
        BoxRecord(f"c{at}", at, at, at + 5, at + 5, attributes={"n": at}) for at in range(boxes)
    )
    told = (Problem("tiny box", name, "box 1", "is tiny", "kept", box=(1.0, 2.0, 3.0, 4.0)),)
    return ImageRecord(
        name, 10, 10, boxes=each, said_size=(10, 12), extra={"x": [1]}, problems=told
    )


@pytest.mark.parametrize("in_memory", [0, 1, 3, 100])
def test_a_spool_gives_back_what_it_was_given_in_the_order_of_names(in_memory):
    spool = Spool(in_memory)
    names = ["d", "b", "e", "a", "c"]
    for name in names:
        spool.add(record(name))
    spool.sort()
    assert [each.file for each in spool] == sorted(names)
    assert list(spool) == list(spool) == [record(name) for name in sorted(names)]
    assert (len(spool), spool[0], spool[-1]) == (5, record("a"), record("e"))
    assert spool[1:3] == [record("b"), record("c")]


def test_an_empty_spool_is_empty():
    spool = Spool(0)
    spool.sort()
    assert (len(spool), list(spool), bool(spool)) == (0, [], False)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3)), st.integers(1, 40))
def test_entries_come_as_json_has_them_however_they_are_cut(tmp_path_factory, entries, chunk):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")
    before, json_stream.CHUNK = json_stream.CHUNK, chunk
    try:
        assert list(json_stream.entries(path)) == entries
    finally:
        json_stream.CHUNK = before


@pytest.mark.parametrize("text", ["", "{}", "[1, ", '[{"a": 1}, {"b"', "[[[[", "[1 2", "nul"])
def test_what_is_no_array_says_so_after_what_was_whole(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    found = json_stream.entries(tmp_path / "a.json")
    with pytest.raises(ValueError):
        while True:
            next(found)


@given(st.lists(st.sampled_from(["a", "b", ("c", 1), 2])))
def test_equal_values_share_a_key(values):
    keys = Keys()
    for value in values:
        keys.add(value)
    places = {value: [at for at, other in enumerate(values) if other == value] for value in values}
    assert keys.shared() == sorted(each for each in places.values() if len(each) > 1)


def test_what_is_nested_too_deep_is_refused_in_a_sentence():
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(DataError, match="nested too deep"):
        Spool(0).add(ImageRecord("a.jpg", 1, 1, extra={"x": deep}))
