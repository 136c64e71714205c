"""Planned answers as OpenAI's responses: one whole, or the events of a stream."""

import time
from collections.abc import Iterator
from typing import Any, Final

from millstream.simulate.answer import Answer, Piece
from millstream.simulate.api_error import ApiError
from millstream.simulate.responses import ResponsesRequest
from millstream.simulate.wire import event

_ECHOED: Final[dict[str, Any]] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Parameters that the response repeats, and what it says where the request says nothing."""


class ResponseWriter:
    """One response: whole, or as server-sent events.

    Args:
        request: what was asked.
        answer: what is answered.
    """

    def __init__(self, request: ResponsesRequest, answer: Answer) -> None:
        self.id = f"resp_{answer.key}"
        self._answer = answer
        self._created_s = int(time.time())
        self._echo = {name: _echoed(request, name) for name in _ECHOED}
        self._model = request.chat.model
        self._items = _output(
            answer, encrypted="reasoning.encrypted_content" in (request.body.get("include") or ())
        )
        self._number = 0
        self._open = -1

    def whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The `response` object of an answer that is complete.

        Args:
            usage: of the chat.
        """
        if self._answer.finish_reason == "length":
            reason = {"reason": "max_output_tokens"}
            return self._response("incomplete", self._items, usage=usage, incomplete_details=reason)
        return self._response("completed", self._items, usage=usage, completed_at=int(time.time()))

    def first(self) -> bytes:
        """The events before the first token; a model that reasons begins with it."""
        created = self._response("in_progress", [])
        events = [
            self._event(kind, response=created) for kind in ("response.created", "response.in_progress")
        ]
        if self._answer.reasoning_tokens:
            events += self._advance(0)
        return b"".join(events)

    def piece(self, piece: Piece) -> bytes:
        """The events of one piece: those of an item that ends or begins with it, and its own."""
        index = self._index_of(piece)
        events = list(self._advance(index))
        where = {"item_id": self._items[index]["id"], "output_index": index}
        if piece.kind == "text":
            text = {"content_index": 0, "delta": piece.text, "logprobs": []}
            events.append(self._event("response.output_text.delta", **where, **text))
        elif piece.kind == "arguments":
            events.append(self._event("response.function_call_arguments.delta", **where, delta=piece.text))
        return b"".join(events)

    def last(self, usage: dict[str, Any]) -> bytes:
        """The end of the last item, and the whole response."""
        events = list(self._advance(len(self._items)))
        response = self.whole(usage)
        return b"".join([*events, self._event(f"response.{response['status']}", response=response)])

    def failed(self, error: ApiError) -> bytes:
        """The last event of a stream that breaks off with an error."""
        usual = "server_error" if error.kind == "server_error" else "invalid_prompt"
        described = {"code": error.code or usual, "message": error.message}
        return self._event("response.failed", response=self._response("failed", self._items, error=described))

    def _index_of(self, piece: Piece) -> int:
        kind = "message" if piece.kind == "text" else "function_call"
        return [index for index, item in enumerate(self._items) if item["type"] == kind][piece.call]

    def _advance(self, index: int) -> Iterator[bytes]:
        """Close and open items until this one is open."""
        while self._open < index:
            if self._open >= 0:
                yield from self._closing(self._items[self._open])
            self._open += 1
            if self._open < len(self._items):
                yield from self._opening(self._items[self._open])

    def _opening(self, item: dict[str, Any]) -> Iterator[bytes]:
        if item["type"] == "message":
            item = {**item, "status": "in_progress", "content": []}
        elif item["type"] == "function_call":
            item = {**item, "status": "in_progress", "arguments": ""}
        yield self._event("response.output_item.added", output_index=self._open, item=item)
        if item["type"] == "message":
            yield self._part_event("response.content_part.added", item, part=_text_part(""))

    def _closing(self, item: dict[str, Any]) -> Iterator[bytes]:
        if item["type"] == "message":
            (part,) = item["content"]
            yield self._part_event("response.output_text.done", item, text=part["text"], logprobs=[])
            yield self._part_event("response.content_part.done", item, part=part)
        elif item["type"] == "function_call":
            call = {"item_id": item["id"], "name": item["name"], "arguments": item["arguments"]}
            yield self._event("response.function_call_arguments.done", output_index=self._open, **call)
        yield self._event("response.output_item.done", output_index=self._open, item=item)

    def _part_event(self, kind: str, item: dict[str, Any], **fields: Any) -> bytes:
        where = {"item_id": item["id"], "output_index": self._open, "content_index": 0}
        return self._event(kind, **where, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = event({"type": kind, "sequence_number": self._number, **fields}, kind)
        self._number += 1
        return data

    def _response(
        self, status: str, output: list[dict[str, Any]], *, usage: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created_s,
            "status": status,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": self._model,
            "output": output,
            "service_tier": "default",
            **self._echo,
            "usage": _usage(usage) if usage else None,
            **more,
        }


def _echoed(request: ResponsesRequest, name: str) -> Any:
    value, usual = request.body.get(name), _ECHOED[name]
    if value is None:
        return usual
    return {**usual, **value} if isinstance(usual, dict) else value


def _output(answer: Answer, *, encrypted: bool) -> list[dict[str, Any]]:
    """The items of a response: reasoning, message and calls, as far as there are any."""
    items: list[dict[str, Any]] = []
    if answer.reasoning_tokens:
        hidden = {"encrypted_content": answer.key} if encrypted else {}
        items.append({"id": f"rs_{answer.key}", "type": "reasoning", "summary": [], **hidden})
    broken = answer.finish_reason == "length" or answer.failure is not None
    if answer.content or (answer.content is not None and not broken):
        items.append(
            {
                "id": f"msg_{answer.key}",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [_text_part(answer.content)],
            }
        )
    for index, call in enumerate(answer.tool_calls):
        items.append(
            {
                "id": f"fc_{answer.key}{index:04d}",
                "type": "function_call",
                "status": "completed",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.arguments,
            }
        )
    if broken and items and "status" in items[-1]:
        items[-1]["status"] = "incomplete"
    return items


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    """The `usage` of a chat under the names of the Responses API."""
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage["total_tokens"],
    }
