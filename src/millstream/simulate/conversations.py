"""What was said in the latest responses, so that a request can go on from one by its id."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from millstream.simulate.answer import Answer
from millstream.simulate.api_error import invalid

_MOST_REMEMBERED: Final = 500
"""Responses that can be gone on from; the oldest are forgotten beyond it."""


class Conversations:
    """Messages by the id of the response that ends them; the instructions are not among them."""

    def __init__(self) -> None:
        self._messages: OrderedDict[str, Sequence[Mapping[str, Any]]] = OrderedDict()

    def until(self, response_id: str) -> Sequence[Mapping[str, Any]]:
        """The messages of a conversation, the answer of this response last.

        Raises:
            ApiError: 400, no response of this id is remembered.
        """
        if response_id not in self._messages:
            message = f"Previous response with id '{response_id}' not found."
            raise invalid(message, "previous_response_id", "previous_response_not_found")
        return self._messages[response_id]

    def keep(self, response_id: str, asked: Sequence[Mapping[str, Any]], answer: Answer) -> None:
        """Remember what was asked and answered."""
        self._messages[response_id] = [*asked, _message(answer)]
        if len(self._messages) > _MOST_REMEMBERED:
            self._messages.popitem(last=False)


def _message(answer: Answer) -> Mapping[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.content}
    if answer.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
    return message
