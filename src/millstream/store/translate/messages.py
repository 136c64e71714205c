"""Messages and tools of every dialect in OpenAI's form."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from millstream import choices
from millstream.store.translate.told import in_order, parsed

Message = dict[str, Any]

_FUNCTION_KEYS: Final = ("name", "description", "parameters")
FINISH_REASONS: Final = {"tool_call": "tool_calls"}
"""OpenTelemetry's conventions, where they differ from OpenAI's API."""


def from_parts(messages: Any, instructions: Any = None) -> list[Message] | None:
    """Messages of OpenTelemetry's conventions (`{role, parts}`); those in OpenAI's form stay as they are.

    Args:
        messages: a list, or JSON of one.
        instructions: parts of a system message that is told apart.
    """
    messages = parsed(messages)
    result: list[Message] = []
    if instructions := parsed(instructions):
        parts = instructions if isinstance(instructions, list) else [instructions]
        result += _message({"role": "system", "parts": parts})
    if isinstance(messages, list):
        for message in messages:
            result += _message(message)
    elif isinstance(messages, str) and messages:
        result.append({"role": "user", "content": messages})
    return result or None


def _message(message: Any) -> list[Message]:
    if not isinstance(message, Mapping):
        return [{"role": "user", "content": message}]
    parts = message.get("parts")
    if not isinstance(parts, list):
        return [{key: value for key, value in message.items() if key != "finish_reason"}]
    content: list[Any] = []
    calls: list[Any] = []
    answers: list[Message] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "tool_call":
            calls.append(call(part.get("id"), part.get("name"), part.get("arguments")))
        elif kind == "tool_call_response":
            told = next((part[key] for key in ("response", "result", "content") if key in part), None)
            answers.append({"role": "tool", "content": text_of(told), "tool_call_id": part.get("id")})
        else:
            content.append(_part(part, kind))
    if answers and not content and not calls:
        return answers
    result: Message = {"role": message.get("role") or "user", "content": _content(content)}
    if name := message.get("name"):
        result["name"] = name
    if calls:
        result["tool_calls"] = calls
    return [*answers, result]


def _part(part: Any, kind: Any) -> Any:
    if not isinstance(part, Mapping):
        return {"type": "text", "text": part}
    if kind == "text":
        return {"type": "text", "text": part.get("content", part.get("text"))}
    if kind in ("uri", "image-url") and part.get("modality", "image") == "image":
        return {"type": "image_url", "image_url": {"url": part.get("uri") or part.get("url")}}
    return part


def _content(parts: list[Any]) -> Any:
    if not parts:
        return None
    if len(parts) == 1 and parts[0].get("type") == "text":
        return parts[0]["text"]
    return parts


def call(call_id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    """A tool call as a model makes it; its arguments are JSON text."""
    text = "" if arguments is None else text_of(arguments)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


def text_of(value: Any) -> Any:
    """A text, of any value."""
    return value if isinstance(value, str) or value is None else msgspec.json.encode(value).decode()


def answer(
    messages: list[Message] | None, *, asked_for: Any = None, reasons: Any = None
) -> Message | list[Message] | None:
    """What a model gave back: one message, or one for each of several choices.

    Args:
        messages: one each for the pieces of an answer, or for the choices that were asked for.
        asked_for: how many choices were, where that is known.
        reasons: finish reasons; where each message has one, it is a choice. Others are pieces of one answer.
    """
    if not messages:
        return None
    each_ended = isinstance(reasons, list) and len(reasons) == len(messages)
    if each_ended or (isinstance(asked_for, int) and asked_for > 1):
        return choices.output_of(messages)  # type: ignore[no-any-return]
    whole = next((message for message in messages if message.get("content")), messages[0])
    told = (message.get("tool_calls") for message in messages)
    calls = [one for calls in told if isinstance(calls, list) for one in calls]
    return {**whole, "tool_calls": calls} if calls else whole


def from_tree(tree: Any) -> Message:
    """A message that was spread over attributes: `role`, `content`, `tool_calls.0.name` and so on."""
    if not isinstance(tree, Mapping):
        return {"role": "user", "content": tree}
    told = tree.get("message")
    told = told if isinstance(told, Mapping) else tree
    message: Message = {"role": told.get("role") or "user", "content": told.get("content")}
    if message["content"] is None and (pieces := in_order(told.get("contents"))):
        message["content"] = _contents(pieces)
    for key in ("name", "tool_call_id"):
        if told.get(key):
            message[key] = told[key]
    if calls := [_call_of(one) for one in in_order(told.get("tool_calls"))]:
        message["tool_calls"] = calls
    elif name := told.get("function_call_name"):
        message["tool_calls"] = [call(None, name, told.get("function_call_arguments_json"))]
    return message


def _contents(pieces: list[Any]) -> Any:
    parts: list[Any] = []
    for piece in pieces:
        part = piece.get("message_content", piece) if isinstance(piece, Mapping) else piece
        if not isinstance(part, Mapping):
            continue
        image = part.get("image")
        if part.get("text") is not None:
            parts.append({"type": "text", "text": part["text"]})
        elif isinstance(image, Mapping) and isinstance(image.get("image"), Mapping):
            parts.append({"type": "image_url", "image_url": {"url": image["image"].get("url")}})
        elif part.get("type") != "reasoning":  # of which nothing is told
            parts.append(dict(part))
    return _content(parts)


def _call_of(tree: Any) -> dict[str, Any]:
    tree = tree if isinstance(tree, Mapping) else {}
    told = tree.get("tool_call")
    told = told if isinstance(told, Mapping) else tree
    function = told.get("function")
    function = function if isinstance(function, Mapping) else told
    return call(told.get("id"), function.get("name"), function.get("arguments"))


def tools(definitions: Any) -> list[Any] | None:
    """Definitions of tools, each an object or JSON of one, in whatever form."""
    definitions = parsed(definitions)
    if not isinstance(definitions, list | tuple):
        return None
    return [_tool(parsed(tool)) for tool in definitions] or None


def _tool(tool: Any) -> Any:
    if not isinstance(tool, Mapping) or "function" in tool or "name" not in tool:
        return tool
    told = dict(tool)
    for name in ("parameters_json_schema", "input_schema"):
        if told.get("parameters") is None and name in told:
            told["parameters"] = told[name]
    told["parameters"] = parsed(told.get("parameters"))
    function = {key: told[key] for key in _FUNCTION_KEYS if told.get(key) is not None}
    return {"type": "function", "function": function}
