"""Thresholds, counts and diameters, by hand."""

import json
import math

import numpy as np
import pytest
from reference import made

from detkd.errors import DataError
from detkd.evaluation.case import build_case
from detkd.evaluation.counts import (
    agreement,
    community,
    count_errors,
    richness,
    shannon,
    usual_thresholds,
    write_counts,
)
from detkd.evaluation.diameters import diameters
from detkd.evaluation.thresholds import (
    Rule,
    choose_thresholds,
    chosen_on,
    parse_rule,
    read_thresholds,
    split_of,
    thresholds_document,
)

HERE, THERE, FAR = [0, 0, 10, 10], [50, 50, 10, 10], [200, 200, 10, 10]


def case_of(truths, found, images=2, samples=None, **image):
    """Truths and detections as (image, class, box[, score]); classes a and b."""
    truth = {
        "images": [
            {"id": i, "file_name": f"{i}.png", **({"sample": samples[i - 1]} if samples else {})}
            | image
            for i in range(1, images + 1)
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"image_id": i, "category_id": "ab".index(c) + 1, "bbox": box} for i, c, box in truths
        ],
    }
    results = [
        {"image_id": i, "category_id": "ab".index(c) + 1, "bbox": box, "score": score}
        for i, c, box, score in found
    ]
    return build_case(truth, results)


RANKED = case_of(
    # By falling score: hit, miss, hit, miss, miss; three truths of a.
    [(1, "a", HERE), (1, "a", THERE), (2, "a", HERE)],
    [
        (1, "a", HERE, 0.9),
        (1, "a", FAR, 0.8),
        (1, "a", THERE, 0.7),
        (2, "a", FAR, 0.4),
        (2, "a", THERE, 0.3),
    ],
)


@pytest.mark.parametrize(
    ("rule", "threshold", "met"),
    [
        ("f1", 0.7, True),  # F1 = 1/2, 2/5, 2/3, 4/7, 1/2
        ("counts", 0.7, True),  # three are counted where three are
        ("precision=0.6", 0.7, True),  # 2/3 at recall 2/3; from 0.4 on it is 1/2
        ("precision=0.5", 0.7, True),  # 0.4 has precision 1/2 too, but no higher recall
        ("precision=0.9", 0.9, True),
        ("precision=1", 0.9, True),
    ],
)
def test_a_threshold_by_each_rule(rule, threshold, met):
    row = choose_thresholds(RANKED, parse_rule(rule))["a"]
    assert (row["threshold"], row["met"]) == (threshold, met)


def test_a_floor_that_is_never_reached_gives_the_highest_precision_and_says_so():
    case = case_of([(1, "a", HERE)], [(1, "a", FAR, 0.9), (1, "a", HERE, 0.5)])
    row = choose_thresholds(case, Rule("precision", 0.8))["a"]
    assert (row["threshold"], row["met"], row["precision"]) == (0.5, False, 0.5)


def test_a_class_that_says_nothing_gets_the_usual_threshold():
    row = choose_thresholds(RANKED, Rule("f1"))["b"]
    assert (row["threshold"], row["met"]) == (0.5, False)


@pytest.mark.parametrize("text", ["f2", "precision", "precision=0", "precision=1.5", "recall=0.5"])
def test_rules_that_do_not_exist_are_refused(text):
    with pytest.raises(DataError, match="is none of f1, counts and precision"):
        parse_rule(text)


@pytest.mark.parametrize(
    ("file", "change", "split"),
    [
        ("data/val.json", {}, "val"),
        ("data/test.json", {}, "test"),
        ("data/pmid_test_2019.json", {}, "test"),
        ("data/latest.json", {}, None),
        ("test/annotations.json", {}, "test"),
        ("test/val.json", {}, "val"),
        ("data/all.json", {"info": {"detkd": {"split": "test"}}}, "test"),
        ("data/all.json", {"info": {"detkd": {"subset": "val"}}}, "val"),
        ("data/all.json", {"images": [{"id": 1, "file_name": "images/test/1.png"}]}, "test"),
    ],
)
def test_what_split_a_truth_is_of(tmp_path, file, change, split):
    assert split_of(tmp_path / file, {"images": [], **change}) == split


def test_thresholds_go_through_a_file_that_knows_what_they_were_chosen_on(tmp_path):
    path, other = tmp_path / "val.json", tmp_path / "other.json"
    path.write_text("{}")
    other.write_text("[]")
    document = thresholds_document(RANKED, Rule("f1"), path, {"images": []})
    chosen = tmp_path / "thresholds.json"
    chosen.write_text(json.dumps(document))
    assert read_thresholds(chosen, ["b", "a"]).tolist() == [0.5, 0.7]
    assert document["truth"]["split"] == "val"
    assert chosen_on(chosen, path)
    assert not chosen_on(chosen, other)


def test_choosing_on_a_test_split_is_refused(tmp_path):
    (tmp_path / "test.json").write_text("{}")
    with pytest.raises(DataError, match=r"test\.json: is of a test split"):
        thresholds_document(RANKED, Rule("f1"), tmp_path / "test.json", {"images": []})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "is no file of thresholds"),
        ('{"classes": {"a": {"threshold": 0.5}}}', "has no threshold for class 'b'"),
        ('{"classes": {"a": {"threshold": NaN}}}', "has no threshold for class 'a'"),
    ],
)
def test_files_that_hold_no_thresholds_are_refused(tmp_path, text, said):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(DataError, match=said):
        read_thresholds(tmp_path / "t.json", ["a", "b"])


def test_counts_per_image_and_per_sample_by_hand():
    # Image 1 and 2 are of sample S, 3 of T. a: annotated 2, 1, 0; counted 1, 2, 3.
    truths = [(1, "a", HERE), (1, "a", FAR), (2, "a", HERE), (3, "b", HERE)]
    found = [(i, "a", HERE, 0.9) for i in (1, 2, 2, 3, 3, 3)]
    said = count_errors(case_of(truths, found, images=3, samples="SST"))
    a = said["per_class"]["a"]
    assert (a["annotated"], a["counted"]) == (3, 6)
    assert a["relative_error"] == pytest.approx(1)
    assert a["bias"] == pytest.approx((-1 + 1 + 3) / 3)
    assert a["mean_absolute_error"] == pytest.approx(5 / 3)
    assert a["sample_bias"] == pytest.approx((0 + 3) / 2)
    assert a["sample_mean_absolute_error"] == pytest.approx(3 / 2)
    sd = math.sqrt((4 + 0 + 4) / 2)  # of -1, 1, 3
    assert a["agreement"] == pytest.approx([1 - 1.96 * sd, 1 + 1.96 * sd])
    assert said["per_sample"]["S"]["bray_curtis"] == 1
    assert said["per_sample"]["T"]["bray_curtis"] == 0  # one b there, three a counted
    assert said["per_class"]["b"]["relative_error"] == -1
    # Together: a 3, b 1 against a 6: 2 * 3 / (4 + 6).
    assert said["community"]["bray_curtis"] == pytest.approx(0.6)


def test_a_class_counts_from_its_own_threshold_on():
    found = [(1, "a", HERE, 0.3), (1, "b", HERE, 0.3)]
    rows = count_errors(case_of([], found), np.array([0.3, 0.4]))["per_class"]
    assert (rows["a"]["counted"], rows["b"]["counted"]) == (1, 0)


def test_community_by_hand():
    annotated, counted = np.array([6, 2, 0]), np.array([4, 3, 1])
    said = community(annotated, counted)
    assert said["bray_curtis"] == pytest.approx(2 * (4 + 2) / 16)
    assert said["richness"] == {"annotated": 2, "counted": 3}
    by_hand = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert said["shannon"]["annotated"] == pytest.approx(by_hand)
    assert shannon(np.array([5, 0])) == 0
    assert shannon(np.array([0, 0])) is None
    assert richness(np.array([0, 0])) == 0
    assert agreement(np.array([1])) is None


def test_the_table_of_counts_holds_a_row_an_image_and_class(tmp_path):
    case = case_of([(1, "a", HERE)], [(2, "b", HERE, 0.9), (1, "a", HERE, 0.9)], samples="ST")
    write_counts(case, usual_thresholds(case), tmp_path / "counts.csv")
    assert (tmp_path / "counts.csv").read_text().splitlines() == [
        "image,sample,class,annotated,counted",
        "1.png,S,a,1,1",
        "2.png,T,b,0,1",
    ]


def test_diameters_by_hand():
    # A circle of 10 px at 0.5 µm a pixel has 5 µm; a box of 20 x 5 px has the same area.
    case = case_of([(1, "a", HERE), (2, "a", HERE)], [(1, "b", [0, 0, 20, 5], 0.9)])
    said = diameters(case, usual_thresholds(case), 0.5)
    assert said["per_class"]["a"]["annotated"]["mean"] == pytest.approx(5)
    assert said["per_class"]["b"]["counted"]["median"] == pytest.approx(5)
    assert said["all"]["annotated"]["objects"] == 2
    assert sum(said["histogram"]["annotated"]) == 2
    assert diameters(case, usual_thresholds(case)) is None


def test_the_scale_of_the_image_itself_comes_first():
    case = case_of([(1, "a", HERE)], [], um_per_px=2)
    said = diameters(case, usual_thresholds(case), 0.5)
    assert said["all"]["annotated"]["mean"] == pytest.approx(20)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), "0.5", True])
def test_a_scale_that_makes_no_sense_is_refused(scale):
    case = case_of([(1, "a", HERE)], [], um_per_px=scale)
    with pytest.raises(DataError, match="image 1 has um_per_px"):
        diameters(case, usual_thresholds(case))


def test_a_crowd_is_not_counted():
    truth, _ = made(0)
    every = len(truth["annotations"])
    truth["annotations"][0]["iscrowd"] = 1
    said = count_errors(build_case(truth, []))
    assert said["all"]["annotated"] == every - 1
