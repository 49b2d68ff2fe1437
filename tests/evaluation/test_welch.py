"""The interval of a difference over seeds."""

from __future__ import annotations

import pytest
from scipy.stats import ttest_ind

from detkd.evaluation.welch import welch_interval


def test_the_interval_over_seeds_is_welchs():
    ours, theirs = [0.5, 0.52, 0.51], [0.4, 0.41, 0.45, 0.47]
    expected = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.9)
    assert welch_interval(ours, theirs, 0.9) == pytest.approx(list(expected))
    back = welch_interval(theirs, ours, 0.9)
    assert back == pytest.approx([-expected.high, -expected.low])


def test_by_hand_of_two_pairs():
    # s² = .02 and .02, v = .01 each: two degrees of freedom, whose 97.5 % quantile is 4.3027.
    low, high = welch_interval([0.6, 0.8], [0.1, 0.3])
    assert (low, high) == pytest.approx(
        (0.5 - 4.3027 * 0.02**0.5, 0.5 + 4.3027 * 0.02**0.5), abs=1e-4
    )


def test_one_run_has_no_spread_and_equal_runs_have_none():
    assert welch_interval([0.5], [0.4, 0.3]) is None
    assert welch_interval([0.5, 0.5], [0.25, 0.25]) == [0.25, 0.25]
