"""Spans of a Parquet file by row, and its texts: read when they are looked at."""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, overload

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from millstream.span import Span, SpanError, SpanEvent, SpanKind, SpanLink, Status, Usage
from millstream.store.arrays import Ints
from millstream.store.arrow import bits, column_of
from millstream.store.cached import cached_column
from millstream.store.lazy_spans import LazySpans
from millstream.store.parquet import FIELD_NAMES, ROWS_AT_ONCE, SCHEMA
from millstream.store.prompt_blocks import Hashes, PromptBlocks, once

_KIND: Final = {kind.value: kind for kind in SpanKind}
_STATUS: Final = {status.value: status for status in Status}
_KEPT_GROUPS: Final = 4
_AT_ONCE: Final = 2
_BLOCK: Final = 8
"""Bytes of a hash."""


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


class StoredSpans(LazySpans):
    """The spans of a file; a group of rows is read when one of them is looked at.

    It is held open: it may be removed when it is part of another.
    """

    def __init__(self, path: Path) -> None:
        self._opened = pa.OSFile(str(path))
        self._file = pq.ParquetFile(self._opened)
        sizes = [self._file.metadata.row_group(at).num_rows for at in range(self._file.num_row_groups)]
        self._bounds: Ints = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))).astype(np.int64)
        self._groups: OrderedDict[tuple[int, tuple[str, ...]], pa.Table] = OrderedDict()
        """Those that were looked at last."""
        super().__init__(int(self._bounds[-1]))

    def between(self, start: int, stop: int) -> list[Span]:
        """The spans of rows that follow each other, group by group."""
        return list(spans_of(self.stored(np.arange(start, stop), FIELD_NAMES)))

    def stored(self, rows: Ints, names: list[str]) -> pa.Table:
        """Some of the rows, group by group."""
        group = np.searchsorted(self._bounds, rows, side="right") - 1
        found = [pa.Table.from_batches([], self._file.schema_arrow).select(names)]
        for number in np.unique(group).tolist():
            wanted = rows[group == number] - self._bounds[number]
            found.append(self._group(number, names).take(column_of(wanted)))
        return pa.concat_tables([table.replace_schema_metadata() for table in found])

    def _group(self, number: int, names: list[str]) -> pa.Table:
        key = number, tuple(names)
        if key not in self._groups:
            self._groups[key] = self._file.read_row_group(number, columns=names).combine_chunks()
            if len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]

    def prompt_blocks(self) -> PromptBlocks:
        """The prompts of all spans, as they were hashed when the file was written."""
        found = _blocks(
            (chunk for group in self._read_ahead(["prompt_blocks"]) for chunk in group.column(0).chunks),
            len(self),
        )
        pa.default_memory_pool().release_unused()  # what all the groups took, one after the other
        return found

    @property
    def schema(self) -> pa.Schema:
        """That of the file."""
        return self._file.schema_arrow

    def file(self, **options: Any) -> pq.ParquetFile:
        """The same file, opened with other options, as `pq.ParquetFile` takes them."""
        return pq.ParquetFile(self._opened, metadata=self._file.metadata, **options)

    def columns(self, names: list[str]) -> pa.Table:
        """Some of the columns; those of `ADDED` that the file does not have are worked out."""
        rows = self._file.read([name for name in names if name in self.schema.names])
        for name in names:
            if name not in rows.column_names:
                rows = rows.append_column(SCHEMA.field(name), self._cached())
        return rows.select(names)

    def _cached(self) -> pa.ChunkedArray:
        chunks = (chunk for group in self._read_ahead(["attributes"]) for chunk in group.column(0).chunks)
        return pa.chunked_array([cached_column(chunk) for chunk in chunks], pa.bool_())

    def _read_ahead(self, columns: list[str]) -> Iterator[pa.Table]:
        """The groups of rows in order, some read while others are worked on."""
        files = [self.file() for _ in range(_AT_ONCE)]
        groups = range(self._file.num_row_groups)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            waiting: deque[Future[pa.Table]] = deque()
            for group in groups:
                file = files[group % _AT_ONCE]  # its last one was waited for
                waiting.append(pool.submit(file.read_row_group, group, columns=columns, use_threads=False))
                if len(waiting) == _AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def __iter__(self) -> Iterator[Span]:
        for batch in self._file.iter_batches(ROWS_AT_ONCE, columns=FIELD_NAMES):
            yield from spans_of(batch)

    def of_traces(self, trace_ids: Collection[str]) -> Iterator[Span]:
        """The spans of some traces."""
        wanted = pa.array(sorted(trace_ids), pa.large_string())
        for number in range(self._file.num_row_groups):
            ids = self._file.read_row_group(number, columns=["trace_id"]).column(0)
            chosen = pc.is_in(ids, value_set=wanted)
            if pc.any(chosen).as_py():
                yield from spans_of(self._file.read_row_group(number, columns=FIELD_NAMES).filter(chosen))


class RowSpans(LazySpans):
    """The spans of rows in memory.

    Args:
        rows: with the columns of `loose.SCHEMA`, each in one piece.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows
        super().__init__(len(rows))

    def between(self, start: int, stop: int) -> list[Span]:
        """The spans of rows that follow each other."""
        return list(spans_of(self._rows.slice(start, stop - start)))

    def stored(self, rows: Ints, names: list[str]) -> pa.Table:
        """Some of the rows."""
        return self._rows.select(names).take(column_of(rows))

    def columns(self, names: list[str]) -> pa.Table:
        """Some of the columns."""
        return self._rows.select(names)

    def prompt_blocks(self) -> PromptBlocks:
        """The prompts of all spans, as they were hashed when the rows were made."""
        return _blocks(self._rows.column("prompt_blocks").chunks, len(self))


def spans_of(rows: "pa.Table | pa.RecordBatch") -> Iterator[Span]:
    """The spans of rows with the columns of `SCHEMA`."""
    for values in zip(*(rows.column(name).to_pylist() for name in FIELD_NAMES), strict=True):
        yield _span(values)


def _span(values: Sequence[Any]) -> Span:
    """The span of a row with these values of `FIELDS`."""
    trace_id, span_id, parent_id, name, kind, start_ns, end_ns, status, *rest = values
    error_type, error_message, workload_id, *counts, came_in, came_out, attributes, events, links = rest
    known = any(count is not None for count in counts)
    return Span(
        trace_id,
        span_id,
        parent_id,
        name,
        _KIND[kind],
        start_ns,
        end_ns,
        None if status is None else _STATUS[status],
        None if error_type is None else SpanError(error_type, error_message or ""),
        _value(came_in),
        _value(came_out),
        Usage(*counts) if known else None,
        workload_id,
        _decode_attributes(attributes or "{}"),
        _decode_events(events) if events and events != "[]" else [],
        _decode_links(links) if links and links != "[]" else [],
    )


def _blocks(chunks: Iterable[pa.Array], rows: int) -> PromptBlocks:
    """Prompts as they lie in a column, chunk by chunk: all at once would take many times the memory."""
    found: list[Hashes] = [np.zeros(0, np.uint64)]
    first, lengths, known = np.empty(rows, np.int64), np.empty(rows, np.int32), np.empty(rows, bool)
    end = before = 0
    for some in chunks:
        if not len(some):  # it may be without buffers
            continue
        ends = np.frombuffer(some.buffers()[1], np.int64, len(some) + 1, some.offset * 8) // _BLOCK
        length = np.diff(ends)
        hashes = np.frombuffer(some.buffers()[2] or b"", "<u8", int(ends[-1]))[ends[0] :]
        hashes, starts = once(hashes, length)
        these = slice(before, before + len(some))
        first[these], lengths[these], known[these] = starts + end, length, bits(some, 0)
        before += len(some)
        end += len(hashes)
        found.append(hashes)
    return PromptBlocks(np.concatenate(found), first, lengths, known)


def _value(text: str | None) -> Any:
    return msgspec.UNSET if text is None else msgspec.json.decode(text)


_decode_attributes: Final = msgspec.json.Decoder(dict[str, Any]).decode
_decode_events: Final = msgspec.json.Decoder(list[SpanEvent]).decode
_decode_links: Final = msgspec.json.Decoder(list[SpanLink]).decode
