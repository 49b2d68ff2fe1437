"""One judge by two engines, matches and draws: all of them are pycocotools' numbers."""

import numpy as np
import pytest
from reference import class_means, drawn, fuzzed, made, pycocotools_says

from detkd.evaluation.bootstrap import draw_weights, drawn_precisions, groups_of
from detkd.evaluation.case import build_case
from detkd.evaluation.coco_map import ENGINES, OVERLAPS, accumulate
from detkd.evaluation.matching import match

CASES = [pair for seed in range(40) if (pair := fuzzed(seed))[1]]


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_says_what_pycocotools_says(engine):
    for truth, results in CASES:
        said = pycocotools_says(truth, results).eval
        ours = accumulate(build_case(truth, results), engine=engine)
        np.testing.assert_allclose(ours.precision, said["precision"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(ours.recall, said["recall"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_detections_precision_and_recall_are_zero_where_a_truth_is(engine):
    truth, _ = made(0, crowds=True)
    nowhere = {"image_id": 1, "category_id": 7, "bbox": [190, 190, 1, 1], "score": 0.1}
    said = pycocotools_says(truth, [nowhere]).eval
    ours = accumulate(build_case(truth, []), engine=engine)
    assert np.array_equal(ours.precision, said["precision"])
    assert np.array_equal(ours.recall, said["recall"])


@pytest.mark.parametrize("area", [(0, 32**2), (32**2, 96**2), (0, 1e10)])
def test_matches_are_those_of_pycocotools(area):
    at = [(0, 1e10), (0, 32**2), (32**2, 96**2)].index(area)
    for truth, results in CASES[:20]:
        said = pycocotools_says(truth, results)
        case = build_case(truth, results)
        for category, ours in enumerate(match(case, OVERLAPS, area=area)):
            every = len(case.images)
            start = (category * 4 + at) * every
            theirs = [e for e in said.evalImgs[start : start + every] if e]
            hits = sum(((e["dtMatches"] > 0) & ~e["dtIgnore"]).sum(axis=1) for e in theirs)
            aside = sum(e["dtIgnore"].sum(axis=1) for e in theirs)
            assert np.array_equal(ours.hit.sum(axis=1), hits + np.zeros(10))
            assert np.array_equal(ours.ignored.sum(axis=1), aside + np.zeros(10))
            assert ours.positives.sum() == sum((e["gtIgnore"] == 0).sum() for e in theirs)


@pytest.mark.parametrize("seed", range(20))
def test_a_drawn_data_set_is_judged_as_pycocotools_judges_it(seed):
    truth, results = fuzzed(seed) if seed < 15 else made(seed, crowds=bool(seed % 2))
    case = build_case(truth, results)
    weights = draw_weights(groups_of(case), 3, seed)
    ours = drawn_precisions(match(case, OVERLAPS), weights)
    for at, times in enumerate(weights):
        copies, copied = drawn(truth, results, times)
        if not copied:
            continue
        fresh = pycocotools_says(copies, copied).eval["precision"][:, :, :, 0, -1]
        np.testing.assert_allclose(ours["AP"][at], class_means(fresh), rtol=0, atol=1e-12)
        np.testing.assert_allclose(ours["AP50"][at], class_means(fresh[0]), rtol=0, atol=1e-12)


def test_samples_are_drawn_whole_and_as_many_as_there_are():
    truth, results = made(0)
    case = build_case(truth, results)
    groups = groups_of(case)
    weights = draw_weights(groups, 50, 1)
    for group in range(4):
        of_group = weights[:, groups == group]
        assert (of_group == of_group[:, :1]).all()
    assert (weights[:, :4].sum(axis=1) == 4).all()  # images 1 to 4 are of samples 1, 2, 3, 0
    assert np.array_equal(weights, draw_weights(groups, 50, 1))
