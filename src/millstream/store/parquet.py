"""Spans as a Parquet file, sorted by trace and start: `spans.parquet`.

Content, attributes, events and links are JSON text, in columns of their own that analyses never read. Beside
the fields of a span stand the columns that a `SpanTable` had to work out (which row is the parent, how deep
it lies), so that a file is a table again without a look at an id.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, overload

import msgspec

from millstream.errors import InputError, MissingExtraError
from millstream.span import Span, SpanError, SpanEvent, SpanKind, SpanLink, Status, Usage
from millstream.store.prompt_blocks import PromptBlocks, prompt_blocks
from millstream.store.table import (
    KIND_CODE,
    STATUS_CODE,
    UNKNOWN,
    Bools,
    Ints,
    Oddities,
    SpanTable,
    possible_tokens,
)
from millstream.store.table_checks import holds_together

try:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise MissingExtraError("A Parquet file", "profiling") from error

_TEXT: Final = pa.large_string()
_FIELDS: Final = (
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
_NAMES: Final = [field.name for field in _FIELDS]
_WORKED_OUT: Final = (
    pa.field("model", _TEXT),
    pa.field("time_to_first_chunk_s", pa.float64()),
    pa.field("trace", pa.int32(), nullable=False),
    pa.field("parent", pa.int32()),
    pa.field("depth", pa.int32(), nullable=False),
    pa.field("table_start_ns", pa.int64(), nullable=False),
    pa.field("table_end_ns", pa.int64()),
    pa.field("declared_root", pa.bool_(), nullable=False),
    pa.field("input_hash", pa.int64()),
    pa.field("prompt_blocks", pa.large_list(pa.uint64())),
)
"""Those of a table: positions count rows of the whole file."""
SCHEMA: Final = pa.schema(_FIELDS + _WORKED_OUT)
_WORDS: Final = ("trace_id", "name", "kind", "status", "model", "workload_id", "error_type")
"""Columns of few different texts."""
_TOKENS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens")
_NO_USAGE: Final = Usage()
_METADATA: Final = b"millstream.table"
_VERSION: Final = 2
"""Of the columns that are worked out; those of another are worked out again."""
ROWS_AT_ONCE: Final = 50_000
_KEPT_GROUPS: Final = 4
_LIMIT: Final = 2**63 - 1


class _About(msgspec.Struct):
    """What a file says of itself."""

    version: int
    traces: int
    oddities: Oddities


# Writing


def write_table(table: SpanTable, file: Path | IO[bytes]) -> None:
    """Write a table in row groups, in bounded memory."""
    about = msgspec.json.encode(_About(_VERSION, len(table.trace_ids), table.oddities))
    schema = SCHEMA.with_metadata({_METADATA: about})
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=list(_WORDS)) as writer:
        for start in range(0, len(table), ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, len(table)))
            spans = [table.spans[row] for row in range(rows.start, rows.stop)]
            columns = [*_span_columns(spans), *_table_columns(table, rows), _blocks_column(spans)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _span_columns(spans: list[Span]) -> Iterator[pa.Array]:
    usages = [span.usage or _NO_USAGE for span in spans]
    errors = [span.error for span in spans]
    yield _texts([span.trace_id for span in spans])
    yield _texts([span.span_id for span in spans])
    yield _texts([span.parent_id for span in spans])
    yield _texts([span.name for span in spans])
    yield _texts([span.kind.value for span in spans])
    yield _ints([span.start_ns for span in spans])
    yield _ints([span.end_ns for span in spans])
    yield _texts([span.status and span.status.value for span in spans])
    yield _texts([None if error is None else error.type for error in errors])
    yield _texts([None if error is None else error.message for error in errors])
    yield _texts([span.workload_id for span in spans])
    yield _ints([usage.input_tokens for usage in usages])
    yield _ints([usage.output_tokens for usage in usages])
    yield _ints([usage.cache_read_tokens for usage in usages])
    yield _ints([usage.reasoning_tokens for usage in usages])
    yield _texts([_json(span.input) for span in spans])
    yield _texts([_json(span.output) for span in spans])
    yield _texts([_json(span.attributes) for span in spans])
    yield _texts([_json(span.events) for span in spans])
    yield _texts([_json(span.links) for span in spans])


def _table_columns(table: SpanTable, rows: slice) -> Iterator[pa.Array]:
    yield _texts([table.models[code] if code >= 0 else None for code in table.model[rows].tolist()])
    first_chunk_s = table.time_to_first_chunk_s[rows]
    yield pa.array(first_chunk_s, mask=np.isnan(first_chunk_s))
    yield pa.array(table.trace[rows].astype(np.int32))
    yield _known(table.parent[rows].astype(np.int32))
    yield pa.array(table.depth[rows].astype(np.int32))
    yield pa.array(table.start_ns[rows])
    yield _known(table.end_ns[rows])
    yield pa.array(table.declared_root[rows])
    yield _known(table.input_hash[rows])


def _blocks_column(spans: list[Span]) -> pa.Array:
    blocks = prompt_blocks(spans)
    return pa.LargeListArray.from_arrays(
        pa.array(blocks.first), pa.array(blocks.hashes), mask=pa.array(~blocks.known)
    )


def _known(column: "np.ndarray[Any, Any]") -> pa.Array:
    return pa.array(column, mask=column < 0)


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
    if value is msgspec.UNSET or value is None:
        return None
    return msgspec.json.encode(value, enc_hook=str).decode()


def write_spans(spans: Iterable[Span], file: Path | IO[bytes]) -> None:
    """Write spans in the order in which they come, in bounded memory, without what a table works out."""
    schema = pa.schema(_FIELDS)
    waiting = iter(spans)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while some := list(islice(waiting, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_arrays([*_span_columns(some)], schema=schema))


# Reading


def read_table(path: Path) -> SpanTable | None:
    """The table of a file, its numbers alone; the spans themselves are read when they are looked at.

    Returns:
        The table; `None` for a file of spans that was not written by `write_table`, or changed afterwards:
        what was worked out has to be worked out again.

    Raises:
        InputError: it is no Parquet file, or it is damaged.
    """
    try:
        about = _about(pq.read_schema(path))
        if about is None:
            return None
        file = pq.ParquetFile(path, read_dictionary=[word for word in _WORDS if word != "trace_id"])
        names, name = _codes(file, "name")
        models, model = _codes(file, "model")
        errors, error = _codes(file, "error_type")
        trace = _numbers(file, "trace")
        table = SpanTable(
            spans=StoredSpans(path),
            span_ids=StoredTexts(len(trace), partial(_span_ids, path)),
            trace_ids=StoredTexts(about.traces, partial(_trace_ids, path, trace, about.traces)),
            names=names,
            models=models,
            error_types=errors,
            trace=trace,
            parent=_numbers(file, "parent"),
            depth=_numbers(file, "depth"),
            kind=_known_codes(file, "kind", KIND_CODE),
            name=name,
            model=model,
            status=_known_codes(file, "status", STATUS_CODE),
            error_type=error,
            input_hash=_numbers(file, "input_hash"),
            start_ns=_numbers(file, "table_start_ns"),
            end_ns=_numbers(file, "table_end_ns"),
            input_tokens=_tokens(file, "input_tokens"),
            output_tokens=_tokens(file, "output_tokens"),
            cache_read_tokens=_tokens(file, "cache_read_tokens"),
            reasoning_tokens=_tokens(file, "reasoning_tokens"),
            time_to_first_chunk_s=_plain(_column(file, "time_to_first_chunk_s"), math.nan),
            declared_root=_bits(_column(file, "declared_root"), 1),
            oddities=about.oddities,
        )
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error
    return table if holds_together(table) else None


def _about(schema: pa.Schema) -> _About | None:
    told = (schema.metadata or {}).get(_METADATA)
    known = {field.name: field.type for field in schema}
    if told is None or any(known.get(field.name) != field.type for field in SCHEMA):
        return None
    try:
        about = msgspec.json.decode(told, type=_About)
    except msgspec.MsgspecError:
        return None
    return about if about.version == _VERSION and about.traces >= 0 else None


def _column(file: pq.ParquetFile, name: str) -> pa.Array:
    column = file.read([name]).column(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _numbers(file: pq.ParquetFile, name: str) -> Ints:
    """Whole numbers, -1 where there is none."""
    return _filled(_column(file, name))


def _filled(column: pa.Array) -> Ints:
    return _plain(column, UNKNOWN).astype(np.int64, copy=False)


def _plain(column: pa.Array, missing: float) -> "np.ndarray[Any, Any]":
    """Numbers from their buffers: `to_numpy` and `fill_null` import pandas if they can, in seconds."""
    kind = np.dtype(column.type.to_pandas_dtype())
    found = np.frombuffer(column.buffers()[1], kind, len(column), column.offset * kind.itemsize)
    return np.where(_bits(column, 0), found, np.array(missing, kind)) if column.null_count else found


def _bits(column: pa.Array, buffer: int) -> Bools:
    """One of a column's bitmaps: 0 says which values are known, 1 holds those of truth values."""
    bits = column.buffers()[buffer]
    if bits is None:
        return np.ones(len(column), bool)
    unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    return unpacked[column.offset : column.offset + len(column)].astype(bool)


def _tokens(file: pq.ParquetFile, name: str) -> Ints:
    return possible_tokens(_numbers(file, name))


def _codes(file: pq.ParquetFile, name: str) -> tuple[list[str], Ints]:
    """The distinct words of a column in sorted order, and the position of each row's."""
    column = _column(file, name)
    words = column.dictionary.to_pylist()
    distinct = sorted(set(words))
    place = {word: at for at, word in enumerate(distinct)}
    return distinct, _recoded(column, [place[word] for word in words])


def _known_codes(file: pq.ParquetFile, name: str, codes: dict[str, int]) -> Ints:
    column = _column(file, name)
    return _recoded(column, [codes.get(word, UNKNOWN) for word in column.dictionary.to_pylist()])


def _recoded(column: pa.DictionaryArray, codes: list[int]) -> Ints:
    """The code of each row's word, -1 where there is none."""
    table: Ints = np.array([*codes, UNKNOWN], np.int64)
    return table[_filled(column.indices)]


class StoredTexts(Sequence[str]):
    """Texts of a file, read when one of them is looked at.

    Args:
        count: how many they are.
        read: gives them.
    """

    def __init__(self, count: int, read: Callable[[], list[str]]) -> None:
        self._count = count
        self._read = read
        self._texts: list[str] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if self._texts is None:
            self._texts = self._read()
        return self._texts[at]


def _span_ids(path: Path) -> list[str]:
    found: list[str] = pq.read_table(path, columns=["span_id"]).column(0).to_pylist()
    return found


def _trace_ids(path: Path, trace: Ints, count: int) -> list[str]:
    """The id of each trace, by its number; empty where it has no span."""
    ids = pq.read_table(path, columns=["trace_id"]).column(0)
    first = np.flatnonzero(np.diff(trace, prepend=UNKNOWN))
    found = dict(zip(trace[first].tolist(), ids.take(pa.array(first)).to_pylist(), strict=True))
    return [found.get(number, "") for number in range(count)]


class StoredSpans(Sequence[Span]):
    """The spans of a file, row by row; a group of rows is read when one of them is looked at."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        sizes = [self._file.metadata.row_group(at).num_rows for at in range(self._file.num_row_groups)]
        self._bounds: Ints = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))).astype(np.int64)
        self._groups: OrderedDict[int, list[pa.Array]] = OrderedDict()
        """Columns of the groups that were looked at last."""

    def __len__(self) -> int:
        return int(self._bounds[-1])

    @overload
    def __getitem__(self, at: int) -> Span: ...
    @overload
    def __getitem__(self, at: slice) -> list[Span]: ...
    def __getitem__(self, at: int | slice) -> Span | list[Span]:
        if isinstance(at, slice):
            return [self[row] for row in range(*at.indices(len(self)))]
        row = at + len(self) if at < 0 else at
        if not 0 <= row < len(self):
            raise IndexError(f"there is no row {at}")
        group = int(np.searchsorted(self._bounds, row, side="right")) - 1
        if group not in self._groups:
            rows = self._file.read_row_group(group, columns=_NAMES)
            self._groups[group] = [rows.column(name).combine_chunks() for name in _NAMES]
            if len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        at = row - int(self._bounds[group])
        return _span([column[at].as_py() for column in self._groups[group]])

    def prompt_blocks(self) -> PromptBlocks:
        """The prompts of all spans, as they were hashed when the file was written."""
        schema, about = self._file.schema, self._file.metadata
        groups = range(self._file.num_row_groups)
        at = next(at for at in range(len(schema)) if schema.column(at).path.startswith("prompt_blocks."))
        most = sum(about.row_group(number).column(at).num_values for number in groups)  # empty lists count
        hashes = np.empty(most, np.uint64)
        length, known = np.zeros(len(self), np.int64), np.zeros(len(self), bool)
        row = end = 0
        for number in groups:  # all at once would take three times their memory
            for some in self._file.read_row_group(number, columns=["prompt_blocks"]).column(0).chunks:
                rows, row = slice(row, row + len(some)), row + len(some)
                known[rows] = _bits(some, 0)
                length[rows] = np.maximum(_filled(some.value_lengths()), 0)
                found = _plain(some.flatten(), 0)
                hashes[end : end + len(found)] = found
                end += len(found)
        return PromptBlocks(hashes[:end], np.concatenate(([0], np.cumsum(length))), known)

    def __iter__(self) -> Iterator[Span]:
        for batch in self._file.iter_batches(ROWS_AT_ONCE, columns=_NAMES):
            yield from spans_of(batch)


def spans_of(rows: "pa.Table | pa.RecordBatch") -> Iterator[Span]:
    """The spans of rows with the columns of `SCHEMA`."""
    for values in zip(*(rows.column(name).to_pylist() for name in _NAMES), strict=True):
        yield _span(values)


def _span(values: Sequence[Any]) -> Span:
    """The span of a row with these values of `_FIELDS`."""
    row = dict(zip(_NAMES, values, strict=True))
    counts = Usage(*(row[name] for name in _TOKENS))
    return Span(
        trace_id=row["trace_id"],
        span_id=row["span_id"],
        parent_id=row["parent_id"],
        name=row["name"],
        kind=SpanKind(row["kind"]),
        start_ns=row["start_ns"],
        end_ns=row["end_ns"],
        status=None if row["status"] is None else Status(row["status"]),
        error=None if row["error_type"] is None else SpanError(row["error_type"], row["error_message"] or ""),
        input=_value(row["input"]),
        output=_value(row["output"]),
        usage=None if counts == _NO_USAGE else counts,
        workload_id=row["workload_id"],
        attributes=_decode_attributes(row["attributes"] or "{}"),
        events=_decode_events(row["events"] or "[]"),
        links=_decode_links(row["links"] or "[]"),
    )


def _value(text: str | None) -> Any:
    return msgspec.UNSET if text is None else msgspec.json.decode(text)


_decode_attributes: Final = msgspec.json.Decoder(dict[str, Any]).decode
_decode_events: Final = msgspec.json.Decoder(list[SpanEvent]).decode
_decode_links: Final = msgspec.json.Decoder(list[SpanLink]).decode
