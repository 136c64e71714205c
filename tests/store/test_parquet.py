"""A table comes back from a Parquet file as it was, and its spans with it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream import Span, SpanKind, Usage
from millstream.errors import InputError
from millstream.span import SpanError, SpanEvent, SpanLink, Status
from millstream.store import parquet
from millstream.store.parquet_spans import spans_of
from millstream.store.parquet_table import read_table
from millstream.store.table import SpanTable

INTS = ["trace", "parent", "depth", "kind", "name", "model", "status", "start_ns", "end_ns"]
TOKENS = ["input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens"]
COLUMNS = [*INTS, *TOKENS, "declared_root", "cached"]
COUNT = 9
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
COUNTS = st.one_of(st.none(), st.integers(0, 50))
JSON = st.one_of(st.none(), TEXTS, st.integers(-5, 5), st.lists(st.integers(0, 3), max_size=2))
ATTRIBUTES = st.sampled_from(
    [
        {},
        {"gen_ai.request.model": "m"},
        {"gen_ai.response.time_to_first_chunk": 0.5},
        {"millstream.cached": True},
        {"gen_ai.response.time_to_first_chunk": "soon", "é": [1, None]},
    ]
)


@st.composite
def spans(draw: st.DrawFn) -> list[Span]:
    found = []
    for number in range(draw(st.integers(0, COUNT))):
        start = draw(st.integers(0, 40))
        parent = draw(st.one_of(st.none(), st.integers(0, COUNT - 1)))
        found.append(
            Span(
                trace_id=f"{draw(st.integers(1, 2)):032x}",
                span_id=f"{number:016x}",
                parent_id=None if parent is None else f"{parent:016x}",
                name=draw(TEXTS),
                kind=draw(st.sampled_from(SpanKind)),
                start_ns=start,
                end_ns=draw(st.one_of(st.none(), st.integers(start - 3, start + 20))),
                status=draw(st.one_of(st.none(), st.sampled_from(Status))),
                error=draw(st.sampled_from([None, SpanError("ValueError", ""), SpanError("é", "no")])),
                input=draw(JSON.filter(lambda value: value is not None)),
                usage=draw(st.one_of(st.none(), st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS))),
                workload_id=draw(st.sampled_from([None, "w"])),
                attributes=draw(ATTRIBUTES),
                events=draw(st.sampled_from([[], [SpanEvent("e", 7, {"a": 1})]])),
                links=draw(st.sampled_from([[], [SpanLink("f" * 32, "e" * 16)]])),
            )
        )
    return found


def plain(span: Span) -> Span:
    """Counts of which none is known cannot be told from no usage."""
    if span.usage == Usage():
        span.usage = None
    return span


@settings(max_examples=150, deadline=None)
@given(made=spans(), rows_at_once=st.integers(1, 5))
def test_a_table_comes_back(tmp_path_factory, made: list[Span], rows_at_once: int) -> None:
    path = tmp_path_factory.mktemp("table") / "spans.parquet"
    table = SpanTable.from_spans(map(plain, made))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "ROWS_AT_ONCE", rows_at_once)
        parquet.write_table(table, path)
        again = read_table(path)
        assert again is not None
        assert list(again.spans) == list(table.spans)
    for column in COLUMNS:
        assert getattr(again, column).tolist() == getattr(table, column).tolist()
    assert np.array_equal(again.time_to_first_chunk_s, table.time_to_first_chunk_s, equal_nan=True)
    assert (again.names, again.models, again.oddities) == (table.names, table.models, table.oddities)
    assert list(again.trace_ids) == list(table.trace_ids)
    assert [again.spans[row] for row in range(len(again))] == list(table.spans)
    assert again.spans[1:-1] == list(table.spans)[1:-1]


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    parquet.write_table(SpanTable.from_spans([]), tmp_path / "none.parquet")
    table = read_table(tmp_path / "none.parquet")
    assert table is not None
    assert (len(table), list(table.trace_ids), list(table.spans)) == (0, [], [])
    with pytest.raises(IndexError):
        table.spans[0]


def test_files_of_others_and_damaged_ones(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    assert read_table(tmp_path / "other.parquet") is None
    parquet.write_spans([], tmp_path / "spans.parquet")
    assert read_table(tmp_path / "spans.parquet") is None
    (tmp_path / "torn.parquet").write_bytes(b"PAR1" + json.dumps({}).encode())
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_table(tmp_path / "torn.parquet")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("trace", [1, 0]),
        ("trace", [0, 2]),
        ("parent", [2, 0]),
        ("parent", [-7, 0]),
        ("table_start_ns", [-(2**63), 0]),
        ("table_end_ns", [2**63 - 1, 0]),
        ("kind", ["LLM", "TOLL"]),
    ],
)
def test_a_table_that_was_changed_by_hand_is_a_file_of_spans(tmp_path: Path, column, values) -> None:
    spans = [Span(f"{n:032x}", "1" * 16, None, "s", SpanKind.LLM, 1, 2) for n in range(2)]
    path = tmp_path / "spans.parquet"
    parquet.write_table(SpanTable.from_spans(spans), path)
    assert read_table(path) is not None
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    changed = pa.array(values, table.schema.field(column).type)
    pq.write_table(table.set_column(place, table.schema.field(column), changed), path)
    assert read_table(path) is None


def test_a_table_with_columns_of_other_types_is_a_file_of_spans(tmp_path: Path) -> None:
    path = tmp_path / "spans.parquet"
    parquet.write_table(SpanTable.from_spans([]), path)
    table = pq.read_table(path)
    for changed in (table.drop_columns(["depth"]), table.cast(_as_text(table.schema, "depth"))):
        pq.write_table(changed, path)
        assert read_table(path) is None


def _as_text(schema: pa.Schema, column: str) -> pa.Schema:
    return schema.set(schema.get_field_index(column), pa.field(column, pa.large_string()))


def test_spans_are_written_as_they_come(tmp_path: Path) -> None:
    made = [Span(f"{n:032x}", "1" * 16, None, "s", SpanKind.LLM, 9 - n, 10, input={"n": n}) for n in range(3)]
    parquet.write_spans(iter(made), tmp_path / "spans.parquet")
    assert list(spans_of(pq.read_table(tmp_path / "spans.parquet"))) == made


def test_a_file_of_earlier_times_tells_what_was_cached(tmp_path: Path) -> None:
    """It has no column of it, and is a table all the same."""
    path = tmp_path / "spans.parquet"
    attributes = [{"millstream.cached": True}, {}, {"millstream.cached": False}, {"é": "millstream.cached"}]
    made = [
        Span(f"{n:032x}", "1" * 16, None, "s", SpanKind.LLM, n, 10, attributes=told)
        for n, told in enumerate(attributes * 3)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "ROWS_AT_ONCE", 5)
        parquet.write_table(SpanTable.from_spans(made), path)
    rows = pq.read_table(path)
    pq.write_table(rows.drop_columns(["cached"]), path, row_group_size=5)
    table = read_table(path)
    assert table is not None
    assert table.cached.tolist() == [True, False, False, False] * 3
