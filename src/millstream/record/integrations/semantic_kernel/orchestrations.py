"""Orchestrations of agents: messages between actors, which a runtime delivers in the background."""

import asyncio
import functools
import weakref
from typing import Any, Final

import msgspec

from millstream import context
from millstream.record.integrations.methods import Begin, argument, started
from millstream.record.integrations.observed import Observed, begin, quietly
from millstream.record.integrations.semantic_kernel.models import NAME
from millstream.span import SpanKind

_SENT_IN: Final = "_millstream_sent_in"
"""On a message under way, the span that it was sent in."""


def begin_orchestration(orchestration: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """Agents work together, recorded where nothing else is around them."""
    if context.current.get() is not None:
        return None
    task = argument(args, kwargs, 0, "task")
    content = msgspec.UNSET if task is None else str(task)
    return begin(SpanKind.CHAIN, type(orchestration).__name__, content, framework=NAME)


def recorded_invoke(begin_invoke: Begin) -> Any:
    """Record `OrchestrationBase.invoke`, which returns at once, until there is a result."""

    def replace(original: Any) -> Any:
        @functools.wraps(original)
        async def invoke(self: Any, *args: Any, **kwargs: Any) -> Any:
            step = started(begin_invoke, self, args, kwargs)
            if step is None:
                return await original(self, *args, **kwargs)
            try:
                with step.inside():
                    result = await original(self, *args, **kwargs)
            except BaseException as error:
                step.end(error)
                raise
            quietly(_follow)(step, result)
            return result

        return invoke

    return replace


def remembers_sender(original: Any) -> Any:
    """Wraps the constructor of a message under way."""

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if (span := context.current.get()) is not None:
            quietly(functools.partial(setattr, self, _SENT_IN))(span)

    return init


def delivered_in_sender(original: Any) -> Any:
    """Wraps a runtime's delivery of a message: what the receiver does belongs to what the sender did."""

    @functools.wraps(original)
    async def deliver(self: Any, message_envelope: Any) -> Any:
        span = getattr(message_envelope, _SENT_IN, None)
        if span is None:
            return await original(self, message_envelope)
        token = context.current.set(span)
        try:
            return await original(self, message_envelope)
        finally:
            context.current.reset(token)

    return deliver


def _follow(step: Observed, result: Any) -> None:
    event = result.event
    if event.is_set():
        _ended(step, result)
        return
    announce = event.set

    def announce_and_end() -> None:
        quietly(_ended)(step, result)
        announce()

    event.set = announce_and_end
    weakref.finalize(event, step.end).atexit = False  # nobody waits for it any more


def _ended(step: Observed, result: Any) -> None:
    if result.value is not None:
        step.answer(str(result.value))
        step.end()
    else:
        step.end(asyncio.CancelledError() if result.cancellation_token.is_cancelled() else result.exception)
