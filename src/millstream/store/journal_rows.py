"""The loose rows of a journal: what one process recorded, segment by segment, one call one span.

Most traces are rows by compiled passes over their lines. Those of which more must be known (copied from
OpenTelemetry, perhaps told of twice, with a line that is torn) go through `SpanReader` and `Merger`, as for
readers of the journal. A trace that has open spans where a segment ends is carried on to the next one, so
that its spans come together and are merged.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import numpy as np
import pyarrow as pa

from millstream import semconv
from millstream.span import Span, SpanKind, Status
from millstream.store import loose
from millstream.store.arrays import UNKNOWN, Bools, Ints
from millstream.store.arrow import plain
from millstream.store.blobs import MARK, BlobReader
from millstream.store.merge import Merger
from millstream.store.scan import BLOB, DROPPED, ENDED, OPENED, OTHER, Lines
from millstream.store.spans import UNREADABLE, Opening, SpanReader
from millstream.store.table import KIND_CODE

MOST_CARRIED: Final = 64 << 20
"""Bytes of lines that wait for their traces to end; where they are more, what has ended does not wait."""
_PIECE: Final = 8 << 20
_MERGED: Final = [KIND_CODE[kind.value] for kind in (SpanKind.LLM, SpanKind.TOOL, SpanKind.EMBEDDING)]
_decode: Final = msgspec.json.Decoder(Span).decode


class JournalRows:
    """Reads the segments of one process, one after another.

    Args:
        rejected: counts, by reason, of lines that are no spans; added to.
        merged: counts, by kind, of spans that went into others; added to.
        carried: what was carried where it was read last.

    Attributes:
        carried: lines of the traces that are open where the last segment ended, large values in place.
    """

    def __init__(self, rejected: Counter[str], merged: Counter[str], carried: bytes = b"") -> None:
        self.carried = carried
        self._rejected = rejected
        self._merged = merged
        self._blobs = BlobReader(rejected)

    def read(self, path: Path) -> Iterator[pa.Table]:
        """The rows of the traces that are whole where a segment ends, piece by piece.

        Args:
            path: of a segment that nobody writes any more.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            offset = 0
            while piece := _whole_lines(file):
                yield self.take(path, piece, offset)
                offset += len(piece)
        self._blobs.forget(path)

    def take(self, path: Path, data: bytes | memoryview, offset: int = 0) -> pa.Table:
        """The rows of the traces that are whole where some lines end.

        Args:
            path: of their segment.
            data: the lines.
            offset: where they begin in it.
        """
        self._blobs.begin(path)
        found = _Stretch(b"".join((self.carried, data)), self._rejected)
        at = found.lines.numbers["at"] - len(self.carried) + offset
        for row in np.flatnonzero(found.lines.numbers["what"] == BLOB).tolist():
            self._blobs.note(int(at[row]), found.lines.line(row))
        waits = found.is_of(found.open_traces)
        if int(found.lines.numbers["size"][waits].sum()) > MOST_CARRIED:
            waits = found.still_open
        rows = self._rows(found, found.known & ~waits, None)
        self.carried = b"".join(line + b"\n" for line in self._whole(found, np.flatnonzero(waits)))
        self._blobs.close()
        return rows

    def finish(self, open_status: Status | None) -> pa.Table:
        """The rows that were carried; nothing more comes.

        Args:
            open_status: of spans without an end.
        """
        found = _Stretch(self.carried, self._rejected)
        self.carried = b""
        return self._rows(found, found.known, open_status)

    def _rows(self, found: "_Stretch", chosen: Bools, open_status: Status | None) -> pa.Table:
        """The rows of chosen lines, by the shortest way there is."""
        by_python = found.is_of(found.traces_for_python)
        quick = chosen & ~by_python
        rows = np.concatenate([np.flatnonzero(quick & some) for some in (found.ended, found.still_open)])
        tables = [loose.of_lines(found.lines, rows, self._blobs.values, open_status=open_status)]
        left = np.flatnonzero(chosen & by_python)
        if len(left):
            spans = list(self._read(map(found.lines.line, left.tolist()), open_status))
            tables.append(loose.of_spans(spans))
        return pa.concat_tables(tables)

    def _read(self, lines: Iterable[bytes], open_status: Status | None) -> Iterator[Span]:
        merger = Merger(self._merged)
        reader = SpanReader(None, self._rejected, watcher=merger, blobs=self._blobs)
        for span in reader.read(lines):
            yield from merger.ended(span)
        for span in reader.still_open(interrupted=open_status is not None):
            yield from merger.ended(span)
        yield from merger.rest()

    def _whole(self, found: "_Stretch", rows: Ints) -> Iterator[bytes]:
        """Lines with their large values in place."""
        for row in rows.tolist():
            line = found.lines.line(row)
            if MARK in line:
                with contextlib.suppress(*UNREADABLE):  # torn: of such a line, only its start counts
                    span = _decode(line)
                    self._blobs.fill(span, line)
                    line = msgspec.json.encode(span)
            yield line


def _whole_lines(file: BinaryIO) -> bytes | memoryview:
    """The next lines of a file, some megabytes of them; the rest of it at its end."""
    piece = file.read(_PIECE)
    while piece and not piece.endswith(b"\n"):
        end = piece.rfind(b"\n") + 1
        if end:
            file.seek(end - len(piece), os.SEEK_CUR)
            return memoryview(piece)[:end]
        more = file.read(len(piece))
        if not more:
            break
        piece += more
    return piece


class _Stretch:
    """Some lines of a process's journal, and how they belong together.

    Args:
        data: the lines.
        rejected: counts those that are no spans, and of no trace; added to.

    Attributes:
        lines: all of them.
        known: which tell of a span, shape (lines,).
        ended: which tell of the end of one, shape (lines,).
    """

    def __init__(self, data: bytes, rejected: Counter[str]) -> None:
        self.lines = Lines(data)
        what = self.lines.numbers["what"].copy()
        self._others = np.flatnonzero(what == OTHER)
        told: list[Span | Opening] = []
        for row in self._others.tolist():
            span = _looked_at(self.lines.line(row), rejected)
            if span is not None:
                told.append(span)
                what[row] = ENDED if isinstance(span, Span) and span.end_ns is not None else OPENED
        self._others = self._others[what[self._others] != OTHER]
        self.known = (what != OTHER) & (what != BLOB)
        self.ended = what == ENDED
        self._opened = what == OPENED
        self._closing = self.ended | (what == DROPPED)
        self._trace, self._traces = self._numbered("trace", [span.trace_id for span in told])
        self._span, self._spans = self._numbered("span", [span.span_id for span in told])

    def _numbered(self, name: str, others: list[str]) -> tuple[Ints, int]:
        """The number of each line's id, -1 where it has none, and how many there are.

        Args:
            name: `trace` or `span`.
            others: the ids in lines that Python read.
        """
        numbers, count = self.lines.numbers[name], self.lines.counts[name]
        if not others:
            return numbers, count
        rows = np.flatnonzero(numbers >= 0)
        ids = loose.gathered(self.lines.data, self.lines.places(f"{name}_id", rows)).to_pylist()
        known = dict(zip(ids, numbers[rows].tolist(), strict=True))
        numbers = numbers.copy()
        for row, one in zip(self._others.tolist(), others, strict=True):
            if one not in known:
                known[one] = count
                count += 1
            numbers[row] = known[one]
        return numbers, count

    def is_of(self, traces: Bools) -> Bools:
        """Which lines are of chosen traces, shape (lines,)."""
        return np.append(traces, False)[self._trace]

    @cached_property
    def still_open(self) -> Bools:
        """Which lines tell of the start of a span whose end is not here, one a span, shape (lines,)."""
        closed = np.zeros(self._spans, bool)
        closed[self._span[self._closing]] = True
        rows = np.flatnonzero(self._opened)
        rows = rows[~closed[self._span[rows]]]
        _, last = np.unique(self._span[rows][::-1], return_index=True)
        found = np.zeros(len(self.lines), bool)
        found[rows[len(rows) - 1 - last]] = True
        return found

    @cached_property
    def open_traces(self) -> Bools:
        """Which traces have such a span, shape (traces,)."""
        return self._with(self.still_open)

    @cached_property
    def traces_for_python(self) -> Bools:
        """Of which traces more must be known than their lines tell one by one, shape (traces,)."""
        found = np.zeros(self._traces, bool)
        rows = np.flatnonzero(self.known)
        copied = rows[self.lines.has(semconv.OTEL_SPAN_KIND, rows)]
        for some in (self._others, copied, self._inside_alike(), self._answered_alike()):
            found[self._trace[some]] = True
        return found

    def _with(self, lines: Bools) -> Bools:
        found = np.zeros(self._traces, bool)
        found[self._trace[lines]] = True
        return found

    def _inside_alike(self) -> Ints:
        """Lines of calls directly inside a span of their own kind."""
        kind, parent = self.lines.numbers["kind"], self.lines.numbers["parent"]
        of_span = np.full(self._spans + 1, UNKNOWN)
        of_span[self._span[self.known]] = kind[self.known]
        rows = np.flatnonzero(self.known & np.isin(kind, _MERGED))
        found: Ints = rows[of_span[parent[rows]] == kind[rows]]
        return found

    def _answered_alike(self) -> Ints:
        """Lines of calls that tell the response of another call of their trace, or no text as its id."""
        rows = np.flatnonzero(self.ended)
        rows = rows[self.lines.has(semconv.RESPONSE_ID, rows)]
        places = self.lines.told_texts(semconv.RESPONSE_ID, rows)
        response = plain(loose.gathered(self.lines.data, places).dictionary_encode().indices, UNKNOWN)
        key = self._trace[rows] * (len(rows) + 1) + response
        _, which, count = np.unique(key, return_inverse=True, return_counts=True)
        found: Ints = rows[(count[which] > 1) | (response < 0)]
        return found


def _looked_at(line: bytes, rejected: Counter[str]) -> Span | Opening | None:
    """The span that a line tells of; where there is none, the line is counted."""
    reasons: Counter[str] = Counter()
    reader = SpanReader(None, reasons)
    span = reader.take(line) or next(iter(reader.openings), None)
    if span is None:
        rejected.update(reasons)
    return span
