"""Crews and flows (the root of what they do), their tasks, and agents."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from millstream import semconv
from millstream.record.integrations.crewai.messages import messages_json
from millstream.record.integrations.crewai.wrapping import NAME, as_step
from millstream.record.integrations.observed import Observed, begin
from millstream.record.opening import current_span
from millstream.span import SpanKind


def crew_run(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `Crew.kickoff` and its like: a crew does the tasks that it was made for, so it is a workflow."""
    return as_step(original, _start_crew, _tell)


def _start_crew(crew: Any, arguments: Mapping[str, Any]) -> Observed | None:
    if getattr(crew, "stream", False):  # gives a stream at once, which then runs the crew itself
        return None
    return begin(SpanKind.WORKFLOW, crew.name or "crew", _given(arguments.get("inputs")), framework=NAME)


def flow_run(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a flow's `kickoff_async`, through which all its ways to run go."""
    return as_step(original, _start_flow, _tell)


def _start_flow(flow: Any, arguments: Mapping[str, Any]) -> Observed | None:
    kind = type(flow)
    made_by_user = kind.__name__ == "Flow" or not kind.__module__.startswith("crewai.")
    if getattr(flow, "stream", False) or not made_by_user:  # agents and memories are flows inside
        return None
    inputs = arguments.get("inputs", arguments.get("feedback"))
    return begin(SpanKind.WORKFLOW, flow.name or kind.__name__, _given(inputs), framework=NAME)


def task_run(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the core of a task, on the thread that does it."""
    return as_step(original, _start_task, _tell)


def _start_task(task: Any, arguments: Mapping[str, Any]) -> Observed:
    content = {"description": task.description, "expected_output": task.expected_output}
    if context := arguments.get("context"):
        content["context"] = context
    return begin(SpanKind.TASK, task.name or "task", content, framework=NAME)


def agent_task(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an agent's `execute_task`; its attempts are one step."""
    return as_step(original, _start_agent_task, _tell)


def _start_agent_task(agent: Any, arguments: Mapping[str, Any]) -> Observed:
    content = {"task": arguments["task"].description}
    if context := arguments.get("context"):
        content["context"] = context
    return _start_agent(agent, content)


def agent_kickoff(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `Agent.kickoff`, which in an event loop only makes the coroutine of `kickoff_async`."""
    if asyncio.iscoroutinefunction(original):
        return lite_agent_run(original)
    return as_step(original, _start_kickoff, _tell)


def _start_kickoff(agent: Any, arguments: Mapping[str, Any]) -> Observed | None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _start_lite_agent(agent, arguments)
    return None


def lite_agent_run(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the run of an agent that is asked by itself."""
    return as_step(original, _start_lite_agent, _tell)


def _start_lite_agent(agent: Any, arguments: Mapping[str, Any]) -> Observed:
    return _start_agent(agent, messages_json(arguments.get("messages")))


def _start_agent(agent: Any, content: Any) -> Observed:
    name = str(agent.role).strip()
    above = current_span()
    if above.kind is SpanKind.AGENT and above.name == name and above.is_open:
        return Observed(above, inner=True)
    attributes = {
        semconv.OPERATION_NAME: "invoke_agent",
        semconv.AGENT_NAME: name,
        semconv.AGENT_ID: str(agent.id),
    }
    return begin(SpanKind.AGENT, name, content, framework=NAME, attributes=attributes)


def _given(value: Any) -> Any:
    return msgspec.UNSET if value is None else value


def _tell(step: Observed, result: Any) -> None:
    step.answer(getattr(result, "raw", result))
