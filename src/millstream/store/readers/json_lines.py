"""Spans as we write them: one JSON object a line, or in one array."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from millstream.span import Span
from millstream.store.merge import Merger, Openings
from millstream.store.readers import wanted
from millstream.store.readers.json_file import JsonFile
from millstream.store.spans import SpanReader


class JsonLinesStore:
    """The spans of a file, one JSON object each."""

    format = "jsonl"
    trace_order: Sequence[str] = ()

    def __init__(self, file: JsonFile) -> None:
        self.file = file
        self.rejected: Counter[str] = Counter()
        self.merged: Counter[str] = Counter()

    def spans(self, trace_ids: Collection[str] | None = None, since_ns: int | None = None) -> Iterator[Span]:  # noqa: ARG002  # one file has no parts to skip
        """As `Store.spans`; what the file says of a span's status stands.

        The file is read twice: memory grows with the ids of its model calls, tools and embeddings.
        """
        return self._spans(wanted(trace_ids))

    def _spans(self, trace_ids: Collection[str] | None) -> Iterator[Span]:
        self.rejected, self.merged = Counter(), Counter()
        merger = Merger(self.merged)
        reader = SpanReader(trace_ids, self.rejected, watcher=merger)
        begun = Openings(self.file.objects(Counter()))
        for span in reader.read(self.file.objects(self.rejected)):
            begun.tell(merger, span)
            yield from merger.ended(span)
        for span in reader.still_open(interrupted=False):
            yield from merger.ended(span)
        yield from merger.rest()
