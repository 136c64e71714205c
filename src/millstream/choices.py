"""What a model answered, of one choice or of several (`n`): how a span holds it, and how it is read again.

One choice is one OpenAI message. Several are the list of their messages, by their index.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import msgspec


def output_of(messages: Sequence[Any]) -> Any:
    """The output of a model call whose choices are these messages; unset where there are none."""
    if len(messages) > 1:
        return list(messages)
    return messages[0] if messages else msgspec.UNSET


def reasons_of(reasons: Iterable[Any]) -> list[str] | None:
    """The finish reasons of choices, each in the place of its choice: up to the first that has none."""
    return list(takewhile(bool, reasons)) or None


def messages_of(output: Any) -> list[Any]:
    """One message a choice, of what a span holds as output, or of a whole completion; of others as it is."""
    if isinstance(output, Mapping) and isinstance(told := output.get("choices"), list):
        return [one.get("message") for one in told if isinstance(one, Mapping)]
    return output if isinstance(output, list) else [output]


def count(output: Any) -> int:
    """How many choices an output holds; a list that is none of messages counts as one."""
    if output is msgspec.UNSET or output is None:
        return 0
    messages = messages_of(output)
    return len(messages) if all(isinstance(one, Mapping) and "role" in one for one in messages) else 1
