"""`open_store`: one way to read spans, whatever they were recorded to."""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from millstream.errors import InputError
from millstream.span import Span
from millstream.store.blobs import BlobReader
from millstream.store.following import whole_lines
from millstream.store.merge import Merger
from millstream.store.readers import wanted
from millstream.store.readers.recognise import recognise
from millstream.store.segments import Segment, State, list_segments, read_lines
from millstream.store.spans import SpanReader

_GIVE: Final = "Give the folder that was recorded into"


class Store(Protocol):
    """Recorded spans.

    Attributes:
        format: what was recognised: `journal`, `jsonl`, `parquet`, `nat_traces` or `otlp_json`.
        rejected: counts, by reason, of what could not be read in the last `spans()`, or not whole.
        merged: counts, by kind, of spans that were one call with another, in the last `spans()`.
    """

    format: str
    rejected: Counter[str]
    merged: Counter[str]

    @property
    def trace_order(self) -> Sequence[str]:
        """Trace ids by request number, once `spans()` has given all; empty where requests have no numbers."""
        ...

    def spans(self, trace_ids: Collection[str] | None = None, since_ns: int | None = None) -> Iterator[Span]:
        """Every span once, roughly in the order in which they ended, in bounded memory.

        Spans copied from OpenTelemetry are in our vocabulary, and a call that several instrumentations
        recorded is one span.

        Args:
            trace_ids: only spans of these traces.
            since_ns: Unix nanoseconds; files that were finished before it are not opened.

        Raises:
            InputError: `trace_ids` is one text, not a collection of them.
        """
        ...


def open_store(source: str | os.PathLike[str]) -> Store:
    """Recorded spans to read.

    Args:
        source: a folder that was recorded into (`MILLSTREAM_HOME`), or a file: spans as `millstream journal
            export` writes them (JSON lines, Parquet), `all_requests_profiler_traces.json` of ours or of the
            NeMo Agent Toolkit, OTLP as JSON. Its content says what it is, not its name; JSON may be
            compressed by gzip.

    Raises:
        InputError: there is nothing of the kind.
        MissingExtraError: it is Parquet, and that extra is not installed.
    """
    path = Path(source)
    if path.is_dir():
        home = path.parent if path.name == "journal" and not (path / "journal").is_dir() else path
        if not (home / "journal").is_dir():
            raise InputError(
                f"{path} holds no recordings: it has no journal folder. {_GIVE}, by default .millstream"
            )
        return JournalStore(home)
    if not path.exists():
        raise InputError(f"{path} does not exist. {_GIVE}, by default .millstream, or a file of spans")
    return recognise(path)


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
        of_process: defaultdict[str, list[Segment]] = defaultdict(list)
        for segment in list_segments(self.home):
            if segment.may_hold_since(since_ns):
                of_process[segment.writer].append(segment)
        for segments in of_process.values():
            merger = Merger(self.merged)
            blobs = BlobReader(self.rejected)
            reader = SpanReader(trace_ids, self.rejected, watcher=merger, blobs=blobs)
            for segment in segments:
                growing = segment.state is State.LIVE
                lines = whole_lines(segment.path) if growing else read_lines(segment.path)
                for span in reader.read(blobs.read(segment.path, lines), growing=growing):
                    yield from merger.ended(span)
            lives = any(segment.state is State.LIVE for segment in segments)
            for span in reader.still_open(interrupted=not lives):
                yield from merger.ended(span)
            yield from merger.rest()
