"""`spans.parquet`: the spans with all their fields; content, attributes, events and links as JSON text."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millstream.errors import MissingExtraError
from millstream.profiler.renderers.files import content, json_bytes, replacing
from millstream.span import Span

try:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise MissingExtraError("A Parquet file", "profiling") from error

if TYPE_CHECKING:
    from millstream.profiler.engine import Profile

SCHEMA = pa.schema(
    [
        pa.field("trace_id", pa.large_string(), nullable=False),
        pa.field("span_id", pa.large_string(), nullable=False),
        ("parent_id", pa.large_string()),
        ("name", pa.large_string()),
        ("kind", pa.large_string()),
        ("start_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("status", pa.large_string()),
        ("error_type", pa.large_string()),
        ("error_message", pa.large_string()),
        ("workload_id", pa.large_string()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cache_read_tokens", pa.int64()),
        ("reasoning_tokens", pa.int64()),
        ("input", pa.large_string()),
        ("output", pa.large_string()),
        ("attributes", pa.large_string()),
        ("events", pa.large_string()),
        ("links", pa.large_string()),
    ]
)
_ROWS_AT_ONCE = 50_000
_LIMIT = 2**63 - 1


def write(profile: "Profile", path: Path) -> None:
    """Write the spans of a profile."""
    write_parquet(profile.table.spans, path)


def write_parquet(spans: Iterable[Span], path: Path) -> None:
    """Write spans in row groups, in bounded memory; the file appears whole or not at all."""
    waiting = iter(spans)
    with replacing(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        while some := list(islice(waiting, _ROWS_AT_ONCE)):
            columns = _columns(some)
            arrays = [
                _ints(columns[f.name]) if f.type == pa.int64() else _texts(columns[f.name]) for f in SCHEMA
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))


def _columns(spans: list[Span]) -> dict[str, list[Any]]:
    usages = [span.usage for span in spans]
    errors = [span.error for span in spans]
    return {
        "trace_id": [span.trace_id for span in spans],
        "span_id": [span.span_id for span in spans],
        "parent_id": [span.parent_id for span in spans],
        "name": [span.name for span in spans],
        "kind": [span.kind.value for span in spans],
        "start_ns": [span.start_ns for span in spans],
        "end_ns": [span.end_ns for span in spans],
        "status": [span.status and span.status.value for span in spans],
        "error_type": [error and error.type for error in errors],
        "error_message": [error and error.message for error in errors],
        "workload_id": [span.workload_id for span in spans],
        "input_tokens": [usage and usage.input_tokens for usage in usages],
        "output_tokens": [usage and usage.output_tokens for usage in usages],
        "cache_read_tokens": [usage and usage.cache_read_tokens for usage in usages],
        "reasoning_tokens": [usage and usage.reasoning_tokens for usage in usages],
        "input": [_json(span.input) for span in spans],
        "output": [_json(span.output) for span in spans],
        "attributes": [_json(span.attributes) for span in spans],
        "events": [_json(span.events) for span in spans],
        "links": [_json(span.links) for span in spans],
    }


def _ints(values: list[int | None]) -> pa.Array:
    """Whole numbers, cut to 64 bits. From buffers: `pa.array` of a list imports pandas if it can."""
    filled = np.array([min(max(value or 0, -_LIMIT), _LIMIT) for value in values], np.int64)
    return pa.Array.from_buffers(pa.int64(), len(values), [_valid(values), pa.py_buffer(filled)])


def _texts(values: list[str | None]) -> pa.Array:
    encoded = [b"" if value is None else value.encode(errors="backslashreplace") for value in values]
    offsets = np.concatenate(([0], np.cumsum([len(text) for text in encoded], dtype=np.int64)))
    buffers = [_valid(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.large_string(), len(values), buffers)


def _valid(values: list[Any]) -> pa.Buffer:
    known = np.array([value is not None for value in values], bool)
    return pa.py_buffer(np.packbits(known, bitorder="little"))


def _json(value: Any) -> str | None:
    value = content(value)
    return None if value is None else json_bytes(value, indent=0).decode()
