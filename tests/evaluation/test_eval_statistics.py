"""Intervals against SciPy, and the figures of a summary by hand."""

import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from millstream.evaluation.statistics import interval_of, percentile, student_t, wilson

numbers = st.floats(0, 1e6, allow_nan=False)


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts):
    successes, n = counts
    oracle = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    ours = wilson(successes, n)
    assert (ours.low, ours.high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@settings(deadline=None)
@given(st.lists(numbers, min_size=2, max_size=30))
def test_student_t_is_scipys_with_its_lower_end_at_0(values):
    ours = student_t(values)
    error = stats.sem(values)
    if error == 0:
        assert (ours.low, ours.high) == pytest.approx((fmean(values), fmean(values)))
        return
    low, high = stats.t.interval(0.95, len(values) - 1, loc=fmean(values), scale=error)
    assert (ours.low, ours.high) == pytest.approx((max(0.0, low), high), rel=1e-9, abs=1e-9)


def test_negative_scores_are_not_clipped():
    assert student_t([-1.0, -0.5, 0.2]).low < -1


def test_which_interval():
    assert interval_of([], shares=True) is None
    assert interval_of([[1.0]], shares=True) is None
    assert interval_of([[1.0], [0.0]], shares=True).method == "wilson"
    assert interval_of([[1.0], [1.0]], shares=False).method == "student_t"
    assert interval_of([[1.0], [0.5]], shares=True).method == "student_t"
    of_means = interval_of([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], shares=True)
    assert of_means.method == "student_t_of_item_means"
    assert (of_means.low, of_means.high) == pytest.approx(
        (student_t([0.5, 1, 0]).low, student_t([0.5, 1, 0]).high)
    )


@given(st.lists(numbers, min_size=1, max_size=30), st.floats(0, 100))
def test_percentile_is_numpys(values, percent):
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)))
    assert percentile([], percent) is None
    assert math.isfinite(percentile(values, percent))
