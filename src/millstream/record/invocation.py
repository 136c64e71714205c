"""One call of a workflow: its context, its span, and both ended with the same outcome."""

from contextlib import suppress
from contextvars import Token
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from millstream.record import observability
from millstream.record.live import LiveSpan, leave
from millstream.record.not_recorded import NOT_RECORDED
from millstream.record.observability import ObservabilityContext, running, running_context
from millstream.record.workflow_span import WorkflowSpan
from millstream.span import Status

_UNSET: Final = msgspec.UNSET


class Invocation:
    """Makes the block of a `with` statement a call of a workflow.

    Args:
        name: the workflow's name, and its span's.
        parent: the workflow that it is called in; the running one when `None`, and without one it is a root.
        message: the span's input.
        workload_id: opens a workload scope of this name.
        trace_id: 32 hex digits; the call is a root of this trace where the parent is in another.

    Attributes:
        context: the call's own.
        span: of kind WORKFLOW, for its output and attributes.
    """

    context: ObservabilityContext
    span: LiveSpan

    def __init__(
        self,
        name: str,
        parent: ObservabilityContext | None = None,
        message: Any = _UNSET,
        workload_id: str | None = None,
        trace_id: str | None = None,
    ) -> None:
        self._trace_id = trace_id
        self._name = name
        self._parent = parent
        self._message = message
        self._workload_id = workload_id
        self._running: Token[ObservabilityContext | None] | None = None
        self._workflow: WorkflowSpan | None = None

    def begin(self) -> None:
        """Open the span; `enter` makes it the current one."""
        parent = self._parent or running_context()
        if parent is None or self._trace_id not in (None, parent.trace_id):
            self.context = ObservabilityContext.create_root_context(self._name, self._trace_id)
        else:
            self.context = parent.create_child_context(self._name)
        self._workflow = self.context.invoke(self._message, self._workload_id)
        place = self._workflow.place
        self.span = place if isinstance(place, LiveSpan) else NOT_RECORDED
        self._message = self._parent = None

    def enter(self) -> None:
        """From here on this is the running workflow."""
        self._running = running.set(self.context)
        observability.begin_calls()
        self.span.__enter__()

    def leave(self) -> None:
        """The caller's workflow is the running one again; this is the last that was called there."""
        with suppress(ValueError):  # closed in another context than it ran in
            if self._running is not None:
                running.reset(self._running)
        leave(self.span)
        observability.call_made(self.context)

    def end(self, error: BaseException | None = None, status: Status = Status.OK) -> None:
        """End the span with its outcome, which the context has, too."""
        if self._workflow is not None:
            self._workflow.end(error, status)

    def __enter__(self) -> Self:
        self.begin()
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()
        if isinstance(error, GeneratorExit):  # a coroutine that is closed before it is done was cancelled
            self.end(None, Status.CANCELLED)
        else:
            self.end(error)
