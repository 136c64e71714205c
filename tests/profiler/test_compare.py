"""Paired differences and ratios: against SciPy, by simulation, and at the edges."""

import json
import math
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings
from scipy import optimize, stats

from millstream.profiler import paired
from millstream.profiler.compare import Run, RunItem, compare
from millstream.profiler.renderers.files import json_bytes
from millstream.profiler.renderers.verdict import verdict

Z = stats.norm.ppf(0.975)


def columns(seed, n, ratio=2.0, spread=0.4):
    """Durations that hang together, as those of two models over the same items do."""
    rng = np.random.default_rng(seed)
    item = rng.normal(0, spread, n)
    return np.exp(item + rng.normal(0, 0.3, n)), ratio * np.exp(item + rng.normal(0, 0.3, n))


def run(rows, evaluators=("accuracy",), shares=("accuracy",)):
    """A run of (id, input, values) or (id, input, values, failed)."""
    items = [RunItem(one, asked, bool(rest and rest[0]), values) for one, asked, values, *rest in rows]
    return Run(items, list(evaluators), list(shares))


def of_latency(a, b):
    return [
        run([(str(number), "x", {"latency_s": float(value)}) for number, value in enumerate(of_run)], (), ())
        for of_run in (a, b)
    ]


def of_accuracy(a, b, **extra):
    return [
        run([(str(number), "x", {"accuracy": value, **extra}) for number, value in enumerate(of_run)])
        for of_run in (a, b)
    ]


@pytest.mark.parametrize("n", [2, 5, 40])
def test_the_difference_is_that_of_the_paired_t_test(n):
    a, b = columns(n, n)
    found = paired.difference(a, b)
    expected = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.difference == pytest.approx(b.mean() - a.mean())
    assert found.method == "student_t"


@pytest.mark.parametrize("n", [5, 12, 40])
def test_at_the_ends_of_the_ratio_the_t_test_is_on_the_edge(n):
    a, b = columns(n, n)
    found = paired.difference(a, b)
    for end in (found.ratio_low, found.ratio_high):
        assert stats.ttest_1samp(b - end * a, 0).pvalue == pytest.approx(0.05, rel=1e-6)
    assert found.ratio_low < found.ratio < found.ratio_high


def likeliest(kept, gained, lost, n, *, difference=None, ratio=None):
    """Shares (kept, gained, lost) under a true difference or ratio, by numerical search."""
    neither = n - kept - gained - lost

    def unlikely(shares):
        cells = np.array([*shares, 1 - shares.sum()])
        seen = np.array([kept, gained, lost, neither])
        return -float((seen * np.log(np.maximum(cells, 1e-300))).sum())

    def off(shares):
        if ratio is not None:
            return shares[0] + shares[1] - ratio * (shares[0] + shares[2])
        return shares[1] - shares[2] - difference

    best = min(
        (
            optimize.minimize(
                unlikely,
                np.array(start),
                method="SLSQP",
                bounds=[(1e-9, 1 - 1e-9)] * 3,
                constraints=[
                    {"type": "eq", "fun": off},
                    {"type": "ineq", "fun": lambda shares: 1 - 1e-9 - shares.sum()},
                ],
                options={"ftol": 1e-13, "maxiter": 500},
            )
            for start in ([0.3, 0.2, 0.2], [0.1, 0.4, 0.1], [0.1, 0.1, 0.4])
        ),
        key=lambda one: one.fun if one.success else math.inf,
    )
    assert best.success
    return best.x


@pytest.mark.parametrize(("kept", "gained", "lost", "n"), [(20, 5, 2, 40), (6, 3, 9, 30), (50, 10, 12, 80)])
def test_the_score_intervals_end_where_the_constrained_likelihood_says(kept, gained, lost, n):
    for end, side in zip(paired.tango(gained, lost, n), (Z, -Z), strict=True):
        _, up, down = likeliest(kept, gained, lost, n, difference=end)
        variance = n * (up + down - end**2)
        assert (gained - lost - n * end) / math.sqrt(variance) == pytest.approx(side, abs=2e-3)
    for end, side in zip(paired.score_ratio(kept, gained, lost, n), (Z, -Z), strict=True):
        same, up, down = likeliest(kept, gained, lost, n, ratio=end)
        variance = n * (same + up + end**2 * (same + down) - 2 * end * same)
        distance = kept + gained - end * (kept + lost)
        assert distance / math.sqrt(variance) == pytest.approx(side, abs=2e-3)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), max_size=40),
        st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=12),
        st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=12),
    ),
    st.booleans(),
)
@example(pairs=[(2.225e-309, 1.0)], shares=False)
def test_whatever_the_values_the_figures_are_finite_and_agree(pairs, shares):
    table = np.array(pairs, np.float64).reshape(-1, 2)
    shares = shares and bool(np.all(table <= 1))
    found = paired.difference(table[:, 0], table[:, 1], shares=shares)
    fields = {name: getattr(found, name) for name in found.__struct_fields__}
    assert all(
        value is None or isinstance(value, int | str) or math.isfinite(value) for value in fields.values()
    )
    assert (found.ratio is None) == (not len(table) or found.a == 0 or found.a * sys.float_info.max < found.b)
    if found.low is not None:
        assert found.low <= found.difference + 1e-9 * max(1, abs(found.difference))
        assert found.high >= found.difference - 1e-9 * max(1, abs(found.difference))
        if shares:
            assert -1 <= found.low <= found.high <= 1
    if found.ratio_low is not None and abs(found.low) > 1e-6 and abs(found.high) > 1e-6:
        assert (found.low <= 0 <= found.high) == (found.ratio_low <= 1 <= found.ratio_high)


def covered(seed, n, times, draw, truth, **options):
    """The shares of intervals that hold the true difference and the true ratio."""
    rng = np.random.default_rng(seed)
    found = [paired.difference(*draw(rng, n), **options) for _ in range(times)]
    difference, ratio = truth
    return (
        np.mean([one.low <= difference <= one.high for one in found]),
        np.mean([one.ratio_low is None or one.ratio_low <= ratio <= one.ratio_high for one in found]),
    )


def durations(rng, n):
    item = rng.normal(0, 0.4, n)
    return np.exp(item + rng.normal(0, 0.3, n)), 0.5 * np.exp(item + rng.normal(0, 0.3, n))


def verdicts(rng, n):
    cell = rng.choice(4, n, p=[0.6, 0.1, 0.2, 0.1])  # both, B only, A only, neither
    return np.isin(cell, (0, 2)).astype(float), np.isin(cell, (0, 1)).astype(float)


def means_of_three(rng, n):
    """Shares of right answers of three repetitions; items differ in how hard they are."""
    ease = rng.beta(2, 1, n)
    return rng.binomial(3, ease, n) / 3, rng.binomial(3, ease * 0.8, n) / 3


@pytest.mark.parametrize(
    ("draw", "n", "truth", "options"),
    [
        (durations, 40, (-0.5 * math.exp(0.125), 0.5), {}),
        (verdicts, 60, (-0.1, 0.7 / 0.8), {"shares": True}),
        (means_of_three, 40, (-0.2 * 2 / 3, 0.8), {"shares": True}),
    ],
    ids=["durations", "verdicts", "repetitions"],
)
def test_intervals_of_95_percent_hold_the_truth_in_93_to_97_of_100(draw, n, truth, options):
    for share in covered(7, n, 2500, draw, truth, **options):
        assert 0.93 <= share <= 0.97


def test_without_any_difference_the_interval_has_a_width_all_the_same():
    right = np.ones(20)
    found = paired.difference(right, right, shares=True)
    assert (found.difference, found.ratio, found.method) == (0, 1, "score")
    assert found.low == pytest.approx(-(Z**2) / (20 + Z**2))
    assert found.high == -found.low
    assert found.ratio_low == pytest.approx(20 / (20 + Z**2))
    partly = paired.difference(right * 0.5, right * 0.5, shares=True)
    assert partly.low < -0.1


def test_nothing_is_divided_by_zero():
    zero, one = np.zeros(10), np.ones(10)
    from_zero = paired.difference(zero, one, shares=True)
    assert (from_zero.difference, from_zero.high, from_zero.ratio, from_zero.ratio_low) == (1, 1, None, None)
    to_zero = paired.difference(one, zero, shares=True)
    assert (to_zero.low, to_zero.ratio, to_zero.ratio_low) == (-1, 0, 0)
    assert 0 < to_zero.ratio_high < 1
    assert paired.difference(zero, zero).ratio is None
    single = paired.difference(one[:1], one[:1])
    assert (single.n, single.a, single.ratio, single.low, single.ratio_low) == (1, 1, 1, None, None)
    unbounded = paired.difference(np.array([0.0, 10.0]), np.array([1.0, 3.0]))
    assert (unbounded.ratio, unbounded.ratio_low, unbounded.ratio_high) == (0.4, None, None)
    assert paired.difference(np.array([-1.0, 3.0]), np.array([1.0, 3.0])).ratio is None


@pytest.mark.parametrize("value", [5e-324, 1e-300, 1e-13, 1e-9, 1e-6, 0.001])
def test_shares_next_to_nothing_come_to_an_end(value):
    alike = np.full(8, value)
    found = paired.difference(alike, alike, shares=True)
    assert found.ratio == pytest.approx(1)
    assert found.ratio_low is None or found.ratio_low <= 1 <= found.ratio_high
    up = paired.difference(alike, np.ones(8), shares=True)
    assert up.ratio_high is None or up.ratio_low <= up.ratio <= up.ratio_high


def test_pairs_are_found_by_id_and_input_not_by_place():
    a = run([("1", "x", {"latency_s": 1.0}), ("2", "y", {"latency_s": 5.0}), ("3", "z", {"latency_s": 9.0})])
    b = run(
        [("2", "y", {"latency_s": 6.0}), ("3", "other", {"latency_s": 1.0}), ("1", "x", {"latency_s": 2.5})]
    )
    found = compare(a, b)
    latency = found.metrics["latency_s"]
    assert (latency.n, latency.a, latency.b, latency.difference) == (2, 3.0, 4.25, 1.25)
    items = found.items
    assert (items.both, items.only_a, items.only_b, items.other_input) == (2, 1, 1, 1)


def test_where_inputs_are_unknown_the_id_makes_the_pair():
    found = compare(run([("1", "x", {})]), run([("1", None, {})]))
    assert (found.items.both, found.items.by_input) == (1, False)


def test_repetitions_count_as_one_item():
    rows = [(str(number), "x", {"accuracy": float(number % 3 > 0)}, number == 0) for number in range(30)]
    once, thrice = compare(run(rows), run(rows)), compare(run(rows * 3), run(rows * 3))
    assert once.metrics == thrice.metrics
    assert thrice.items.results_a == 90
    assert (thrice.items.failed_a, thrice.items.failed_b) == (3, 3)
    mixed = compare(
        run([("1", "x", {"accuracy": 1.0}), ("1", "x", {"accuracy": 0.0}), ("1", "x", {"accuracy": None})]),
        run([("1", "x", {"accuracy": 1.0})]),
    )
    assert (mixed.metrics["accuracy"].n, mixed.metrics["accuracy"].a) == (1, 0.5)


def test_what_only_one_run_knows_is_null():
    found = compare(
        run([("1", "x", {"accuracy": 1.0, "input_tokens": 3.0, "latency_s": math.nan})]),
        run([("1", "x", {"latency_s": 1.0})], ("quality",), ("quality",)),
    )
    assert list(found.metrics) == [
        "latency_s",
        "input_tokens",
        "output_tokens",
        "cost",
        "accuracy",
        "quality",
    ]
    assert all((one.n, one.a, one.difference) == (0, None, None) for one in found.metrics.values())
    assert json.loads(json_bytes(found))["metrics"]["cost"]["ratio"] is None
    assert verdict(found) == "A and B have no latency, no cost and no score of answers in common."


def test_the_sentence_says_by_how_much():
    rng = np.random.default_rng(1)
    item = np.exp(rng.normal(0, 0.3, 100))
    a, b = 1.8 * item * np.exp(rng.normal(0, 0.2, 100)), item * np.exp(rng.normal(0, 0.2, 100))
    right_a = [1.0] * 90 + [0.0] * 10
    right_b = [1.0] * 84 + [0.0] * 9 + [1.0] * 3 + [0.0] * 4
    runs = [
        run(
            [
                (str(n), "x", {"latency_s": float(t), "accuracy": r})
                for n, (t, r) in enumerate(zip(*both, strict=True))
            ]
        )
        for both in ((a, right_a), (b, right_b))
    ]
    assert verdict(compare(*runs)) == (
        "B is 1.8x faster (1.7–1.9) and 3 points less accurate (−3 to 10); "  # noqa: RUF001
        "no difference in accuracy can be seen from 100 items."
    )
    back = verdict(compare(*reversed(runs)), "A", "B")
    assert back.startswith("A is 1.8x slower (1.7–1.9) and 3 points more accurate (−3 to 10); ")  # noqa: RUF001


def test_the_sentence_says_what_cannot_be_seen():
    a, b = columns(5, 12, ratio=1.0)
    said = verdict(compare(*of_latency(a, b)))
    assert said.endswith("; no difference in latency can be seen from 12 items.")
    assert verdict(compare(*of_latency([1.0], [1.0]))) == (
        "B is as fast; no difference in latency can be seen from 1 item."
    )
    same = [1.0, 0.0] * 10
    assert verdict(compare(*of_accuracy(same, same))) == (
        "B is as accurate (−16 to 16 points); no difference in accuracy can be seen from 20 items."  # noqa: RUF001
    )


def test_what_costs_the_same_for_each_item_is_no_uncertainty():
    same = [run([(str(n), "x", {"cost": 0.25 + n}) for n in range(5)], (), ()) for _ in "ab"]
    assert verdict(compare(*same)) == "B is as cheap."


def test_the_sentence_about_small_and_large_differences():
    item = np.linspace(1, 2, 50)
    nudge = np.tile([1.02, 1.04], 25)
    assert verdict(compare(*of_latency(item * nudge, item))).startswith("B is 1.03x faster (1.03–1.0")  # noqa: RUF001
    assert verdict(compare(*of_latency(item, item * 40 * nudge))) == "B is 41x slower (41–41)."  # noqa: RUF001
    graded = [
        run([(str(n), "x", {"grade": value}) for n in range(9)], ("grade",), ("grade",))
        for value in (3.0, 4.0)
    ]
    assert "grade" not in verdict(compare(*graded))
    assert compare(*graded).metrics["grade"].difference == 1
