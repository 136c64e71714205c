"""Spans of a Parquet file by row, and its texts: read when they are looked at."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, overload

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from millstream.span import Span, SpanError, SpanEvent, SpanKind, SpanLink, Status, Usage
from millstream.store.arrays import Ints
from millstream.store.arrow import bits, filled, plain
from millstream.store.parquet import FIELD_NAMES, NO_USAGE, ROWS_AT_ONCE
from millstream.store.prompt_blocks import PromptBlocks

_TOKENS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens")
_KEPT_GROUPS: Final = 4


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
            rows = self._file.read_row_group(group, columns=FIELD_NAMES)
            self._groups[group] = [rows.column(name).combine_chunks() for name in FIELD_NAMES]
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
                known[rows] = bits(some, 0)
                length[rows] = np.maximum(filled(some.value_lengths()), 0)
                found = plain(some.flatten(), 0)
                hashes[end : end + len(found)] = found
                end += len(found)
        return PromptBlocks(hashes[:end], np.concatenate(([0], np.cumsum(length))), known)

    def __iter__(self) -> Iterator[Span]:
        for batch in self._file.iter_batches(ROWS_AT_ONCE, columns=FIELD_NAMES):
            yield from spans_of(batch)


def spans_of(rows: "pa.Table | pa.RecordBatch") -> Iterator[Span]:
    """The spans of rows with the columns of `SCHEMA`."""
    for values in zip(*(rows.column(name).to_pylist() for name in FIELD_NAMES), strict=True):
        yield _span(values)


def _span(values: Sequence[Any]) -> Span:
    """The span of a row with these values of `_FIELDS`."""
    row = dict(zip(FIELD_NAMES, values, strict=True))
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
        usage=None if counts == NO_USAGE else counts,
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
