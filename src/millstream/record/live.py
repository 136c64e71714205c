"""Spans while they are open: changing and ending one, on the thread that does the work."""

import atexit
from collections.abc import Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from millstream import context, semconv
from millstream.record import assigned, faults, lines, recorder, steps
from millstream.record.conversation import Conversation
from millstream.record.journal import Journal
from millstream.record.outcome import outcome
from millstream.record.sampling import Held
from millstream.record.serialize import to_json, to_text
from millstream.span import Span, SpanError, SpanEvent, SpanKind, Status, Usage

_UNSET: Final = msgspec.UNSET
_NO_ATTRIBUTES: Final[dict[str, Any]] = {}
_NO_EVENTS: Final[list[SpanEvent]] = []
_subscribers: Final = steps.subscribers
_publishing: Final = steps.publishing.get
_OK: Final = Status.OK
_SHORT: Final = 1_000
_NUMBERS: Final = frozenset({int, float})
_LARGE: Final = 2**63
unended: "Final[list[tuple[LiveSpan, BaseException | None, Any]]]" = []
"""Spans that ended where the stack had no room for writing them, with their errors and outputs."""
ENDED: Final = -1
"""The generation of a span that has ended."""


class LiveSpan(context.SpanContext, eq=False):
    """A span that is open. Values set on it appear in the record when it ends.

    Made by `start_span` and the decorators, never directly. Every method is safe to call at any time: one
    that fails is counted in `stats()` and changes nothing; after the end, changes are ignored. To assign
    `output` or `attributes` is as good as to set them, but that bytes are taken for JSON; name and kind stay
    those that it began with.
    """

    recorder: "recorder.Recorder"
    sink: "Journal | Held"
    """Where its line goes."""
    generation: int = ENDED
    parent: context.SpanContext | None = None
    name: str = ""
    kind: SpanKind = SpanKind.FUNCTION
    start_ns: int = 0
    head: str = ""
    """Its line up to and with its start."""
    input: bytes | Conversation | None = None
    """JSON, or what it is to be made of."""
    output: bytes | None = None
    """JSON."""
    usage: Usage | None = None
    attributes: dict[str, Any] | None = None
    events: list[SpanEvent] | None = None
    chunk_count: int = 0
    token: Token[context.SpanContext | None] | None = None
    """Takes the span back from being the current one."""

    @property
    def is_open(self) -> bool:
        """Whether the span has not ended, and was not inherited from a parent process by fork."""
        return self.generation == self.recorder.generation

    def set_attribute(self, key: str, value: Any) -> None:
        """Record an attribute; any value that has a JSON form."""
        try:
            self._set(to_text(key), value)
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "an attribute could not be recorded")

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Record attributes; any values that have a JSON form."""
        try:
            for key, value in attributes.items():
                self._set(key if type(key) is str and key.isascii() else to_text(key), value)
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "an attribute could not be recorded")

    def _set(self, key: str, value: Any) -> None:
        if self.attributes is None:
            self.attributes = {}
        kind = type(value)
        if kind is str:
            plain = value.isascii() and len(value) < _SHORT
        else:
            plain = kind is bool or (kind in _NUMBERS and -_LARGE < value < _LARGE)
        self.attributes[key] = value if plain else msgspec.Raw(to_json(value))

    def set_output(self, value: Any) -> None:
        """Record the result, unless content is not captured."""
        if self.recorder.capture_content:
            self.output = to_json(value, self.recorder.content_limit)

    def set_usage(self, usage: Usage) -> None:
        """Record the tokens of a model call; a count that is no whole number stays unknown."""
        self.usage = usage

    def add_event(self, name: str, attributes: dict[str, Any] | None = None) -> None:
        """Record that something happened now."""
        try:
            event = SpanEvent(to_text(name), self.now_ns())
            if self.events is None:
                self.events = []
            self.events.append(event)
            if attributes is not None:
                values = {to_text(key): msgspec.Raw(to_json(value)) for key, value in attributes.items()}
                self.events[-1] = SpanEvent(event.name, event.time_ns, values)
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "an event could not be recorded whole")

    def now_ns(self) -> int:
        """Unix nanoseconds on this trace's own clock."""
        return self.anchor_ns + self.recorder.monotonic_ns()

    def add_chunk(self, chunk: Any = _UNSET, *, new_token: bool = False) -> None:
        """Count one piece of a stream and time the first; live subscribers see each."""
        try:
            self.chunk_count += 1
            if self.chunk_count == 1:
                self._set(semconv.TIME_TO_FIRST_CHUNK_S, (self.now_ns() - self.start_ns) / 1e9)
            if _subscribers and not _publishing():
                content = self._content(chunk)
                steps.publish_chunk(self.shown(), ancestry(self), self.now_ns(), content, new_token=new_token)
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "a chunk could not be recorded")

    def end(
        self,
        error: BaseException | None = None,
        status: Status = _OK,
        output: Any = _UNSET,
        end_ns: int | None = None,
    ) -> None:
        """Write the span. Only the first call has an effect.

        Args:
            error: what ended it; decides the status.
            status: the status where there is no error.
            output: the result, as by `set_output`.
            end_ns: Unix nanoseconds; default now.
        """
        active = self.recorder
        if self.generation != active.generation:
            return
        above = self.parent
        if type(above) is LiveSpan and above.generation == ENDED:
            self.parent = open_around(above)  # a chain of ended spans would never be freed
        lane = active.lane
        if lane is not None and error is None and status is _OK and end_ns is None:
            self.generation = ENDED
            try:
                end_ns, output = lane.finish(self, output), _UNSET
            except Exception:  # noqa: BLE001, S110  # it comes again below, where it is seen to
                pass
            else:
                if end_ns is None:
                    return
            self.generation = active.generation  # where there is no room for so much as the call: try again
        self._end_here(error, status, output, end_ns)

    def _end_here(
        self, error: BaseException | None, status: Status, output: Any, told_ns: int | None
    ) -> None:
        """End any span."""
        active, failure, end_ns = self.recorder, None, self.start_ns
        if self.generation != active.generation:  # another thread, or a signal handler, was first
            return
        self.generation = ENDED
        try:
            end_ns = self.anchor_ns + active.monotonic_ns() if told_ns is None else told_ns
            if output is not _UNSET and active.capture_content:
                self.output = to_json(output, active.content_limit)
            if error is not None or status is not _OK or self.chunk_count:
                status, failure = self._settle(error, status)
            journal = self.sink
            if active.processors or isinstance(journal, Held):
                self._end_slowly(end_ns, status, failure)
            else:
                tail = lines.tail(self, failure)
                line = f'{self.head},"end_ns":{end_ns},"status":"{status._value_}"{tail}}}\n'.encode()
                journal.count()
                try:
                    journal.write(line)
                except ValueError:
                    journal.finish_after_growing(line)
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            self.generation = active.generation
            self._finish_bare(end_ns, status, failure or error, fault)
            return
        if _subscribers and not _publishing():
            try:
                steps.publish_end(self.shown(end_ns, status, failure), ancestry(self))
            except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
                faults.swallow(fault, "a subscriber could not be told")

    def _settle(self, error: BaseException | None, status: Status) -> tuple[Status, SpanError | None]:
        if unended:
            try:  # noqa: SIM105  # which would need more of the stack
                end_late()
            except RecursionError:  # still too deep
                pass
        if self.chunk_count:
            self._set(semconv.CHUNK_COUNT, self.chunk_count)
        return outcome(error, status)

    def _end_slowly(self, end_ns: int, status: Status, failure: SpanError | None) -> None:
        """End where processors have a say, or the trace is held until it is known whether it is kept."""
        active, sink = self.recorder, self.sink
        kept = lines.process(self, end_ns, status, failure)
        if kept is None:
            active.dropped.add()
            active.journal.append(lines.dropped(self))
        else:
            status, failure = kept
            line = f'{self.head},"end_ns":{end_ns},"status":"{status._value_}"{lines.tail(self, failure)}}}\n'
            sink.finish(line.encode())
        if isinstance(sink, Held) and sink.ended(
            self, status, (end_ns - self.start_ns) / 1e9, active.sampling
        ):
            active.not_sampled.add()

    def _finish_bare(
        self, end_ns: int, status: Status, failure: SpanError | BaseException | None, fault: Exception
    ) -> None:
        """Write no more than a reader needs."""
        self.generation = ENDED
        try:
            if isinstance(failure, BaseException):  # not even looked at
                status, failure = Status.ERROR, SpanError(type(failure).__name__, "")
            self.sink.finish(lines.bare(self, end_ns, status, failure))
        except RecursionError:  # who called may try again
            self.generation = self.recorder.generation
            raise
        except Exception as worse:  # noqa: BLE001  # telemetry never breaks the user's program
            fault = worse
        faults.swallow(fault, "only the times and the outcome of a span could be recorded")

    def snapshot(
        self, end_ns: int | None = None, status: Status | None = None, error: SpanError | None = None
    ) -> Span:
        """The span as it stands now."""
        assigned.settle(self)
        span = lines.decode(f"{self.head}}}")
        span.end_ns = end_ns
        span.status = status
        span.error = error
        given = self.input
        if isinstance(given, Conversation):
            given = given.json(self.recorder.content_limit)
        span.input = _UNSET if given is None else msgspec.Raw(given)
        span.output = _UNSET if self.output is None else msgspec.Raw(self.output)
        span.usage = self.usage
        span.attributes = self.attributes or _NO_ATTRIBUTES
        span.events = self.events or _NO_EVENTS
        return span

    def shown(
        self, end_ns: int | None = None, status: Status | None = None, error: SpanError | None = None
    ) -> Span:
        """The span as it stands now, for live subscribers: without secrets."""
        span, redaction = self.snapshot(end_ns, status, error), self.recorder.redaction
        return span if redaction is None else redaction(span)

    def _content(self, value: Any) -> Any:
        active = self.recorder
        if value is _UNSET or not active.capture_content:
            return _UNSET
        return msgspec.Raw(active.redact(to_json(value, active.content_limit)))

    def __enter__(self) -> Self:
        token = context.current.set(self)
        if self.token is None:  # else entered twice; the first leaving restores what was before both
            self.token = token
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        leave(self)
        self.end(error)


def end_late() -> None:
    """End the spans that could not be where they ended."""
    while unended:
        span, error, output = unended.pop()
        try:
            span.end(error, _OK, output)
        except RecursionError:
            unended.append((span, error, output))
            raise


atexit.register(end_late)


def leave(span: LiveSpan) -> None:
    """Make the span that was current before `span` current again, or the nearest around it still open."""
    token = span.token
    if token is None:
        return
    span.token = None
    try:
        context.current.reset(token)
    except ValueError:  # entered in another context, as where the event loop closes a generator
        if context.current.get() is not span:
            return
        context.current.set(span.parent)
    above = context.current.get()
    if type(above) is LiveSpan and above.generation == ENDED:  # left before `span` was
        context.current.set(open_around(above))


def open_around(span: context.SpanContext | None) -> context.SpanContext | None:
    """The nearest span from `span` upwards that is still open."""
    while type(span) is LiveSpan and span.generation == ENDED:
        span = span.parent
    return span


def ancestry(span: LiveSpan) -> "steps.InvocationNode":
    """The functions around an open span, for live subscribers."""
    chain = []
    above: context.SpanContext | None = span
    while isinstance(above, LiveSpan):
        chain.append((above.kind, above.name, above.span_id, above.workload_id))
        above = above.parent
    return steps.invocation_node(chain)
