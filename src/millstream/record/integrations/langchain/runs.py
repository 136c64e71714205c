"""LangChain's runs while they are recorded: which step a run is, and what runs below it."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import msgspec

from millstream import context
from millstream.record import recorder
from millstream.record.integrations.calls import current_call
from millstream.record.integrations.observed import Observed, begin
from millstream.record.live import leave
from millstream.span import SpanKind, Status

_state: Final = recorder.state
_CANCELLATIONS: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)


class Run(msgspec.Struct, eq=False):
    """A run that has begun: the span that it is in, and the step that it is, if it is one."""

    span: context.SpanContext | None
    step: Observed | None
    parent_run_id: UUID | None
    children: set[UUID] = set()


class Runs:
    """The runs of this process. Keeps nothing of one that has ended.

    Attributes:
        known: those that have begun.
    """

    def __init__(self) -> None:
        self.known: dict[UUID, Run] = {}

    def step(self, run_id: UUID | None) -> Observed | None:
        """The step that a run is."""
        run = self.known.get(run_id) if run_id is not None else None
        return None if run is None else run.step

    def around(self, parent_run_id: UUID | None) -> context.SpanContext | None:
        """The current span; where a thread has none, the span that the parent run is in."""
        span = context.current.get()
        if span is None and parent_run_id is not None and (parent := self.known.get(parent_run_id)):
            return parent.span
        return span

    def start(
        self,
        kind: SpanKind,
        name: str,
        content: Any,
        run_id: UUID,
        parent_run_id: UUID | None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Observed | None:
        """Start the step of a run; `None` while nothing is recorded."""
        if (_state.recorder or recorder.get()) is None:
            return None
        parent = context.current.get() or self.around(parent_run_id)
        step = begin(kind, name, content, framework="langchain", attributes=attributes, parent=parent)
        self._remember(Run(step.span, step, parent_run_id), run_id, kind)
        return step

    def follow(self, run_id: UUID, parent_run_id: UUID | None, span: context.SpanContext) -> None:
        """Remember a chain that is no step of its own, to find the parent of what it calls."""
        self._remember(Run(span, None, parent_run_id), run_id, SpanKind.CHAIN)

    def _remember(self, run: Run, run_id: UUID, kind: SpanKind) -> None:
        self.known[run_id] = run
        if run.parent_run_id is not None and (parent := self.known.get(run.parent_run_id)):
            parent.children.add(run_id)
        call = current_call.get()
        if call is not None and call.kind is kind:
            call.runs.append(run_id)

    def close(self, run_id: UUID) -> Observed | None:
        """Forget a run that has ended, and give its step, which is no longer current.

        Chains below it that were left without a word are forgotten, too; calls that go on end by themselves.
        """
        run = self.known.pop(run_id, None)
        if run is None:
            return None
        if run.parent_run_id is not None and (parent := self.known.get(run.parent_run_id)):
            parent.children.discard(run_id)
        for child in tuple(run.children):  # of which closing takes them out
            if (below := self.known.get(child)) and below.step is None:
                self.close(child)
        step = run.step
        if step is not None and not step.inner:
            leave(step.span)
        return step

    def end(self, run_id: UUID, error: BaseException) -> None:
        """End a run that an exception left; one that has ended stays as it is."""
        if isinstance(error, _CANCELLATIONS):
            self._cancel_below(run_id)
        if type(error) is asyncio.CancelledError:
            error = asyncio.CancelledError()  # its message is at best an object's address
        if step := self.close(run_id):
            step.end(error)

    def _cancel_below(self, run_id: UUID) -> None:
        """Who is cancelled cancels what runs below, of which LangChain does not always tell."""
        run = self.known.get(run_id)
        for child in tuple(run.children) if run else ():
            self._cancel_below(child)
            step = self.close(child)
            if step is not None and not step.inner:
                step.span.end(None, Status.CANCELLED)
