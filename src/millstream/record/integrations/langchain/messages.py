"""LangChain's messages and answers in OpenAI's form."""

from typing import Any, Final

import msgspec
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from millstream.record import faults
from millstream.record.conversation import Conversation, Part
from millstream.record.integrations.observed import Observed
from millstream.record.serialize import to_json
from millstream.span import Usage

_ROLES: Final = {
    "human": "user",
    "ai": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "function",
    "AIMessageChunk": "assistant",
    "HumanMessageChunk": "user",
    "SystemMessageChunk": "system",
    "ToolMessageChunk": "tool",
}
_NO_CALLS: Final = frozenset({"human", "system"})
_OWN_IDS: Final = ("lc_run-", "run-")
"""How ids begin that LangChain makes where it knows none of the provider's, as in a stream."""


def conversation(batches: list[list[BaseMessage]]) -> Any:
    """The messages of a call, batches one after another; unset where they could not be read.

    What most messages of a long conversation are is read here, the rest by `message_json`.
    """
    parts: list[Part] = []
    size = 0
    try:
        for batch in batches:
            for message in batch:
                kind, fields = type(message), message.__dict__
                text: Any = fields["content"]
                if type(text) is not str or fields["name"]:
                    parts.append(text := to_json(message_json(message)))
                elif kind is HumanMessage:
                    parts.append(("user", text))
                elif kind is AIMessage and not fields["tool_calls"] and not fields["invalid_tool_calls"]:
                    parts.append(("assistant", text))
                elif kind is ToolMessage:
                    parts.append(("tool", text, fields["tool_call_id"]))
                else:
                    parts.append(text := to_json(message_json(message)))
                size += len(text)
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "the messages of a model call could not be recorded")
        return msgspec.UNSET
    return Conversation(parts, size)


def message_json(message: BaseMessage) -> dict[str, Any]:
    """A LangChain message as an OpenAI chat message."""
    fields = message.__dict__  # pydantic's own way to what is not there is slow
    kind = fields["type"]
    result = {"role": _ROLES.get(kind) or fields.get("role") or kind, "content": fields["content"]}
    if extra := fields["additional_kwargs"]:
        result["role"] = extra.get("__openai_role__", result["role"])
    if name := fields["name"]:
        result["name"] = name
    if kind in _NO_CALLS:
        return result
    if calls := fields.get("tool_calls"):
        result["tool_calls"] = [_tool_call(call) for call in calls]
    if broken := fields.get("invalid_tool_calls"):
        result["tool_calls"] = [*result.get("tool_calls", ()), *map(_tool_call, broken)]
    if call_id := fields.get("tool_call_id"):
        result["tool_call_id"] = call_id
    return result


def _tool_call(call: Any) -> dict[str, Any]:
    arguments = call["args"]
    if not isinstance(arguments, str):
        arguments = to_json(arguments).decode()
    return {
        "id": call["id"],
        "type": "function",
        "function": {"name": call["name"], "arguments": arguments},
    }


def tell_answer(step: Observed, response: LLMResult) -> None:
    """Record what a model answered, and what the answer says of itself: model, id, finish reason, usage."""
    if not response.generations or not response.generations[0]:
        return
    told = response.llm_output or {}
    generation = response.generations[0][0]
    if not isinstance(generation, ChatGeneration):
        output = {"role": "assistant", "content": generation.text}
        step.answer(output, usage=_counted(told), model=told.get("model_name"), response_id=told.get("id"))
        return
    message = generation.message
    metadata = message.response_metadata
    reason = metadata.get("finish_reason") or metadata.get("stop_reason")
    message_id = message.id if message.id and not message.id.startswith(_OWN_IDS) else None
    step.answer(
        message_json(message),
        usage=_usage(message) or _counted(told),
        model=metadata.get("model_name") or metadata.get("model") or told.get("model_name"),
        response_id=metadata.get("id") or told.get("id") or message_id,
        finish_reasons=None if reason is None else [reason],
    )


def _usage(message: BaseMessage) -> Usage | None:
    """Tokens as the provider told them; what it did not tell stays unknown."""
    told = getattr(message, "usage_metadata", None)
    if not told:
        return None
    return Usage(
        told["input_tokens"],
        told["output_tokens"],
        told.get("input_token_details", {}).get("cache_read"),
        told.get("output_token_details", {}).get("reasoning"),
    )


def _counted(told: dict[str, Any]) -> Usage | None:
    counted = told.get("token_usage")
    return Usage(counted.get("prompt_tokens"), counted.get("completion_tokens")) if counted else None
