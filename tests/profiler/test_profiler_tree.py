"""Self time and critical path against their definitions, walked cell by cell."""

import numpy as np
from hypothesis import given, settings

from millstream.profiler.bottlenecks import self_time
from millstream.profiler.critical_path import critical_path, critical_path_ns
from millstream.profiler.tree import self_time_ns, subtree_time_ns, tree_order
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import runs, small_forests, span


def children_of(spans, parent):
    return [s for s in spans if s.parent_id == parent.span_id]


def cells(s):
    return set() if s.end_ns is None else set(range(s.start_ns, s.end_ns))


def by_id(table, column):
    return {s.span_id: int(value) for s, value in zip(table.spans, column, strict=True)}


@settings(max_examples=300)
@given(small_forests())
def test_self_time_is_the_cells_that_no_child_covers(spans):
    expected = {}
    for one in spans:
        if one.end_ns is None:
            expected[one.span_id] = -1
            continue
        covered = set().union(*(cells(child) for child in children_of(spans, one)))
        expected[one.span_id] = len(cells(one) - covered)
    table = SpanTable.from_spans(spans)
    assert by_id(table, self_time_ns(table)) == expected


@settings(max_examples=200)
@given(small_forests())
def test_subtree_time_is_the_sum_of_self_time_below(spans):
    table = SpanTable.from_spans(spans)
    own = self_time_ns(table)
    mine = by_id(table, own)

    def below(one):
        return max(mine[one.span_id], 0) + sum(below(child) for child in children_of(spans, one))

    assert by_id(table, subtree_time_ns(table, own)) == {one.span_id: below(one) for one in spans}


def walk(table, row, low, high, found):
    """The definition, word by word."""
    children = []
    for child in np.flatnonzero(table.parent == row).tolist():
        if table.end_ns[child] >= 0:
            begin = min(max(int(table.start_ns[child]), low), high)
            finish = max(min(int(table.end_ns[child]), high), begin)
            children.append((finish, -begin, child))
    frontier, own = high, high - low
    while candidates := [child for child in children if child[0] <= frontier]:
        chosen = max(candidates)
        children.remove(chosen)
        finish, begin = chosen[0], -chosen[1]
        own -= finish - begin
        frontier = begin
        walk(table, chosen[2], begin, finish, found)
    found[row] = own


@settings(max_examples=300)
@given(small_forests())
def test_critical_path_follows_its_definition_and_adds_up_to_the_roots(spans):
    table = SpanTable.from_spans(spans)
    expected = dict.fromkeys(range(len(table)), 0)
    roots = [
        row for row in range(len(table)) if table.spans[row].parent_id is None and table.end_ns[row] >= 0
    ]
    for row in roots:
        walk(table, row, int(table.start_ns[row]), int(table.end_ns[row]), expected)
    own = critical_path_ns(table)
    assert dict(enumerate(own.tolist())) == expected
    assert own.sum() == sum(int(table.end_ns[row] - table.start_ns[row]) for row in roots)


def test_a_sequence_through_parallel_branches_is_on_the_path():
    spans = [
        span("root", 0, 100),
        span("a", 0, 40, "root", name="a"),
        span("slow", 40, 90, "root", name="slow"),
        span("fast", 40, 60, "root", name="fast"),
    ]
    path = critical_path(SpanTable.from_spans(spans))
    assert {row.name: round(row.seconds * 1e9) for row in path.by_name} == {"slow": 50, "a": 40, "f": 10}
    assert sum(row.share for row in path.by_name) == 1


def test_two_children_at_once_are_covered_once():
    spans = [span("root", 0, 10), span("x", 2, 6, "root", name="x"), span("y", 4, 14, "root", name="y")]
    found = {row.name: round(row.self_s * 1e9) for row in self_time(SpanTable.from_spans(spans))}
    assert found == {"f": 2, "x": 4, "y": 10}


def test_an_orphan_is_a_root_only_where_there_is_no_other():
    orphan = span("o", 0, 7, "gone", trace_id="other")
    alone = critical_path(SpanTable.from_spans([orphan]))
    assert round(alone.total_s * 1e9) == 7
    both = critical_path(SpanTable.from_spans([orphan, span("r", 0, 10, trace_id="other")]))
    assert round(both.total_s * 1e9) == 10


def test_a_chain_of_5000_does_not_recurse():
    n = 5000
    spans = [span(str(i), i, 2 * n - i, str(i - 1) if i else None) for i in range(n)]
    table = SpanTable.from_spans(reversed(spans))
    own = self_time_ns(table)
    assert own.tolist() == [2] * (n - 1) + [2]
    assert subtree_time_ns(table, own)[0] == 2 * n
    assert critical_path_ns(table).sum() == 2 * n
    assert tree_order(table, np.arange(n)) == list(range(n))


def test_durations_of_decades_do_not_overflow():
    century = 3_000_000_000_000_000_000
    spans = [span("r", 0, century)]
    spans += [span(f"c{i}", i, century - i, "r", name="c") for i in range(1, 50)]
    table = SpanTable.from_spans(spans)
    assert self_time_ns(table)[0] == 2


def test_realistic_runs_add_up():
    table = SpanTable.from_spans(runs(40, seed=1))
    roots = table.roots() & table.closed
    assert critical_path_ns(table).sum() == table.duration_ns[roots].sum()
    found = np.array(tree_order(table, np.arange(len(table))))
    assert (table.trace[found] == table.trace).all()  # requests one after the other
    place = np.argsort(found)
    child = np.flatnonzero(table.parent >= 0)
    assert (place[table.parent[child]] < place[child]).all()
    third = np.flatnonzero(table.trace == 3)
    assert tree_order(table, third) == found[third].tolist()
