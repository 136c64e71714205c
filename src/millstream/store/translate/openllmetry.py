"""OpenLLMetry (Traceloop): `traceloop.*`, and `gen_ai.prompt.N.*`, `llm.*` of its earlier versions.

Source: https://github.com/traceloop/openllmetry, package opentelemetry-semantic-conventions-ai
"""

from typing import Any, Final

from millstream import semconv
from millstream.span import SpanKind
from millstream.store.translate import messages
from millstream.store.translate.told import Told, as_list, parsed

_KINDS: Final = {
    "workflow": SpanKind.WORKFLOW,
    "task": SpanKind.TASK,
    "agent": SpanKind.AGENT,
    "tool": SpanKind.TOOL,
}
_REQUESTS: Final = {
    "chat": SpanKind.LLM,
    "completion": SpanKind.LLM,
    "embedding": SpanKind.EMBEDDING,
    "rerank": SpanKind.RERANKER,
}
_OPERATIONS: Final = {"chat": "chat", "completion": "text_completion", "embedding": "embeddings"}
_ATTRIBUTES: Final = {
    "llm.frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "llm.presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "llm.top_k": "gen_ai.request.top_k",
    "llm.request.model": semconv.REQUEST_MODEL,
    "llm.response.model": semconv.RESPONSE_MODEL,
    "llm.temperature": semconv.REQUEST_TEMPERATURE,
    "llm.top_p": semconv.REQUEST_TOP_P,
    "llm.request.max_tokens": semconv.REQUEST_MAX_TOKENS,
    "llm.vendor": semconv.PROVIDER_NAME,
}
_EFFORT: Final = ("gen_ai.request.reasoning_effort", "llm.request.reasoning_effort")
_SCHEMA: Final = "gen_ai.request.structured_output_schema"
_MESSAGES: Final = ("gen_ai.prompt.", "gen_ai.completion.")
_USAGE: Final = {
    "input_tokens": "llm.usage.prompt_tokens",
    "output_tokens": "llm.usage.completion_tokens",
    "cache_read_tokens": "llm.usage.cache_read_input_tokens",
    "reasoning_tokens": "llm.usage.reasoning_tokens",
}


def read(told: Told) -> None:
    """Take what this dialect has told; before `gen_ai`, whose names it shares."""
    request = told.take("llm.request.type")
    told.is_kind(_REQUESTS.get(str(request)))
    told.know(semconv.OPERATION_NAME, _OPERATIONS.get(str(request)))
    told.is_kind(_KINDS.get(str(told.raw.get("traceloop.span.kind"))))
    if "traceloop.span.kind" in told.raw:
        _entity(told)
    told.know(semconv.REQUEST_REASONING_LEVEL, told.take(*_EFFORT))
    if form := _response_format(parsed(told.raw.get(_SCHEMA))):
        told.know(semconv.REQUEST_RESPONSE_FORMAT, form)
        told.take(_SCHEMA)
    if request is None and not any(key.startswith(_MESSAGES) for key in told.raw):
        return
    told.is_kind(SpanKind.LLM)
    for name, ours in _ATTRIBUTES.items():
        told.know(ours, told.take(name))
    told.know(semconv.REQUEST_STOP_SEQUENCES, as_list(told.take("llm.chat.stop_sequences")))
    _messages(told)
    told.know(semconv.TOOL_DEFINITIONS, messages.tools(told.numbered("llm.request.functions.")))
    if told.is_model_call:
        for field, name in _USAGE.items():
            told.counted(field, told.take(name))


def _response_format(schema: Any) -> dict[str, Any] | None:
    """The form that an answer was to have, of its schema, which is all that is told."""
    if not isinstance(schema, dict) or not schema:
        return None
    name = {"name": schema["title"]} if isinstance(schema.get("title"), str) else {}
    return {"type": "json_schema", "json_schema": {**name, "schema": schema}}


def _entity(told: Told) -> None:
    told.take("traceloop.span.kind")
    name = told.raw.get("traceloop.entity.name")
    if told.kind is SpanKind.TOOL:
        told.know(semconv.TOOL_NAME, name)
    elif told.kind is SpanKind.AGENT:
        told.know(semconv.AGENT_NAME, name)
    told.asked(parsed(told.take("traceloop.entity.input")))
    told.answered(parsed(told.take("traceloop.entity.output")))


def _messages(told: Told) -> None:
    given = told.numbered("gen_ai.prompt.")
    made = told.numbered("gen_ai.completion.")
    if told.kind is SpanKind.EMBEDDING:
        texts = [tree.get("content") for tree in given if isinstance(tree, dict)]
        told.asked(texts[0] if len(texts) == 1 else texts or None)
        return
    told.asked([messages.from_tree(tree) for tree in given] or None)
    answers = [{**messages.from_tree(tree), "role": "assistant"} for tree in made]
    reasons = [tree["finish_reason"] for tree in made if isinstance(tree, dict) and tree.get("finish_reason")]
    told.know(semconv.RESPONSE_FINISH_REASONS, reasons or None)
    asked_for = told.raw.get(semconv.REQUEST_CHOICE_COUNT)
    told.answered(messages.answer(answers, asked_for=asked_for, reasons=reasons))
