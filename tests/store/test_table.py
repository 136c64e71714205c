"""The table: any spans in, the same columns out, what is odd counted."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.semconv import REQUEST_MODEL
from millstream.span import Span, SpanKind, Status, Usage
from millstream.store import parquet
from millstream.store.parquet_table import read_table
from millstream.store.table import KINDS, Oddities, SpanTable


def span(span_id, start, end, parent=None, trace="t", **fields):
    return Span(
        trace,
        span_id,
        parent,
        fields.pop("name", "f"),
        fields.pop("kind", SpanKind.FUNCTION),
        start,
        end,
        **fields,
    )


def ids(table):
    return [s.span_id for s in table.spans]


def test_rows_are_sorted_by_trace_then_start_with_parents_first():
    spans = [
        span("late", 50, 60, trace="b"),
        span("child", 10, 20, "root", trace="a"),
        span("root", 10, 30, trace="a"),
        span("first", 5, 9, trace="c"),
    ]
    table = SpanTable.from_spans(spans)
    assert table.trace_ids == ["c", "a", "b"]
    assert ids(table) == ["first", "root", "child", "late"]
    assert table.parent.tolist() == [-1, -1, 1, -1]
    assert table.depth.tolist() == [0, 0, 1, 0]
    assert table.bounds().tolist() == [0, 1, 3, 4]
    assert table.oddities == Oddities()


def test_a_given_trace_order_keeps_traces_without_spans():
    table = SpanTable.from_spans([span("x", 0, 1, trace="b"), span("y", 5, 6, trace="z")], ["a", "b"])
    assert table.trace_ids == ["a", "b", "z"]
    assert table.trace.tolist() == [1, 2]


def test_columns():
    llm = span("l", 0, 9, name="call", kind=SpanKind.LLM, status=Status.ERROR, usage=Usage(3, 0, None, -5))
    llm.attributes = {REQUEST_MODEL: "m"}
    table = SpanTable.from_spans([llm, span("o", 1, None, "l")])
    assert [KINDS[code] for code in table.kind] == ["LLM", "FUNCTION"]
    assert [table.models[code] if code >= 0 else None for code in table.model] == ["m", None]
    assert table.failed.tolist() == [True, False]
    assert table.closed.tolist() == [True, False]
    assert table.duration_ns.tolist() == [9, -1]
    assert table.input_tokens.tolist() == [3, -1]
    assert table.output_tokens.tolist() == [0, -1]
    assert table.cache_read_tokens.tolist() == [-1, -1]
    assert table.reasoning_tokens.tolist() == [-1, -1]
    assert table.oddities.open_spans == 1


def test_odd_spans_are_mended_and_counted():
    spans = [
        span("root", 100, 200),
        span("outlives", 150, 300, "root"),
        span("early", 50, 120, "root"),
        span("orphan", 110, 120, "gone"),
        span("backwards", 180, 170, "root"),
        span("dup", 110, 115, "root"),
        span("dup", 111, None, "root"),
        span("self", 130, 140, "self"),
        span("x", 131, 140, "y"),
        span("y", 132, 140, "x"),
        span("far", 2**80, 2**81, "root"),
    ]
    table = SpanTable.from_spans(spans)
    assert table.oddities == Oddities(
        duplicate_span_ids=1,
        missing_parents=1,
        parent_cycles=2,
        negative_durations=1,
        starts_before_parent=1,
        outlives_parent=2,
        impossible_times=2,
    )
    row = dict(zip(ids(table), range(len(table)), strict=True))
    assert table.duration_ns[row["backwards"]] == 0
    assert table.end_ns[row["dup"]] == 115
    assert table.parent[row["x"]] == -1
    assert table.parent[row["y"]] == row["x"]
    assert table.roots().nonzero()[0].tolist() == [row["root"]]


def test_an_empty_table_works():
    table = SpanTable.from_spans([])
    assert len(table) == 0
    assert table.bounds().tolist() == [0]
    assert table.roots().tolist() == []


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(-1, 8), st.integers(0, 9), st.integers(-3, 9)), max_size=12
    )
)
def test_any_parents_give_a_forest(rows):
    spans = [
        span(str(own), start, None if length == -3 else start + length, None if parent < 0 else str(parent))
        for own, parent, start, length in rows
    ]
    table = SpanTable.from_spans(spans)
    assert len(set(ids(table))) == len(table)
    for row in range(len(table)):
        parent = table.parent[row]
        assert table.depth[row] == (0 if parent < 0 else table.depth[parent] + 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_input_does_not_matter(seed):
    spans = [
        span(str(i), i // 3, i // 3 + 5, str(i // 2) if i else None, trace=str(i % 1)) for i in range(40)
    ]
    shuffled = random.Random(seed).sample(spans, len(spans))  # noqa: S311  # not a secret
    one, other = SpanTable.from_spans(spans), SpanTable.from_spans(shuffled)
    assert np.array_equal(np.sort(one.start_ns), other.start_ns)
    parents = [
        {s.span_id: t.spans[p].span_id for s, p in zip(t.spans, t.parent, strict=True) if p >= 0}
        for t in (one, other)
    ]
    assert parents[0] == parents[1]


@pytest.mark.parametrize("tokens", [-1, 2**40 + 1, 2**62 - 1, 2**63 - 1, 10**30])
def test_counts_of_tokens_that_cannot_be_are_unknown_also_in_a_file(tmp_path, tokens):
    spans = [
        span("a", 0, 1, kind=SpanKind.LLM, usage=Usage(tokens, 5, tokens, tokens)),
        span("b", 1, 2, kind=SpanKind.LLM, usage=Usage(2**40, 7)),
        span("c", 2, 3, kind=SpanKind.LLM, usage=Usage(2**40)),
    ]
    table = SpanTable.from_spans(spans)
    parquet.write_table(table, tmp_path / "spans.parquet")
    for one in (table, read_table(tmp_path / "spans.parquet")):
        assert one.input_tokens.tolist() == [-1, 2**40, 2**40]
        assert one.output_tokens.tolist() == [5, 7, -1]
        assert one.cache_read_tokens.tolist() == one.reasoning_tokens.tolist() == [-1, -1, -1]
        assert one.oddities.impossible_tokens == 3
