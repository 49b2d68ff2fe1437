"""Kinds of error, confusion, curves, calibration and sizes."""

import contextlib
import io
import random
from itertools import pairwise

import hotcoco
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from reference import fuzzed, made

from detkd.evaluation.case import build_case
from detkd.evaluation.confusion import confusion_matrix
from detkd.evaluation.curves import best_f1, calibration, score_curve
from detkd.evaluation.errors import error_kinds
from detkd.evaluation.matching import match
from detkd.evaluation.sizes import size_bins

THEIR_KINDS = {
    "classification": "Cls",
    "localisation": "Loc",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
    "false_positives": "FP",
    "false_negatives": "FN",
}


def case_of(truths, found, classes=("a", "b")):
    """One image; truths and detections as (class, box[, score])."""
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": at, "name": name} for at, name in enumerate(classes, start=1)],
        "annotations": [
            {"image_id": 1, "category_id": classes.index(name) + 1, "bbox": box}
            for name, box in truths
        ],
    }
    results = [
        {"image_id": 1, "category_id": classes.index(name) + 1, "bbox": box, "score": score}
        for name, box, score in found
    ]
    return build_case(truth, results)


HERE, THERE, FAR = [0, 0, 10, 10], [50, 50, 10, 10], [200, 200, 10, 10]
NEAR = [0, 0, 10, 4]  # overlaps HERE by 0.4


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (("a", NEAR, 0.9), "localisation"),
        (("b", HERE, 0.9), "classification"),
        (("b", NEAR, 0.9), "both"),
        (("a", FAR, 0.9), "background"),
        (("a", [0, 0, 10, 0.9], 0.9), "background"),  # overlaps by 0.09
    ],
)
def test_each_kind_by_hand(found, kind):
    said = error_kinds(case_of([("a", HERE), ("b", THERE)], [found, ("b", THERE, 0.8)]))
    expected = dict.fromkeys(said["counts"], 0) | {kind: 1}
    if kind in ("both", "background"):
        expected["missed"] = 1  # of the others, the oracle makes a hit
    assert said["counts"] == expected
    # AP50 of a is 0 and of b 1, or less where the wrong detection is a b above the right one.
    wrong_b = found[0] == "b"
    assert said["AP50"] == pytest.approx((0 + (0.5 if wrong_b else 1)) / 2)
    if kind in ("classification", "localisation"):
        assert said["AP50"] + said["gain"][kind] == pytest.approx(1)


def test_a_duplicate_costs_what_leaving_it_out_would_gain():
    found = [("a", HERE, 0.9), ("a", [0, 0, 10, 9], 0.8), ("a", THERE, 0.7)]
    said = error_kinds(case_of([("a", HERE), ("a", THERE)], found, ("a",)))
    assert said["counts"]["duplicate"] == 1
    # Recall .5 at precision 1 (51 of 101 recalls), then 2/3; without the duplicate, 1.
    assert said["AP50"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert said["gain"]["duplicate"] == pytest.approx(1 - said["AP50"])


def test_missed_truths_are_no_longer_asked_for():
    said = error_kinds(case_of([("a", HERE), ("a", THERE)], [("a", HERE, 0.9)], ("a",)))
    assert said["counts"]["missed"] == 1
    assert said["gain"]["missed"] == pytest.approx(1 - 51 / 101)


@pytest.mark.parametrize("seed", range(30))
def test_counts_and_gains_are_those_of_an_independent_tide(seed):
    truth, results = fuzzed(seed) if seed < 15 else made(seed)
    for box in truth["annotations"]:
        box["iscrowd"] = 0
    draw = random.Random(seed)
    for result in results:
        result["score"] = draw.random()
    ours = error_kinds(build_case(truth, results))
    if ours["AP50"] is None or not results:
        return
    images = [{**i, "file_name": "", "width": 500, "height": 500} for i in truth["images"]]
    theirs = hotcoco.COCO({**truth, "images": images})
    evaluation = hotcoco.COCOeval(theirs, theirs.load_res(results), "bbox")
    evaluation.evaluate()
    said = evaluation.tide_errors()
    assert ours["AP50"] == pytest.approx(said["ap_base"])
    for kind, count in ours["counts"].items():
        assert count == said["counts"][THEIR_KINDS[kind]], kind
    for kind, gain in ours["gain"].items():
        assert gain == pytest.approx(said["delta_ap"][THEIR_KINDS[kind]], abs=1e-12), kind


def test_confusion_by_hand():
    truths = [("a", HERE), ("b", THERE), ("b", [100, 0, 10, 10])]
    found = [
        ("b", HERE, 0.9),  # a taken for b
        ("b", THERE, 0.8),  # right
        ("a", [50, 50, 10, 9], 0.95),  # overlaps the found b less: made of background
        ("a", FAR, 0.2),  # below its class's threshold
    ]
    said = confusion_matrix(case_of(truths, found), [0.5, 0.5])
    assert said["classes"] == ["a", "b", "background"]
    assert said["counts"] == [[0, 1, 0], [0, 1, 1], [1, 0, 0]]


def test_of_equal_overlaps_the_right_class_is_joined():
    found = [("b", HERE, 0.9), ("a", HERE, 0.6)]
    said = confusion_matrix(case_of([("a", HERE)], found), [0.5, 0.5])
    assert said["counts"] == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_what_lies_in_a_crowd_is_not_made_of_background():
    truth, _ = made(0)
    truth["annotations"] = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 100, 100], "iscrowd": 1}
    ]
    inside = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 10, 10], "score": 0.9}
    said = confusion_matrix(build_case(truth, [inside]), [0, 0, 0])
    assert np.sum(said["counts"]) == 0


def test_curves_by_hand():
    # By falling score: hit, two of equal score of which one hits, miss; three truths.
    found = [("a", HERE, 0.9), ("a", FAR, 0.7), ("a", THERE, 0.7), ("a", FAR, 0.1)]
    case = case_of([("a", HERE), ("a", THERE), ("a", [100, 0, 5, 5])], found, ("a",))
    (matched,) = match(case)
    curve = score_curve(matched)
    assert curve.score.tolist() == [0.9, 0.7, 0.1]
    assert curve.counted.tolist() == [1, 3, 4]
    assert curve.precision.tolist() == [1, 2 / 3, 2 / 4]
    assert curve.recall.tolist() == [1 / 3, 2 / 3, 2 / 3]
    assert curve.f1 == pytest.approx([2 / 4, 4 / 6, 4 / 7])
    best = best_f1([matched], ["a"])["a"]
    assert best == pytest.approx({"f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3, "score": 0.7})


def test_calibration_by_hand():
    # Bin .9 to 1: scores .95 (right), .97 (wrong); bin .2 to .3: .25 (wrong).
    found = [("a", HERE, 0.95), ("a", FAR, 0.97), ("a", FAR, 0.25)]
    said = calibration(match(case_of([("a", HERE)], found, ("a",))), ["a"])
    assert said["bins"][9]["score"] == pytest.approx(0.96)
    assert said["bins"][9]["right"] == pytest.approx(0.5)
    assert said["ece"] == pytest.approx(2 / 3 * 0.46 + 1 / 3 * 0.25)
    assert said["mce"] == pytest.approx(0.46)
    assert said["per_class"]["a"] == pytest.approx(said["ece"])


@pytest.mark.parametrize("seed", [3, 7, 10, 18])
def test_size_bins_are_judged_as_pycocotools_judges_its_own(seed):
    truth, results = fuzzed(seed)
    case = build_case(truth, results)
    rows = size_bins(case)
    assert sum(row["truths"] for row in rows) == (~case.truths.crowd).sum()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        edges = [row["from_px"] ** 2 for row in rows] + [1e10]
        # An edge is an area of the truth itself: step below it, so that rounding does not decide.
        evaluation.params.areaRng = [[low - 1e-6, high - 1e-6] for low, high in pairwise(edges)]
        evaluation.params.areaRngLbl = [str(at) for at in range(len(rows))]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, :, -1]
    for at, row in enumerate(rows):
        part = precision[:, :, :, at]
        known = part[part > -1]
        assert row["AP"] == (pytest.approx(known.mean()) if known.size else None)


def test_sizes_that_are_all_alike_are_one_bin():
    rows = size_bins(case_of([("a", HERE), ("a", THERE)], [("a", HERE, 0.5)], ("a",)))
    assert [(row["from_px"], row["to_px"], row["truths"]) for row in rows] == [(0, None, 2)]
    assert size_bins(case_of([], [])) == []
