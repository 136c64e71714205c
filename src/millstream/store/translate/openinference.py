"""OpenInference (Arize Phoenix): `openinference.span.kind`, `llm.*`, `input.value`, `retrieval.*`.

Source: https://github.com/Arize-ai/openinference/blob/main/spec/semantic_conventions.md
"""

from collections.abc import Mapping
from typing import Any, Final

from millstream import semconv
from millstream.span import SpanKind
from millstream.store.translate import messages
from millstream.store.translate.told import Told, at, parsed

_OPERATIONS: Final = {
    SpanKind.LLM: "chat",
    SpanKind.EMBEDDING: "embeddings",
    SpanKind.TOOL: "execute_tool",
    SpanKind.AGENT: "invoke_agent",
    SpanKind.RETRIEVER: "retrieval",
}
_ATTRIBUTES: Final = {
    "llm.model_name": semconv.REQUEST_MODEL,
    "embedding.model_name": semconv.REQUEST_MODEL,
    "reranker.model_name": semconv.REQUEST_MODEL,
    "tool.name": semconv.TOOL_NAME,
    "tool.description": semconv.TOOL_DESCRIPTION,
    "tool_call.id": semconv.TOOL_CALL_ID,
    "agent.name": semconv.AGENT_NAME,
}
_JSON: Final = "application/json"
_FIRST_CHUNK: Final = "First Token Stream Event"


def read(told: Told) -> None:
    """Take what this dialect has told."""
    kind = told.take("openinference.span.kind")
    if kind is None:
        return
    told.is_kind(SpanKind.__members__.get(str(kind), SpanKind.CHAIN))
    told.know(semconv.OPERATION_NAME, _OPERATIONS.get(told.kind) if told.kind else None)
    given = _value(told, "input")
    made = _value(told, "output")
    if told.kind is SpanKind.LLM:
        _model_call(told, given, made)
    elif told.kind is SpanKind.EMBEDDING:
        _embedding(told, given)
    elif told.kind is SpanKind.RETRIEVER:
        told.answered([_document(one) for one in told.numbered("retrieval.documents.")] or None)
    elif told.kind is SpanKind.RERANKER:
        _reranking(told)
    elif told.kind is SpanKind.TOOL:
        told.know(semconv.TOOL_NAME, told.take("tool.name") or told.span.name)
    told.asked(given)
    told.answered(made)
    for name, ours in _ATTRIBUTES.items():
        told.know(ours, told.take(name))
    told.know(semconv.PROVIDER_NAME, told.take("llm.provider", "llm.system"))
    _usage(told)


def _value(told: Told, side: str) -> Any:
    value = told.take(f"{side}.value")
    return parsed(value) if told.take(f"{side}.mime_type") == _JSON else value


def _model_call(told: Told, given: Any, made: Any) -> None:
    request = given if isinstance(given, Mapping) else {}
    response = made if isinstance(made, Mapping) else {}
    asked = [messages.from_tree(tree) for tree in told.numbered("llm.input_messages.")]
    answered = [messages.from_tree(tree) for tree in told.numbered("llm.output_messages.")]
    parameters = told.parameters(parsed(told.raw.get("llm.invocation_parameters")))
    for name in ("stream", "stream_options"):
        parameters.pop(name, None)
    told.take("llm.invocation_parameters")
    if parameters:
        told.raw["llm.invocation_parameters"] = parameters
    told.parameters({"model": request.get("model")})
    told.asked(asked or _messages(request) or messages.from_parts(given))
    told.answered(messages.answer(answered, asked_for=told.known.get(semconv.REQUEST_CHOICE_COUNT)))
    told.answered(_text(made))
    schemas = [at(tree, "tool", "json_schema") for tree in told.numbered("llm.tools.")]
    told.know(semconv.TOOL_DEFINITIONS, messages.tools([one for one in schemas if one is not None]))
    if isinstance(response.get("id"), str):
        told.know(semconv.RESPONSE_ID, response["id"])
    told.know(semconv.RESPONSE_MODEL, response.get("model"))
    told.know(semconv.REQUEST_MODEL, told.raw.get("llm.model_name"))
    if (reason := told.take("llm.finish_reason")) is not None:
        told.know(semconv.RESPONSE_FINISH_REASONS, [reason])
    first = next((event for event in told.events if event.name == _FIRST_CHUNK), None)
    if first is not None:
        told.events.remove(first)
        told.know(semconv.TIME_TO_FIRST_CHUNK_S, (first.time_ns - told.span.start_ns) / 1e9)


def _messages(request: Mapping[str, Any]) -> Any:
    return messages.from_parts(request["messages"]) if isinstance(request.get("messages"), list) else None


def _text(made: Any) -> Any:
    return {"role": "assistant", "content": made} if isinstance(made, str) else made


def _embedding(told: Told, given: Any) -> None:
    texts = [at(tree, "embedding", "text") for tree in told.numbered("embedding.embeddings.")]
    told.parameters(parsed(told.take("embedding.invocation_parameters")))
    request = given.get("input") if isinstance(given, Mapping) else None
    told.asked(request if request is not None else [text for text in texts if text is not None] or None)


def _document(tree: Any) -> Any:
    told = at(tree, "document")
    if not isinstance(told, Mapping):
        return tree
    return {key: parsed(value) if key == "metadata" else value for key, value in told.items()}


def _reranking(told: Told) -> None:
    query = told.take("reranker.query")
    documents = [_document(one) for one in told.numbered("reranker.input_documents.")]
    if query is not None or documents:
        told.asked({"query": query, "documents": documents})
    told.answered([_document(one) for one in told.numbered("reranker.output_documents.")] or None)


def _usage(told: Told) -> None:
    if not told.is_model_call:
        return
    told.counted("input_tokens", told.take("llm.token_count.prompt"))
    told.counted("output_tokens", told.take("llm.token_count.completion"))
    told.counted("cache_read_tokens", told.take("llm.token_count.prompt_details.cache_read"))
    told.counted("reasoning_tokens", told.take("llm.token_count.completion_details.reasoning"))
    told.take("llm.token_count.total")
