"""What the benchmarks of judging measure is what they say."""

import numpy as np
import pytest

from detkd.engine.judging_benchmarks import (
    coverage,
    random_matches,
    random_results,
    resampled,
)
from detkd.evaluation.bootstrap import draw_weights, drawn_precisions, groups_of, over_classes
from detkd.evaluation.case import build_case
from detkd.evaluation.coco_map import OVERLAPS, accumulate
from detkd.evaluation.matching import match


def test_made_results_have_the_size_that_they_should():
    truth, results = random_results(30, 200, 5, 20)
    assert len(truth["images"]) == 30
    assert len(truth["annotations"]) == 200
    per_image = np.bincount([result["image_id"] for result in results])[1:]
    assert per_image.tolist() == [20] * 30


def test_a_resampled_case_is_what_a_draw_counts():
    case = build_case(*random_results(30, 100, 3, 10))
    weights = draw_weights(groups_of(case), 3, 0)
    found = over_classes(drawn_precisions(match(case, OVERLAPS), weights)["AP"])
    for ap, times in zip(found, weights, strict=True):
        anew = accumulate(resampled(case, times), engine="pycocotools").precision[..., 0, -1]
        assert ap == pytest.approx(anew[anew > -1].mean(), abs=1e-12)


def test_intervals_of_grouped_data_need_the_groups():
    said = coverage(40, samples=30, draws=100)
    assert said["coverage_drawing_samples"]["AP"] >= 0.85
    assert said["coverage_drawing_images"]["AP"] < said["coverage_drawing_samples"]["AP"]


def test_images_of_a_sample_are_side_by_side():
    matches, groups = random_matches(np.random.default_rng(0), 5, images=2)
    assert groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert all(len(each.positives) == 10 for each in matches)
