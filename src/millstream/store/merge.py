"""One call is one span, however many instrumentations saw it: duplicates are merged as spans are read.

A model call directly inside a model call is the same call, and so are two that overlap in one trace and tell
the same response id; a tool inside a tool of the same name, an embedding inside an embedding. The outer one
stays and takes what it does not know from the inner one, whose children become its own.

Spans come in the order in which they ended, after their openings. One is held only while another is open, or
held, that it may turn out to be one with, and at most `MOST_HELD` are. A duplicate that is only told of after
the call has ended, and has been given, is dropped: also where more than `MOST_AWAITED` model calls of a trace
are open at once, unless the one is directly inside the other.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.span import Span, SpanKind, Status
from millstream.store.same_call import Given, absorb, is_answered, is_same, may_be_one, take_of
from millstream.store.spans import UNREADABLE, Opening
from millstream.store.translate import translate

MOST_HELD: Final = 10_000
"""Spans that are held at one time, and ids of merged ones that are remembered."""

MOST_AWAITED: Final = 1_000
"""Open model calls of one trace that another waits for: else each would wait for each."""

_LLM: Final = SpanKind.LLM
_TOOL: Final = SpanKind.TOOL
_EMBEDDING: Final = SpanKind.EMBEDDING
_UNSURE: Final = SpanKind.TASK
"""Also the kind of a span of OpenTelemetry that did not tell its kind when it started."""


class _Held:
    """A span that has ended, and the ids of the open spans that may change what is to be said of it."""

    __slots__ = ("span", "waits_for")

    def __init__(self, span: Span, waits_for: set[str]) -> None:
        self.span = span
        self.waits_for = waits_for


class _Trace:
    """What is known of one trace at this moment.

    Attributes:
        open: openings, by span id.
        open_calls: ids of those that are model calls, or may be.
        open_below: ids of those that may be merged, by their parent.
        held: by span id.
        waiting: ids of held spans, by the open span that they wait for.
        below: ids of held spans, by their parent.
    """

    __slots__ = ("below", "held", "open", "open_below", "open_calls", "waiting")

    def __init__(self) -> None:
        self.open: dict[str, Opening | Span] = {}
        self.open_calls: dict[str, None] = {}
        self.open_below: defaultdict[str, dict[str, SpanKind]] = defaultdict(dict)
        self.held: dict[str, _Held] = {}
        self.waiting: defaultdict[str, list[str]] = defaultdict(list)
        self.below: defaultdict[str, list[str]] = defaultdict(list)

    def opened(self, span: Opening | Span) -> None:
        """A span has started."""
        key, kind = span.span_id, span.kind
        self.open[key] = span
        if kind is _UNSURE or _is_merged(kind):
            if kind is _LLM or kind is _UNSURE:
                self.open_calls[key] = None
            if span.parent_id is not None:
                self.open_below[span.parent_id][key] = kind

    def closed(self, span_id: str) -> None:
        """A span is open no longer."""
        opening = self.open.pop(span_id, None)
        if opening is None:
            return
        self.open_calls.pop(span_id, None)
        beside = self.open_below.get(opening.parent_id or "")
        if beside is not None and beside.pop(span_id, None) is not None and not beside:
            del self.open_below[opening.parent_id or ""]


class Merger:
    """Takes the spans of one process's files, and gives them translated, duplicates merged.

    Args:
        merged: counts the spans that went into others, by kind; added to.
        gone: is told of each such span, and of the one that it went into, `None` where that was given before.
    """

    def __init__(
        self, merged: Counter[str], gone: Callable[[Span, Span | None], object] | None = None
    ) -> None:
        self._merged = merged
        self._gone = gone
        self._traces: defaultdict[str, _Trace] = defaultdict(_Trace)
        self._held: dict[str, str] = {}
        """The traces of all held spans, the longest held first."""
        self._survivors: dict[str, str] = {}
        """What spans went into, by id."""
        self._given: dict[tuple[str, str], Given] = {}
        """Calls that were given, by trace and response id."""
        self._ready: list[tuple[str, str]] = []
        """Traces and ids of held spans that may wait for nothing more."""

    def opened(self, span: Opening | Span) -> None:
        """A span has started; only its opening is known."""
        self._traces[span.trace_id].opened(span)

    def dropped(self, span: Span) -> None:
        """A span that had started will not come."""
        trace = self._traces[span.trace_id]
        trace.closed(span.span_id)
        self._ready += [(span.trace_id, key) for key in self._waited(span.span_id, trace)]

    def ended(self, span: Span) -> Iterable[Span]:
        """A span has ended.

        Returns:
            The spans of which all is known now: none, this one or more.
        """
        translate(span)
        trace = self._traces[span.trace_id]
        trace.closed(span.span_id)
        while span.parent_id in self._survivors:
            span.parent_id = self._survivors[span.parent_id]
        waits_for = self._candidates(span, trace)
        if waits_for or self._held or self._ready or _is_stream_log(span):
            return self._among_held(span, waits_for, trace)
        if not trace.open:
            del self._traces[span.trace_id]
        return () if self._was_given(span) else (span,)

    def _among_held(self, span: Span, waits_for: set[str], trace: _Trace) -> Iterator[Span]:
        if span.span_id in self._held:  # said twice
            yield span
            return
        if waits_for or span.parent_id in trace.held or span.span_id in trace.waiting or _is_stream_log(span):
            self._hold(span, waits_for, trace)
            self._merge(span, trace)
            yield from self._release([span.span_id, *self._waited(span.span_id, trace)], trace)
        elif not self._was_given(span):
            yield span
        yield from self.released()
        self._forget(span.trace_id)
        if len(self._held) > MOST_HELD:
            key, trace_id = next(iter(self._held.items()))
            yield from self._give(key, self._traces[trace_id])

    def gone_parents(self, spans: Iterable[Opening | Span]) -> dict[str, str]:
        """Of those that are the parents of spans and went into others: into which, by id."""
        survivors = self._survivors
        return {span.parent_id: survivors[span.parent_id] for span in spans if span.parent_id in survivors}

    def remember(self, gone: dict[str, str]) -> None:
        """What `gone_parents` told of spans that are not read again."""
        self._survivors.update(gone)

    def released(self) -> Iterator[Span]:
        """The spans that waited only for those that were dropped since."""
        while self._ready:
            trace_id, key = self._ready.pop()
            yield from self._release([key], self._traces[trace_id])
            self._forget(trace_id)

    def rest(self) -> Iterator[Span]:
        """The spans that are still held; nothing more comes."""
        for key, trace_id in self._held.items():
            yield self._traces[trace_id].held[key].span
        self._held.clear()
        self._traces.clear()

    def _forget(self, trace_id: str) -> None:
        trace = self._traces.get(trace_id)
        if trace is not None and not trace.open and not trace.held:
            del self._traces[trace_id]

    def _waited(self, span_id: str, trace: _Trace) -> list[str]:
        """Ids of the held spans that waited for this one; they do no longer."""
        keys = [key for key in trace.waiting.pop(span_id, ()) if key in trace.held]
        for key in keys:
            trace.held[key].waits_for.discard(span_id)
        return keys

    def _candidates(self, span: Span, trace: _Trace) -> set[str]:
        """Open spans that may be the same call, or may change who the parent is."""
        kind, found = span.kind, set[str]()
        if _is_merged(kind):
            inside = trace.open_below.get(span.span_id, {})
            found.update(key for key, other in inside.items() if other is kind or other is _UNSURE)
        tells = kind is _LLM and span.attributes.get(semconv.RESPONSE_ID) is not None
        if tells and len(trace.open_calls) <= MOST_AWAITED:
            found.update(trace.open_calls)
        above = trace.open.get(span.parent_id or "")
        if above is None:
            return found
        if above.kind is _UNSURE or _is_merged(above.kind) or (kind is _LLM and _awaits_its_stream(span)):
            found.add(above.span_id)
        return found

    def _hold(self, span: Span, waits_for: set[str], trace: _Trace) -> None:
        self._held[span.span_id] = span.trace_id
        trace.held[span.span_id] = _Held(span, waits_for)
        for key in waits_for:
            trace.waiting[key].append(span.span_id)
        if span.parent_id is not None and span.parent_id != span.span_id:
            trace.below[span.parent_id].append(span.span_id)

    def _merge(self, span: Span, trace: _Trace) -> None:
        """Merge a held span with those held that are the same call."""
        if not _is_merged(span.kind):
            return
        inside = [trace.held[key].span for key in trace.below.get(span.span_id, ()) if key in trace.held]
        for inner in take_of(span, [one for one in inside if is_same(span, one)]):
            self._into(span, inner, trace)
        above = trace.held.get(span.parent_id or "")
        if above is not None and above.span is not span and is_same(above.span, span):
            self._into(above.span, span, trace)
            return
        other = self._twin(span, trace)
        if other is not None:
            outer, inner = sorted((span, other), key=lambda one: (one.start_ns, -(one.end_ns or 0)))
            self._into(outer, inner, trace)

    def _twin(self, span: Span, trace: _Trace) -> Span | None:
        """A held span of the same call that is neither directly inside nor directly around."""
        if span.kind is not _LLM:
            return None
        others = (held.span for held in trace.held.values() if held.span is not span)
        if _is_stream_log(span):
            requests = [one for one in others if one.parent_id == span.parent_id and _awaits_its_stream(one)]
            return next((one for one in requests if one.input == span.input), None)
        if span.attributes.get(semconv.RESPONSE_ID) is None:
            return None
        return next((one for one in others if may_be_one(one, span)), None)

    def _into(self, outer: Span, inner: Span, trace: _Trace) -> None:
        """The inner span goes into the outer one; both are held."""
        absorb(outer, inner)
        self._merged[inner.kind.value] += 1
        gone = trace.held.pop(inner.span_id)
        del self._held[inner.span_id]
        stays = trace.held[outer.span_id]
        for key in gone.waits_for - stays.waits_for - {outer.span_id}:
            stays.waits_for.add(key)
            trace.waiting[key].append(outer.span_id)
        for key in trace.below.pop(inner.span_id, ()):
            if key in trace.held:
                trace.held[key].span.parent_id = outer.span_id
                trace.below[outer.span_id].append(key)
        self._remember(inner.span_id, outer.span_id)
        if self._gone is not None:
            self._gone(inner, outer)

    def _was_given(self, span: Span) -> bool:
        """Whether the call that this is about has been given already; else it is, now."""
        if span.kind is not _LLM:
            return False
        response_id = span.attributes.get(semconv.RESPONSE_ID)
        if not isinstance(response_id, str):
            return False
        key = (span.trace_id, response_id)
        given = self._given.get(key)
        if given is not None and given.may_be(span):
            self._merged[span.kind.value] += 1
            self._remember(span.span_id, given.span_id)
            if self._gone is not None:
                self._gone(span, None)
            return True
        self._given[key] = Given(span.span_id, span.start_ns, span.end_ns, counted=span.usage is not None)
        _bound(self._given)
        return False

    def _remember(self, gone: str, stays: str) -> None:
        self._survivors[gone] = stays
        self._survivors.pop(stays, None)  # an id that comes again
        _bound(self._survivors)

    def _release(self, keys: Iterable[str], trace: _Trace) -> Iterator[Span]:
        """Give those of the held spans that wait for nothing more."""
        for key in keys:
            held = trace.held.get(key)
            if held is None or held.waits_for:
                continue
            above = held.span.parent_id
            if above is None or above == key or above not in trace.held:
                yield from self._give(key, trace)

    def _give(self, key: str, trace: _Trace) -> Iterator[Span]:
        span = trace.held.pop(key).span
        del self._held[key]
        if self._was_given(span):
            for below in trace.below.get(key, ()):
                if below in trace.held:
                    trace.held[below].span.parent_id = self._survivors[key]
        else:
            yield span
        yield from self._release(trace.below.pop(key, ()), trace)


class Openings:
    """The starts of the spans of a file that may be merged, for files that do not hold them as lines.

    Args:
        lines: all lines of the file.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._rest = sorted(_openings(lines), key=lambda opening: opening.start_ns, reverse=True)

    def tell(self, merger: Merger, span: Span) -> None:
        """Tell of the spans that had started when this one ended."""
        rest = self._rest
        while rest and (span.end_ns is None or rest[-1].start_ns <= max(span.end_ns, span.start_ns)):
            merger.opened(rest.pop())


def _bound(remembered: dict[Any, Any]) -> None:
    """Forget the oldest, many at once: the more were taken from a dict, the slower it finds its first."""
    if len(remembered) > MOST_HELD:
        for key in list(islice(remembered, MOST_HELD // 8 + 1)):
            del remembered[key]


class _Start(msgspec.Struct):
    """Of a line that holds more."""

    trace_id: str
    span_id: str
    parent_id: str | None
    kind: SpanKind
    start_ns: int


def _openings(lines: Iterable[bytes]) -> Iterator[Opening]:
    decode = msgspec.json.Decoder(_Start).decode
    for line in lines:
        try:
            one = decode(line)
        except UNREADABLE:  # it is counted where spans are read
            continue
        if _is_merged(one.kind) or one.kind is _UNSURE:
            yield Opening(one.trace_id, one.span_id, one.parent_id, "", one.kind, one.start_ns)


def _is_merged(kind: SpanKind) -> bool:
    """Whether spans of this kind may be one call with others. A set would hash the members, slowly."""
    return kind is _LLM or kind is _TOOL or kind is _EMBEDDING


def _awaits_its_stream(span: Span) -> bool:
    """Whether this is Logfire's span of a request whose streamed answer it logs apart, at its end."""
    attributes = span.attributes
    return (
        span.kind is _LLM
        and span.status is Status.OK
        and not is_answered(span)
        and str(attributes.get(semconv.OTEL_SCOPE_NAME)).startswith("logfire.")
        and not _is_stream_log(span)
    )


def _is_stream_log(span: Span) -> bool:
    """Whether this is Logfire's log of a streamed answer."""
    return span.kind is _LLM and span.attributes.get("logfire.span_type") == "log"
