"""The spans of a journal one by one: of the files it was compacted into, then of what is left."""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from millstream.errors import MissingExtraError
from millstream.span import Span
from millstream.store.blobs import BlobReader
from millstream.store.compacted import Compacted
from millstream.store.following import whole_lines
from millstream.store.merge import Merger
from millstream.store.moment import Left, held, moment, undisturbed
from millstream.store.readers import wanted
from millstream.store.segments import State, read_lines
from millstream.store.spans import SpanReader

if TYPE_CHECKING:
    from millstream.store.parquet_spans import StoredSpans


class JournalStore:
    """The spans of a journal. Reading never disturbs those who write."""

    format = "journal"
    trace_order: Sequence[str] = ()

    def __init__(self, home: Path) -> None:
        self.home = home
        self.rejected: Counter[str] = Counter()
        self.merged: Counter[str] = Counter()

    def spans(self, trace_ids: Collection[str] | None = None, since_ns: int | None = None) -> Iterator[Span]:
        """As `Store.spans`; a span open in a process that died has status `interrupted`."""
        return self._spans(wanted(trace_ids), since_ns)

    def _spans(self, trace_ids: Collection[str] | None, since_ns: int | None) -> Iterator[Span]:
        self.rejected, self.merged = Counter(), Counter()
        with contextlib.ExitStack() as opened:
            known, files, left = undisturbed(self.home, lambda: self._open(since_ns, opened))
            found: Iterator[Span] = chain(
                self._of_files(known, files, trace_ids), self._of_writers(left, trace_ids)
            )
            if known.broken:  # what they left open for others is read again with the journal
                found = _once(found)
            yield from found

    def _open(
        self, since_ns: int | None, opened: contextlib.ExitStack
    ) -> tuple[Compacted, "list[StoredSpans]", dict[str, Left]]:
        """All that is to be read, held open: it may be removed when it is part of another file."""
        known, left = moment(self.home)
        files = [
            _stored(path)
            for path, file in zip(known.paths, known.files, strict=True)
            if since_ns is None or (file.covered.last_ns or 0) >= since_ns
        ]
        chosen = [one for some in left.values() for one in some.segments if one.may_hold_since(since_ns)]
        paths = dict(zip(chosen, held([one.path for one in chosen], opened), strict=True))
        writers = {
            writer: some._replace(
                segments=[replace(one, path=paths[one]) for one in some.segments if one in paths]
            )
            for writer, some in left.items()
        }
        return known, files, writers

    def _of_files(
        self, known: Compacted, files: "list[StoredSpans]", trace_ids: Collection[str] | None
    ) -> Iterator[Span]:
        self.rejected.update(known.complaints)
        for file in known.files:
            self.rejected.update(file.covered.rejected)
            self.merged.update(file.covered.merged)
        for spans in files:
            yield from spans if trace_ids is None else spans.of_traces(trace_ids)

    def _of_writers(self, left: dict[str, Left], trace_ids: Collection[str] | None) -> Iterator[Span]:
        for some in left.values():
            yield from self._of_writer(some, trace_ids)

    def _of_writer(self, left: Left, trace_ids: Collection[str] | None) -> Iterator[Span]:
        merger = Merger(self.merged)
        blobs = BlobReader(self.rejected)
        reader = SpanReader(trace_ids, self.rejected, watcher=merger, blobs=blobs)
        for span in reader.read(left.carried.splitlines()):
            yield from merger.ended(span)
        for segment in left.segments:
            growing = segment.state is State.LIVE
            lines = blobs.read(segment.path, self._lines(segment.path, growing=growing))
            for span in reader.read(lines, growing=growing):
                yield from merger.ended(span)
        for span in reader.still_open(interrupted=not left.lives):
            yield from merger.ended(span)
        yield from merger.rest()

    def _lines(self, path: Path, *, growing: bool) -> Iterator[tuple[int, bytes]]:
        try:
            yield from whole_lines(path) if growing else read_lines(path)
        except FileNotFoundError:  # it was one too many to be held
            self.rejected["a segment was removed while it was to be read; read the journal again"] += 1


def _stored(path: Path) -> "StoredSpans":
    try:
        from millstream.store.parquet_spans import StoredSpans  # noqa: PLC0415  # needs an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("Reading a compacted journal", "profiling") from error
    return StoredSpans(path)


def _once(spans: Iterable[Span]) -> Iterator[Span]:
    """Of spans with one id the first."""
    told: set[tuple[str, str]] = set()
    for span in spans:
        key = (span.trace_id, span.span_id)
        if key not in told:
            told.add(key)
            yield span
