"""Tool calls whose arguments are not a JSON object: never guessed at, always `invalid_tool_calls`."""

import json
from typing import Any, Self

from langchain_core.messages import AIMessageChunk, InvalidToolCall, ToolCall, message_chunk_to_message
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import model_validator


class StrictChunk(AIMessageChunk):
    """A piece of a message whose tool calls, once it is whole, have arguments that are a JSON object.

    LangChain completes the arguments of streamed calls by guess, so that one that broke off would run with
    what had come by then. Here it is an `invalid_tool_calls`, with its text as it came.
    """

    @model_validator(mode="after")
    def strict_tool_calls(self) -> Self:
        """Sort the calls of the whole message by their text."""
        reason = self.response_metadata.get("finish_reason")
        if not (reason or self.chunk_position == "last") or not self.tool_call_chunks:
            return self
        last = len(self.tool_call_chunks) - 1
        valid: list[ToolCall] = []
        invalid: list[InvalidToolCall] = []
        for place, chunk in enumerate(self.tool_call_chunks):
            arguments = _arguments_object(chunk["args"], may_be_empty=reason != "length" or place < last)
            name, call_id, text = chunk["name"], chunk["id"], chunk["args"]
            if arguments is None:
                invalid.append(
                    InvalidToolCall(
                        name=name, args=text or "", id=call_id, error=None, type="invalid_tool_call"
                    )
                )
            else:
                valid.append(ToolCall(name=name or "", args=arguments, id=call_id, type="tool_call"))
        self.tool_calls, self.invalid_tool_calls = valid, invalid
        return self


def _arguments_object(text: str | None, *, may_be_empty: bool) -> dict[str, Any] | None:
    """The arguments of a call by name; `None` when its text is not a JSON object."""
    if not text:
        return {} if may_be_empty else None
    try:
        arguments = json.loads(text, strict=False)
    except ValueError:
        return None
    return arguments if isinstance(arguments, dict) else None


def strict(chunk: ChatGenerationChunk) -> ChatGenerationChunk:
    """A streamed piece whose sum with those that follow is strict about tool calls."""
    message = chunk.message
    if type(message) is AIMessageChunk:  # a sum has the class of its first piece
        chunk.message = StrictChunk.model_construct(message.model_fields_set, **vars(message))
    return chunk


_NO_JSON = "!"


def mark_broken_calls(response: Any) -> None:
    """Make the arguments no JSON that LangChain would read as `{}` (nothing, null, an empty list) or fail on.

    Args:
        response: of the OpenAI client, or as a mapping; changed in place.
    """
    for choice in _get(response, "choices") or ():
        calls = _get(_get(choice, "message"), "tool_calls") or ()
        cut_off = _get(choice, "finish_reason") == "length"
        for place, call in enumerate(calls, start=1):
            function = _get(call, "function")
            text = _get(function, "arguments") or ""
            may_be_empty = not (cut_off and place == len(calls))
            if function is None or _arguments_object(text, may_be_empty=may_be_empty) is not None:
                continue
            if isinstance(function, dict):
                function["arguments"] = _NO_JSON + text
            else:
                function.arguments = _NO_JSON + text


def unmark(result: ChatResult) -> ChatResult:
    """The result of what `mark_broken_calls` marked, with the texts as they came."""
    for generation in result.generations:
        for call in getattr(generation.message, "invalid_tool_calls", ()):
            call["args"] = (call["args"] or "").removeprefix(_NO_JSON)
    return result


def _get(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


def finished(result: ChatResult) -> ChatResult:
    """The result with plain messages: LangChain takes the first base class for that of the whole message."""
    for generation in result.generations:
        generation.message = message_chunk_to_message(generation.message)
    return result
