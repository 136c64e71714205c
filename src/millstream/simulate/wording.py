"""Texts of answers: templates filled in, lengthened or shortened, and padding of a given length."""

import json
import math
from collections.abc import Mapping
from itertools import cycle, islice
from string import Template
from typing import Any, Final

from millstream.simulate.tokens import split_tokens

_PADDING: Final = split_tokens(
    " Let me look at this one step at a time. The question has more than one side, so each part is taken in"
    " turn and held against what is known. First come the facts that are given, then what follows from them,"
    " and last what is still open. None of this changes the outcome, but it shows how the answer was reached."
)


def fill(value: Any, values: Mapping[str, str]) -> Any:
    """A JSON value with every text in it filled in; names that are not known stay as they are."""
    if isinstance(value, str):
        return Template(value).safe_substitute(values)
    if isinstance(value, dict):
        return {key: fill(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, values) for item in value]
    return value


def padding(tokens: int) -> str:
    """Plain English of exactly this many tokens."""
    return "".join(islice(cycle(_PADDING), tokens)).lstrip()


def stretch(text: str, factor: float) -> str:
    """A text at about `factor` times its length: padding before it, or its end cut off (one token stays)."""
    tokens = split_tokens(text)
    if factor < 1:
        return "".join(tokens[: max(1, math.ceil(len(tokens) * factor))])
    before = padding(round(len(tokens) * (factor - 1)))
    return f"{before}\n\n{text}" if before else text


def stretch_longest(value: Any, factor: float) -> Any:
    """A JSON value whose longest text is stretched until the whole is about `factor` times as long."""
    paths = list(_texts(value))
    if not paths:
        return value
    path, longest = max(paths, key=lambda item: len(item[1]))
    whole = len(split_tokens(json.dumps(value, ensure_ascii=False)))
    own = max(1, len(split_tokens(longest)))
    return _replace(value, path, stretch(longest, max(1 / own, 1 + (factor - 1) * whole / own)))


def _texts(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        return [(path, value)]
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [found for key, item in items for found in _texts(item, (*path, key))]


def _replace(value: Any, path: tuple[str | int, ...], new: str) -> Any:
    if not path:
        return new
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replace(value[path[0]], path[1:], new)
    return copy
