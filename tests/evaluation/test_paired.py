"""Two result files on the same images."""

import numpy as np
import pytest
from reference import class_means, fuzzed, made, pycocotools_says
from scipy import stats

from detkd.evaluation.bootstrap import (
    _student,
    bootstrap_numbers,
    draw_weights,
    drawn_precisions,
    groups_of,
    interval,
)
from detkd.evaluation.case import build_case
from detkd.evaluation.coco_map import OVERLAPS, coco_map
from detkd.evaluation.matching import match
from detkd.evaluation.paired import (
    enough_draws,
    exchange_weights,
    exchanged_precisions,
    holm,
    paired_means,
    paired_test,
)


def pair(seed=3, images=40):
    """A truth, results, and the same results with every third detection gone."""
    truth, results = made(seed, images=images)
    for at, image in enumerate(truth["images"]):
        image["sample"] = f"S{at // 2}"
    perfect = [{**box, "score": 0.9} for box in truth["annotations"]]
    return truth, results + perfect, results + perfect[::3]


def test_the_same_results_do_not_differ():
    truth, results, _ = pair()
    case = build_case(truth, results)
    said = paired_test(case, case, draws=50)
    assert said["AP"]["difference"] == 0
    assert said["AP"]["interval"] == [0, 0]
    assert said["AP"]["p"] == 1
    assert said["changed"] == []


def test_results_that_miss_objects_are_worse_and_the_sign_says_which():
    truth, better, worse = pair()
    a, b = build_case(truth, better), build_case(truth, worse)
    said, turned = paired_test(a, b, draws=400), paired_test(b, a, draws=400)
    ap = [coco_map(truth, results)["coco"]["AP"] for results in (better, worse)]
    assert said["AP"]["difference"] == pytest.approx(ap[0] - ap[1])
    assert said["AP"]["interval"][0] > 0
    assert said["AP"]["p"] < 0.01
    assert said["changed"] == ["c1", "c3"]
    assert said["per_class"]["c7"]["AP"]["p"] is None  # has no truth
    assert turned["AP"]["difference"] == -said["AP"]["difference"]
    assert turned["AP"]["interval"][1] < 0


def three(seed=3):
    """A truth and three cases of it, of results that lack more and more."""
    truth, better, worse = pair(seed)
    return truth, [build_case(truth, found) for found in (better, worse, worse[::2])]


@pytest.mark.parametrize("times", [(1, 3), (3, 1), (2, 2), (2, 3)])
def test_a_run_that_comes_several_times_counts_as_once(times):
    _, (a, b, _) = three()
    once = paired_test(a, b, draws=100)
    again = paired_means([a] * times[0], [b] * times[1], draws=100)
    for name in ("AP", "AP50"):
        assert again[name]["p"] == once[name]["p"]
        for key in ("value", "other", "difference", "interval"):
            assert again[name][key] == pytest.approx(once[name][key], abs=1e-12)


def test_the_difference_of_means_and_its_draws_by_hand():
    _, (a, b, c) = three()
    said = paired_means([a, c], [b], draws=60)
    ap = [paired_test(case, b, draws=2)["AP"]["value"] for case in (a, b, c)]
    assert said["AP"]["difference"] == pytest.approx((ap[0] + ap[2]) / 2 - ap[1])
    groups = groups_of(a)
    weights = draw_weights(groups, 60, 0)
    found = [drawn_precisions(match(case, OVERLAPS), weights)["AP"] for case in (a, b, c)]
    differences = [
        np.nanmean((first + last) / 2) - np.nanmean(other)
        for first, other, last in zip(*found, strict=True)
    ]
    assert said["AP"]["interval"] == pytest.approx(interval(np.array(differences), 0.95, 20))


def test_runs_change_places_pair_by_pair_in_each_exchange():
    _, (a, b, c) = three()
    said = paired_means([a, b], [c], draws=80)
    swapped = exchange_weights(groups_of(a), 80, 0)
    matches = [match(case, OVERLAPS) for case in (a, b, c)]
    chances = np.zeros(80)
    for run in (0, 1):
        one = exchanged_precisions(matches[run], matches[2], swapped)["AP"]
        two = exchanged_precisions(matches[run], matches[2], 1 - swapped)["AP"]
        chances += (np.nanmean(one, axis=1) - np.nanmean(two, axis=1)) / 2
    as_far = sum(abs(chances) >= abs(said["AP"]["difference"]) - 1e-12)
    assert said["AP"]["p"] == (1 + as_far) / 81


def test_sides_of_runs_that_are_alike_seldom_differ():
    """A p-value of 0.1 or less comes once in ten, whatever the numbers of runs on the sides."""
    low = []
    for seed in range(40):
        truth, _ = made(seed, images=15)
        for image in truth["images"]:
            del image["sample"]
        random = np.random.default_rng(seed)
        cases = []
        for _ in range(4):
            results = [{**box, "score": random.random()} for box in truth["annotations"]]
            for result in results:
                x, y, *sides = result["bbox"]
                result["bbox"] = [x + random.normal(0, 3), y + random.normal(0, 3), *sides]
            cases.append(build_case(truth, results))
        for ours in (2, 3):
            low.append(paired_means(cases[:ours], cases[ours:], draws=39)["AP"]["p"] <= 0.1)
    assert 2 <= sum(low) <= 16  # of 80


def test_p_values_of_several_tests_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("classes", [1, 24, 80, 1000])
def test_there_are_draws_enough_for_a_class_to_change(classes):
    categories = [{"id": at, "name": f"c{at}"} for at in range(classes)]
    case = build_case({"images": [], "categories": categories, "annotations": []}, [])
    assert classes / (1 + enough_draws(case)) < 0.05


@pytest.mark.parametrize("seed", range(8))
def test_exchanged_results_are_judged_as_pycocotools_judges_them(seed):
    truth, ours = fuzzed(seed)
    theirs = fuzzed(seed)[1][::2]
    for at, result in enumerate(theirs):
        result["bbox"][0] += at % 3
    a, b = build_case(truth, ours), build_case(truth, theirs)
    swapped = exchange_weights(groups_of(a), 3, seed)
    found = exchanged_precisions(match(a, OVERLAPS), match(b, OVERLAPS), swapped)
    for at, row in enumerate(swapped):
        taken = {image["id"]: theirs if row[i] else ours for i, image in enumerate(a.images)}
        mixed = [r for key, source in taken.items() for r in source if r["image_id"] == key]
        if mixed:
            fresh = pycocotools_says(truth, mixed).eval["precision"][:, :, :, 0, -1]
            np.testing.assert_allclose(found["AP"][at], class_means(fresh), rtol=0, atol=1e-12)


def test_intervals_by_class_hold_their_values_and_name_what_was_drawn():
    truth, results, _ = pair()
    case = build_case(truth, results)
    said = bootstrap_numbers(case, draws=200)
    assert (said["unit"], said["groups"]) == ("sample", 20)
    table = coco_map(truth, results)["per_class"]
    for name in ("c1", "c3"):
        for measure in ("AP", "AP50"):
            low, high = said["per_class"][name][measure]
            assert low <= table[name][measure] <= high
    assert said["per_class"]["c7"] == {"AP": None, "AP50": None, "groups": 0}


def test_a_class_of_one_sample_has_no_interval():
    truth, results, _ = pair()
    truth["annotations"] = [
        box
        for box in truth["annotations"]
        if box["category_id"] != 3 or box["image_id"] in (5, 6)  # both of sample S2
    ]
    said = bootstrap_numbers(build_case(truth, results), draws=50)
    assert said["per_class"]["c3"] == {"AP": None, "AP50": None, "groups": 1}
    assert said["AP"] is not None


def test_one_sample_alone_says_nothing_about_others():
    truth, results, worse = pair()
    for image in truth["images"]:
        image["sample"] = "S"
    case = build_case(truth, results)
    assert bootstrap_numbers(case, draws=20)["AP"] is None
    said = paired_test(case, build_case(truth, worse), draws=20)
    assert said["AP"]["interval"] is None
    assert said["AP"]["p"] == 1


@pytest.mark.parametrize("freedom", [4, 9, 19, 59, 500])
def test_the_quantile_is_students(freedom):
    assert _student(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)


def test_the_percentiles_are_taken_further_out_by_hand():
    # 20 groups: Φ(−√(20/19) · 2.0930) = Φ(−2.1474) = 0.01588
    values = np.arange(10001) / 10000
    low, high = interval(values, 0.95, 20)
    assert low == pytest.approx(0.01588, abs=1e-4)
    assert high == pytest.approx(1 - 0.01588, abs=1e-4)
