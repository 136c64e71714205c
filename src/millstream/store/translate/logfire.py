"""Logfire, and pydantic-ai, which records itself: what they tell beside OpenTelemetry's conventions.

Sources: the packages logfire and pydantic-ai.
"""

from collections.abc import Mapping
from typing import Any, Final

from millstream import semconv
from millstream.span import SpanKind
from millstream.store.translate import gen_ai, messages
from millstream.store.translate.told import Told, parsed

_STREAMED: Final = "log"
_AGENT_RUN: Final = ("all_messages_events", "pydantic_ai.all_messages", "agent_name")
_SCOPES: Final = ("logfire", "pydantic-ai")


def read(told: Told) -> None:
    """Take what this dialect has told; before `gen_ai`, whose names it shares."""
    if not str(told.raw.get(semconv.OTEL_SCOPE_NAME)).startswith(_SCOPES):
        return
    if not told.raw.keys().isdisjoint(_AGENT_RUN):
        _agent_run(told)
    elif "tool_arguments" in told.raw or "tool_response" in told.raw:
        told.is_kind(SpanKind.TOOL)
        told.know(semconv.OPERATION_NAME, "execute_tool")
        told.asked(parsed(told.take("tool_arguments")))
        told.answered(parsed(told.take("tool_response")))
    elif "model_request_parameters" in told.raw:
        _offered(told)
    if "events" in told.raw:  # messages as pydantic-ai's first versions tell them
        given, made = gen_ai.from_events(told.take("events"))
        told.asked(given)
        told.answered(messages.answer(made))
    if "request_data" in told.raw:
        _client_call(told)


def is_streamed(told: Mapping[str, Any]) -> bool:
    """Whether this is Logfire's log of a stream that has ended, not the span of its request."""
    return told.get("logfire.span_type") == _STREAMED and semconv.OPERATION_NAME in told


def _agent_run(told: Told) -> None:
    told.is_kind(SpanKind.AGENT)
    told.know(semconv.OPERATION_NAME, "invoke_agent")
    told.know(semconv.AGENT_NAME, told.take("gen_ai.agent.name", "agent_name"))
    given, made = gen_ai.from_events(told.take("all_messages_events"))
    conversation = messages.from_parts(
        told.take("pydantic_ai.all_messages"), told.take("gen_ai.system_instructions")
    )
    conversation = conversation or (given or []) + (made or [])
    first = told.raw.get("pydantic_ai.new_message_index")
    first = first if isinstance(first, int) else 0
    asked = conversation[:first]
    for message in conversation[first:]:
        if message.get("role") == "assistant":
            break
        asked.append(message)
    told.asked(asked or None)
    told.answered(parsed(told.take("final_result")))


def _offered(told: Told) -> None:
    parameters = parsed(told.take("model_request_parameters"))
    if isinstance(parameters, Mapping):
        offered = [*(parameters.get("function_tools") or ()), *(parameters.get("output_tools") or ())]
        told.know(semconv.TOOL_DEFINITIONS, messages.tools(told.raw.get(semconv.TOOL_DEFINITIONS)))
        told.know(semconv.TOOL_DEFINITIONS, messages.tools(offered))


def _client_call(told: Told) -> None:
    """A call of a client library of a provider, under `logfire.instrument_openai()` and the like."""
    request = parsed(told.raw.get("request_data"))
    response = parsed(told.raw.get("response_data"))
    if not isinstance(request, Mapping) or "model" not in request:
        return
    told.take("request_data", "response_data")
    told.is_kind(_kind(told, request))
    told.parameters(request)
    told.asked(messages.from_parts(request.get("messages")))
    told.know(semconv.TOOL_DEFINITIONS, messages.tools(request.get("tools")))
    if isinstance(response, Mapping):
        told.answered(response.get("message"))
        if isinstance(usage := response.get("usage"), Mapping) and told.is_model_call:
            gen_ai.count_openai(told, usage)
    if is_streamed(told.raw):  # a moment, of which the text says how long it was
        duration_s = told.take("duration")
        if isinstance(duration_s, float | int) and told.span.end_ns == told.span.start_ns:
            told.span.start_ns -= int(duration_s * 1e9)


def _kind(told: Told, request: Mapping[str, Any]) -> SpanKind | None:
    if semconv.OPERATION_NAME in told.raw:
        return None  # it is told
    return SpanKind.LLM if "messages" in request else None
