"""What the steps of the NeMo Agent Toolkit tell of content: messages of LangChain become those of OpenAI."""

from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.store.translate import messages

_ROLES: Final = {
    "human": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "function",
}
_METADATA: Final = {
    "LLM": ("chat_inputs", "chat_responses"),
    "TOOL": ("tool_inputs", "tool_outputs"),
    "SPAN": ("span_inputs", "span_outputs"),
}
"""Where the toolkit's metadata tells input and output, too."""
_CONTENT: Final = frozenset(name for names in _METADATA.values() for name in names) | {"tool_info"}
_PROVIDED: Final = "provided_metadata"


def content(start: dict[str, Any], end: dict[str, Any] | None, *, is_ours: bool) -> tuple[Any, Any]:
    """Input and output of a step, unset where they are not told.

    Args:
        start: the payload of its first event.
        end: that of its END.
        is_ours: whether it was written by us.
    """
    category = str(start.get("event_type")).partition("_")[0]
    asked, answered = _METADATA.get(category, ("", ""))
    given = _told([start, end], "input", asked)
    made = _told([end], "output", answered)
    if category == "LLM" and not is_ours:
        return _messages(given), _answer(made)
    return given, made


def is_trace_metadata(metadata: dict[str, Any]) -> bool:
    """Whether this is the toolkit's, not the attributes of a span of ours."""
    return _PROVIDED in metadata and "chat_inputs" in metadata


def tools(metadata: dict[str, Any]) -> dict[str, Any]:
    """The attributes in the toolkit's metadata: tools, what was provided, what was added."""
    left_out = _CONTENT | {_PROVIDED, "tools_schema"}
    attributes = {key: value for key, value in metadata.items() if key not in left_out and value is not None}
    if metadata.get(_PROVIDED) is not None:
        attributes["nat.provided_metadata"] = metadata[_PROVIDED]
    if offered := messages.tools(metadata.get("tools_schema")):
        attributes.setdefault(semconv.TOOL_DEFINITIONS, offered)
    return attributes


def _told(payloads: list[dict[str, Any] | None], field: str, also: str) -> Any:
    for place, name in (("data", field), ("metadata", also)):
        for payload in payloads:
            holder = payload.get(place) if payload is not None else None
            if isinstance(holder, dict) and holder.get(name) is not None:
                return holder[name]
    return msgspec.UNSET


def _messages(given: Any) -> Any:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [_message(one) for one in given] if isinstance(given, list) else given


def _answer(made: Any) -> Any:
    return {"role": "assistant", "content": made} if isinstance(made, str) else _message(made)


def _message(message: Any) -> Any:
    """A message of LangChain in OpenAI's form; any other value as it is."""
    if not isinstance(message, dict) or "role" in message or message.get("type") not in _ROLES:
        return message
    made: dict[str, Any] = {"role": _ROLES[message["type"]], "content": message.get("content")}
    if isinstance(message.get("name"), str):
        made["name"] = message["name"]
    if isinstance(message.get("tool_call_id"), str):
        made["tool_call_id"] = message["tool_call_id"]
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        made["tool_calls"] = [_call(one) for one in calls]
    return made


def _call(call: Any) -> Any:
    if not isinstance(call, dict) or "name" not in call:
        return call
    return messages.call(call.get("id"), call["name"], call.get("args"))
