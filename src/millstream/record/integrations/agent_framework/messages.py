"""Agent Framework's messages, tools and answers in OpenAI's form."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from millstream.record import faults
from millstream.record.integrations.observed import Observed
from millstream.record.serialize import to_json
from millstream.span import Usage

_INTERNAL: Final = ("usage", "text_reasoning", "function_approval_request", "function_approval_response")
"""Contents that are no part of what a model is told or says."""


def messages_json(messages: Any, instructions: Any = None) -> Any:
    """Messages as OpenAI chat messages, the instructions first; unset where they could not be read.

    Args:
        messages: one or several messages, texts or contents.
        instructions: a text or several.
    """
    try:
        said = [{"role": "system", "content": text} for text in _listed(instructions) if text]
        found = [one for message in _listed(messages) for one in _message_json(message)]
        return found if said and found[: len(said)] == said else said + found
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "the messages of a model call could not be recorded")
        return msgspec.UNSET


def answer_json(messages: Iterable[Any]) -> dict[str, Any]:
    """The messages of one answer as one OpenAI message."""
    contents = [content for message in messages for content in message.contents]
    found = _spoken("assistant", contents)
    return found or {"role": "assistant", "content": None}


def plain(value: Any) -> Any:
    """What a workflow is given or gives: messages in OpenAI's form, an agent's answer as its text."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "contents") and hasattr(value, "role"):
        found = _message_json(value)
        return found[0] if len(found) == 1 else found
    if isinstance(getattr(value, "messages", None), list):  # an answer, or a request to an agent
        return result_json(value) if hasattr(value, "text") else messages_json(value.messages)
    return value


def result_json(response: Any) -> Any:
    """The text of an agent's answer; its messages, where it has none."""
    return response.text or messages_json(response.messages)


def contents_json(contents: Any) -> Any:
    """What a tool gave, as the model is told: its text, or its parts where they are not all text."""
    if not isinstance(contents, list) or not all(hasattr(content, "type") for content in contents):
        return contents
    if all(content.type == "text" for content in contents):
        return "\n".join(content.text or "" for content in contents)
    return [_part(content) for content in contents]


def tools_json(tools: Any) -> list[Any] | None:
    """The tools that a model is offered; those that run at the provider as they are."""
    found = [_tool_json(tool) for tool in _listed(tools)]
    return [tool for tool in found if tool is not None] or None


def usage_of(told: Mapping[str, Any] | None) -> Usage | None:
    """Tokens as a client of the framework tells them."""
    if not told:
        return None
    return Usage(
        told.get("input_token_count"),
        told.get("output_token_count"),
        told.get("cache_read_input_token_count"),
        told.get("reasoning_output_token_count"),
    )


def tell_answer(step: Observed, response: Any, *, choices: int = 1) -> None:
    """Record what a model answered.

    Args:
        step: the model call.
        response: a `ChatResponse`.
        choices: how many answers were asked for; the first is recorded.
    """
    messages = response.messages[:1] if choices > 1 else response.messages
    reason = response.finish_reason
    step.answer(
        answer_json(messages) if messages else msgspec.UNSET,
        usage=usage_of(response.usage_details),
        model=response.model,
        response_id=response.response_id,
        finish_reasons=[str(reason)] if reason else None,
    )


def _listed(value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    return value if isinstance(value, (list, tuple)) else (value,)


def _message_json(message: Any) -> list[dict[str, Any]]:
    """A message as OpenAI messages: each result of a tool is one of its own."""
    if isinstance(message, str):
        return [{"role": "user", "content": message}]
    if not hasattr(message, "contents"):
        return [{"role": "user", "content": [_part(message)]}]
    contents = message.contents
    found = [
        {"role": "tool", "tool_call_id": content.call_id, "content": _result(content)}
        for content in contents
        if content.type == "function_result"
    ]
    spoken = _spoken(
        str(message.role), [content for content in contents if content.type != "function_result"]
    )
    if spoken is not None:
        if message.author_name:
            spoken["name"] = message.author_name
        found.insert(0, spoken)
    return found


def _spoken(role: str, contents: Iterable[Any]) -> dict[str, Any] | None:
    calls = []
    parts = []
    for content in contents:
        if content.type == "function_call":
            calls.append(_call(content))
        elif content.type not in _INTERNAL:
            parts.append(_part(content))
    if not calls and not parts:
        return None
    message: dict[str, Any] = {"role": role, "content": _joined(parts)}
    if calls:
        message["tool_calls"] = calls
    return message


def _joined(parts: list[dict[str, Any]]) -> Any:
    if not parts:
        return None
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _call(content: Any) -> dict[str, Any]:
    arguments = content.arguments
    text = arguments if isinstance(arguments, str) else to_json(arguments or {}).decode()
    return {"id": content.call_id, "type": "function", "function": {"name": content.name, "arguments": text}}


def _result(content: Any) -> Any:
    return contents_json(content.items) if content.items else content.result


def _part(content: Any) -> dict[str, Any]:
    if content.type == "text":
        return {"type": "text", "text": content.text or ""}
    uri = getattr(content, "uri", None)
    if uri and str(getattr(content, "media_type", None) or "").startswith("image/"):
        return {"type": "image_url", "image_url": {"url": uri}}
    told: dict[str, Any] = content.to_dict(exclude={"raw_representation"})
    return told


def _tool_json(tool: Any) -> Any:
    if hasattr(tool, "to_json_schema_spec"):
        return tool.to_json_schema_spec()
    if not isinstance(tool, Mapping):
        return None
    if tool.get("type") == "function" and "function" not in tool:  # the form of the Responses API
        known = {key: tool[key] for key in ("name", "description", "parameters") if key in tool}
        return {"type": "function", "function": known}
    return dict(tool)
