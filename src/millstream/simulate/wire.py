"""Planned answers as OpenAI's chat completions: one whole, or the chunks of a stream."""

import json
from collections.abc import Iterator
from typing import Any, Final

from millstream.simulate.answer import Answer, Piece

_FINGERPRINT: Final = "fp_millstream"


def usage_of(answer: Answer, prompt_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """The `usage` object, of all choices together."""
    made = sum(choice.completion_tokens for choice in answer.choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": made,
        "total_tokens": prompt_tokens + made,
        "prompt_tokens_details": {"cached_tokens": cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": sum(choice.reasoning_tokens for choice in answer.choices),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def completion(answer: Answer, model: str, usage: dict[str, Any], created_s: int) -> dict[str, Any]:
    """A `chat.completion` object."""
    return {
        **_envelope(answer, model, created_s, "chat.completion"),
        "choices": [_choice(each) for each in answer.choices],
        "usage": usage,
    }


def _choice(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.content,
        "refusal": None,
        "annotations": [],
    }
    if answer.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
    return {
        "index": answer.choice,
        "message": message,
        "logprobs": None,
        "finish_reason": answer.finish_reason,
    }


class ChunkWriter:
    """The server-sent events of one streamed answer.

    Args:
        answer: what is answered.
        model: the model's name.
        created_s: Unix seconds.
        include_usage: whether every chunk has `usage`, null but in the last.
    """

    def __init__(self, answer: Answer, model: str, created_s: int, *, include_usage: bool) -> None:
        self._answer = answer
        self._envelope = _envelope(answer, model, created_s, "chat.completion.chunk")
        self._include_usage = include_usage

    def first(self) -> bytes:
        """The chunks that only say who speaks, one a choice; they come with the first piece."""
        return b"".join(
            self._delta(
                {
                    "role": "assistant",
                    "content": "" if each.content is not None else None,
                    "refusal": None,
                },
                each.choice,
            )
            for each in self._answer.choices
        )

    def piece(self, piece: Piece) -> bytes:
        """The chunk of one piece."""
        return self._delta(self._delta_of(piece), piece.choice)

    def _delta_of(self, piece: Piece) -> dict[str, Any]:
        if piece.kind == "text":
            return {"content": piece.text}
        if piece.kind == "arguments":
            return {"tool_calls": [{"index": piece.call, "function": {"arguments": piece.text}}]}
        call = {
            "index": piece.call,
            "id": self._answer.choices[piece.choice].call_id(piece.call),
            "type": "function",
            "function": {"name": piece.text, "arguments": ""},
        }
        return {"tool_calls": [call]}

    def last(self, usage: dict[str, Any]) -> Iterator[bytes]:
        """The finish reasons, a chunk each, the usage if it was asked for, and the end mark."""
        for each in self._answer.choices:
            yield self._delta({}, each.choice, each.finish_reason)
        if self._include_usage:
            yield event({**self._envelope, "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    def _delta(self, delta: dict[str, Any], index: int, finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return event({**self._envelope, "choices": [choice], **usage})


def event(value: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + to_json(value) + b"\n\n"


def to_json(value: Any) -> bytes:
    """Compact JSON; characters that no UTF-8 has (lone surrogates) are escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _envelope(answer: Answer, model: str, created_s: int, kind: str) -> dict[str, Any]:
    return {
        "id": answer.id,
        "object": kind,
        "created": created_s,
        "model": model,
        "service_tier": "default",
        "system_fingerprint": _FINGERPRINT,
    }
