"""Of a file of ours whose worked-out columns were changed only the fields of the spans are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millstream import Span, SpanKind, Usage
from millstream.span import Status
from millstream.store import parquet
from millstream.store.parquet_table import read_table
from millstream.store.table import SpanTable

TRACES = 3
EACH = 4
ROWS = TRACES * EACH
SECOND = 10**9
Change = Callable[[list[Any]], list[Any]]


def spans() -> list[Span]:
    found = []
    for number in range(ROWS):
        first = number // EACH * EACH
        start = (number + 1) * SECOND
        parent = None if number == first else f"{number - 1:016x}"
        found.append(
            Span(
                f"{number // EACH + 1:032x}",
                f"{number:016x}",
                parent,
                "call",
                SpanKind.LLM,
                start,
                start + SECOND,
                Status.OK,
                usage=Usage(5, 5),
            )
        )
    return found


CHANGES: dict[str, tuple[str, Change]] = {
    "a parent that is no row": ("parent", lambda old: [10**6, *old[1:]]),
    "a parent before the first row": ("parent", lambda old: [-7, *old[1:]]),
    "a parent of itself": ("parent", lambda old: [old[0], 1, *old[2:]]),
    "two parents of each other": ("parent", lambda old: [old[0], 2, 1, *old[3:]]),
    "a parent in another trace": ("parent", lambda old: [*old[:-1], 0]),
    "traces the other way round": ("trace", lambda old: old[::-1]),
    "a trace that is not there": ("trace", lambda old: [*old[:-1], 2**31 - 1]),
    "a negative trace": ("trace", lambda old: [-1, *old[1:]]),
    "a depth of two thousand million": ("depth", lambda old: [*old[:-1], 2**31 - 1]),
    "a negative depth": ("depth", lambda old: [-5, *old[1:]]),
    "all at depth 0": ("depth", lambda old: [0] * len(old)),
    "a start long before 1970": ("table_start_ns", lambda old: [-(2**63), *old[1:]]),
    "a start long after 2116": ("table_start_ns", lambda old: [*old[:-1], 2**63 - 1]),
    "starts the other way round": ("table_start_ns", lambda old: old[::-1]),
    "an end before the start": ("table_end_ns", lambda old: [0, *old[1:]]),
    "a negative end": ("table_end_ns", lambda old: [-(2**63), *old[1:]]),
    "an end long after 2116": ("table_end_ns", lambda old: [2**63 - 1, *old[1:]]),
    "children as roots": ("declared_root", lambda old: [True] * len(old)),
    "an endless time to the first chunk": ("time_to_first_chunk_s", lambda old: [float("inf")] * len(old)),
    "a name that is not there": ("name", lambda old: [None, *old[1:]]),
    "a kind that is not there": ("kind", lambda old: [None, *old[1:]]),
    "a model call without a model": ("model", lambda old: [None, *old[1:]]),
}


def changed(folder: Path, column: str, change: Change, new_type: pa.DataType | None = None) -> Path:
    """A file of ours with one column changed."""
    path = folder / "spans.parquet"
    parquet.write_table(SpanTable.from_spans(spans()), path)
    table = pq.read_table(path)
    at = table.schema.get_field_index(column)
    kind = new_type or table.schema.field(at).type
    values = pa.array(change(table.column(at).to_pylist()), kind)
    pq.write_table(table.set_column(at, pa.field(column, kind), values), path)
    return path


@pytest.mark.parametrize("what", CHANGES)
def test_what_does_not_hold_together_is_worked_out_again(tmp_path: Path, what: str) -> None:
    column, change = CHANGES[what]
    assert read_table(changed(tmp_path, column, change)) is None


def test_what_was_not_changed_is_taken(tmp_path: Path) -> None:
    table = read_table(changed(tmp_path, "name", lambda old: old))
    assert table is not None
    assert table.depth.tolist() == [0, 1, 2, 3] * TRACES


@pytest.mark.parametrize(
    ("column", "change", "kind"),
    [
        ("parent", lambda old: [str(value) for value in old], pa.string()),
        ("trace", lambda old: [float(value) for value in old], pa.float64()),
        ("prompt_blocks", lambda old: ["x"] * len(old), pa.string()),
        ("name", lambda old: [b"\xff"] * len(old), pa.binary()),
    ],
)
def test_columns_of_another_type_are_not_taken(
    tmp_path: Path, column: str, change: Change, kind: pa.DataType
) -> None:
    assert read_table(changed(tmp_path, column, change, kind)) is None


@pytest.mark.parametrize("column", ["parent", "model", "declared_root", "prompt_blocks", "input"])
def test_a_column_that_was_left_out(tmp_path: Path, column: str) -> None:
    path = changed(tmp_path, "name", lambda old: old)
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    assert read_table(path) is None


@pytest.mark.parametrize("traces", [-5, 0, TRACES - 1, 10**12])
def test_a_number_of_traces_that_cannot_be(tmp_path: Path, traces: int) -> None:
    path = changed(tmp_path, "name", lambda old: old)
    table = pq.read_table(path)
    told = b'{"version":2,"traces":%d,"oddities":{}}' % traces
    pq.write_table(table.replace_schema_metadata({b"millstream.table": told}), path)
    assert read_table(path) is None


@pytest.mark.parametrize("column", ["kind", "status"])
def test_words_that_nobody_knows(tmp_path: Path, column: str) -> None:
    assert read_table(changed(tmp_path, column, lambda old: ["what?", *old[1:]])) is None
