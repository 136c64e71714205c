"""Calls of chat, text completion and embedding models."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from millstream import context, semconv
from millstream.record import faults
from millstream.record.integrations.methods import argument
from millstream.record.integrations.observed import (
    PARAMETERS,
    Observed,
    begin,
    model_call,
    quietly,
    usage_from_openai,
)
from millstream.record.integrations.semantic_kernel.messages import messages_json
from millstream.record.integrations.tool_definitions import tools_json
from millstream.record.live import LiveSpan
from millstream.span import SpanKind

NAME: Final = "semantic-kernel"
_PROVIDERS: Final = {
    "googleai": "gcp.gemini",
    "vertexai": "gcp.vertex_ai",
    "mistralai": "mistral_ai",
    "bedrock": "aws.bedrock",
}
"""`gen_ai.provider.name`, by Semantic Kernel's name where that is another."""


def begin_chat(service: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """A chat model is called; of a loop that runs functions, once for each call."""
    history = argument(args, kwargs, 0, "chat_history")
    role = getattr(service, "instruction_role", None) or "system"
    messages = _read(lambda: messages_json(history, role))
    return _begin(service, messages, argument(args, kwargs, 1, "settings"), "chat")


def begin_text(service: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """A text completion model is called."""
    messages = [{"role": "user", "content": argument(args, kwargs, 0, "prompt")}]
    return _begin(service, messages, argument(args, kwargs, 1, "settings"), "text_completion")


def _begin(service: Any, messages: Any, settings: Any, operation: str) -> Observed:
    step = model_call(_model(service, settings), messages, framework=NAME, operation=operation)
    _tell_request(step, service, settings)
    return step


@quietly
def _tell_request(step: Observed, service: Any, settings: Any) -> None:
    told = {name: getattr(settings, name, None) for name in PARAMETERS}
    own = {name: value for name, value in told.items() if not isinstance(value, type)}  # as a response_format
    parameters = {
        **(getattr(settings, "extension_data", None) or {}),
        **{name: value for name, value in own.items() if value is not None},
        "n": getattr(settings, "number_of_responses", None),
        "tools": tools_json(own["tools"]),
    }
    step.request(provider=_provider(service), parameters=parameters)


def begin_embedding(service: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """Texts are embedded; OpenAI's services make a request for each batch, which is recorded instead."""
    if hasattr(service, "_send_embedding_request"):
        return None
    return _begin_embedding(
        service, argument(args, kwargs, 0, "texts"), argument(args, kwargs, 1, "settings")
    )


def begin_embedding_request(service: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """A batch of texts is sent to OpenAI."""
    settings = argument(args, kwargs, 0, "settings")
    return _begin_embedding(service, settings.input, settings)


def _begin_embedding(service: Any, texts: Any, settings: Any) -> Observed:
    model = _model(service, settings)
    attributes = {
        semconv.OPERATION_NAME: "embeddings",
        semconv.REQUEST_MODEL: model,
        semconv.PROVIDER_NAME: _provider(service),
    }
    return begin(SpanKind.EMBEDDING, model or "embeddings", texts, framework=NAME, attributes=attributes)


def tell_embedding(step: Observed, vectors: Any) -> None:
    """How many vectors there are, and how long they are; they themselves are not kept."""
    if len(vectors):
        step.know({semconv.EMBEDDINGS_COUNT: len(vectors), semconv.EMBEDDINGS_DIMENSIONS: len(vectors[0])})
        step.answer({"count": len(vectors), "dimensions": len(vectors[0])})


def sees_usage(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `OpenAIHandler.store_usage`, the only one that sees what a request for embeddings used."""

    def store_usage(self: Any, response: Any) -> Any:
        span = context.current.get()
        if isinstance(span, LiveSpan) and span.kind is SpanKind.EMBEDDING and span.is_open:
            usage = usage_from_openai(getattr(response, "usage", None))
            Observed(span, inner=True).answer(usage=usage, model=getattr(response, "model", None))
        return original(self, response)

    return store_usage


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as fault:  # noqa: BLE001  # the call is recorded all the same
        faults.swallow(fault, "the messages of a model call could not be recorded")
        return msgspec.UNSET


def _model(service: Any, settings: Any) -> str | None:
    return getattr(settings, "ai_model_id", None) or getattr(service, "ai_model_id", None)


def _provider(service: Any) -> str | None:
    """Who runs the model: said by the service, or else by the package of its class."""
    if "Azure" in type(service).__name__:
        return "azure.ai.inference" if "Inference" in type(service).__name__ else "azure.ai.openai"
    name = getattr(service, "MODEL_PROVIDER_NAME", None)
    for owner in type(service).__mro__:
        parts = owner.__module__.split(".")
        if name is None and parts[:3] == ["semantic_kernel", "connectors", "ai"] and len(parts) > 4:  # noqa: PLR2004
            name = parts[3].replace("_", "")
    return _PROVIDERS.get(name, name) if name else None
