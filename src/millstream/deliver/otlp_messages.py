"""Messages and tools in OpenAI's form, as OpenTelemetry's conventions for GenAI have them: `{role, parts}`.

Source: the JSON schemas of https://github.com/open-telemetry/semantic-conventions-genai
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

Json = dict[str, Any]

_FINISH_REASONS: Final = {"tool_calls": "tool_call", "function_call": "tool_call"}
_FUNCTION_KEYS: Final = ("name", "description", "parameters")


def given(value: Any) -> list[Json] | None:
    """The messages of a model call's input; `None` where it holds none.

    Args:
        value: a list of messages, an object that has one as `messages`, or a text, which the user said.
    """
    if isinstance(value, Mapping):
        value = value.get("messages")
    if isinstance(value, str):
        return [{"role": "user", "parts": [_text(value)]}]
    if not _are_messages(value):
        return None
    return [_message(message, "user") for message in value]


def made(value: Any, finish_reasons: Any) -> list[Json] | None:
    """The messages of a model call's output; `None` where it holds none.

    Args:
        value: a message, a list of them, or a text.
        finish_reasons: why each of them ended, as far as it is known.
    """
    if isinstance(value, str):
        value = [{"role": "assistant", "content": value}]
    elif isinstance(value, Mapping):
        value = [value]
    if not _are_messages(value):
        return None
    told = finish_reasons if isinstance(finish_reasons, list | tuple) else ()
    messages = []
    for number, message in enumerate(value):
        reason = str(told[number]) if number < len(told) else _usual_reason(message)
        reason = _FINISH_REASONS.get(reason, reason)
        messages.append({**_message(message, "assistant"), "finish_reason": reason})
    return messages


def tools(value: Any) -> list[Any] | None:
    """Definitions of tools; `None` where it is no list of objects."""
    if not isinstance(value, list | tuple) or not all(isinstance(tool, Mapping) for tool in value):
        return None
    return [_tool(tool) for tool in value]


def _tool(tool: Mapping[str, Any]) -> Json:
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return {"type": "function", **tool}
    told = {key: function[key] for key in _FUNCTION_KEYS if function.get(key) is not None}
    return {"type": tool.get("type") or "function", **told}


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(one, Mapping) and ("role" in one or "content" in one) for one in value)
    )


def _usual_reason(message: Mapping[str, Any]) -> str:
    return "tool_call" if message.get("tool_calls") else "stop"


def _message(message: Mapping[str, Any], role: str) -> Json:
    role = str(message.get("role") or role)
    content = message.get("content")
    parts: list[Json] = []
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str):
        parts.append({"type": "reasoning", "content": reasoning})
    if role == "tool":
        parts.append(_present(type="tool_call_response", id=message.get("tool_call_id"), response=content))
    elif isinstance(content, str):
        parts.append(_text(content))
    elif isinstance(content, list | tuple):
        parts += [_part(part) for part in content]
    elif content is not None:
        parts.append(_text(_encoded(content)))
    if isinstance(refusal := message.get("refusal"), str):
        parts.append({"type": "refusal", "content": refusal})
    calls = message.get("tool_calls")
    parts += [_call(call) for call in calls or () if isinstance(call, Mapping)] if _is_list(calls) else []
    if isinstance(name := message.get("name"), str):
        return {"role": role, "name": name, "parts": parts}
    return {"role": role, "parts": parts}


def _call(call: Mapping[str, Any]) -> Json:
    function = call.get("function")
    function = function if isinstance(function, Mapping) else call
    return _present(
        type="tool_call",
        id=call.get("id"),
        name=str(function.get("name") or ""),
        arguments=_decoded(function.get("arguments")),
    )


def _part(part: Any) -> Json:
    """A part of a message's content; of a kind that neither side knows, as it is."""
    if not isinstance(part, Mapping):
        return _text(part if isinstance(part, str) else _encoded(part))
    match part.get("type"):
        case "text" | "input_text" | "output_text":
            return _text(part.get("text", part.get("content", "")))
        case "image_url":
            return _image(part.get("image_url"))
        case "input_image":
            return _image(part.get("image_url", part.get("file_id")))
        case "input_audio" if isinstance(audio := part.get("input_audio"), Mapping):
            return _blob("audio", f"audio/{audio.get('format') or 'wav'}", audio.get("data"))
        case None:
            return {"type": "unknown", **part}
        case _:
            return dict(part)


def _image(told: Any) -> Json:
    url = told.get("url") if isinstance(told, Mapping) else told
    url = url if isinstance(url, str) else ""
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        return _blob("image", head.removeprefix("data:").removesuffix(";base64"), data)
    return {"type": "uri", "modality": "image", "uri": url}


def _blob(modality: str, mime_type: str, data: Any) -> Json:
    return {"type": "blob", "modality": modality, "mime_type": mime_type, "content": str(data or "")}


def _text(text: Any) -> Json:
    return {"type": "text", "content": text if isinstance(text, str) else _encoded(text)}


def _present(**fields: Any) -> Json:
    return {key: value for key, value in fields.items() if value is not None or key == "response"}


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _encoded(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _decoded(value: Any) -> Any:
    """The value of a text that is JSON of an object or list; any other as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return value
