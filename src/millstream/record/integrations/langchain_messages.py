"""LangChain's messages and answers in OpenAI's form."""

from typing import Any, Final

import msgspec
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from millstream import semconv
from millstream.record import faults
from millstream.record.live import LiveSpan
from millstream.record.serialize import to_json
from millstream.span import Usage

_ROLES: Final = {
    "human": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "HumanMessageChunk": "user",
}


def messages_json(batches: list[list[BaseMessage]]) -> Any:
    """The messages of a call, batches one after another; unset where they could not be read."""
    try:
        return [message_json(message) for batch in batches for message in batch]
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "the messages of a model call could not be recorded")
        return msgspec.UNSET


def message_json(message: BaseMessage) -> dict[str, Any]:
    """A LangChain message as an OpenAI chat message."""
    role = _ROLES.get(message.type) or getattr(message, "role", None) or message.type
    extra = message.additional_kwargs
    result: dict[str, Any] = {"role": extra.get("__openai_role__", role), "content": message.content}
    if message.name:
        result["name"] = message.name
    if isinstance(message, AIMessage):
        calls = [*message.tool_calls, *message.invalid_tool_calls]
        if calls:
            result["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": _arguments(call["args"])},
                }
                for call in calls
            ]
    elif isinstance(message, ToolMessage):
        result["tool_call_id"] = message.tool_call_id
    return result


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else to_json(arguments).decode()


def describe_answer(span: LiveSpan, message: BaseMessage | None, llm_output: dict[str, Any]) -> None:
    """Record what an answer says of itself: model, id, finish reason, usage."""
    metadata = message.response_metadata if message is not None else {}
    if model := metadata.get("model_name") or llm_output.get("model_name"):
        span.set_attribute(semconv.RESPONSE_MODEL, model)
    if (
        response_id := metadata.get("id")
        or llm_output.get("id")
        or (message.id if message is not None else None)
    ):
        span.set_attribute(semconv.RESPONSE_ID, response_id)
    if reason := metadata.get("finish_reason"):
        span.set_attribute(semconv.RESPONSE_FINISH_REASONS, [reason])
    if usage := _usage(message, llm_output):
        span.set_usage(usage)


def _usage(message: BaseMessage | None, llm_output: dict[str, Any]) -> Usage | None:
    """Tokens as the provider told them; what it did not tell stays unknown."""
    if isinstance(message, AIMessage) and (told := message.usage_metadata):
        return Usage(
            told["input_tokens"],
            told["output_tokens"],
            told.get("input_token_details", {}).get("cache_read"),
            told.get("output_token_details", {}).get("reasoning"),
        )
    if counted := llm_output.get("token_usage"):
        return Usage(counted.get("prompt_tokens"), counted.get("completion_tokens"))
    return None
