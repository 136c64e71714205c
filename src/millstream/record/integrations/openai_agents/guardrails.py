"""Guardrails: what they looked at, and whether they let it pass."""

from typing import Any

import msgspec

from millstream import semconv
from millstream.record.integrations.methods import argument
from millstream.record.integrations.observed import Observed, begin
from millstream.record.integrations.openai.answers import read
from millstream.record.integrations.openai.response_items import messages
from millstream.record.integrations.openai.tools import arguments_json
from millstream.record.integrations.openai_agents.runs import FRAMEWORK
from millstream.span import SpanKind


def begin_check(guardrail: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed:
    """Start the step of a guardrail of an agent's input or output."""
    if hasattr(guardrail, "run_in_parallel"):
        given = argument(args, kwargs, 1, "input")
        return _begin(guardrail, messages(None, given) if isinstance(given, list) else given)
    return _begin(guardrail, argument(args, kwargs, 2, "agent_output"))


def begin_tool_check(guardrail: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed:
    """Start the step of a guardrail of a tool's arguments or output."""
    data = argument(args, kwargs, 0, "data")
    if hasattr(data, "output"):
        return _begin(guardrail, data.output)
    return _begin(guardrail, arguments_json(read(read(data, "context"), "tool_arguments")))


def _begin(guardrail: Any, content: Any) -> Observed:
    content = msgspec.UNSET if content is None else content
    return begin(SpanKind.GUARDRAIL, guardrail.get_name(), content, framework=FRAMEWORK)


def tell(step: Observed, result: Any) -> None:
    """Record what a guardrail found."""
    _tell(step, result.output.output_info, triggered=result.output.tripwire_triggered)


def tell_tool(step: Observed, output: Any) -> None:
    """Record what a guardrail of a tool found."""
    _tell(step, output.output_info, triggered=output.behavior.get("type") != "allow")


def _tell(step: Observed, info: Any, *, triggered: bool) -> None:
    step.answer({"triggered": triggered, "info": info})
    step.know({semconv.GUARDRAIL_TRIGGERED: triggered})
