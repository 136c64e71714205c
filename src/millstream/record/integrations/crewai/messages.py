"""CrewAI's messages, answers and usage in OpenAI's form."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from millstream.record import faults
from millstream.record.serialize import to_json
from millstream.span import Usage

_MESSAGE: Final = ("role", "content", "name", "tool_calls", "tool_call_id")
_USAGE: Final = (
    ("prompt_tokens", "prompt_token_count", "input_tokens", "inputTokens"),
    ("completion_tokens", "candidates_token_count", "output_tokens", "outputTokens"),
    ("cached_prompt_tokens", "cached_tokens", "cache_read_input_tokens", "cacheReadInputTokens"),
    ("reasoning_tokens",),
)
"""Names that the providers give their counts, in the order of `Usage`."""


def messages_json(messages: Any) -> Any:
    """What a model or an agent is told, a text or messages; unset where it could not be read."""
    try:
        if messages is None:
            return msgspec.UNSET
        if isinstance(messages, str):
            return [{"role": "user", "content": messages}]
        return [_message_json(message) for message in messages]
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "the messages of a model call could not be recorded")
        return msgspec.UNSET


def answer_json(answer: Any) -> dict[str, Any]:
    """What a model answered: a text, its calls of tools, or an object."""
    if isinstance(answer, str):
        return {"role": "assistant", "content": answer}
    if isinstance(answer, list) and answer and all(is_call(call) for call in answer):
        return {"role": "assistant", "content": None, "tool_calls": [_call_json(call) for call in answer]}
    dumped = answer.model_dump() if hasattr(answer, "model_dump") else answer
    return {"role": "assistant", "content": to_json(dumped).decode()}


def is_call(value: Any) -> bool:
    """Whether a part of an answer is a call of a tool, of whatever provider."""
    if isinstance(value, Mapping):
        return "function" in value or "name" in value
    return hasattr(value, "function") or (hasattr(value, "name") and hasattr(value, "input"))


def usage_of(told: Mapping[str, Any] | None) -> Usage | None:
    """Tokens as CrewAI tells them of any provider; `None` when it knows of none."""
    counts = (
        [next((told[name] for name in names if told.get(name) is not None), None) for names in _USAGE]
        if told
        else []
    )
    return Usage(*counts) if any(count is not None for count in counts) else None


def _message_json(message: Mapping[str, Any]) -> dict[str, Any]:
    told = {
        key: message[key]
        for key in _MESSAGE
        if message.get(key) is not None or (key == "content" and key in message)
    }
    if "tool_calls" in told:
        told["tool_calls"] = [_call_json(call) for call in told["tool_calls"]]
    return told


def _call_json(call: Any) -> Any:
    """A call of a tool, as OpenAI, its Responses API or Anthropic write it."""
    told = (
        call
        if isinstance(call, Mapping)
        else call.model_dump()
        if hasattr(call, "model_dump")
        else vars(call)
    )
    function = told.get("function") or told
    arguments = function.get("arguments", function.get("input"))
    return {
        "id": told.get("call_id") or told.get("id") or told.get("toolUseId"),
        "type": "function",
        "function": {
            "name": function.get("name"),
            "arguments": arguments if isinstance(arguments, str) else to_json(arguments or {}).decode(),
        },
    }
