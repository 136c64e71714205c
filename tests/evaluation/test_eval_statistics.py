"""Intervals against SciPy, and the figures of a summary by hand."""

import math
import time
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from millstream.evaluation import statistics
from millstream.evaluation.statistics import note_on, percentile, percentile_interval, student_t, wilson

numbers = st.floats(-1e6, 1e6, allow_nan=False)


def flat(groups):
    """Scores by item, as values with the number of their item."""
    return (
        np.array([value for group in groups for value in group], np.float64),
        np.repeat(np.arange(len(groups)), [len(group) for group in groups]),
    )


def interval_of(groups, *, shares, level=0.95):
    return statistics.interval_of(*flat(groups), shares=shares, level=level)


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts):
    successes, n = counts
    oracle = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    ours = wilson(successes, n)
    assert (ours.low, ours.high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@settings(deadline=None)
@given(st.lists(numbers, min_size=2, max_size=30))
def test_student_t_is_scipys(values):
    ours = student_t(np.array(values))
    error = stats.sem(values)
    if error == 0:
        assert (ours.low, ours.high) == pytest.approx((fmean(values), fmean(values)))
        return
    low, high = stats.t.interval(0.95, len(values) - 1, loc=fmean(values), scale=error)
    assert (ours.low, ours.high) == pytest.approx((low, high), rel=1e-9, abs=1e-6)


def test_which_interval():
    assert interval_of([[1.0]], shares=True) is None
    for groups, shares, method in (
        ([[1.0], [0.0]], True, "wilson"),
        ([[1.0], [1.0]], False, "skew_corrected_t"),
        ([[1.0], [0.5]], True, "wilson_of_scores"),
        ([[1.0], [1.5]], True, "skew_corrected_t"),
        ([[1.0], [-0.5]], True, "student_t"),
        ([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], True, "wilson_of_items"),
        ([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], False, "skew_corrected_t_of_items"),
        ([[1.0, -1.0], [1.0, 1.0]], True, "student_t_of_items"),
    ):
        assert interval_of(groups, shares=shares).method == method


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
    whole = all(score in (0, 1) for score in scores)
    size = float(n) if whole and 0 < share < 1 else float(k)
    z = stats.norm.ppf(0.975)
    if between > 1e-24:
        factor = ((stats.t.ppf(0.975, n - 1) if whole else z) / stats.t.ppf(0.975, k - 1)) ** 2
        size = max(k, share * (1 - share) / between * factor)
        size = min(n, size) if whole else size
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


@pytest.mark.parametrize("items", [20, 50])
@pytest.mark.parametrize("reps", [2, 5])
@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_the_interval_of_a_repeated_rate_covers_88_to_93_of_100(items, reps, spread):
    random = np.random.default_rng(20240601)
    runs, held = 1500, 0
    for _ in range(runs):
        chances = random.beta(0.8 * spread, 0.2 * spread, size=items)
        groups = (random.random((items, reps)) < chances[:, None]).astype(float).tolist()
        interval = interval_of(groups, shares=True, level=0.9)
        held += interval.low <= 0.8 <= interval.high
    assert 0.87 <= held / runs <= 0.94


def test_shares_without_repetitions_stay_within_0_and_1():
    assert interval_of([[1.0], [0.5], [1.0]], shares=True).high <= 1
    assert interval_of([[1.0], [1.5]], shares=True).high > 1.5
    assert interval_of([[0.0], [9.0]], shares=False).low == 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=40))
def test_the_skew_correction_solves_halls_polynomial_with_scipys_skewness(values):
    """The ends are where the transformed mean is the quantile: the only real root of a cubic."""
    points = np.array(values)
    ours = statistics.skew_corrected_t(points, 0.9)
    n, error = len(points), stats.sem(points)
    if error <= 1e-9 * points.mean():
        assert (ours.low, ours.high) == pytest.approx((points.mean(), points.mean()))
        return
    # SciPy's third power of the least numbers is 0: the skewness is that of the points in any unit.
    skewness = max(float(stats.skew(points / points.max(), bias=False)), 0)
    quantile = stats.t.ppf(0.95, 2 / (skewness**2 / (2 * n) + 2 / (n - 1)))
    a = 1.3 * skewness / np.sqrt(n)
    ends = []
    for side in (quantile, -quantile):
        roots = np.roots([a * a / 27, a / 3, 1, a / 6 - side])
        (t,) = roots[np.abs(roots.imag) < 1e-6].real[:1]
        ends.append(points.mean() - t * error)
    assert (ours.low, ours.high) == pytest.approx((max(0, ends[0]), ends[1]), rel=1e-5, abs=1e-5)


@given(st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=4), min_size=2, max_size=8))
def test_points_of_items_have_the_mean_of_all_scores_and_the_variance_of_the_ratio(groups):
    items = statistics.Items.of(*flat(groups))
    points = items.points()
    scores = [score for group in groups for score in group]
    k, n, mean = len(groups), len(scores), sum(scores) / len(scores)
    variance = sum((sum(group) - mean * len(group)) ** 2 for group in groups) * k / (k - 1) / n**2
    assert points.mean() == pytest.approx(mean, abs=1e-9)
    assert points.var(ddof=1) / k == pytest.approx(variance, abs=1e-9)


LOGNORMAL = {
    f"lognormal {spread}": (lambda r, size, s=spread: r.lognormal(0, s, size), math.exp(spread**2 / 2))
    for spread in (0.5, 1.0, 1.5)
}
MEASURES = LOGNORMAL | {
    "normal": (lambda r, size: 10 + r.standard_normal(size), 10.0),
    "exponential": (lambda r, size: r.exponential(size=size), 1.0),
    "gamma 0.5": (lambda r, size: r.gamma(0.5, size=size), 0.5),
    "poisson 2": (lambda r, size: r.poisson(2, size).astype(float), 2.0),
}
RUNS = 3000
LEAST, MOST = 0.88 - 0.008, 0.92 + 0.008
"""What is claimed, and one and a half standard errors of a share of 3,000 runs."""


def covered(draw, truth, shape, *, shares, level=0.9):
    """How often the interval holds the truth."""
    samples = draw(np.random.default_rng(20240601), (RUNS, *shape))
    items = np.repeat(np.arange(shape[0]), shape[1] if len(shape) > 1 else 1)
    found = [statistics.interval_of(one.ravel(), items, shares=shares, level=level) for one in samples]
    return sum(one.low - 1e-12 <= truth <= one.high + 1e-12 for one in found) / RUNS


@pytest.mark.parametrize("items", [10, 20, 100])
@pytest.mark.parametrize("kind", sorted(MEASURES))
def test_the_interval_of_a_skewed_measure_covers_88_to_92_of_100(kind, items):
    least = 20 if kind == "lognormal 1.5" else 10
    if items >= least:
        assert LEAST <= covered(*MEASURES[kind], (items,), shares=False) <= MOST


def test_students_t_does_not_cover_where_the_skew_correction_does():
    draw, truth = MEASURES["lognormal 1.0"]
    found = [student_t(one, 0.9) for one in draw(np.random.default_rng(20240601), (RUNS, 10))]
    assert sum(one.low <= truth <= one.high for one in found) / RUNS < 0.82


SCORES = {
    "uniform": (lambda r, size: r.random(size), 0.5),
    "beta(2, 0.5)": (lambda r, size: r.beta(2, 0.5, size), 0.8),
    "beta(8, 2)": (lambda r, size: r.beta(8, 2, size), 0.8),
    "five steps": (
        lambda r, size: r.choice([0, 0.25, 0.5, 0.75, 1], p=[0.05, 0.05, 0.1, 0.3, 0.5], size=size),
        0.7875,
    ),
    "three fields": (lambda r, size: r.binomial(3, 0.8, size) / 3, 0.8),
}


@pytest.mark.parametrize("items", [10, 20, 100])
@pytest.mark.parametrize("kind", sorted(SCORES))
def test_the_interval_of_scores_from_0_to_1_covers_88_to_92_of_100(kind, items):
    assert LEAST <= covered(*SCORES[kind], (items,), shares=True) <= MOST


@pytest.mark.parametrize("items", [10, 20, 50, 200])
def test_the_interval_of_a_rate_covers_88_to_92_of_100(items):
    """Exact, the mean over shares from 0.1 to 0.9: a count is whole, so at one share it is more or less."""
    counts = np.arange(items + 1)
    found = [wilson(count, items, 0.9) for count in counts]
    exact = [
        stats.binom.pmf(counts, items, share)[[one.low <= share <= one.high for one in found]].sum()
        for share in np.linspace(0.1, 0.9, 201)
    ]
    assert 0.88 <= float(np.mean(exact)) <= 0.92


def of_items(between, within):
    """Items with times of their own, asked several times."""

    def draw(random, size):
        return random.lognormal(0, between, (*size[:2], 1)) * random.lognormal(0, within, size)

    return draw, math.exp((between**2 + within**2) / 2)


@pytest.mark.parametrize("items", [10, 20, 50])
@pytest.mark.parametrize("spread", [(0.7, 0.7), (1.0, 0.3)])
def test_the_interval_of_a_repeated_measure_covers_88_to_92_of_100(items, spread):
    assert LEAST <= covered(*of_items(*spread), (items, 3), shares=False) <= MOST


@pytest.mark.parametrize(("percent", "items", "reps"), [(50, 30, 1), (50, 30, 3), (95, 200, 1), (95, 100, 3)])
def test_the_interval_of_a_percentile_covers_88_to_92_of_100(percent, items, reps):
    draw, _ = of_items(1.0, 0.3)
    truth = math.exp(stats.norm.ppf(percent / 100) * math.hypot(1, 0.3))
    numbers = np.repeat(np.arange(items), reps)
    held, runs = 0, 1500
    for one in draw(np.random.default_rng(1), (runs, items, reps)):
        low, high = percentile_interval(one.ravel(), numbers, percent, 0.9)
        held += low <= truth <= high
    assert 0.87 <= held / runs <= 0.93


def test_an_end_that_too_few_values_cannot_give_is_none():
    values, items = np.arange(10.0), np.arange(10)
    low, high = percentile_interval(values, items, 95)
    assert low is not None
    assert high is None
    assert percentile_interval(values[:1], items[:1], 50) == (None, None)
    assert percentile_interval(values[:0], items[:0], 50) == (None, None)


@pytest.mark.parametrize("level", [0.8, 0.99])
def test_the_level_is_kept(level):
    draw, truth = MEASURES["exponential"]
    assert covered(draw, truth, (30,), shares=False, level=level) == pytest.approx(level, abs=0.015)
    assert interval_of([[1.0], [0.0], [0.5]], shares=True, level=level).level == level


def said(groups, *, shares=True):
    values, items = flat(groups)
    return note_on(items, statistics.interval_of(values, items, shares=shares) if groups else None)


def test_what_is_said_of_few_items_and_of_equal_scores():
    assert said([]) is None
    assert said([[1.0]]) == "1 item: too few for an interval"
    assert said([[1.0, 0.0]] * 5) == "5 items: too few for an interval that holds"
    assert said([[1.0]] * 10) is None
    assert said([[0.5]] * 10) is None
    assert said([[1.0]] * 10, shares=False) == (
        "all 10 scores are the same: how far others may lie from them is not known"
    )


def test_100_000_scores_take_less_than_a_second():
    random = np.random.default_rng(1)
    items = np.repeat(np.arange(50_000), 2)
    for values, shares in ((random.lognormal(size=100_000), False), (random.random(100_000), True)):
        began_s = time.process_time()
        assert statistics.interval_of(values, items, shares=shares) is not None
        assert time.process_time() - began_s < 1
