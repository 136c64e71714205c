"""Runs of agents and of workflows, which go on in the background of an event loop."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Final

import msgspec

from millstream import context, semconv
from millstream.record.integrations.llama_index.models import NAME
from millstream.record.integrations.llama_index.steps import asked_for
from millstream.record.integrations.methods import Begin, argument, started
from millstream.record.integrations.observed import Observed, begin, quietly
from millstream.span import SpanKind

_AGENTS: Final = frozenset({"BaseWorkflowAgent", "AgentWorkflow"})


def recorded_run(begin_run: Begin) -> Callable[[Any], Any]:
    """Record `Workflow.run`, which returns a handler at once, until the run has ended."""

    def replace(original: Any) -> Any:
        @functools.wraps(original)
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            step = started(begin_run, self, args, kwargs)
            if step is None:
                return original(self, *args, **kwargs)
            try:
                with step.inside():  # the tasks of the run continue the span
                    handler = original(self, *args, **kwargs)
            except BaseException as error:
                step.end(error)
                raise
            task = getattr(handler, "_result_task", handler)  # older handlers are futures
            try:
                task.add_done_callback(functools.partial(_ended, step))
            except Exception:  # noqa: BLE001  # no task of the event loop: its end is not known
                step.end()
            return handler

        return run

    return replace


def begin_run(workflow: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """An agent runs; other workflows are recorded where nothing else is around them."""
    start = argument(args, kwargs, 1, "start_event")
    if _AGENTS.isdisjoint(base.__name__ for base in type(workflow).__mro__):
        if context.current.get() is not None:
            return None
        content = {key: value for key, value in kwargs.items() if key not in ("ctx", "start_event", "run_id")}
        if start is not None:
            content = dict(start)
        return begin(SpanKind.CHAIN, type(workflow).__name__, content or msgspec.UNSET, framework=NAME)
    asked = None if start is None else start.get("user_msg", None) or start.get("chat_history", None)
    return _agent(_agent_name(workflow), msgspec.UNSET if asked is None else _said(asked))


def begin_turn(agent: Any, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Observed | None:
    """An agent takes its turn in a workflow of several."""
    around = context.current.get()
    if getattr(around, "kind", None) is SpanKind.AGENT and getattr(around, "name", None) == agent.name:
        return None
    return _agent(agent.name, msgspec.UNSET)


def tell_turn(step: Observed, output: Any) -> None:
    """An agent took its turn."""
    step.answer(str(output))


def recorded_tool_call(original: Any) -> Any:
    """Record which tool an agent's model asked for, while the agent's step `call_tool` runs it."""

    @functools.wraps(original)
    async def call_tool(self: Any, ctx: Any, ev: Any) -> Any:
        token = asked_for.set((str(getattr(ev, "tool_name", "")), str(getattr(ev, "tool_id", ""))))
        try:
            return await original(self, ctx, ev)
        finally:
            asked_for.reset(token)

    return call_tool


def _agent(name: str, content: Any) -> Observed:
    attributes = {semconv.OPERATION_NAME: "invoke_agent", semconv.AGENT_NAME: name}
    return begin(SpanKind.AGENT, name, content, framework=NAME, attributes=attributes)


def _agent_name(workflow: Any) -> str:
    agents = getattr(workflow, "agents", None)
    if isinstance(agents, dict) and len(agents) == 1:
        return str(next(iter(agents)))
    return str(getattr(workflow, "name", None) or type(workflow).__name__)


def _said(asked: Any) -> Any:
    return (
        [_said(message) for message in asked] if isinstance(asked, list) else getattr(asked, "content", asked)
    )


def _ended(step: Observed, task: Any) -> None:
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if type(error).__name__ == "WorkflowCancelledByUser":
        error = asyncio.CancelledError()
    if error is None:
        quietly(_tell_run)(step, task.result())
    step.end(error)


def _tell_run(step: Observed, stop: Any) -> None:
    result = getattr(stop, "result", stop)
    if result is not None:
        step.answer(str(result) if step.span.kind is SpanKind.AGENT else result)
