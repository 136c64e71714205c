"""Spans as a Parquet file, sorted by trace and start: the columns of `spans.parquet`, and how it is written.

Content, attributes, events and links are JSON text, in columns of their own that analyses never read. Beside
the fields of a span stand the columns that a `SpanTable` had to work out (which row is the parent, how deep
it lies), so that a file is a table again without a look at an id: `parquet_table` reads it.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from millstream.errors import MissingExtraError
from millstream.span import Span, Usage
from millstream.store.prompt_blocks import PromptBlocks, prompt_blocks
from millstream.store.strict_json import json_text
from millstream.store.table import Oddities, SpanTable

try:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from millstream.store.arrow import column_of
    from millstream.store.lazy_spans import LazySpans
except ModuleNotFoundError as error:
    raise MissingExtraError("A Parquet file", "profiling") from error

_TEXT: Final = pa.large_string()
FIELDS: Final = (
    pa.field("trace_id", _TEXT, nullable=False),
    pa.field("span_id", _TEXT, nullable=False),
    pa.field("parent_id", _TEXT),
    pa.field("name", _TEXT),
    pa.field("kind", _TEXT),
    pa.field("start_ns", pa.int64()),
    pa.field("end_ns", pa.int64()),
    pa.field("status", _TEXT),
    pa.field("error_type", _TEXT),
    pa.field("error_message", _TEXT),
    pa.field("workload_id", _TEXT),
    pa.field("input_tokens", pa.int64()),
    pa.field("output_tokens", pa.int64()),
    pa.field("cache_read_tokens", pa.int64()),
    pa.field("reasoning_tokens", pa.int64()),
    pa.field("input", _TEXT),
    pa.field("output", _TEXT),
    pa.field("attributes", _TEXT),
    pa.field("events", _TEXT),
    pa.field("links", _TEXT),
)
"""Those of a span."""
FIELD_NAMES: Final = [field.name for field in FIELDS]
STORED: Final = [*FIELD_NAMES, "prompt_blocks"]
"""What a file has of each span, whatever stands beside it."""
WORKED_OUT: Final = (
    pa.field("model", _TEXT),
    pa.field("time_to_first_chunk_s", pa.float64()),
    pa.field("cached", pa.bool_(), nullable=False),
    pa.field("trace", pa.int32(), nullable=False),
    pa.field("parent", pa.int32()),
    pa.field("depth", pa.int32(), nullable=False),
    pa.field("table_start_ns", pa.int64(), nullable=False),
    pa.field("table_end_ns", pa.int64()),
    pa.field("declared_root", pa.bool_(), nullable=False),
    pa.field("input_hash", pa.int64()),
    pa.field("prompt_blocks", pa.large_binary()),
)
"""Those of a table: positions count rows of the whole file; blocks are 8 bytes each, the lowest first."""
SCHEMA: Final = pa.schema(FIELDS + WORKED_OUT)
ADDED: Final = ("cached",)
"""Columns that files of earlier times do not have: they are told by the attributes."""
WORDS: Final = ("trace_id", "name", "kind", "status", "model", "workload_id", "error_type")
"""Columns of few different texts."""
_NUMBERS: Final = [field.name for field in SCHEMA if pa.types.is_primitive(field.type)]
"""Columns whose least and most values are kept for each group of rows: of text nobody asks for them."""
NO_USAGE: Final = Usage()
METADATA: Final = b"millstream.table"
VERSION: Final = 3
"""Of the columns that are worked out; those of another are worked out again."""
ROWS_AT_ONCE: Final = 50_000
_LIMIT: Final = 2**63 - 1


class About(msgspec.Struct):
    """What a file says of itself."""

    version: int
    traces: int
    oddities: Oddities


def write_table(table: SpanTable, file: Path | IO[bytes]) -> None:
    """Write a table in row groups, in bounded memory."""
    about = msgspec.json.encode(About(VERSION, len(table.trace_ids), table.oddities))
    schema = SCHEMA.with_metadata({METADATA: about})
    with _writer(file, schema) as writer:
        for start in range(0, len(table), ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, len(table)))
            *fields, blocks = _stored(table, rows)
            columns = [*fields, *_table_columns(table, rows), blocks]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _stored(table: SpanTable, rows: slice) -> "list[pa.Array] | list[pa.ChunkedArray]":
    """The columns of `FIELDS` and the prompts: those of spans that come from columns as they are there."""
    if isinstance(table.spans, LazySpans):
        found: list[pa.ChunkedArray] = table.spans.stored(np.arange(rows.start, rows.stop), STORED).columns
        return found
    spans = list(table.spans[rows])
    return [*span_columns(spans), blocks_column(prompt_blocks(spans))]


def write_rows(
    rows: pa.Table, file: IO[bytes], traces: int, oddities: Oddities, more: dict[bytes, bytes]
) -> None:
    """Write rows that are a table's already.

    Args:
        rows: with the columns of `SCHEMA`.
        file: where to.
        traces: how many there are.
        oddities: what was odd in the spans.
        more: what the file is to say of itself besides.
    """
    about = msgspec.json.encode(About(VERSION, traces, oddities))
    schema = SCHEMA.with_metadata({METADATA: about, **more})
    with _writer(file, schema) as writer:
        writer.write_table(rows.replace_schema_metadata(schema.metadata), row_group_size=ROWS_AT_ONCE)


def _writer(file: Path | IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        file, schema, compression="zstd", use_dictionary=list(WORDS), write_statistics=_NUMBERS
    )


def span_columns(spans: list[Span]) -> Iterator[pa.Array]:
    """The columns of `FIELDS`."""
    usages = [span.usage or NO_USAGE for span in spans]
    errors = [span.error for span in spans]
    yield texts([span.trace_id for span in spans])
    yield texts([span.span_id for span in spans])
    yield texts([span.parent_id for span in spans])
    yield texts([span.name for span in spans])
    yield texts([span.kind.value for span in spans])
    yield _ints([span.start_ns for span in spans])
    yield _ints([span.end_ns for span in spans])
    yield texts([span.status and span.status.value for span in spans])
    yield texts([None if error is None else error.type for error in errors])
    yield texts([None if error is None else error.message for error in errors])
    yield texts([span.workload_id for span in spans])
    yield _ints([usage.input_tokens for usage in usages])
    yield _ints([usage.output_tokens for usage in usages])
    yield _ints([usage.cache_read_tokens for usage in usages])
    yield _ints([usage.reasoning_tokens for usage in usages])
    yield texts([_json(span.input) for span in spans])
    yield texts([_json(span.output) for span in spans])
    yield texts([_json(span.attributes or msgspec.UNSET) for span in spans])
    yield texts([_json(span.events or msgspec.UNSET) for span in spans])
    yield texts([_json(span.links or msgspec.UNSET) for span in spans])


def _table_columns(table: SpanTable, rows: slice) -> Iterator[pa.Array]:
    yield texts([table.models[code] if code >= 0 else None for code in table.model[rows].tolist()])
    first_chunk_s = table.time_to_first_chunk_s[rows]
    yield column_of(first_chunk_s, np.isnan(first_chunk_s))
    yield column_of(table.cached[rows])
    yield column_of(table.trace[rows])
    yield known(table.parent[rows])
    yield column_of(table.depth[rows])
    yield column_of(table.start_ns[rows])
    yield known(table.end_ns[rows])
    yield column_of(table.declared_root[rows])
    yield known(table.input_hash[rows])


def blocks_column(blocks: PromptBlocks) -> pa.Array:
    """Prompts that lie one behind the other. Bytes are read three times as fast as lists of numbers."""
    ends = np.append(blocks.first, len(blocks.hashes)) * blocks.hashes.itemsize
    there = pa.py_buffer(np.packbits(blocks.known, bitorder="little"))
    hashes = pa.py_buffer(np.ascontiguousarray(blocks.hashes, "<u8"))
    return pa.Array.from_buffers(pa.large_binary(), len(blocks.known), [there, pa.py_buffer(ends), hashes])


def known(values: "np.ndarray[Any, Any]") -> pa.Array:
    """Numbers; those below 0 are not known."""
    return column_of(values, values < 0)


def _ints(values: list[int | None]) -> pa.Array:
    """Whole numbers, cut to 64 bits. From buffers: `pa.array` of a list imports pandas if it can."""
    filled = np.array([min(max(value or 0, -_LIMIT), _LIMIT) for value in values], np.int64)
    return pa.Array.from_buffers(pa.int64(), len(values), [_valid(values), pa.py_buffer(filled)])


def texts(values: list[str | None]) -> pa.Array:
    """Texts, a lone half of a surrogate pair written out."""
    encoded = [b"" if value is None else value.encode(errors="backslashreplace") for value in values]
    offsets = np.concatenate(([0], np.cumsum([len(text) for text in encoded], dtype=np.int64)))
    buffers = [_valid(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.large_string(), len(values), buffers)


def _valid(values: list[Any]) -> pa.Buffer:
    there = np.array([value is not None for value in values], bool)
    return pa.py_buffer(np.packbits(there, bitorder="little"))


def _json(value: Any) -> str | None:
    if value is msgspec.UNSET:
        return None
    return json_text(value)


def write_spans(spans: Iterable[Span], file: Path | IO[bytes]) -> None:
    """Write spans in the order in which they come, in bounded memory, without what a table works out."""
    schema = pa.schema(FIELDS)
    waiting = iter(spans)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while some := list(islice(waiting, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_arrays([*span_columns(some)], schema=schema))
