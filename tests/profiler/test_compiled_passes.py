"""Passes in C over intervals and siblings give what NumPy and Python give, and short cuts, too."""

import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.profiler import retries, sweep
from millstream.profiler.estimate import interpolated
from millstream.store.retried import siblings_of_failed
from millstream.store.table import SpanTable
from tests.profiler.test_retries import siblings

if not (sweep.COMPILED and retries.COMPILED):
    if os.environ.get("CI") == "true" and shutil.which("cc"):
        raise RuntimeError("there is a C compiler, but the modules in C were not built")
    pytest.skip("millstream was built without a C compiler", allow_module_level=True)

from millstream.profiler import _retries, _sweep

NEAR = st.integers(0, 12)
FAR = st.integers(0, 2**62)
INTERVALS = st.one_of(
    st.lists(st.tuples(NEAR, NEAR), max_size=20), st.lists(st.tuples(NEAR | FAR, NEAR | FAR), max_size=20)
)


@settings(max_examples=500)
@given(INTERVALS, st.lists(st.integers(-5, 15) | st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_levels_as_in_numpy(intervals, moments):
    start, end = np.array([sorted(one) for one in intervals], np.int64).reshape(-1, 2).T
    moments = np.array([*moments, *start, *end], np.int64)
    found = sweep.sweep(start, end)
    at = found.at(moments)
    passed = sweep.passed(found.time_ns, moments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "COMPILED", False)
        expected = sweep.sweep(start, end)
        lasts = expected.lasts_ns
        assert at.tolist() == expected.at(moments).tolist()
        assert passed.tolist() == sweep.passed(found.time_ns, moments).tolist()
    assert found.time_ns.tolist() == expected.time_ns.tolist()
    assert found.level.tolist() == expected.level.tolist()
    assert found.lasts_ns.tolist() == lasts.tolist()
    counted = [
        sum(one <= moment < other for one, other in zip(start, end, strict=True)) for moment in moments
    ]
    assert at.tolist() == counted


@settings(max_examples=500)
@given(siblings())
def test_retries_as_in_python(spans):
    table = SpanTable.from_spans(spans)
    found = retries._attempts(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "COMPILED", False)
        expected = retries._attempts(table)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tolist() == theirs.tolist()


def test_many_siblings_of_few_inputs_as_in_python():
    rng = np.random.default_rng(5)
    count = 3000
    start = np.sort(rng.integers(0, 2000, count))
    end = np.where(rng.random(count) < 0.05, -1, start + rng.integers(0, 60, count))
    failed = (end >= 0) & (rng.random(count) < 0.4)
    key = rng.integers(-1, 40, count)
    found = [np.zeros(count, bool) for _ in range(3)] + [np.zeros(count, np.int64)]
    _retries.note(np.arange(count), np.array([0, 1000, count]), start, end, key, failed, *found)
    expected = retries._Attempts(
        failed, *(np.zeros(count, bool) for _ in range(3)), np.zeros(count, np.int64)
    )
    table = type("Table", (), {"start_ns": start, "end_ns": end, "input_hash": key})
    for rows in (np.arange(1000), np.arange(1000, count)):
        retries._note(table, rows, expected)
    for ours, theirs in zip(found, expected[1:], strict=True):
        assert ours.tolist() == theirs.tolist()
    assert found[0].sum() > 1000


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3, st.integers(-1, 3), st.booleans()), max_size=15))
def test_siblings_by_comparing_all(rows):
    columns = np.array([row[:4] for row in rows], np.int64).reshape(-1, 4).T
    trace, kind, name, parent = columns
    failed = np.array([row[4] for row in rows], bool)
    found, first = siblings_of_failed(trace, parent, kind, name, failed)
    groups: dict[tuple[int, ...], list[int]] = {}
    for row in range(len(rows)):
        above = (parent[row],) if parent[row] >= 0 else (-1, trace[row])
        groups.setdefault((*above, kind[row], name[row]), []).append(row)
    expected = [group for group in groups.values() if len(group) > 1 and failed[group].any()]
    assert sorted(part.tolist() for part in np.split(found, first[1:-1]) if len(part)) == sorted(expected)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40), st.floats(0, 1))
def test_interpolation_is_numpys_to_the_last_bit(values, share):
    ordered = np.sort(np.array(values))
    for at in (share, 0.5, 0.9, 0.95, 0.99):
        assert interpolated(ordered, at) == float(np.quantile(ordered, at))


@pytest.mark.parametrize(
    ("rows", "first"),
    [([0, 2], [0, 2]), ([-1, 0], [0, 2]), ([0, 1], [0, 3]), ([0, 1], [0, 2, 1]), ([0, 1], [-1, 2])],
)
def test_siblings_that_are_no_rows_are_refused(rows, first):
    columns = [np.zeros(2, np.int64)] * 3 + [np.zeros(2, bool) for _ in range(4)] + [np.zeros(2, np.int64)]
    with pytest.raises(ValueError, match="a sibling is no row"):
        _retries.note(np.array(rows), np.array(first), *columns)


def test_arrays_that_do_not_fit_are_refused():
    one, two = np.zeros(1, np.int64), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="room"):
        _sweep.sweep(two, two, two, two.astype(np.int32))
    with pytest.raises(ValueError, match="higher than the highest"):
        _sweep.lasts(two, one.astype(np.int32) + 1, one)
    with pytest.raises(ValueError, match="not of one length"):
        _sweep.sweep(one, two, two, two)
    with pytest.raises(ValueError, match="right type"):
        _sweep.sweep(one.astype(np.int32), one, two, two)
    level = one.astype(np.int32)
    for wrong in ([one] * 3, [one, one, one, level, level]):
        with pytest.raises(TypeError, match="another number"):
            _sweep.sweep(*wrong)
