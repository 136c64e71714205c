"""Messages and tools as OpenTelemetry's conventions for GenAI have them: `{role, parts}`.

Source: the JSON schemas of https://github.com/open-telemetry/semantic-conventions-genai
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from millstream.deliver.chat_form import NotAChatError, answer_messages, request_messages, tool_definitions

Json = dict[str, Any]

_FINISH_REASONS: Final = {"tool_calls": "tool_call", "function_call": "tool_call"}
"""Where the conventions differ from OpenAI's API."""
_UNKNOWN_TYPE: Final = "application/octet-stream"


def given(value: Any) -> list[Json] | None:
    """The messages of a model call's input; `None` where it holds none."""
    try:
        return [_message(message) for message in request_messages(value)]
    except NotAChatError:
        return None


def made(value: Any, finish_reasons: Any) -> list[Json] | None:
    """The messages of a model call's output, one a choice; `None` where it holds none.

    Args:
        value: the output of an LLM span.
        finish_reasons: why each of them ended, as far as it is known.
    """
    try:
        answers = answer_messages(value, "call")
    except NotAChatError:
        return None
    told = finish_reasons if isinstance(finish_reasons, list | tuple) else ()
    messages = []
    for number, answer in enumerate(answers):
        usual = "tool_call" if answer.get("tool_calls") else "stop"
        reason = str((told[number] if number < len(told) else None) or usual)
        messages.append({**_message(answer), "finish_reason": _FINISH_REASONS.get(reason, reason)})
    return messages


def tools(value: Any) -> list[Any] | None:
    """Definitions of tools, their functions' fields beside their type; `None` where there are none."""
    definitions = tool_definitions(value)
    return None if definitions is None else [_tool(tool) for tool in definitions]


def _tool(tool: Any) -> Any:
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    inner = tool.get(kind) if isinstance(kind, str) else None
    return {"type": kind, **inner} if isinstance(inner, Mapping) else tool


def _message(message: Json) -> Json:
    content = message.get("content")
    parts: list[Json] = []
    for key in ("reasoning_content", "reasoning"):
        if isinstance(thought := message.get(key), str):
            parts.append({"type": "reasoning", "content": thought})
            break
    if message["role"] == "tool":
        parts.append({"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content})
    elif isinstance(content, str):
        parts.append({"type": "text", "content": content})
    elif isinstance(content, list):
        parts += [_part(part) for part in content]
    if isinstance(refusal := message.get("refusal"), str):
        parts.append({"type": "refusal", "content": refusal})
    parts += [_call(call) for call in message.get("tool_calls", ())]
    if isinstance(name := message.get("name"), str):
        return {"role": message["role"], "name": name, "parts": parts}
    return {"role": message["role"], "parts": parts}


def _call(call: Json) -> Json:
    told = call[call["type"]]
    arguments = told.get("arguments", told.get("input"))
    return {"type": "tool_call", "id": call["id"], "name": told.get("name"), "arguments": _decoded(arguments)}


def _part(part: Json) -> Json:
    """A part of a message's content; of a kind that the conventions do not have, as it is."""
    kind = part["type"]
    told = part.get(kind)
    if kind == "text":
        return {"type": "text", "content": part["text"]}
    if not isinstance(told, Mapping):
        return part
    if kind == "image_url":
        return _file("image", told.get("url"), told)
    if kind == "input_audio":
        return _blob("audio", f"audio/{told.get('format') or 'wav'}", told.get("data"))
    if kind == "file":
        return _file("file", told.get("file_data") or told.get("file_url"), told)
    return part


def _file(modality: str, url: Any, told: Mapping[str, Any]) -> Json:
    url = url if isinstance(url, str) else ""
    if not url and told.get("file_id"):
        return {"type": "file", "modality": modality, "file_id": str(told["file_id"])}
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        mime_type = head.removeprefix("data:").removesuffix(";base64")
        return _blob(modality, mime_type or _UNKNOWN_TYPE, data)
    return {"type": "uri", "modality": modality, "uri": url}


def _blob(modality: str, mime_type: str, data: Any) -> Json:
    return {"type": "blob", "modality": modality, "mime_type": mime_type, "content": str(data or "")}


def _decoded(value: Any) -> Any:
    """The value of a text that is JSON of an object or list; any other as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return value
