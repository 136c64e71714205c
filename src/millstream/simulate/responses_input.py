"""The `input` of a Responses request, item by item, as the messages of a chat."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from millstream.simulate import chat_checks as checks
from millstream.simulate.api_error import invalid

_ROLES: Final = ("assistant", "system", "developer", "user")
_ITEMS: Final = ("message", "function_call", "function_call_output", "reasoning")
_TEXT_PARTS: Final = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Parts that are text, and the key that holds it."""
_OTHER_PARTS: Final = {"input_image": "image_url", "input_file": "file", "input_audio": "input_audio"}
"""Parts that are not, and their names in a chat."""


def read_input(body: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The messages of a conversation: those before, then the input's.

    Raises:
        ApiError: 400, the input is malformed, or a tool call and its output do not belong together.
    """
    given = body.get("input")
    if given is None:
        raise checks.missing("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list):
        raise checks.wrong_type("input", "a string or an array of items", given)
    messages = list(before)
    for index, item in enumerate(items):
        _add(messages, item, f"input[{index}]")
    if not messages:
        text = "Invalid 'input': empty array. Expected an array with minimum length 1."
        raise invalid(text, "input", "empty_array")
    _check_calls(messages)
    return messages


def _add(messages: list[Mapping[str, Any]], item: Any, where: str) -> None:
    if not isinstance(item, dict):
        raise checks.wrong_type(where, "an object", item)
    kind = item.get("type") or "message"
    if kind == "message":
        _add_message(messages, item, where)
    elif kind == "function_call":
        _add_call(messages, item, where)
    elif kind == "function_call_output":
        content = _content(item.get("output"), f"{where}.output")
        messages.append({"role": "tool", "tool_call_id": _text(item, "call_id", where), "content": content})
    elif kind != "reasoning":
        raise checks.unknown_value(kind, _ITEMS, where)


def _add_message(messages: list[Mapping[str, Any]], item: Mapping[str, Any], where: str) -> None:
    role = item.get("role")
    if role not in _ROLES:
        raise checks.unknown_value(role, _ROLES, f"{where}.role")
    content = _content(item.get("content"), f"{where}.content")
    last = messages[-1] if messages else {}
    if role == last.get("role") == "assistant" and last["content"] is None:
        messages[-1] = {**last, "content": content}
    else:
        messages.append({"role": role, "content": content})


def _add_call(messages: list[Mapping[str, Any]], item: Mapping[str, Any], where: str) -> None:
    """Add a call to the message of the assistant that it follows; in a chat they are one."""
    function = {key: _text(item, key, where) for key in ("name", "arguments")}
    call = {"id": _text(item, "call_id", where), "type": "function", "function": function}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1] = {**messages[-1], "tool_calls": [*messages[-1].get("tool_calls", ()), call]}


def _text(item: Mapping[str, Any], key: str, where: str) -> str:
    value = item.get(key)
    if value is None:
        raise checks.missing(f"{where}.{key}")
    if not isinstance(value, str):
        raise checks.wrong_type(f"{where}.{key}", "a string", value)
    return value


def _content(content: Any, where: str) -> str | list[dict[str, Any]]:
    """A text where all parts are text, else the parts of a chat message."""
    if content is None:
        raise checks.missing(where)
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise checks.wrong_type(where, "a string or an array of parts", content)
    parts = [_part(part, f"{where}[{index}]") for index, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(part: Any, where: str) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise checks.wrong_type(where, "an object", part)
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in {*_TEXT_PARTS, *_OTHER_PARTS}:
        raise checks.unknown_value(kind, (*_TEXT_PARTS, *_OTHER_PARTS), where)
    if kind in _TEXT_PARTS:
        return {"type": "text", "text": _text(part, _TEXT_PARTS[kind], where)}
    return {**part, "type": _OTHER_PARTS[kind]}


def _check_calls(messages: Sequence[Mapping[str, Any]]) -> None:
    called: set[str] = set()
    answered: set[str] = set()
    for message in messages:
        called |= {call["id"] for call in message.get("tool_calls", ())}
        if message["role"] == "tool":
            answered.add(message["tool_call_id"])
            if message["tool_call_id"] not in called:
                text = f"No tool call found for function call output with call_id {message['tool_call_id']}."
                raise invalid(text, "input")
    if called - answered:
        raise invalid(f"No tool output found for function call {min(called - answered)}.", "input")
