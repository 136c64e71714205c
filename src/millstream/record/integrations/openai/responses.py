"""Answers of the Responses API, as messages of a chat."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from millstream.record.integrations.observed import Observed, usage_from_openai
from millstream.record.integrations.openai.answers import Answer, items, read
from millstream.record.integrations.openai.response_items import (
    answer_message,
    messages,
    response_format,
    tool_choice,
    tool_definitions,
)

_ENDS: Final = ("response.completed", "response.incomplete", "response.failed")
_REASONS: Final = {"max_output_tokens": "length", "content_filter": "content_filter"}


class ResponseFailed(Exception):  # noqa: N818  # the name is the `error.type` of the span
    """The API answered that it could not."""


class ResponsesAnswer(Answer):
    """A response; its output items become one message."""

    operation: ClassVar[str] = "chat"

    def __init__(self, step: Observed) -> None:
        super().__init__(step)
        self._response: Any = None
        self._ended = False
        self._items: dict[int, Any] = {}
        self._texts: dict[tuple[int, str], list[str]] = {}

    @staticmethod
    def content(body: Mapping[str, Any]) -> Any:
        """Instructions and input as messages."""
        return messages(body.get("instructions"), body.get("input"))

    @staticmethod
    def parameters(body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters in the form of chat completions."""
        return {
            **body,
            "tools": tool_definitions(body.get("tools")),
            "tool_choice": tool_choice(body.get("tool_choice")),
            "response_format": response_format(read(body.get("text"), "format")),
            "reasoning_effort": read(body.get("reasoning"), "effort"),
        }

    def whole(self, answer: Any) -> None:
        """Record a response."""
        output = read(answer, "output")
        self._tell(answer, answer_message(output), _finish_reason(answer, output))
        if read(answer, "status") == "failed":
            self._fail(read(answer, "error"))

    def see(self, piece: Any) -> bool:
        """Take in an event."""
        kind = read(piece, "type") or ""
        if (response := read(piece, "response")) is not None:
            self._response = response
        if kind in _ENDS:
            self._ended = True
        elif kind == "error":
            self._fail(piece)
        elif kind.startswith("response.output_item."):
            self._items[read(piece, "output_index") or 0] = read(piece, "item")
        elif kind.endswith(".delta") and isinstance(text := read(piece, "delta"), str) and text:
            self._texts.setdefault((read(piece, "output_index") or 0, kind), []).append(text)
            return True
        return False

    def finish(self) -> None:
        """Record the response that came, or as much of it."""
        if self._ended:
            self.whole(self._response)
        elif self._response is not None:
            output = [self._so_far(index, item) for index, item in sorted(self._items.items())]
            self._tell(self._response, answer_message(output), None)

    def _so_far(self, index: int, item: Any) -> Any:
        """An item of a stream that was left, with the deltas that had come of it."""
        if read(item, "status") == "completed":
            return item
        texts = {
            kind.split(".")[1]: "".join(parts) for (of, kind), parts in self._texts.items() if of == index
        }
        names = ("type", "role", "name", "call_id")
        found = {name: read(item, name) for name in names}
        if "output_text" in texts:
            found["content"] = texts["output_text"]
        if arguments := texts.get("function_call_arguments"):
            found["arguments"] = arguments
        return found

    def _tell(self, answer: Any, output: Any, reason: str | None) -> None:
        self.step.answer(
            output,
            usage=usage_from_openai(read(answer, "usage")),
            model=read(answer, "model"),
            response_id=read(answer, "id"),
            finish_reasons=[reason] if reason else None,
        )

    def _fail(self, error: Any) -> None:
        self.failure = ResponseFailed(f"{read(error, 'code')}: {read(error, 'message')}")


def _finish_reason(answer: Any, output: Any) -> str | None:
    """How it ended, in the words of chat completions."""
    status = read(answer, "status")
    if status == "incomplete":
        reason = read(read(answer, "incomplete_details"), "reason")
        return _REASONS.get(reason) or str(reason or status)
    if status != "completed":
        return str(status) if status else None
    called = any(
        str(read(item, "type")).endswith("_call") and read(item, "call_id") for item in items(output)
    )
    return "tool_calls" if called else "stop"
