"""Calls that ADK makes of models and tools, whatever class of them: a span each."""

import functools
from collections.abc import Callable
from typing import Any, Final

import msgspec

from millstream.record import faults
from millstream.record.integrations.google_adk.messages import (
    answer_json,
    messages_json,
    parameters_json,
    text_of,
    usage_of,
)
from millstream.record.integrations.google_adk.streams import FRAMEWORK, methods
from millstream.record.integrations.methods import argument, started
from millstream.record.integrations.observed import Observed, model_call, quietly, tool_run

_PROVIDERS: Final = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""OpenTelemetry's names of providers, by LiteLLM's, where they differ."""
_CLASSES: Final = {
    "AnthropicLlm": "anthropic",
    "Claude": "gcp.vertex_ai",
    "OpenAILlm": "openai",
    "OpenAIResponsesLlm": "openai",
}


# Models


def begin_model(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """Start the step of `generate_content_async`; a model that hands it on to others has none."""
    if type(model).__name__ == "FallbackModel":
        return None
    request = argument(args, kwargs, 0, "llm_request")
    provider, name = _provider(model, request.model or model.model)
    step = model_call(name, _content(request), framework=FRAMEWORK)
    _ask(step, model, request, provider)
    return step


def _provider(model: Any, name: str) -> tuple[str | None, str]:
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if "LiteLlm" in kinds:
        prefix, slash, rest = name.partition("/")
        return (_PROVIDERS.get(prefix, prefix), rest) if slash else (None, name)
    if "Gemini" in kinds:
        return _google(model, name), name
    return next((_CLASSES[kind] for kind in _CLASSES if kind in kinds), None), name


def _google(model: Any, name: str) -> str:
    """Which of Google's two services is asked: what the model says, without making its client for it."""
    client = getattr(model, "client", None)
    if (vertexai := getattr(client, "vertexai", None)) is not None:
        return "gcp.vertex_ai" if vertexai else "gcp.gemini"
    if name.startswith("projects/"):
        return "gcp.vertex_ai"
    from google.adk.utils.variant_utils import get_google_llm_variant  # noqa: PLC0415  # imported by the model

    return "gcp.vertex_ai" if get_google_llm_variant().value == "VERTEX_AI" else "gcp.gemini"


def _content(request: Any) -> Any:
    try:
        return messages_json(request)
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "the messages of a model call could not be recorded")
        return msgspec.UNSET


@quietly
def _ask(step: Observed, model: Any, request: Any, provider: str | None) -> None:
    own = getattr(model, "_additional_args", None)  # LiteLLM's, given to the model when it was made
    step.request(provider=provider, parameters=parameters_json(request, own))


class ModelAnswer:
    """Takes in the responses to one request: pieces, then the whole; or the whole at once, maybe in parts."""

    def __init__(self, step: Observed) -> None:
        self._step = step
        self._whole: list[Any] = []
        self._pieces: list[Any] = []
        self._told: dict[str, Any] = {}

    def see(self, response: Any) -> None:
        """Take in an `LlmResponse`."""
        parts = (response.content.parts if response.content else None) or []
        if response.partial:
            if parts:
                self._step.piece(text_of(parts) or msgspec.UNSET)
            self._pieces += parts
        else:
            self._whole += parts
            self._pieces.clear()
        for name in ("usage_metadata", "model_version", "finish_reason", "error_code"):
            if (value := getattr(response, name, None)) is not None:
                self._told[name] = value

    def finish(self) -> None:
        """Tell the answer."""
        parts = [*self._whole, *self._pieces]
        reason = self._told.get("finish_reason") or self._told.get("error_code")
        known = self._step.span.usage is not None  # by the client library, which tells 0 from unknown
        self._step.answer(
            answer_json(parts) if parts or self._told else msgspec.UNSET,
            usage=None if known else usage_of(self._told.get("usage_metadata")),
            model=self._told.get("model_version"),
            finish_reasons=[str(getattr(reason, "value", reason)).lower()] if reason else None,
        )


def note_response_id(acompletion: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps LiteLLM's call, of whose answer ADK leaves out the id."""

    @functools.wraps(acompletion)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        step = started(methods.while_on(_begin_litellm), self, args, kwargs)
        response = await acompletion(self, *args, **kwargs)
        if step is None:
            return response
        if hasattr(response, "__anext__"):
            return _NotedStream(response, step)
        _note(step, response)
        return response

    return wrapper


def _begin_litellm(_client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    step = model_call(argument(args, kwargs, 0, "model"), framework=FRAMEWORK)
    if not step.inner:  # called by nobody whom we record
        step.end()
    return step


@quietly
def _note(step: Observed, response: Any) -> None:
    step.answer(response_id=getattr(response, "id", None))


class _NotedStream:
    """LiteLLM's stream, whose pieces tell the id."""

    def __init__(self, stream: Any, step: Observed) -> None:
        self._stream = stream
        self._step: Observed | None = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> "_NotedStream":
        return self

    async def __anext__(self) -> Any:
        piece = await anext(self._stream)
        if self._step is not None:
            _note(self._step, piece)
            self._step = None
        return piece


# Tools


def begin_tool(tool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed:
    """Start the step of a tool's `run_async`."""
    tool_context = kwargs.get("tool_context")
    return tool_run(
        tool.name,
        argument(args, kwargs, 0, "args"),
        framework=FRAMEWORK,
        call_id=getattr(tool_context, "function_call_id", None),
        description=tool.description or None,
    )


def tell_tool(step: Observed, result: Any) -> None:
    """Tell what a tool returned."""
    step.answer(result)
