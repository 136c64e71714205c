"""Lines to spans: every span once, torn lines counted, open spans kept until their end comes."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final, Protocol

import msgspec

from millstream.span import Span, SpanKind, Status
from millstream.store.blobs import MARK, BlobReader

_TRACE_KEY: Final = b'{"trace_id":"'
_TRACE_ID: Final = slice(len(_TRACE_KEY), len(_TRACE_KEY) + 32)
_DROPPED: Final = b',"dropped":true}'
_ENDS: Final = b'"end_ns"'
"""Stands in the line of every span that ended."""
_HEAD: Final = re.compile(
    rb'\{"trace_id":"[0-9a-f]{32}","parent_id":(?:null|"[0-9a-f]{16}"),"span_id":"[0-9a-f]{16}",'
    rb'"name":"(?:[^"\\]|\\.)*+","kind":"[A-Z]+","start_ns":[0-9]++(?=[,}])'
)
"""What a line holds from a span's start on, whole."""


class Opening(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """What is known of a span when it starts."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: SpanKind
    start_ns: int
    workload_id: str | None = None
    attributes: dict[str, Any] = {}

    def span(self) -> Span:
        """The span itself, open."""
        return Span(**msgspec.structs.asdict(self))


_decode: Final = msgspec.json.Decoder(Span).decode
_decode_opening: Final = msgspec.json.Decoder(Opening).decode


UNREADABLE: Final = (msgspec.DecodeError, RecursionError)
"""What a line that is no span makes a decoder raise: it is not JSON, or it is nested too deeply."""


class NotWholeError(Exception):
    """A line is being written at this moment."""


class Watcher(Protocol):
    """Who wants to know of spans before they end."""

    def opened(self, span: Opening | Span) -> None:
        """A span has started; only its opening is known."""

    def dropped(self, span: Span) -> None:
        """A span that had started will not come."""


class SpanReader:
    """Turns the lines of one process's files into spans, in the order in which they ended.

    A span's first line only says that it began; it is held until the line of its end comes. Memory grows
    with the spans that are open at one time, not with the file.

    Args:
        trace_ids: only spans of these traces; `None` for all.
        rejected: counts, by reason, of lines that are no spans; added to.
        unopened: ids of spans that ended here and began in earlier lines; added to.
        watcher: is told of each span that has only begun.
        blobs: puts large values back; without it they are left out.
    """

    def __init__(
        self,
        trace_ids: Collection[str] | None,
        rejected: Counter[str],
        unopened: set[str] | None = None,
        watcher: Watcher | None = None,
        blobs: BlobReader | None = None,
    ) -> None:
        self._wanted = None if trace_ids is None else {trace_id.encode() for trace_id in trace_ids}
        self._rejected = rejected
        self._unopened = unopened
        self._watcher = watcher
        self._blobs = blobs
        self._open: dict[str, Opening | Span] = {}

    def read(self, lines: Iterable[bytes], *, growing: bool = False) -> Iterator[Span]:
        """The spans that end in these lines.

        Args:
            lines: without their newlines.
            growing: whether they are being written at this moment: then the first that is not whole is
                where the writer is, and the last.
        """
        for line in lines:
            try:
                span = self.take(line, growing=growing)
            except NotWholeError:
                return
            if span is not None:
                yield span

    def take(self, line: bytes, *, growing: bool = False, whole: bool = True) -> Span | None:
        """The span that ends in a line; `None` where one begins, and of a line that is no span.

        Args:
            line: the next one.
            growing: whether it may be being written at this moment.
            whole: whether large values are wanted.

        Raises:
            NotWholeError: it is being written; come back for it later.
        """
        if self._wanted is not None and self._is_of_another_trace(line, self._wanted):
            return None
        if _ENDS not in line and self._begins(line):
            return None
        try:
            span = _decode(line)
        except UNREADABLE as error:
            is_torn = not isinstance(error, msgspec.ValidationError | RecursionError) or line[:1] != b"{"
            if growing and is_torn:
                raise NotWholeError from error
            rescued = self._rescue(line, error)
            if rescued is None:
                return None
            span = rescued
        if not (self._wanted is None or span.trace_id.encode() in self._wanted):
            return None
        if span.end_ns is None and span.status is None:
            self._opened(span)
            return None
        if self._open.pop(span.span_id, None) is None and self._unopened is not None:
            self._unopened.add(span.span_id)
        if whole and self._blobs is not None and MARK in line:
            self._blobs.fill(span, line)
        return span

    @staticmethod
    def _is_of_another_trace(line: bytes, wanted: Collection[bytes]) -> bool:
        """Whether that can be seen without taking the line apart."""
        return line.startswith(_TRACE_KEY) and line[_TRACE_ID] not in wanted

    def _begins(self, line: bytes) -> bool:
        """Whether this is no more than the start of a span, or tells of a dropped one; then it is seen to."""
        if line.endswith(_DROPPED):
            self._drop(line)
            return True
        try:
            opening = _decode_opening(line)
        except UNREADABLE:
            return False
        if self._wanted is None or opening.trace_id.encode() in self._wanted:
            self._opened(opening)
        return True

    def _opened(self, span: Opening | Span) -> None:
        self._open[span.span_id] = span
        if self._watcher is not None:
            self._watcher.opened(span)

    def _drop(self, line: bytes) -> None:
        """A processor dropped a span that had begun."""
        try:
            span = _decode(line)
        except UNREADABLE:
            return
        if self._open.pop(span.span_id, None) is None and self._unopened is not None:
            self._unopened.add(span.span_id)
        if self._watcher is not None:
            self._watcher.dropped(span)

    @property
    def open_ids(self) -> set[str]:
        """The spans whose end has not come so far."""
        return set(self._open)

    @property
    def openings(self) -> Collection[Opening | Span]:
        """Those spans, as they began."""
        return self._open.values()

    def still_open(self, *, interrupted: bool) -> Iterator[Span]:
        """The spans whose end did not come.

        Args:
            interrupted: whether it can no longer come, because the process has died.
        """
        for opened in self._open.values():
            span = opened.span() if isinstance(opened, Opening) else opened
            span.status = Status.INTERRUPTED if interrupted else None
            yield span
        self._open.clear()

    def _rescue(self, line: bytes, error: Exception) -> Span | None:
        """What can be known of a span from a line that is not one; the line is counted."""
        if isinstance(error, RecursionError):
            self._rejected["not a span: nested too deeply"] += 1
            return None
        if isinstance(error, msgspec.ValidationError):
            self._rejected[f"not a span: {str(error).partition(' - ')[0]}"] += 1
            return None
        if head := _HEAD.match(line):  # killed while its end was being written
            try:
                span = _decode(head[0] + b"}")
            except msgspec.DecodeError:
                pass
            else:
                self._rejected["torn line, span kept as interrupted"] += 1
                return span
        self._rejected["torn line or not JSON"] += 1
        return None
