import copy
import json
import random

import numpy as np
import pytest
from reference import made, pycocotools_says

from detkd.cli.app import launch
from detkd.errors import DataError
from detkd.evaluation.bootstrap import bootstrap_map
from detkd.evaluation.case import build_case
from detkd.evaluation.coco_map import NAMES, coco_map
from detkd.evaluation.counts import count_errors
from detkd.evaluation.judge import judge
from detkd.evaluation.results import check_truth
from detkd.evaluation.voc_map import all_points, eleven_points, voc_map


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("crowds", [False, True])
def test_the_twelve_numbers_are_pycocotools_to_the_last_bit(seed, crowds):
    truth, results = made(seed, crowds=crowds, most=40 if seed == 5 else 6)
    stats = pycocotools_says(truth, results).stats
    ours = coco_map(truth, results)["coco"]
    assert [ours[name] for name in NAMES] == [None if v < 0 else float(v) for v in stats]


def test_inputs_are_left_as_they_were():
    truth, results = made(0)
    before = copy.deepcopy((truth, results))
    judge(truth, results, bootstrap=3)
    assert (truth, results) == before


def test_perfect_detections_score_one_and_none_score_zero():
    truth, _ = made(1)
    perfect = [{**box, "score": 0.9} for box in truth["annotations"]]
    assert coco_map(truth, perfect)["coco"]["AP"] == pytest.approx(1)
    assert voc_map(truth, perfect) == {"ap50_11point": 1, "ap50_allpoint": 1}
    assert coco_map(truth, [])["coco"]["AP"] == 0
    assert voc_map(truth, [])["ap50_allpoint"] == 0


def test_an_annotation_with_id_zero_counts():
    truth, _ = made(1)
    for box in truth["annotations"]:
        box["id"] -= 1
    truth = check_truth(truth, "t.json")
    perfect = [{**box, "score": 0.9} for box in truth["annotations"]]
    assert coco_map(truth, perfect)["coco"]["AP"] == pytest.approx(1)


def test_a_class_without_truth_has_no_ap():
    truth, results = made(2)
    row = coco_map(truth, results)["per_class"]["c7"]
    assert row["AP"] is None
    assert row["truths"] == 0
    assert row["detections"] > 0


def test_voc_average_precision_by_hand():
    # Five truths; detections by score: hit, miss, hit, hit, miss.
    recall = np.array([0.2, 0.2, 0.4, 0.6, 0.6])
    precision = np.array([1, 1 / 2, 2 / 3, 3 / 4, 3 / 5])
    # All points: 0.2 at 1, then 0.4 more at the best later precision, 3/4.
    assert all_points(recall, precision) == pytest.approx(0.2 * 1 + 0.4 * 0.75)
    # 11 points: r = 0, .1, .2 give 1; .3 to .6 give 3/4; the rest 0.
    assert eleven_points(recall, precision) == pytest.approx((3 * 1 + 4 * 0.75) / 11)


def voc_case(truths, found):
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": box, "attributes": {"difficult": hard}}
            for box, hard in truths
        ],
    }
    results = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": score} for box, score in found
    ]
    return voc_map(truth, results)["ap50_allpoint"]


def test_voc_difficult_truths_neither_help_nor_hurt():
    easy, hard = [0, 0, 10, 10], [50, 50, 10, 10]
    assert voc_case([(easy, 0), (hard, 1)], [(hard, 0.9), (easy, 0.8)]) == 1
    assert voc_case([(easy, 0), (hard, 1)], [(easy, 0.8)]) == 1
    assert voc_case([(hard, 1)], [(hard, 0.9)]) is None


def test_voc_a_second_detection_of_a_taken_truth_is_false():
    a, b = [0, 0, 10, 10], [0, 0, 10, 9]
    both = [0, 20, 10, 10]
    # The second detection overlaps the taken truth most: it is false, though scored above a hit.
    assert voc_case([(a, 0), (both, 0)], [(a, 0.9), (b, 0.8), (both, 0.7)]) == pytest.approx(
        0.5 * 1 + 0.5 * 2 / 3
    )


def test_voc_overlap_of_exactly_one_half_is_a_hit():
    assert voc_case([([0, 0, 10, 10], 0)], [([0, 0, 10, 5], 0.9)]) == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_detections_does_not_matter_where_scores_differ(seed):
    truth, results = made(seed)
    for at, result in enumerate(results):
        result["score"] = (at + 1) / 1000
    shuffled = random.Random(seed).sample(results, len(results))
    assert judge(truth, results) == judge(truth, shuffled)


def test_intervals_are_seeded_hold_the_value_and_draw_samples():
    truth, results = made(3, images=24)
    first, again = (bootstrap_map(truth, results, draws=50) for _ in range(2))
    assert first == again
    low, high = first["AP"]
    assert low <= coco_map(truth, results)["coco"]["AP"] <= high
    assert first["unit"] == "sample"


def test_counts_by_hand():
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}] * 3,
    }
    results = [
        {"image_id": i, "category_id": 1, "bbox": [0, 0, 1, 1], "score": s}
        for i, s in ((1, 0.9), (1, 0.4), (2, 0.5))
    ]
    row = count_errors(build_case(truth, results))["per_class"]["a"]
    # Image 1: 1 of 3; image 2: 1 of 0.
    assert (row["annotated"], row["counted"]) == (3, 2)
    assert (row["bias"], row["mean_absolute_error"]) == (-0.5, 1.5)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"image_id": 99}, "entry 1 is of image 99"),
        ({"score": float("nan")}, "entry 1 has the score nan"),
        ({"score": None}, "entry 1 has the score None"),
        ({"bbox": [0, 0, float("inf"), 1]}, "entry 1 has the box"),
        ({"bbox": [0, 0, 1]}, "entry 1 has the box"),
    ],
)
def test_results_that_cannot_be_judged_are_refused_by_entry(tmp_path, capsys, entry, said):
    truth, results = made(0)
    results[1].update(entry)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(results))
    command = ["--gt", str(tmp_path / "gt.json"), "--dt", str(tmp_path / "dt.json")]
    assert launch("eval", command) == 2
    assert said in capsys.readouterr().err


def test_a_missing_score_is_refused_and_an_unknown_category_passed_over():
    truth, results = made(0)
    truth = check_truth(truth, "truth")
    case = build_case(truth, [*results, {**results[0], "category_id": 99}])
    assert (len(case.detections.score), case.unknown) == (len(results), 1)
    del results[0]["score"]
    with pytest.raises(DataError, match="entry 0 has no 'score'"):
        build_case(truth, results)


def test_eval_writes_metrics_predictions_and_plots(scenes, tmp_path, capsys):
    truth = json.loads((scenes / "all.json").read_text())
    results = [
        {
            "image_id": b["image_id"],
            "category_id": b["category_id"],
            "bbox": b["bbox"],
            "score": 0.9,
        }
        for b in truth["annotations"]
    ]
    (tmp_path / "dt.json").write_text(json.dumps(results))
    command = ["--gt", str(scenes / "all.json"), "--dt", str(tmp_path / "dt.json")]
    assert launch("eval", [*command, "--out", str(tmp_path / "out"), "--bootstrap", "5"]) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["coco"]["AP"] == pytest.approx(1)
    assert set(metrics["coco"]) == set(NAMES)
    assert {p.name for p in (tmp_path / "out/plots").iterdir()} == {
        "pr_curves.png",
        "f1_curves.png",
        "per_class.png",
        "errors.png",
        "confusion.png",
        "reliability.png",
        "bland_altman.png",
        "worst_images.png",
    }


def test_files_that_are_no_coco_are_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text("[1, 2]")
    (tmp_path / "y.json").write_text("{")
    for name, said in (("x", "no list 'images'"), ("y", "is not JSON"), ("z", "no such file")):
        path = str(tmp_path / f"{name}.json")
        assert launch("eval", ["--gt", path, "--dt", path]) == 2
        assert said in capsys.readouterr().err
