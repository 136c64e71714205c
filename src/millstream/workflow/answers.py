"""What a workflow gave back, as JSON and as text."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from millstream.record.serialize import to_json


def answer_of(value: Any) -> Any:
    """A result as a JSON value: a message is its text, a state with messages the text of the last one."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # LangChain has a kind of its own, which is not plain JSON
    if isinstance(value, int):
        return int(value)
    text = message_text(value)
    if text is not None:
        return text
    if isinstance(value, Mapping):
        messages = value.get("messages")
        if isinstance(messages, list) and messages and message_text(messages[-1]) is not None:
            return message_text(messages[-1])
    return msgspec.json.decode(to_json(value))


def answer_text(value: Any) -> str:
    """A result as text: strings as they are, everything else as JSON."""
    answer = answer_of(value)
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def message_text(value: Any) -> str | None:
    """The text of a LangChain message, else `None`. LangChain need not be installed."""
    if not (hasattr(value, "content") and hasattr(value, "type") and hasattr(value, "additional_kwargs")):
        return None
    content = value.content
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [block if isinstance(block, str) else block.get("text", "") for block in blocks]
    return "".join(text for text in texts if isinstance(text, str))
