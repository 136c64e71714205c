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
    of_items = interval_of([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], shares=True)
    assert of_items.method == "wilson_of_items"
    of_means = interval_of([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], shares=False)
    assert of_means.method == "student_t_of_item_means"
    assert (of_means.low, of_means.high) == pytest.approx(
        (student_t([0.5, 1, 0]).low, student_t([0.5, 1, 0]).high)
    )


@given(st.lists(numbers, min_size=1, max_size=30), st.floats(0, 100))
def test_percentile_is_numpys(values, percent):
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)))
    assert percentile([], percent) is None
    assert math.isfinite(percentile(values, percent))


def test_items_all_0_or_all_1_with_repetitions_are_as_uncertain_as_the_items():
    for value in (0.0, 1.0):
        ours = interval_of([[value] * 3, [value] * 3], shares=True)
        assert ours.method == "wilson_of_items"
        assert (ours.low, ours.high) == (wilson(2 * value, 2).low, wilson(2 * value, 2).high)
        assert ours.high - ours.low > 0.5


def test_repetitions_that_always_agree_say_nothing_new():
    items = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    repeated = interval_of([[value] * 4 for value in items], shares=True)
    assert (repeated.low, repeated.high) == pytest.approx((wilson(5, 7).low, wilson(5, 7).high))


@settings(deadline=None)
@given(
    st.integers(2, 8).flatmap(
        lambda k: st.lists(
            st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=2, max_size=4), min_size=k, max_size=k
        )
    )
)
def test_the_interval_of_repetitions_is_scipys_at_the_effective_size(groups):
    """Korn and Graubard's size by plain loops, then SciPy's root of the score equation."""
    scores = [score for group in groups for score in group]
    k, n, share = len(groups), len(scores), sum(scores) / len(scores)
    between = sum((sum(group) - share * len(group)) ** 2 for group in groups) * k / (k - 1) / n**2
    size = float(k) if share in (0, 1) else float(n)
    if between > 0:
        factor = (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, k - 1)) ** 2
        size = min(n, max(k, share * (1 - share) / between * factor))
    z = stats.norm.ppf(0.975)
    a, b, c = 1 + z * z / size, -(2 * share + z * z / size), share * share
    low, high = sorted(np.roots([a, b, c]).real)
    ours = interval_of(groups, shares=True)
    assert (ours.low, ours.high) == pytest.approx((max(0, low), min(1, high)), abs=1e-6)
    assert 0 <= ours.low <= share <= ours.high <= 1
    assert ours.high - ours.low > 0.01


@pytest.mark.parametrize("items", [4, 10, 40])
@pytest.mark.parametrize("reps", [2, 5])
@pytest.mark.parametrize("spread", [0.3, 2.0, 50.0])
def test_the_interval_of_repetitions_covers_the_truth(items, reps, spread):
    """Items with Beta-distributed chances around 0.8; 400 runs, so 3 % below the level is chance."""
    random = np.random.default_rng(20240601)
    truth, runs, hits = 0.8, 400, 0
    for _ in range(runs):
        chances = random.beta(truth * spread, (1 - truth) * spread, size=items)
        groups = (random.random((items, reps)) < chances[:, None]).astype(float).tolist()
        interval = interval_of(groups, shares=True)
        hits += interval.low <= truth <= interval.high
    assert hits / runs >= 0.92


def test_shares_without_repetitions_stay_within_0_and_1():
    assert interval_of([[1.0], [0.5], [1.0]], shares=True).high == 1
    assert interval_of([[1.0], [1.5]], shares=True).high > 1.5
    assert interval_of([[1.0, 2.0], [3.0, 3.0]], shares=True).method == "student_t_of_item_means"
