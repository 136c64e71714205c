"""The text of a ReAct turn, read with patience: models vary case, stars, fences and quotes."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

_MARK = r"^[ \t]*[*_#>`-]*[ \t]*{}[ \t]*[*_]*[ \t]*[:：][ \t]*[*_]*[ \t]*"  # noqa: RUF001  # a full-width colon, as some models write
_FINAL = re.compile(_MARK.format(r"final[ _]answer"), re.IGNORECASE | re.MULTILINE)
_ACTION = re.compile(_MARK.format("action") + r"(?P<tool>[^\n]*)", re.IGNORECASE | re.MULTILINE)
_INPUT = re.compile(_MARK.format(r"action[ _]input"), re.IGNORECASE | re.MULTILINE)
_NEXT = re.compile(
    _MARK.format(r"(?:observation|thought|action|final[ _]answer)"), re.IGNORECASE | re.MULTILINE
)
_FENCE = re.compile(r"^```[a-zA-Z]*\s*\n?(.*?)\n?```$", re.DOTALL)


@dataclass(frozen=True)
class Action:
    """The model wants a tool. `kept` is its text without a result that it made up."""

    tool: str
    arguments: Any
    kept: str


@dataclass(frozen=True)
class FinalAnswer:
    """The model is done."""

    text: str


@dataclass(frozen=True)
class Malformed:
    """The text is neither; `problem` and `advice` are told to the model."""

    problem: str
    advice: str


def parse_turn(text: str, tools: Collection[str]) -> Action | FinalAnswer | Malformed:
    """What a model wants to do next.

    An action before a final answer comes first, since the answer after it was made up without the tool's
    result.

    Args:
        text: the model's turn.
        tools: names of the tools that there are.
    """
    final = _FINAL.search(text)
    action = _ACTION.search(text)
    if final is not None and (action is None or final.start() < action.start()):
        return FinalAnswer(text[final.end() :].strip())
    if action is None:
        return Malformed(
            "There is neither an 'Action:' nor a 'Final Answer:' in your text.",
            "Write 'Action:' and 'Action Input:', or 'Final Answer:'.",
        )
    name = action.group("tool").strip().strip("*_`'\"[]() .")
    known = {tool.casefold(): tool for tool in tools}
    if name.casefold() not in known:
        return Malformed(
            f"There is no tool {name!r}.",
            f"The tools are: {', '.join(tools) or 'none; write a Final Answer'}.",
        )
    start = _INPUT.search(text, action.end())
    if start is None:
        return Malformed("'Action Input:' is missing after the action.", "Write it with a JSON object.")
    after = _NEXT.search(text, start.end())
    end = after.start() if after is not None else len(text)
    return Action(known[name.casefold()], _arguments(text[start.end() : end]), text[:end].rstrip())


def _arguments(text: str) -> Any:
    """The JSON object of an action's input; the text itself when it is none."""
    text = text.strip()
    fenced = _FENCE.match(text)
    if fenced:
        text = fenced.group(1).strip()
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        value = _first_object(text)
    if isinstance(value, dict | str):
        return value
    return text.strip("`'\"") if value is None else value


def _first_object(text: str) -> Any:
    """The JSON object that a text begins with, whatever follows; or `None`."""
    if not text.startswith("{"):
        return None
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text)
    except ValueError:
        return None
    return value
