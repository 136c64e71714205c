"""Questions of several turns: lists of chat messages. Lists in cells that hold text only."""

import json
from typing import Any


def messages_in(value: Any) -> Any:
    """The messages of a text that is clearly a JSON list of them; every other value as it is."""
    found = objects_in(value)
    return found if is_messages(found) else value


def objects_in(value: Any) -> Any:
    """The objects of a text that is a JSON list of objects; every other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if all(isinstance(one, dict) for one in found) else value


def is_messages(value: Any) -> bool:
    """Whether this is a list of objects that each have a `role` and a `content`."""
    return have_roles(value) and all("content" in one for one in value)


def have_roles(value: Any) -> bool:
    """Whether this is a list of objects that each have a `role`, as chat servers take them."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in value)


def transcript(value: Any) -> str | None:
    """Messages as people read them, a turn a paragraph; `None` where the value is no list of messages."""
    return "\n\n".join(map(_turn, value)) if is_messages(value) else None


def _turn(message: dict[str, Any]) -> str:
    others = {key: value for key, value in message.items() if key not in ("role", "content") and value}
    content = message["content"]
    text = content if isinstance(content, str) else "" if content is None else _json(content)
    return f"{message['role']}: {text}{(' ' if text else '') + _json(others) if others else ''}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
