"""`spans.parquet`: the columns of a span, by name; others are passed over."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from millstream.errors import InputError, MissingExtraError
from millstream.span import Span, SpanError, SpanEvent, SpanKind, SpanLink, Status, Usage
from millstream.store.readers import wanted

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise MissingExtraError("A Parquet file", "profiling") from error

_NEEDED: Final = ("trace_id", "span_id", "name", "kind", "start_ns")
_TOKENS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens")
_JSON: Final = ("input", "output", "attributes", "events", "links")
_OTHERS: Final = ("parent_id", "end_ns", "status", "error_type", "error_message", "workload_id")
_ROWS_AT_ONCE: Final = 4_000
_SHOWN_COLUMNS: Final = 8
_KINDS: Final = {kind.value: kind for kind in SpanKind}
_STATUSES: Final = {status.value: status for status in Status}
_decode_events: Final = msgspec.json.Decoder(list[SpanEvent]).decode
_decode_links: Final = msgspec.json.Decoder(list[SpanLink]).decode
_decode_attributes: Final = msgspec.json.Decoder(dict[str, Any]).decode
_decode: Final = msgspec.json.Decoder().decode

Row = dict[str, Any]


class ParquetStore:
    """The spans of a file, some thousand rows at a time.

    Raises:
        InputError: it is no Parquet file, it is damaged, or it has not the columns of spans.
    """

    format = "parquet"
    trace_order: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected: Counter[str] = Counter()
        self.merged: Counter[str] = Counter()
        with self._open() as file:
            names = file.schema_arrow.names
        missing = [name for name in _NEEDED if name not in names]
        if missing:
            raise InputError(
                f"{path} is Parquet, but holds no spans: it has no column {', '.join(missing)}. "
                f"Its columns are {_listed(names)}"
            )
        self._columns = [name for name in (*_NEEDED, *_OTHERS, *_TOKENS, *_JSON) if name in names]

    def spans(self, trace_ids: Collection[str] | None = None, since_ns: int | None = None) -> Iterator[Span]:  # noqa: ARG002  # one file has no parts to skip
        """As `Store.spans`, in the order of the file."""
        return self._spans(wanted(trace_ids))

    def _spans(self, trace_ids: Collection[str] | None) -> Iterator[Span]:
        self.rejected = Counter()
        chosen = None if trace_ids is None else pa.array(sorted(trace_ids), pa.string())
        with self._open() as file:
            for group in range(file.num_row_groups):
                rows = file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=self._columns)
                left = file.metadata.row_group(group).num_rows
                try:
                    for batch in rows:
                        left -= len(batch)
                        some = batch if chosen is None else _of_traces(batch, chosen)
                        yield from self._of_rows(some)
                except (OSError, pa.ArrowException):
                    self.rejected["row of a damaged part of the file"] += left

    def _of_rows(self, batch: pa.RecordBatch) -> Iterator[Span]:
        columns = [column.to_pylist() for column in batch.columns]
        for values in zip(*columns, strict=True):
            row = dict(zip(batch.schema.names, values, strict=True))
            try:
                yield self._span(row)
            except ValueError as error:
                self.rejected[str(error)] += 1

    def _span(self, row: Row) -> Span:
        """A row's span; raises ValueError, which says what is missing."""
        start_ns, kind = _whole(row["start_ns"]), _KINDS.get(row["kind"])
        if not all(isinstance(row[name], str) and row[name] for name in ("trace_id", "span_id")):
            raise ValueError("row without a trace id or a span id")
        if start_ns is None:
            raise ValueError("row without a start time")
        if kind is None:
            raise ValueError("row of an unknown kind")
        tokens = [_whole(row.get(name)) for name in _TOKENS]
        failed = row.get("error_type") is not None or row.get("error_message") is not None
        return Span(
            row["trace_id"],
            row["span_id"],
            row.get("parent_id") or None,
            str(row["name"] or ""),
            kind,
            start_ns,
            _whole(row.get("end_ns")),
            _STATUSES.get(row.get("status") or ""),
            SpanError(str(row.get("error_type") or ""), str(row.get("error_message") or ""))
            if failed
            else None,
            self._json(row, "input", _decode, msgspec.UNSET),
            self._json(row, "output", _decode, msgspec.UNSET),
            None if tokens.count(None) == len(tokens) else Usage(*tokens),
            row.get("workload_id"),
            self._json(row, "attributes", _decode_attributes, {}),
            self._json(row, "events", _decode_events, []),
            self._json(row, "links", _decode_links, []),
        )

    def _json(self, row: Row, name: str, decode: Callable[[str], Any], missing: Any) -> Any:
        """The value of a column of JSON; what is none is counted, and missing."""
        text = row.get(name)
        if text is None:
            return missing
        try:
            return decode(text)
        except (msgspec.DecodeError, TypeError, RecursionError):
            self.rejected[f"{name} that cannot be read, left out"] += 1
            return missing

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.path} cannot be read as Parquet: {error}") from error


def _of_traces(batch: pa.RecordBatch, trace_ids: pa.Array) -> pa.RecordBatch:
    return batch.filter(pc.is_in(batch.column("trace_id").cast(pa.string()), trace_ids))


def _whole(value: Any) -> int | None:
    """A whole number; of a column that a missing value made one of floats, too."""
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN_COLUMNS
    return ", ".join(names[:_SHOWN_COLUMNS]) + (f" and {more} more" if more > 0 else "")
