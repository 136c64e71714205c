"""LlamaIndex's messages and answers in OpenAI's form."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from millstream.record.integrations.observed import Observed, usage_from_openai
from millstream.record.serialize import to_json
from millstream.span import Usage

_ROLES: Final = {"chatbot": "assistant", "model": "assistant", "function": "tool"}


def messages_json(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Chat messages as OpenAI chat messages."""
    return [message_json(message) for message in messages]


def message_json(message: Any) -> dict[str, Any]:
    """A chat message as an OpenAI chat message; what a model thought is left out."""
    role = getattr(message.role, "value", message.role)
    extra = message.additional_kwargs or {}
    blocks = getattr(message, "blocks", None)
    result: dict[str, Any] = {"role": _ROLES.get(role, role)}
    if blocks is None:
        blocks, result["content"] = [], message.content
    else:
        result["content"] = _content(blocks)
    calls = [block for block in blocks if getattr(block, "block_type", None) == "tool_call"]
    if calls:
        result["tool_calls"] = [
            _call(block.tool_call_id, block.tool_name, block.tool_kwargs) for block in calls
        ]
    elif extra.get("tool_calls"):
        result["tool_calls"] = [_foreign_call(call) for call in extra["tool_calls"]]
    if (call_id := extra.get("tool_call_id")) and result["role"] == "tool":
        result["tool_call_id"] = call_id
    return result


def tell_answer(step: Observed, response: Any) -> None:
    """Record what a model answered: a chat response, or a completion."""
    if response is None:
        return
    raw = _response(response.raw)
    message = getattr(response, "message", None)
    output = {"role": "assistant", "content": response.text} if message is None else message_json(message)
    step.answer(
        output,
        usage=usage_of(raw) or _counted(response),
        model=_get(raw, "model"),
        response_id=_get(raw, "id"),
        finish_reasons=finish_reasons(raw),
    )


def usage_of(raw: Any) -> Usage | None:
    """Tokens as a provider told them."""
    told = _get(_response(raw), "usage")
    usage = usage_from_openai(told)
    if usage is None or usage.input_tokens is None:
        return usage
    read = _get(told, "cache_read_input_tokens")
    if isinstance(read, int):  # Anthropic's: what was cached is not in its count of input
        written = _get(told, "cache_creation_input_tokens") or 0
        return msgspec.structs.replace(
            usage, input_tokens=usage.input_tokens + read + written, cache_read_tokens=read
        )
    return usage


def finish_reasons(raw: Any) -> list[str] | None:
    """Why a model stopped, as the provider told it."""
    raw = _response(raw)
    choices = _get(raw, "choices")
    reasons = [_get(choice, "finish_reason") for choice in choices] if choices else []
    found = reasons or [_get(raw, "stop_reason") or _get(raw, "status")]
    return [reason for reason in found if isinstance(reason, str)] or None


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _response(raw: Any) -> Any:
    """The response; the last event of a stream of OpenAI's Responses API has it inside."""
    return _get(raw, "response") or raw if _get(raw, "usage") is None else raw


def _counted(response: Any) -> Usage | None:
    usage = usage_from_openai(response.additional_kwargs or None)
    return None if usage == Usage() else usage


def _content(blocks: Sequence[Any]) -> Any:
    parts = [part for block in blocks if (part := _part(block)) is not None]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts) if parts else None
    return parts


def _part(block: Any) -> dict[str, Any] | None:
    kind = getattr(block, "block_type", None)
    if kind == "text":
        return {"type": "text", "text": block.text}
    if kind == "image":
        data = block.image.decode() if isinstance(block.image, bytes) else None
        url = f"data:{block.image_mimetype};base64,{data}" if data else str(block.url or block.path or "")
        return {"type": "image_url", "image_url": {"url": url}}
    return None if kind in ("tool_call", "thinking", None) else {"type": kind}


def _call(call_id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else to_json(arguments).decode()
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


def _foreign_call(call: Any) -> Any:
    """A tool call of a client library, kept beside the message."""
    function = _get(call, "function")
    if function is None:
        return call
    return _call(_get(call, "id"), _get(function, "name"), _get(function, "arguments"))
