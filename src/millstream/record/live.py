"""Spans while they are open: starting, changing and ending one, on the thread that does the work."""

import functools
import operator
import re
from collections.abc import Mapping
from contextvars import Token
from enum import Enum
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from millstream import context, semconv
from millstream.record import faults, recorder, steps
from millstream.record.serialize import to_json, to_text
from millstream.span import Span, SpanError, SpanEvent, SpanKind, Status, Usage

_UNSET: Final = msgspec.UNSET
_NO_ATTRIBUTES: Final[dict[str, Any]] = {}
_NO_EVENTS: Final[list[SpanEvent]] = []
_subscribers: Final = steps.subscribers
_WORDS: Final = {status.value: status.value.encode() for status in Status}
_encode: Final = msgspec.json.Encoder().encode
_decode_opening: Final = msgspec.json.Decoder(Span).decode
_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SHORT: Final = 1_000
_ENDED: Final = -1
"""The generation of a span that has ended."""
_INCOMPLETE: Final = "millstream.incomplete"
"""Marks a span of which only the times and the outcome could be written."""
_CANCELLED: Final = frozenset({"CancelledError", "Cancelled", "KeyboardInterrupt"})


_E = TypeVar("_E", bound=Enum)


class _Rest(msgspec.Struct, gc=False, omit_defaults=True):
    """The fields of a stored line that most spans do not have; absent, they have the defaults of `Span`."""

    error: SpanError | None = None
    usage: Usage | None = None
    workload_id: str | None = None
    attributes: dict[str, Any] | None = None
    events: list[SpanEvent] | None = None


class LiveSpan(context.SpanContext, eq=False):
    """A span that is open. Values set on it appear in the record when it ends.

    Made by `start_span` and the decorators, never directly. Every method is safe to call at any time: one
    that fails is counted in `stats()` and changes nothing; after the end, changes are ignored.
    """

    recorder: "recorder.Recorder"
    generation: int
    parent: context.SpanContext | None
    name: str
    kind: SpanKind
    start_ns: int
    opening: bytes
    """The line that was written at the start."""
    input: bytes | None
    """JSON."""
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
                self._set(to_text(key), value)
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "an attribute could not be recorded")

    def _set(self, key: str, value: Any) -> None:
        if self.attributes is None:
            self.attributes = {}
        plain = type(value) is str and value.isascii() and len(value) < _SHORT
        self.attributes[key] = value if plain else msgspec.Raw(to_json(value))

    def set_output(self, value: Any) -> None:
        """Record the result, unless content is not captured."""
        if self.recorder.capture_content:
            self.output = to_json(value)

    def set_usage(self, usage: Usage) -> None:
        """Record the tokens of a model call; a count that is no whole number stays unknown."""
        try:
            counts = {name: _whole(count) for name, count in msgspec.structs.asdict(usage).items()}
            self.usage = Usage(**counts)
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "the usage of a model call could not be recorded")

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
            if _subscribers and not steps.publishing.get():
                content = self._content(chunk)
                steps.publish_chunk(
                    self.snapshot(), ancestry(self), self.now_ns(), content, new_token=new_token
                )
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "a chunk could not be recorded")

    def end(  # noqa: C901  # the path of every call, kept in one piece
        self,
        error: BaseException | None = None,
        status: Status = Status.OK,
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
        self.generation = _ENDED
        failure = None
        told_ns, end_ns = end_ns, self.start_ns
        try:
            end_ns = self.anchor_ns + active.monotonic_ns() if told_ns is None else told_ns
            if output is not _UNSET and active.capture_content:
                self.output = to_json(output)
            if error is not None or self.chunk_count or type(status) is not Status:
                status, failure = self._settle(error, status)
            parts = [self.opening[:-2], b',"end_ns":%d,"status":"%b"' % (end_ns, _WORDS[status._value_])]
            if self.input is not None:
                parts += (b',"input":', self.input)
            if self.output is not None:
                parts += (b',"output":', self.output)
            if failure or self.usage or self.workload_id or self.attributes or self.events:
                rest = _encode(_Rest(failure, self.usage, self.workload_id, self.attributes, self.events))
                parts += (b",", rest[1:-1])
            parts.append(b"}\n")
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            self._finish_bare(end_ns, status, failure, fault)
            return
        try:
            active.journal.finish(b"".join(parts))
            if _subscribers and not steps.publishing.get():
                steps.publish_end(self.snapshot(end_ns, status, failure), ancestry(self))
            above = self.parent
            if type(above) is LiveSpan and above.generation == _ENDED:
                self.parent = _open_around(above)  # a chain of ended spans would never be freed
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "a span could not be ended")

    def _settle(self, error: BaseException | None, status: Status) -> tuple[Status, SpanError | None]:
        if self.chunk_count:
            self._set(semconv.CHUNK_COUNT, self.chunk_count)
        return _outcome(error, status)

    def _finish_bare(self, end_ns: int, status: Status, failure: SpanError | None, fault: Exception) -> None:
        """Write no more than a reader needs."""
        try:
            rest = _encode(_Rest(failure, attributes={_INCOMPLETE: True}))
            times = f',"end_ns":{end_ns},"status":"{Status(status).value}",'.encode()
            self.recorder.journal.finish(self.opening[:-2] + times + rest[1:-1] + b"}\n")
        except Exception as worse:  # noqa: BLE001  # telemetry never breaks the user's program
            fault = worse
        faults.swallow(fault, "only the times and the outcome of a span could be recorded")

    def snapshot(
        self, end_ns: int | None = None, status: Status | None = None, error: SpanError | None = None
    ) -> Span:
        """The span as it stands now."""
        span = _decode_opening(self.opening)
        span.end_ns = end_ns
        span.status = status
        span.error = error
        span.input = _UNSET if self.input is None else msgspec.Raw(self.input)
        span.output = _UNSET if self.output is None else msgspec.Raw(self.output)
        span.usage = self.usage
        span.workload_id = self.workload_id
        span.attributes = self.attributes or _NO_ATTRIBUTES
        span.events = self.events or _NO_EVENTS
        return span

    def _content(self, value: Any) -> Any:
        return value if value is _UNSET or not self.recorder.capture_content else msgspec.Raw(to_json(value))

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


class _NotRecorded(LiveSpan):
    """What `start_span` gives while recording is off: takes everything, keeps nothing."""

    def set_attribute(self, key: str, value: Any) -> None:
        pass

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        pass

    def set_output(self, value: Any) -> None:
        pass

    def set_usage(self, usage: Usage) -> None:
        pass

    def add_event(self, name: str, attributes: dict[str, Any] | None = None) -> None:
        pass

    def add_chunk(self, chunk: Any = _UNSET, *, new_token: bool = False) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


NOT_RECORDED: Final = _NotRecorded(
    "0" * 32, "0" * 16, None, 0, recorder.NOT_RECORDING, _ENDED, None, "", SpanKind.FUNCTION, 0, b"", None
)


def open_span(
    active: "recorder.Recorder",
    name: str,
    kind: SpanKind,
    content: Any,
    parent: context.SpanContext | None,
    workload_id: str | None = None,
    label: str | None = None,
    *,
    trace_id: str | None = None,
    span_id: str | None = None,
    start_ns: int | None = None,
) -> LiveSpan:
    """Start a span and write its opening line, without making it the current one.

    Args:
        active: the recorder in use.
        name: the span's name.
        kind: the span's kind.
        content: its input, or unset.
        parent: the span it starts in, or `None` for the root of a new trace.
        workload_id: opens a workload scope of this name; inherited when `None`.
        label: `label_of(name, kind)`, from callers that start many spans of one name.
        trace_id: for a root, the trace to make instead of a new one.
        span_id: of a span that another tracing library has made; then `parent` is final.
        start_ns: Unix nanoseconds; default now.
    """
    encoded = to_json(content) if content is not _UNSET and active.capture_content else None
    opened_in = None
    if span_id is None:
        if context.joined is not None:
            parent, opened_in = context.joined(parent)
        elif parent is None:
            parent = context.opentelemetry_parent()
    above = parent or active.remote_parent
    if label is None:
        name = to_text(name)
        label = label_of(name, kind)
    if above is None or (trace_id is not None and trace_id != above.trace_id):
        trace_id = trace_id or active.ids.trace_id()
        parent_json = "null"
        parent = None
        now_ns = active.clock.wall_ns()
        anchor_ns = now_ns - active.monotonic_ns()
    else:
        trace_id = above.trace_id
        parent_json = f'"{above.span_id}"'
        workload_id = workload_id or above.workload_id
        anchor_ns = above.anchor_ns
        now_ns = anchor_ns + active.monotonic_ns()
    span_id = span_id or active.ids.span_id()
    start_ns = now_ns if start_ns is None else start_ns
    opening = (
        f'{{"trace_id":"{trace_id}","span_id":"{span_id}","parent_id":{parent_json},{label}{start_ns}}}\n'
    ).encode()
    span = LiveSpan(
        trace_id,
        span_id,
        workload_id,
        anchor_ns,
        active,
        active.generation,
        parent,
        name,
        kind,
        start_ns,
        opening,
        encoded,
    )
    if opened_in is not None:
        span.opened_in = opened_in
    active.journal.begin(opening)
    if _subscribers and not steps.publishing.get():
        try:
            steps.publish_start(span.snapshot(), ancestry(span))
        except Exception as fault:  # noqa: BLE001  # the span is there all the same
            faults.swallow(fault, "a subscriber could not be told")
    return span


@functools.lru_cache(1024)
def label_of(name: str, kind: SpanKind) -> str:
    """The part of a span's line that says its name and kind, up to the start."""
    return f'"name":{to_json(name).decode()},"kind":"{kind.value}","start_ns":'


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
    if type(above) is LiveSpan and above.generation == _ENDED:  # left before `span` was
        context.current.set(_open_around(above))


def _open_around(span: context.SpanContext | None) -> context.SpanContext | None:
    while type(span) is LiveSpan and span.generation == _ENDED:
        span = span.parent
    return span


def start_span(
    name: str,
    *,
    kind: SpanKind = SpanKind.FUNCTION,
    input: Any = _UNSET,  # noqa: A002  # the span's own word
    attributes: dict[str, Any] | None = None,
    workload_id: str | None = None,
    trace_id: str | None = None,
) -> LiveSpan:
    """Record the block of a `with` statement as a span; also in async code.

    An exception that leaves the block ends the span with status `error` (a cancellation: `cancelled`) and
    goes on.

    Args:
        name: the span's name.
        kind: what it does.
        input: any value with a JSON form.
        attributes: recorded as they are.
        workload_id: opens a workload scope of this name for the spans inside.
        trace_id: 32 hex digits; starts a trace of this id when the current span is not in it.

    Returns:
        The open span, to be used in a `with` statement.
    """
    active = recorder.get()
    if active is None:
        return NOT_RECORDED
    try:
        if trace_id is not None:
            trace_id = _known_trace_id(trace_id)
        if workload_id is not None:
            workload_id = to_text(workload_id)
        span = open_span(
            active,
            name,
            kind if type(kind) is SpanKind else _member(SpanKind, kind, SpanKind.FUNCTION),
            input,
            parent=context.current.get(),
            workload_id=workload_id,
            trace_id=trace_id,
        )
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "a span could not be started")
        return NOT_RECORDED
    if attributes is not None:
        span.set_attributes(attributes)
    return span


def current_span() -> LiveSpan:
    """The span that this code runs in; one that takes everything and keeps nothing where there is none."""
    span = context.current.get()
    return span if isinstance(span, LiveSpan) else NOT_RECORDED


def ancestry(span: LiveSpan) -> "steps.InvocationNode":
    """The functions around an open span, for live subscribers."""
    chain = []
    above: context.SpanContext | None = span
    while isinstance(above, LiveSpan):
        chain.append((above.kind, above.name, above.span_id, above.workload_id))
        above = above.parent
    return steps.invocation_node(chain)


def _known_trace_id(trace_id: Any) -> str | None:
    text = str(trace_id).lower()
    if _TRACE_ID.fullmatch(text):
        return text
    faults.swallow(
        ValueError(f"{trace_id!r:.100} is not 32 hex digits"), "a trace_id that cannot be one was not used"
    )
    return None


def _member(kind: type[_E], value: Any, default: _E) -> _E:
    """The member of an enumeration that a user named by its value."""
    try:
        return kind(value)
    except ValueError as fault:
        faults.swallow(fault, f"an unknown {kind.__name__} was not used")
        return default


def _whole(count: Any) -> int | None:
    if count is None:
        return None
    try:
        return int(operator.index(count))
    except TypeError as fault:
        faults.swallow(fault, "a token count that is no whole number was not recorded")
        return None


def _outcome(error: BaseException | None, status: Status) -> tuple[Status, SpanError | None]:
    if error is None or isinstance(error, GeneratorExit):  # a consumer that stops early is no error
        return _member(Status, status, Status.OK), None
    if isinstance(error, SystemExit) and error.code in (None, 0):  # a program that ends as it should
        return Status.OK, None
    kind = type(error)
    cancelled = any(base.__name__ in _CANCELLED for base in kind.__mro__)
    try:
        message = to_text(str(error)[:10_000])
    except Exception:  # noqa: BLE001  # a user's __str__ may raise anything
        message = "(its message could not be read)"
    return (Status.CANCELLED if cancelled else Status.ERROR), SpanError(to_text(kind.__name__), message)
