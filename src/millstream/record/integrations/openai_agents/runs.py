"""Runs of agents: one span from the start to the last answer, one inside for each agent that took over."""

import asyncio
import functools
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import msgspec
from agents.exceptions import ModelBehaviorError
from agents.tracing.span_data import AgentSpanData, HandoffSpanData

from millstream import semconv
from millstream.record.integrations.methods import argument
from millstream.record.integrations.observed import Observed, begin, quietly
from millstream.record.integrations.openai.response_items import messages
from millstream.span import SpanKind

FRAMEWORK: Final = "openai-agents"


class Run:
    """A run that goes on.

    Attributes:
        step: of the agent that the run began with, to the end of the run.
        agents: steps of the agents that have taken over, by the SDK's own span, with the exception that was
            being handled when they began.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        agent, given = argument(args, kwargs, 0, "starting_agent"), argument(args, kwargs, 1, "input")
        self.step = _begin_agent(agent.name, _content(given))
        self.agents: dict[int, tuple[Observed, BaseException | None]] = {}
        self._has_begun = False
        session = kwargs.get("session")
        conversation = kwargs.get("conversation_id") or getattr(session, "session_id", None)
        self.step.know({semconv.CONVERSATION_ID: conversation})

    def begin_agent(self, span: Any) -> None:
        """An agent begins, the first of the run or one that takes over."""
        if self._has_begun:
            step = _begin_agent(span.span_data.name, msgspec.UNSET, self.step)
            self.agents[id(span)] = (step.__enter__(), sys.exception())
        self._has_begun = True

    def end_agent(self, span: Any) -> None:
        """An agent is done, hands over or fails."""
        step, handled = self.agents.pop(id(span), (None, None))
        error = sys.exception()
        if step is not None:
            step.__exit__(None, None if error is handled else _told(step, error), None)

    def hand_over(self, data: HandoffSpanData) -> None:
        """An agent hands over to another."""
        steps = [step for step, _ in self.agents.values()]
        giver = next((step for step in steps if step.span.name == data.from_agent), self.step)
        giver.span.add_event("handoff", {"from_agent": data.from_agent, "to_agent": data.to_agent})

    def end(self, error: BaseException | None = None) -> None:
        """End the run and what is still open in it."""
        while self.agents:
            _, (step, _) = self.agents.popitem()
            step.end(_told(step, error))
        self.step.end(_told(self.step, error))

    @quietly
    def tell(self, result: Any) -> None:
        """Record what the run came to; nothing where it waits for an approval."""
        output = getattr(result, "final_output", None)
        if output is not None:
            self.step.answer(output)

    def follow(self, result: Any) -> None:
        """End the run when its task ends."""
        task = getattr(result, "run_loop_task", None)
        if task is None:
            self.end()
        else:
            task.add_done_callback(functools.partial(self._done, result))

    @quietly
    def _done(self, result: Any, task: "asyncio.Task[Any]") -> None:
        self.tell(result)
        if task.cancelled():
            self.end(asyncio.CancelledError())
            return
        # Read so, it is still reported as never retrieved where the program does not look for it.
        error = getattr(task, "_exception", None) or getattr(result, "_stored_exception", None)
        self.end(error)


_current: Final[ContextVar[Run | None]] = ContextVar("millstream_openai_agents_run", default=None)
"""The innermost run that this code runs in."""


def _begin_agent(name: str, content: Any, inside: Observed | None = None) -> Observed:
    return begin(
        SpanKind.AGENT,
        name,
        content,
        framework=FRAMEWORK,
        attributes={semconv.OPERATION_NAME: "invoke_agent", semconv.AGENT_NAME: name},
        parent=None if inside is None or not inside.span.is_open else inside.span,
    )


def _content(given: Any) -> Any:
    """A text as it is, items as messages; a run that is resumed is given no input."""
    if isinstance(given, list):
        return messages(None, given)
    return given if isinstance(given, str) else msgspec.UNSET


def _told(step: Observed, error: BaseException | None) -> BaseException | None:
    """The error, without the message that quotes what a model said where that is not to be recorded."""
    if isinstance(error, ModelBehaviorError) and not step.span.recorder.capture_content:
        return type(error)("")
    return error


def _begin_run(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Run | None:
    started: list[Run] = []
    quietly(lambda: started.append(Run(args, kwargs)))()
    return started[0] if started else None


def recording(is_on: Callable[[], bool]) -> Callable[[Any], Any]:
    """Record the calls of the runner's `run`."""

    def replace(method: Any) -> Any:
        @functools.wraps(method)
        async def run(runner: Any, *args: Any, **kwargs: Any) -> Any:
            recorded = _begin_run(args, kwargs) if is_on() else None
            work = method(runner, *args, **kwargs)
            del runner, args, kwargs  # the SDK sees to it that its errors hold no data
            if recorded is None:
                return await work
            token = _current.set(recorded)
            try:
                with recorded.step.inside():
                    result = await work
            except BaseException as error:
                recorded.end(error)
                raise
            finally:
                _current.reset(token)
            recorded.tell(result)
            recorded.end()
            return result

        return run

    return replace


def recording_stream(is_on: Callable[[], bool]) -> Callable[[Any], Any]:
    """Record the runs that the runner's `run_streamed` starts in a task of their own."""

    def replace(method: Any) -> Any:
        @functools.wraps(method)
        def run_streamed(runner: Any, *args: Any, **kwargs: Any) -> Any:
            recorded = _begin_run(args, kwargs) if is_on() else None
            if recorded is None:
                return method(runner, *args, **kwargs)
            token = _current.set(recorded)
            try:
                with recorded.step.inside():
                    result = method(runner, *args, **kwargs)
            except BaseException as error:
                recorded.end(error)
                raise
            finally:
                _current.reset(token)
            recorded.follow(result)
            return result

        return run_streamed

    return replace


def telling_start(method: Any) -> Any:
    """A tracing span of the SDK starts: of an agent, perhaps."""

    @functools.wraps(method)
    def start(span: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(span, *args, **kwargs)
        if type(span.span_data) is AgentSpanData and (run := _current.get()) is not None:
            quietly(run.begin_agent)(span)
        return result

    return start


def telling_finish(method: Any) -> Any:
    """A tracing span of the SDK ends: of an agent or a handoff, perhaps."""

    @functools.wraps(method)
    def finish(span: Any, *args: Any, **kwargs: Any) -> Any:
        if (run := _current.get()) is not None:
            if type(span.span_data) is AgentSpanData:
                quietly(run.end_agent)(span)
            elif type(span.span_data) is HandoffSpanData:
                quietly(run.hand_over)(span.span_data)
        return method(span, *args, **kwargs)

    return finish
