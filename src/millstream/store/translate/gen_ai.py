"""OpenTelemetry's conventions for GenAI, now and as they were: `gen_ai.*` attributes and events.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from collections.abc import Mapping
from typing import Any, Final

from millstream import semconv
from millstream.span import SpanEvent, SpanKind
from millstream.store.translate import messages
from millstream.store.translate.told import Told, as_list, parsed

_KINDS: Final = {
    "chat": SpanKind.LLM,
    "text_completion": SpanKind.LLM,
    "completion": SpanKind.LLM,
    "generate_content": SpanKind.LLM,
    "embeddings": SpanKind.EMBEDDING,
    "execute_tool": SpanKind.TOOL,
    "invoke_agent": SpanKind.AGENT,
    "create_agent": SpanKind.AGENT,
    "invoke_workflow": SpanKind.WORKFLOW,
    "retrieval": SpanKind.RETRIEVER,
    "rerank": SpanKind.RERANKER,
}
_USAGE: Final = {
    "input_tokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
    "output_tokens": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
    "cache_read_tokens": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.details.cache_read_tokens",
        "gen_ai.usage.details.cached_tokens",
        "gen_ai.usage.input_tokens.cached",
    ),
    "reasoning_tokens": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "gen_ai.usage.details.reasoning_tokens",
        "gen_ai.usage.output_tokens.reasoning",
    ),
}
_FIRST_CHUNK: Final = (
    "gen_ai.response.time_to_first_chunk",
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.server.time_to_first_token",
)
_CHUNK_EVENTS: Final = frozenset({"gen_ai.content.completion.chunk", "llm.content.completion.chunk"})
_DETAILS: Final = "gen_ai.client.inference.operation.details"
_ROLES: Final = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
_CHOICE: Final = "gen_ai.choice"
_AS_THEY_ARE: Final = (
    semconv.OPERATION_NAME,
    semconv.REQUEST_MODEL,
    semconv.REQUEST_TEMPERATURE,
    semconv.REQUEST_TOP_P,
    semconv.REQUEST_MAX_TOKENS,
    semconv.REQUEST_SEED,
    semconv.REQUEST_FREQUENCY_PENALTY,
    semconv.REQUEST_PRESENCE_PENALTY,
    semconv.REQUEST_CHOICE_COUNT,
    semconv.REQUEST_REASONING_LEVEL,
    semconv.RESPONSE_ID,
    semconv.RESPONSE_MODEL,
    semconv.TOOL_NAME,
    semconv.TOOL_CALL_ID,
    semconv.TOOL_DESCRIPTION,
    semconv.AGENT_NAME,
    semconv.CHUNK_COUNT,
)


def read(told: Told) -> None:
    """Take what this dialect has told."""
    told.is_kind(_KINDS.get(str(told.raw.get(semconv.OPERATION_NAME))))
    if told.kind is None and not _is_a_call(told):
        return
    told.is_kind(SpanKind.LLM)
    for name in _AS_THEY_ARE:
        told.know(name, told.take(name))
    told.know(semconv.PROVIDER_NAME, told.take(semconv.PROVIDER_NAME, "gen_ai.system"))
    told.know(semconv.REQUEST_STOP_SEQUENCES, as_list(told.take(semconv.REQUEST_STOP_SEQUENCES)))
    told.know(semconv.TOOL_DEFINITIONS, messages.tools(told.take(semconv.TOOL_DEFINITIONS)))
    told.know(semconv.TIME_TO_FIRST_CHUNK_S, told.take(*_FIRST_CHUNK))
    reasons = as_list(told.take(semconv.RESPONSE_FINISH_REASONS))
    if reasons:
        told.know(semconv.RESPONSE_FINISH_REASONS, [messages.FINISH_REASONS.get(one, one) for one in reasons])
    if told.kind is SpanKind.TOOL:
        told.asked(parsed(told.take("gen_ai.tool.call.arguments")))
        told.answered(parsed(told.take("gen_ai.tool.call.result")))
    _content(told)
    _chunks(told)
    _usage(told)


def _is_a_call(told: Told) -> bool:
    """Of versions that had no `gen_ai.operation.name`."""
    return "gen_ai.request.model" in told.raw and "gen_ai.system" in told.raw


def _content(told: Told) -> None:
    asked_for = told.known.get(semconv.REQUEST_CHOICE_COUNT)
    events = _take_events(told)
    instructions = told.take("gen_ai.system_instructions")
    given = messages.from_parts(told.take("gen_ai.input.messages"), instructions)
    if told.kind is SpanKind.EMBEDDING:
        texts = [message["content"] for message in given or ()]
        told.asked(texts[0] if len(texts) == 1 else texts or None)
    else:
        told.asked(given)
    reasons = told.known.get(semconv.RESPONSE_FINISH_REASONS)
    made = messages.from_parts(told.take("gen_ai.output.messages"))
    told.answered(messages.answer(made, asked_for=asked_for, reasons=reasons))
    asked, answered = from_events([{"event.name": event.name, **event.attributes} for event in events])
    told.asked(asked)
    told.answered(messages.answer(answered, asked_for=asked_for, reasons=reasons))


def _take_events(told: Told) -> list[SpanEvent]:
    """The events that hold messages."""
    taken = [event for event in told.events if event.name in _ROLES or event.name == _CHOICE]
    for event in told.events:
        if event.name == _DETAILS:
            taken.append(event)
            for name in ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions"):
                if name in event.attributes:
                    told.raw.setdefault(name, event.attributes[name])
    told.events = [event for event in told.events if event not in taken]
    return [event for event in taken if event.name != _DETAILS]


def from_events(events: Any) -> tuple[list[Any] | None, list[Any] | None]:
    """Messages that were told one an event: those given, and those made."""
    given: list[Any] = []
    made: list[Any] = []
    events = parsed(events)
    for event in events if isinstance(events, list) else ():
        if not isinstance(event, Mapping):
            continue
        body = {**event, **_mapping(event.get("body")), **_mapping(event.get("gen_ai.event.content"))}
        name = body.get("event.name")
        if name == _CHOICE:
            made.append(_plain({**body, **_mapping(body.get("message"))}, "assistant"))
        elif name in _ROLES:
            given.append(_plain(body, _ROLES[name]))
    return given or None, made or None


def _mapping(value: Any) -> Mapping[str, Any]:
    value = parsed(value)
    return value if isinstance(value, Mapping) else {}


def _plain(body: Mapping[str, Any], role: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": body.get("role") or role, "content": body.get("content")}
    calls = parsed(body.get("tool_calls"))
    if isinstance(calls, list) and calls:
        message["tool_calls"] = calls
    if role == "tool":
        message["tool_call_id"] = body.get("id")
    return message


def _chunks(told: Told) -> None:
    """The pieces of a stream, each an event without content."""
    chunks = [event for event in told.events if event.name in _CHUNK_EVENTS]
    if chunks:
        told.events = [event for event in told.events if event.name not in _CHUNK_EVENTS]
        told.know(semconv.TIME_TO_FIRST_CHUNK_S, (chunks[0].time_ns - told.span.start_ns) / 1e9)
        told.know(semconv.CHUNK_COUNT, len(chunks))


def _usage(told: Told) -> None:
    if not told.is_model_call:
        return
    for field, names in _USAGE.items():
        told.counted(field, told.take(*names))
    told.take("gen_ai.usage.total_tokens", "llm.usage.total_tokens")
    raw = parsed(told.take("gen_ai.usage.raw"))
    if isinstance(raw, Mapping):
        count_openai(told, raw)


def count_openai(told: Told, usage: Mapping[str, Any]) -> None:
    """Tokens as OpenAI's APIs tell them."""
    given = _mapping(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    made = _mapping(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    told.counted("input_tokens", usage.get("prompt_tokens"), usage.get("input_tokens"))
    told.counted("output_tokens", usage.get("completion_tokens"), usage.get("output_tokens"))
    told.counted("cache_read_tokens", given.get("cached_tokens"))
    told.counted("reasoning_tokens", made.get("reasoning_tokens"))
