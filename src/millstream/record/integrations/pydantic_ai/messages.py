"""Pydantic AI's messages, tools and usage in OpenAI's form, told apart by their kinds rather than classes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from millstream.record.serialize import to_json
from millstream.span import Usage

_PROVIDERS: Final = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "google": "gcp.gemini",
    "google-cloud": "gcp.vertex_ai",
    "google-gla": "gcp.gemini",
    "google-vertex": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
    "grok": "x_ai",
}
"""OpenTelemetry's names of providers, by Pydantic AI's, where they differ."""


def provider_name(system: str | None) -> str | None:
    """A model's `system` as OpenTelemetry calls it."""
    return _PROVIDERS.get(system, system) if system else None


def messages_json(messages: Iterable[Any], parameters: Any = None) -> list[dict[str, Any]]:
    """A history as OpenAI chat messages, the instructions of the request after the first system prompts.

    Args:
        messages: `ModelRequest`s and `ModelResponse`s.
        parameters: the `ModelRequestParameters`.
    """
    found = [
        message
        for item in messages
        for message in ([response_json(item)] if item.kind == "response" else _request_messages(item))
    ]
    if instructions := _instructions(messages, parameters):
        place = next((at for at, message in enumerate(found) if message["role"] != "system"), len(found))
        found.insert(place, {"role": "system", "content": instructions})
    return found


def _instructions(messages: Iterable[Any], parameters: Any) -> str | None:
    parts = getattr(parameters, "instruction_parts", None)
    if parts is not None:
        return "\n\n".join(part.content for part in parts).strip() or None
    told = [item.instructions for item in messages if getattr(item, "instructions", None)]
    return told[-1] if told else None


def _request_messages(request: Any) -> Iterator[dict[str, Any]]:
    for part in request.parts:
        kind = part.part_kind
        if kind == "user-prompt":
            yield {"role": "user", "content": content_json(part.content)}
        elif kind == "tool-return":
            yield {"role": "tool", "tool_call_id": part.tool_call_id, "content": part.model_response_str()}
        elif kind == "retry-prompt" and part.tool_name is not None:
            yield {"role": "tool", "tool_call_id": part.tool_call_id, "content": part.model_response()}
        elif kind in ("retry-prompt", "retry-feedback"):
            yield {"role": "user", "content": part.model_response()}
        elif isinstance(text := getattr(part, "content", None), str):
            yield {"role": "system", "content": text}


def content_json(content: Any) -> Any:
    """What a user says: text as it is, a sequence as a list of OpenAI's content parts."""
    if not isinstance(content, (list, tuple)):
        return content
    return [part for item in content if (part := _content_part(item)) is not None]


def _content_part(item: Any) -> dict[str, Any] | None:
    if isinstance(item, str):
        return {"type": "text", "text": item}
    kind = getattr(item, "kind", None)
    if isinstance(text := getattr(item, "content", None), str):
        return {"type": "text", "text": text}
    if kind == "cache-point":
        return None
    url = getattr(item, "url", None) or getattr(item, "data_uri", None)
    if kind == "image-url" or str(getattr(item, "media_type", "")).startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    if url is not None:
        return {"type": "file", "file": {"file_data": url}}
    return {"type": "file", "file": {"file_id": getattr(item, "file_id", None)}}


def response_json(response: Any) -> dict[str, Any]:
    """A `ModelResponse` as an OpenAI assistant message."""
    texts, thoughts, calls, files = [], [], [], []
    for part in response.parts:
        kind = part.part_kind
        if kind == "text":
            texts.append(part.content)
        elif kind == "thinking":
            thoughts.append(part.content)
        elif kind == "tool-call":
            calls.append(_call_json(part))
        elif kind == "file":
            files.append(_content_part(part.content))
    text = "\n\n".join(text for text in texts if text)
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if files:
        message["content"] = [*([{"type": "text", "text": text}] if text else []), *files]
    if any(thoughts):
        message["reasoning_content"] = "\n\n".join(thought for thought in thoughts if thought)
    if calls:
        message["tool_calls"] = calls
    return message


def _call_json(part: Any) -> dict[str, Any]:
    arguments = part.args
    if not isinstance(arguments, str):
        arguments = to_json(arguments or {}).decode()
    return {
        "id": part.tool_call_id,
        "type": "function",
        "function": {"name": part.tool_name, "arguments": arguments},
    }


def tools_json(parameters: Any) -> list[dict[str, Any]] | None:
    """The tools that a request offers: functions, output tools and the provider's own."""
    revealed = getattr(parameters, "revealed_tool_names", ())
    offered = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters_json_schema,
            },
        }
        for tool in (*parameters.function_tools, *parameters.output_tools)
        if not getattr(tool, "defer_loading", False) or tool.name in revealed
    ]
    native = getattr(parameters, "native_tools", None) or getattr(parameters, "builtin_tools", None) or ()
    return [*offered, *({"type": tool.kind} for tool in native)] or None


def parameters_json(
    model_settings: Mapping[str, Any] | None, own: Mapping[str, Any] | None, parameters: Any
) -> dict[str, Any]:
    """The settings of a request under OpenAI's names.

    Args:
        model_settings: of the request.
        own: of the model, which those of the request go before.
        parameters: the `ModelRequestParameters`.
    """
    settings = {**(own or {}), **(model_settings or {})}
    return {**settings, "stop": settings.get("stop_sequences"), "tools": tools_json(parameters)}


def usage_of(told: Any) -> Usage | None:
    """Tokens as Pydantic AI counts them; it says 0 for what it was not told, which is unknown here."""
    details = told.details or {}
    reasoning = details.get("reasoning_tokens") or details.get("thoughts_tokens")
    if not told.input_tokens and not told.output_tokens:
        return None
    return Usage(told.input_tokens, told.output_tokens or None, told.cache_read_tokens or None, reasoning)


def finish_reasons(response: Any) -> list[str] | None:
    """Why the model ended, in its provider's word."""
    details = getattr(response, "provider_details", None) or {}
    reason = details.get("finish_reason") or response.finish_reason
    return [str(reason)] if reason else None


def result_json(result: Any) -> Any:
    """What a tool returned: of a `ToolReturn` the value, of a file what OpenAI would be sent."""
    value = getattr(result, "return_value", result)
    return _content_part(value) if hasattr(value, "media_type") else value
