"""Semantic Kernel's messages and answers in OpenAI's form."""

from typing import Any, Final

import msgspec

from millstream.record.integrations.observed import Observed, usage_from_openai
from millstream.record.serialize import to_json

_CALL: Final = "function_call"


def messages_json(history: Any, instruction_role: str = "system") -> list[dict[str, Any]]:
    """A chat history as OpenAI chat messages; `instruction_role` is what the system is called."""
    messages = [message_json(message) for message in history.messages]
    for message in messages:
        if message["role"] == "system":
            message["role"] = instruction_role
    return messages


def message_json(message: Any) -> dict[str, Any]:
    """A message as an OpenAI chat message."""
    try:
        said: dict[str, Any] = message.to_dict()
    except Exception:  # noqa: BLE001  # a message of a kind that has no such form
        return {"role": message.role.value, "content": str(message)}
    if said.get("content") is None:
        said["content"] = message.content or None
    return said


def tell_chat(step: Observed, answers: Any) -> None:
    """Record what a chat model answered."""
    if answers:
        message, *_ = answers
        _tell(step, message, message_json(message))
        step.answer(finish_reasons=[reason for answer in answers if (reason := _reason(answer))] or None)


def tell_text(step: Observed, answers: Any) -> None:
    """Record what a text completion model answered."""
    if answers:
        _tell(step, answers[0], {"role": "assistant", "content": answers[0].text})


class Answer:
    """A streamed answer, of which the first choice is kept."""

    def __init__(self, step: Observed) -> None:
        self._step = step
        self._texts: list[str] = []
        self._calls: dict[Any, dict[str, str]] = {}
        self._reasons: list[str] = []

    def see(self, pieces: Any) -> None:
        """Take in a piece: one message for each choice."""
        piece = next((piece for piece in pieces if piece.choice_index == 0), None)
        if piece is None:
            return
        text = piece.text if hasattr(piece, "text") else piece.content
        calls = [item for item in getattr(piece, "items", ()) if _is_call(item)]
        if text or calls:
            self._step.piece(text or "")
        self._texts.append(text or "")
        for call in calls:
            self._add_call(call)
        if reason := _reason(piece):
            self._reasons = [reason]
        _tell(self._step, piece)

    def finish(self) -> None:
        """Tell the answer."""
        text = "".join(self._texts)
        output: dict[str, Any] = {"role": "assistant", "content": text or (None if self._calls else "")}
        if self._calls:
            output["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in self._calls.values()
            ]
        self._step.answer(output, finish_reasons=self._reasons or None)

    def _add_call(self, piece: Any) -> None:
        key = piece.index if piece.index is not None else piece.id or next(reversed(self._calls), 0)
        call = self._calls.setdefault(key, {"id": "", "name": "", "arguments": ""})
        call["id"] = call["id"] or piece.id or ""
        call["name"] = call["name"] or piece.name or ""
        arguments = piece.arguments or ""
        call["arguments"] += arguments if isinstance(arguments, str) else to_json(arguments).decode()


def _tell(step: Observed, message: Any, output: Any = msgspec.UNSET) -> None:
    """What an answer, or a piece of it, says of itself."""
    metadata = message.metadata or {}
    inner = message.inner_content
    step.answer(
        output,
        usage=usage_from_openai(metadata.get("usage") or getattr(inner, "usage", None)),
        model=_text(getattr(inner, "model", None)),
        response_id=_text(metadata.get("id") or getattr(inner, "id", None)),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _reason(message: Any) -> str | None:
    reason = getattr(message, "finish_reason", None)
    return _text(getattr(reason, "value", reason))


def _is_call(item: Any) -> bool:
    return getattr(item, "content_type", None) == _CALL
