"""LangChain's messages and answers in OpenAI's form."""

import itertools
from typing import Any, Final

import msgspec
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from millstream import choices
from millstream.record import faults
from millstream.record.conversation import Conversation, Shape
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
    """The messages of a call, batches one after another; unset where they could not be read."""
    try:
        messages = batches[0] if len(batches) == 1 else list(itertools.chain.from_iterable(batches))
        return Conversation.read(messages, _SHAPES, _message)
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "the messages of a model call could not be recorded")
        return msgspec.UNSET


def _message(message: BaseMessage) -> bytes:
    return to_json(message_json(message))


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
        result["tool_calls"] = _tool_calls(calls)
    if broken := fields.get("invalid_tool_calls"):
        result["tool_calls"] = [*result.get("tool_calls", ()), *_tool_calls(broken)]
    if call_id := fields.get("tool_call_id"):
        result["tool_call_id"] = call_id
    return result


def _tool_calls(calls: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "id": call["id"],
            "type": "function",
            "function": {
                "name": call["name"],
                "arguments": given if isinstance(given := call["args"], str) else to_json(given).decode(),
            },
        }
        for call in calls
    ]


def _encode_calls(calls: list[Any]) -> bytes:
    return to_json(_tool_calls(calls))


_SHAPES: Final[dict[type, Shape]] = {
    SystemMessage: Shape("system", ("name", "additional_kwargs")),
    HumanMessage: Shape("user", ("name", "additional_kwargs")),
    AIMessage: Shape(
        "assistant", ("name", "invalid_tool_calls"), calls="tool_calls", encode_calls=_encode_calls
    ),
    ToolMessage: Shape("tool", ("name",), "tool_call_id"),
}
"""What most messages of a long conversation are."""


def tell_answer(step: Observed, response: LLMResult) -> None:
    """Record what a model answered, and what the answer says of itself: model, id, finish reason, usage."""
    if not response.generations or not response.generations[0]:
        return
    told = response.llm_output or {}
    made = response.generations[0]  # one a choice
    messages = [one.message for one in made if isinstance(one, ChatGeneration)]
    if not messages:
        output = choices.output_of([{"role": "assistant", "content": one.text} for one in made])
        step.answer(output, usage=_counted(told), model=told.get("model_name"), response_id=told.get("id"))
        return
    message = messages[0]
    metadata = message.response_metadata
    message_id = message.id if message.id and not message.id.startswith(_OWN_IDS) else None
    if len(messages) == 1:  # as nearly always
        reason = _reason(metadata)
        output, reasons = message_json(message), None if reason is None else [reason]
    else:
        output = choices.output_of([message_json(one) for one in messages])
        reasons = choices.reasons_of(_reason(one.response_metadata) for one in messages)
    step.answer(
        output,
        usage=_usage(message) or _counted(told),
        model=metadata.get("model_name") or metadata.get("model") or told.get("model_name"),
        response_id=metadata.get("id") or told.get("id") or message_id,
        finish_reasons=reasons,
    )


def _reason(metadata: dict[str, Any]) -> Any:
    return metadata.get("finish_reason") or metadata.get("stop_reason")


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
