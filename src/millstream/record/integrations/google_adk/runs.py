"""Runs of ADK's runners and agents: a WORKFLOW span for a runner's, an AGENT span for each agent in it."""

from typing import Any

from millstream import context, semconv
from millstream.record.integrations.google_adk.messages import content_json, text_of
from millstream.record.integrations.google_adk.streams import FRAMEWORK
from millstream.record.integrations.methods import argument
from millstream.record.integrations.observed import Observed, begin
from millstream.span import SpanKind


class LastWord:
    """Takes in the events of a run; the last that says something, or gives an output, is what came of it."""

    def __init__(self, step: Observed) -> None:
        self._step = step
        self._output: Any = None

    def see(self, event: Any) -> None:
        """Take in an event."""
        if not event.partial:
            said = text_of(event.content)
            output = getattr(event, "output", None) if said is None else said
            self._output = self._output if output is None else output

    def finish(self) -> None:
        """Tell what came out."""
        if self._output is not None:
            self._step.answer(self._output)


def begin_run(runner: Any, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """Start the step of a runner's `run_async`; the one that an agent as a tool has inside is none."""
    above: Any = context.current.get()
    while above is not None:
        if getattr(above, "kind", None) is SpanKind.WORKFLOW and _is_ours(above):
            return None
        above = getattr(above, "parent", None)
    message = kwargs.get("new_message")
    return begin(
        SpanKind.WORKFLOW,
        runner.app_name or "runner",
        None if message is None else content_json(message.parts or ()),
        framework=FRAMEWORK,
        attributes={
            semconv.OPERATION_NAME: "invoke_workflow",
            semconv.CONVERSATION_ID: kwargs.get("session_id"),
        },
    )


def _is_ours(span: Any) -> bool:
    return (span.attributes or {}).get(semconv.FRAMEWORK) == FRAMEWORK


def begin_agent(agent: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed:
    """Start the step of an agent's `run_async`."""
    invocation = argument(args, kwargs, 0, "parent_context")
    asked = getattr(invocation, "user_content", None)
    return begin(
        SpanKind.AGENT,
        agent.name,
        None if asked is None else content_json(asked.parts or ()),
        framework=FRAMEWORK,
        attributes={
            semconv.OPERATION_NAME: "invoke_agent",
            semconv.AGENT_NAME: agent.name,
            semconv.CONVERSATION_ID: getattr(getattr(invocation, "session", None), "id", None),
        },
    )
