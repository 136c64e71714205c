"""What a request to OpenAI's API asks, and the answer that belongs to it."""

from collections.abc import Mapping
from typing import Any, Final

from millstream import semconv
from millstream.record import faults
from millstream.record.integrations.observed import begin, model_call
from millstream.record.integrations.openai.answers import Answer, read
from millstream.record.integrations.openai.chat import ChatAnswer, CompletionAnswer
from millstream.record.integrations.openai.embeddings import EmbeddingsAnswer
from millstream.record.integrations.openai.responses import ResponsesAnswer
from millstream.record.integrations.openai.streams import Reply
from millstream.span import SpanKind

_ANSWERS: Final[dict[str, type[Answer]]] = {
    "/chat/completions": ChatAnswer,
    "/responses": ResponsesAnswer,
    "/completions": CompletionAnswer,
    "/embeddings": EmbeddingsAnswer,
}
_PROVIDERS: Final = {
    "BaseAzureClient": "azure.ai.openai",
    "BedrockOpenAI": "aws.bedrock",
    "AsyncBedrockOpenAI": "aws.bedrock",
}
"""By the class of the client; others are OpenAI's, whatever serves them."""
_AZURE: Final = (".openai.azure.com", ".services.ai.azure.com")


def begin_request(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Reply | None:
    """Start the step of a call of a client's `request`; `None` for calls that ask no model."""
    try:
        options = kwargs["options"] if "options" in kwargs else args[1]
        kind = _ANSWERS.get(options.url)
        if kind is None or options.method.lower() != "post":
            return None
        given = options.json_data if isinstance(options.json_data, Mapping) else {}
        body = {**given, **(getattr(options, "extra_json", None) or {})}
        model = read(body, "model")
        name = model if isinstance(model, str) else None
        content = kind.content(body)
        if kind is EmbeddingsAnswer:
            attributes = {semconv.OPERATION_NAME: kind.operation, semconv.REQUEST_MODEL: name}
            step = begin(
                SpanKind.EMBEDDING, name or "embedding", content, framework="openai", attributes=attributes
            )
        else:
            step = model_call(name, content, framework="openai", operation=kind.operation)
        step.request(provider=provider_of(client), parameters=kind.parameters(body))
        step.know({semconv.CONVERSATION_ID: _conversation(body)})
        return Reply(step, kind(step))
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "a request to OpenAI could not be recorded")
        return None


def provider_of(client: Any) -> str:
    """Whose API a client of the SDK asks, `gen_ai.provider.name`."""
    for base in type(client).__mro__:
        if base.__name__ in _PROVIDERS:
            return _PROVIDERS[base.__name__]
    host = str(getattr(client.base_url, "host", ""))
    return "azure.ai.openai" if host.endswith(_AZURE) else "openai"


def _conversation(body: Mapping[str, Any]) -> str | None:
    conversation = body.get("conversation")
    found = conversation if isinstance(conversation, str) else read(conversation, "id")
    return found if isinstance(found, str) else None
