"""The span of one workflow with a context: of one that is invoked, and of one that others only refer to."""

import atexit
import threading
import weakref
from typing import Any, Final

import msgspec

from millstream import context, semconv, sources
from millstream.chain import Chain, WorkflowMetadata
from millstream.context import SpanContext
from millstream.record import faults, recorder
from millstream.record.live import LiveSpan
from millstream.record.not_recorded import NOT_RECORDED, NotRecorded, NotSampled
from millstream.record.opening import open_span
from millstream.record.outcome import outcome
from millstream.span import SpanKind, Status

_UNSET: Final = msgspec.UNSET


class WorkflowSpan:
    """The span of the innermost workflow of a chain, which exists as soon as anything refers to it.

    Of a workflow that nobody invokes, such as one whose children alone are invoked, the span begins when this
    is made and ends with the last workflow that was invoked in it. It is written when nobody has this
    any more, and at exit.

    Args:
        trace_id: 32 hex digits.
        chain: the workflows, this one last; `start_time` of this one is set.
        start_ns: Unix nanoseconds.
        parent: the workflow that it is in, where that is of this process.
        around: the span that it starts in; that of `parent` when `None`.
        place: the span itself where it exists.
    """

    # `extent`: of one that nobody invokes.
    __slots__ = (
        "__weakref__",
        "_around",
        "_lock",
        "_parent",
        "_start_ns",
        "_was_in",
        "chain",
        "extent",
        "place",
        "trace_id",
    )

    def __init__(
        self,
        trace_id: str,
        chain: Chain,
        *,
        start_ns: int = 0,
        parent: "WorkflowSpan | None" = None,
        around: SpanContext | None = None,
        place: SpanContext | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.chain = chain
        self.place = place
        self._start_ns = start_ns
        self._parent = parent
        self._was_in: weakref.ref[WorkflowSpan] | None = None
        self._around = around
        self.extent: _Extent | None = None
        self._lock = threading.RLock()

    @property
    def span_id(self) -> str:
        """16 hex digits."""
        return self.chain.innermost.workflow_id

    def exist(self) -> SpanContext | None:
        """The span, for others to start in or to be told of; begun here unless it was before.

        Returns:
            `None` while nothing is recorded.
        """
        with self._lock:
            if self.place is None and (span := self.begin()) is not None:
                self.place = span
                if type(span) is LiveSpan:
                    self.extent = _Extent(span)
                    weakref.finalize(self, self.extent.end).atexit = False  # `end_standing` does it in time
            if self.extent is not None:
                self.extent.reach(now_ns(self.place))
            return self.place

    def begin(self, content: Any = _UNSET, workload_id: str | None = None) -> LiveSpan | None:
        """Open the span, without making it the current one.

        Args:
            content: its input, or unset.
            workload_id: opens a workload scope of this name; inherited when `None`.

        Returns:
            `None` while nothing is recorded.
        """
        active = recorder.get()
        if active is None:
            return None
        try:
            around = self._around
            if around is None and self._parent is not None:
                around = self._parent.exist()
            opened_in = None
            if context.joined is not None:
                around, opened_in = context.joined(around)
            span = open_span(
                active,
                self.chain.innermost.workflow_name,
                SpanKind.WORKFLOW,
                content,
                around,
                workload_id,
                trace_id=None if isinstance(around, NotRecorded) else self.trace_id,
                span_id=self.span_id,
                start_ns=self._start_ns,
                workflow=self.chain,
            )
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "a span could not be started")
            return None
        if span is NOT_RECORDED:  # its caller's trace is not followed, so nothing below is recorded, either
            return NotSampled.root(active, span.name, SpanKind.WORKFLOW)
        if opened_in is not None and type(span) is LiveSpan:
            span.opened_in = opened_in
        return span

    def end(self, error: BaseException | None, status: Status = Status.OK) -> None:
        """End the workflow, and its span where that is open; its context and those around learn of it."""
        end_ns = now_ns(self.place)
        status, failure = outcome(error, status)
        is_ok = status is Status.OK
        workflows = self.chain.workflows
        last: WorkflowMetadata = msgspec.structs.replace(
            workflows[-1],
            end_time=end_ns / 1e9,
            status="completed" if is_ok else "failed",
            tags={} if is_ok else {"error": failure.message if failure else status.value},
        )
        self.chain.workflows = (*workflows[:-1], last)
        span = self.place
        if type(span) is LiveSpan:
            if self.chain.custom_attributes:  # some were added meanwhile
                span.set_attribute(semconv.WORKFLOW, self.chain.recorded())
            span.end(error, status, end_ns=end_ns)
            if not span.is_open:  # its content is written, and it may be a parent for long
                span.input = span.output = None
        self.extent = None
        above = self.above()
        while above is not None:
            if above.extent is not None:
                above.extent.reach(end_ns, is_ok=is_ok)
            above = above.above()
        if self._parent is not None:  # a workflow that has ended does not keep those around it from ending
            self._was_in, self._parent = weakref.ref(self._parent), None

    def above(self) -> "WorkflowSpan | None":
        """The workflow that this is or was in, as long as it may be open."""
        if self._parent is not None:
            return self._parent
        return None if self._was_in is None else self._was_in()


class _Extent:
    """How far the span of a workflow that nobody invoked reaches; outlives the `WorkflowSpan`."""

    def __init__(self, span: LiveSpan) -> None:
        self._span = span
        self._end_ns = span.start_ns
        self._is_ok = True
        if not _standing:  # anew, so that it comes before whatever was to be done at exit so far
            atexit.unregister(end_standing)
            atexit.register(end_standing)
        _standing.add(self)

    def reach(self, time_ns: int, *, is_ok: bool = True) -> None:
        """It lasts until then at least; its outcome is that of the last workflow that ran in it."""
        self._end_ns = max(self._end_ns, time_ns)
        self._is_ok = is_ok

    def end(self) -> None:
        """Write it, unless it was ended."""
        _standing.discard(self)
        self._span.end(None, Status.OK if self._is_ok else Status.ERROR, end_ns=self._end_ns)


_standing: "Final[set[_Extent]]" = set()
"""Those that are not written."""


def end_standing() -> None:
    """End the spans of all workflows that nobody invoked, at exit: before what is recorded is delivered."""
    for extent in list(_standing):
        extent.end()


def now_ns(span: SpanContext | None) -> int:
    """Unix nanoseconds, on the clock of a span's trace where there is one."""
    clock = sources.active.clock
    if span is None or isinstance(span, NotRecorded):
        return clock.wall_ns()
    return span.anchor_ns + clock.monotonic_ns()
