"""Calls of models and of embedding models."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.record import faults
from millstream.record.integrations.llama_index.messages import (
    finish_reasons,
    messages_json,
    tell_answer,
    usage_of,
)
from millstream.record.integrations.methods import argument
from millstream.record.integrations.observed import PARAMETERS, Observed, begin, model_call, quietly
from millstream.record.integrations.tool_definitions import tools_json
from millstream.span import SpanKind

NAME: Final = "llama-index"
_PROVIDERS: Final = {
    "openai_like": "openai",
    "azure_openai": "azure.ai.openai",
    "azure_inference": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "gemini": "gcp.gemini",
    "google_genai": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "mistralai": "mistral_ai",
}
"""`gen_ai.provider.name`, by the name of LlamaIndex's package where that is another."""
_HANDS_ON: Final = frozenset({"StructuredLLM"})
"""Models that only ask another one."""


def begin_chat(llm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """A model is called with messages."""
    return _begin(llm, messages_json, argument(args, kwargs, 0, "messages"), kwargs, "chat")


def begin_completion(llm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """A model is called with a prompt, which a chat model takes as a message."""
    operation = "chat" if _metadata(llm, "is_chat_model") else "text_completion"
    return _begin(llm, _prompt_json, argument(args, kwargs, 0, "prompt"), kwargs, operation)


def _begin(llm: Any, to_json: Any, asked: Any, kwargs: dict[str, Any], operation: str) -> Observed | None:
    if type(llm).__name__ in _HANDS_ON:
        return None
    try:
        messages = to_json(asked)
    except Exception as fault:  # noqa: BLE001  # the call is recorded all the same
        faults.swallow(fault, "the messages of a model call could not be recorded")
        messages = msgspec.UNSET
    step = model_call(_name_of(llm), messages, framework=NAME, operation=operation)
    _tell_request(step, llm, kwargs)
    return step


@quietly
def _tell_request(step: Observed, llm: Any, kwargs: dict[str, Any]) -> None:
    own = {name: value for name in PARAMETERS if isinstance(value := getattr(llm, name, None), int | float)}
    extra = getattr(llm, "additional_kwargs", None) or {}
    parameters = {**own, **extra, **kwargs, "tools": tools_json(kwargs.get("tools"))}
    step.request(provider=provider_of(llm), parameters=parameters)


class Answer:
    """A streamed answer: each piece has what came until then, and the provider's own piece."""

    def __init__(self, step: Observed) -> None:
        self._step = step
        self._last: Any = None
        self._usage: Any = None
        self._reasons: list[str] | None = None

    def see(self, piece: Any) -> None:
        """Take in a piece."""
        self._last = piece
        self._usage = usage_of(piece.raw) or self._usage
        self._reasons = finish_reasons(piece.raw) or self._reasons
        if piece.delta or any(_calls_in(piece.raw)):
            self._step.piece(piece.delta or "")

    def finish(self) -> None:
        """Tell the answer; what the last piece does not say again was said before."""
        self._step.answer(usage=self._usage, finish_reasons=self._reasons)
        last, self._last = self._last, None
        if last is not None:
            told = Observed(self._step.span, inner=True)
            tell_answer(told, last)


def begin_embedding(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """Texts are embedded, in one request; it is not said what that cost."""
    given = next(
        (value for value in (*args, *kwargs.values()) if isinstance(value, str | list)), msgspec.UNSET
    )
    name = _name_of(model)
    attributes = {
        semconv.OPERATION_NAME: "embeddings",
        semconv.REQUEST_MODEL: name,
        semconv.PROVIDER_NAME: provider_of(model),
    }
    texts = [given] if isinstance(given, str) else given
    return begin(SpanKind.EMBEDDING, name or "embeddings", texts, framework=NAME, attributes=attributes)


def tell_embedding(step: Observed, vectors: Any) -> None:
    """How many vectors there are, and how long they are; they themselves are not kept."""
    if not vectors:
        return
    several = isinstance(vectors[0], list)
    count, size = len(vectors) if several else 1, len(vectors[0] if several else vectors)
    step.know({semconv.EMBEDDINGS_COUNT: count, semconv.EMBEDDINGS_DIMENSIONS: size})
    step.answer({"count": count, "dimensions": size})


def provider_of(model: Any) -> str | None:
    """Who runs a model, by the package that its class comes from."""
    for owner in type(model).__mro__:
        parts = owner.__module__.split(".")
        if parts[0] == "llama_index" and parts[1:2] in (["llms"], ["embeddings"]):
            return _PROVIDERS.get(parts[2], parts[2])
    return None


def _name_of(model: Any) -> str | None:
    names = (
        getattr(model, "model", None),
        getattr(model, "model_name", None),
        _metadata(model, "model_name"),
    )
    plain = (getattr(name, "value", name) for name in names)
    return next((name for name in plain if isinstance(name, str) and name), None)


def _metadata(llm: Any, name: str) -> Any:
    try:
        return getattr(llm.metadata, name, None)
    except Exception:  # noqa: BLE001  # some models know only models with names they know
        return None


def _prompt_json(prompt: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}]


def _calls_in(raw: Any) -> Iterator[Any]:
    """The pieces of tool calls in a piece of an answer, as OpenAI's chat completions have them."""
    for choice in getattr(raw, "choices", None) or ():
        yield from getattr(getattr(choice, "delta", None), "tool_calls", None) or ()
