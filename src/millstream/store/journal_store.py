"""The spans of a journal one by one: of the files it was compacted into, then of what is left."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from millstream.span import Span
from millstream.store.blobs import BlobReader
from millstream.store.compacted import Compacted, compacted
from millstream.store.following import whole_lines
from millstream.store.merge import Merger
from millstream.store.readers import wanted
from millstream.store.segments import Segment, State, list_segments, read_lines
from millstream.store.spans import SpanReader


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
        known = compacted(self.home)
        self.rejected.update(known.complaints)
        yield from self._of_files(known, trace_ids, since_ns)
        left: defaultdict[str, list[Segment]] = defaultdict(list)
        for segment in known.left(list_segments(self.home)):
            if segment.may_hold_since(since_ns):
                left[segment.writer].append(segment)
        for writer in known.writers:
            left[writer] += []
        for writer, segments in left.items():
            yield from self._of_writer(known.carried(writer), segments, trace_ids)

    def _of_files(
        self, known: Compacted, trace_ids: Collection[str] | None, since_ns: int | None
    ) -> Iterator[Span]:
        if not known.files:
            return
        from millstream.store.parquet_spans import StoredSpans  # noqa: PLC0415  # needs an extra

        chosen = [
            StoredSpans(path)  # which holds it open: it may be removed when it is part of another
            for path, file in zip(known.paths, known.files, strict=True)
            if since_ns is None or (file.covered.end_ns or 0) >= since_ns
        ]
        for file in known.files:
            self.rejected.update(file.covered.rejected)
            self.merged.update(file.covered.merged)
        for spans in chosen:
            yield from spans if trace_ids is None else spans.of_traces(trace_ids)

    def _of_writer(
        self, carried: bytes, segments: list[Segment], trace_ids: Collection[str] | None
    ) -> Iterator[Span]:
        merger = Merger(self.merged)
        blobs = BlobReader(self.rejected)
        reader = SpanReader(trace_ids, self.rejected, watcher=merger, blobs=blobs)
        for span in reader.read(carried.splitlines()):
            yield from merger.ended(span)
        for segment in segments:
            growing = segment.state is State.LIVE
            lines = whole_lines(segment.path) if growing else read_lines(segment.path)
            for span in reader.read(blobs.read(segment.path, lines), growing=growing):
                yield from merger.ended(span)
        lives = any(segment.state is State.LIVE for segment in segments)
        for span in reader.still_open(interrupted=not lives):
            yield from merger.ended(span)
        yield from merger.rest()
