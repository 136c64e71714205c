"""Starting a span: under which parent, in which trace, and whether at all."""

import functools
from contextvars import Token
from sys import modules
from typing import Any, Final, Literal

import msgspec

from millstream import context, semconv
from millstream.chain import Chain
from millstream.record import faults, recorder, steps
from millstream.record.conversation import Conversation
from millstream.record.live import LiveSpan, ancestry
from millstream.record.not_recorded import NOT_RECORDED, NotRecorded, NotSampled
from millstream.record.outcome import known_trace_id, member
from millstream.record.sampling import Held
from millstream.record.serialize import to_json, to_text
from millstream.span import SpanKind

_UNSET: Final = msgspec.UNSET
_subscribers: Final = steps.subscribers
_publishing: Final = steps.publishing.get
_LEAST: Final = "0" * 32
"""Sampled wherever any trace is."""


def open_span(  # noqa: C901, PLR0912, PLR0915  # the path of every call, kept in one piece
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
    workflow: Chain | None = None,
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
        span_id: of a span that has one already, as from another tracing library; then `parent` is final.
        start_ns: Unix nanoseconds; default now.
        workflow: of a span that is a workflow's own; inherited when `None`.

    Returns:
        The open span; one that keeps nothing where its trace is not sampled.
    """
    if label is None:
        if type(name) is not str or not name.isascii():
            name = to_text(name)
        label = label_of(name, kind)
    captured = None
    if content is not _UNSET and active.capture_content:
        captured = _captured(content, active.content_limit)
    lane = active.lane
    if lane is not None and span_id is None and trace_id is None and start_ns is None and workflow is None:
        span = lane.open(name, kind, label, workload_id, captured, parent)
        if span is not None:
            return span
    opened_in = None
    if span_id is None:
        if context.joined is not None:
            parent, opened_in = context.joined(parent)
        elif parent is None and context.OTEL in modules:
            parent = context.opentelemetry_parent()
    above = parent or active.remote_parent
    sink: Any = active.journal
    if above is None or (trace_id is not None and trace_id != above.trace_id):
        if trace_id is None:
            try:
                trace_id = active.ready_traces.pop()
            except IndexError:
                trace_id = active.ids.trace_id()
        if active.bounds is not None and not _is_sampled(active, name, trace_id):
            if not active.holds:
                active.not_sampled.add()
                return NotSampled.root(active, name, kind)
            sink = Held(sink)
        parent = None
        parent_json = "null"
        now_ns = active.wall_ns()
        anchor_ns = now_ns - active.monotonic_ns()
    else:
        if type(above) is LiveSpan:
            if above.recorder is active:
                sink = above.sink
        elif isinstance(above, NotRecorded) or not (
            active.bounds is None or _is_followed(active, name, above)
        ):
            return NOT_RECORDED
        trace_id = above.trace_id
        parent_json = f'"{above.span_id}"'
        anchor_ns = above.anchor_ns
        now_ns = anchor_ns + active.monotonic_ns()
        if workload_id is None:
            workload_id = above.workload_id
        if workflow is None:
            workflow = above.workflow
    if span_id is None:
        try:
            span_id = active.ready_spans.pop()
        except IndexError:
            span_id = active.ids.span_id()
    if start_ns is None:
        start_ns = now_ns
    head = f'{{"trace_id":"{trace_id}","parent_id":{parent_json},"span_id":"{span_id}",{label}{start_ns}'
    if workload_id is None:
        workload_id = active.workload_id
    if workload_id is not None:
        head += scope_of(workload_id)
    span = LiveSpan(
        trace_id,
        span_id,
        workload_id,
        anchor_ns,
        active,
        sink,
        active.generation,
        parent,
        name,
        kind,
        start_ns,
        head,
        _captured(content, active.content_limit)
        if content is not _UNSET and active.capture_content
        else None,
    )
    if opened_in is not None:
        span.opened_in = opened_in
    opening = f"{head}}}\n" if workflow is None else _begin_in(workflow, span)
    if type(sink) is Held:
        sink.root = sink.root or span
        sink.begin(opening.encode())
    else:
        try:
            sink.write(opening.encode())
        except ValueError:
            sink.begin(opening.encode())
    if _subscribers and not _publishing():
        try:
            steps.publish_start(span.shown(), ancestry(span))
        except Exception as fault:  # noqa: BLE001  # the span is there all the same
            faults.swallow(fault, "a subscriber could not be told")
    return span


def _begin_in(workflow: Chain, span: LiveSpan) -> str:
    """Put a span into a workflow; gives its opening line, which tells of it, too, should the process die."""
    span.workflow = workflow
    place = workflow.recorded()
    span.set_attribute(semconv.WORKFLOW, place)
    place.pop("custom", None)  # redaction has a say in it, at the end
    return f'{span.head},"attributes":{{"{semconv.WORKFLOW}":{to_json(place).decode()}}}}}\n'


def _captured(content: Any, limit: int) -> bytes | Conversation:
    """What is kept of an input until the span ends."""
    if isinstance(content, Conversation):
        return content if content.fits(limit) else content.json(limit)
    return to_json(content, limit)


def drop_root(
    active: "recorder.Recorder", name: str, marker: LiveSpan
) -> "Token[context.SpanContext | None] | Literal[False] | None":
    """Make `marker` current if a call would be the root of a trace that is not sampled, which is counted.

    Returns:
        What takes the marker back; `False` where it is current; `None` where a span is to be opened, which
        may still find out that its trace is not sampled.
    """
    if active.lane is not None:
        return active.lane.drop_root(name, marker)
    above = context.current.get()
    if above is marker:
        return False
    if above is not None or active.holds or active.remote_parent is not None or context.OTEL in modules:
        return None
    if _is_sampled(active, name, _LEAST):  # else no id is spent on it
        try:
            trace_id = active.ready_traces.pop()
        except IndexError:
            trace_id = active.ids.trace_id()
        if _is_sampled(active, name, trace_id):
            active.ready_traces.append(trace_id)  # decided once: the root that is opened next takes it
            return None
    active.not_sampled.add()
    return context.current.set(marker)


def _is_sampled(active: "recorder.Recorder", name: str, trace_id: str) -> bool:
    """What the last 16 digits of a trace's id say, as in OpenTelemetry's TraceIdRatioBased."""
    bounds = active.bounds
    return bounds is None or trace_id[16:] < bounds.get(name, bounds[None])


def _is_followed(active: "recorder.Recorder", name: str, caller: context.SpanContext) -> bool:
    """Whether the trace of another process is recorded here."""
    return caller.sampled if active.samples_by_parent else _is_sampled(active, name, caller.trace_id)


@functools.lru_cache(1024)
def label_of(name: str, kind: SpanKind) -> str:
    """The part of a span's line that says its name and kind, up to the start."""
    return f'"name":{to_json(name).decode()},"kind":"{kind.value}","start_ns":'


@functools.lru_cache(1024)
def scope_of(workload_id: str) -> str:
    """The part of a span's line that says its workload."""
    return f',"workload_id":{to_json(workload_id).decode()}'


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
            trace_id = known_trace_id(trace_id)
        if workload_id is not None:
            workload_id = to_text(workload_id)
        span = open_span(
            active,
            name,
            kind if type(kind) is SpanKind else member(SpanKind, kind, SpanKind.FUNCTION),
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
