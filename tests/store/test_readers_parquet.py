"""`spans.parquet`: whole spans come back; what is bad in it is counted and the rest is read."""

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millstream import SpanKind, Status, open_store
from millstream.errors import InputError
from millstream.profiler import profile
from millstream.profiler.renderers import parquet as renderer
from millstream.span import Span, SpanEvent, SpanLink, Usage
from millstream.store.parquet import write_spans
from tests.profiler.profiler_synthetic import runs


@pytest.fixture
def spans():
    made = list(runs(30, seed=8))
    made[3].links = [SpanLink("a" * 32, "b" * 16, {"c": 1})]
    made[4].events = [SpanEvent("first", 5, {"d": [1, None]})]
    made[5].end_ns = made[5].status = None
    made.append(Span("f" * 32, "1" * 16, None, "bare", SpanKind.TASK, 1))
    return made


def plain(span):
    """Null is not told apart from what was not captured, nor a usage that knows nothing from none."""
    span = msgspec.structs.replace(
        span,
        input=msgspec.UNSET if span.input is None else span.input,
        output=msgspec.UNSET if span.output is None else span.output,
        usage=None if span.usage == Usage() else span.usage,
    )
    return msgspec.json.encode(span)


def test_every_field_comes_back(spans, tmp_path):
    path = tmp_path / "spans"  # its content says what it is
    write_spans(spans, path)
    store = open_store(path)
    assert store.format == "parquet"
    assert [plain(span) for span in store.spans()] == [plain(span) for span in spans]
    assert not store.rejected
    assert list(store.trace_order) == []


def test_the_file_of_a_profile_is_read_too(spans, tmp_path):
    renderer.write(profile(spans), tmp_path / "spans.parquet")
    read = {span.span_id: plain(span) for span in open_store(tmp_path / "spans.parquet").spans()}
    assert read == {span.span_id: plain(span) for span in spans}


def test_one_trace(spans, tmp_path):
    write_spans(spans, tmp_path / "spans.parquet")
    wanted = spans[0].trace_id
    chosen = list(open_store(tmp_path / "spans.parquet").spans([wanted]))
    assert len(chosen) == sum(span.trace_id == wanted for span in spans)
    with pytest.raises(InputError, match="collection of trace ids"):
        open_store(tmp_path / "spans.parquet").spans(wanted)


def test_bad_rows_are_counted_and_the_others_are_read(spans, tmp_path):
    path = tmp_path / "spans.parquet"
    write_spans(spans, path)
    rows = pq.read_table(path).to_pylist()
    rows[0]["kind"], rows[1]["kind"] = "ALIEN", None
    rows[2]["start_ns"] = None
    rows[3]["span_id"], rows[4]["trace_id"] = "", ""
    rows[5]["attributes"], rows[6]["input"], rows[7]["events"] = "[1]", "{torn", '[{"name": 1}]'
    rows[8]["status"] = "unheard of"
    schema = pa.schema([pa.field(f.name, f.type) for f in pq.read_schema(path)])
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    store = open_store(path)
    read = list(store.spans())
    assert [span.span_id for span in read] == [span.span_id for span in spans[5:]]
    assert (read[0].attributes, read[1].input, read[2].events) == ({}, msgspec.UNSET, [])
    assert read[3].status is None
    assert store.rejected == {
        "row of an unknown kind": 2,
        "row without a start time": 1,
        "row without a trace id or a span id": 2,
        "attributes that cannot be read, left out": 1,
        "input that cannot be read, left out": 1,
        "events that cannot be read, left out": 1,
    }


def test_the_least_that_a_file_needs_and_numbers_as_pandas_writes_them(tmp_path):
    path = tmp_path / "theirs.parquet"
    columns = {
        "start_ns": [1e9, np.nan, 3e9],
        "span_id": ["a", "b", "c"],
        "trace_id": ["t"] * 3,
        "name": ["x", "y", None],
        "kind": ["LLM"] * 3,
        "input_tokens": [np.nan, 1.0, 7.0],
        "tenant": [1, 2, 3],
    }
    pq.write_table(pa.table(columns), path)
    store = open_store(path)
    first, last = store.spans()
    assert (first.start_ns, first.end_ns, first.usage, first.status) == (1_000_000_000, None, None, None)
    assert (last.name, last.usage) == ("", Usage(input_tokens=7))
    assert store.rejected == {"row without a start time": 1}


def test_of_a_file_that_is_damaged_within_the_rest_is_read(spans, tmp_path):
    path = tmp_path / "spans.parquet"
    write_spans(spans, path)
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table[:50])
        writer.write_table(table[50:])
    content = bytearray(path.read_bytes())
    content[8:200] = bytes(192)
    path.write_bytes(content)
    store = open_store(path)
    assert [span.span_id for span in store.spans()] == [span.span_id for span in spans[50:]]
    assert store.rejected == {"row of a damaged part of the file": 50}


def test_parquet_of_something_else_is_refused_with_its_columns(tmp_path):
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({f"c{n}": [n] for n in range(12)}), path)
    with pytest.raises(InputError, match="no column trace_id, span_id, name, kind, start_ns") as raised:
        open_store(path)
    assert "Its columns are c0, c1, c2, c3, c4, c5, c6, c7 and 4 more" in str(raised.value)


def test_statuses(tmp_path):
    made = [Span("t", f"{n}", None, "n", SpanKind.TOOL, 1, 2, status) for n, status in enumerate(Status)]
    write_spans(made, tmp_path / "spans.parquet")
    assert [span.status for span in open_store(tmp_path / "spans.parquet").spans()] == list(Status)
