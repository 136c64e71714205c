"""JSON values read from texts and compared, whatever a model wrote."""

import json
import math
import re
from decimal import Decimal
from typing import Any, Final, Never

NOTHING: Final = object()
"""There is no JSON value."""
_FENCED: Final = re.compile(r"```[\w-]*[ \t]*\n(.*?)```", re.DOTALL)
_MAX_INT_DIGITS: Final = 4_000
"""Python reads no longer ones."""
_OPENINGS: Final = {
    dict: re.compile(r"\{(?=[ \t\n\r]*[\"}])"),
    list: re.compile(r"\[(?=[ \t\n\r]*[\[\]{\"\-\dtfnNI])"),
}
"""Brackets that may open JSON."""
_MAX_WORK: Final = 1_000_000_000
"""Characters gone over in search of JSON inside a text: about a second."""
_PARSING: Final = 20
"""How much longer it takes to parse a character than to go over it."""
_TOO_DEEP: Final = 10_000
"""What a value nested too deeply to be read costs, in characters."""


def as_json(value: Any) -> Any:
    """The JSON value that a text is or any other value is, strictly: no NaN; `NOTHING` where it is none."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
        return json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=_refuse)
    except (ValueError, TypeError, RecursionError):
        return NOTHING


def find_json(text: str, like: Any) -> Any:
    """The JSON value of the same kind that a text is or holds; `NOTHING` where there is none.

    The text itself, else the last fenced block, else the last object or list inside it. NaN, which models
    write, is taken, and equals nothing. Text with hundreds of thousands of braces that open no JSON is given
    up: it holds none.
    """
    for candidate in (text, *reversed(_FENCED.findall(text))):
        value = _decode(candidate)
        if value is not NOTHING and _kind(value) is _kind(like):
            return value
    if isinstance(like, dict | list):
        return _last_in(text, _OPENINGS[type(like)])
    return NOTHING


def equal(left: Any, right: Any) -> bool:
    """Whether two JSON values are the same: 1 is 1.0, true is not 1, the order of keys does not matter."""
    pairs = [(left, right)]
    while pairs:  # no recursion: a model may nest as deeply as it likes
        one, other = pairs.pop()
        if _kind(one) is not _kind(other):
            return False
        if isinstance(one, dict):
            if one.keys() != other.keys():
                return False
            pairs.extend((one[key], other[key]) for key in one)
        elif isinstance(one, list | tuple):
            if len(one) != len(other):
                return False
            pairs.extend(zip(one, other, strict=True))
        elif one != other:
            return False
    return True


def _kind(value: Any) -> type:
    for kind in (bool, int, float, Decimal):
        if isinstance(value, kind):
            return bool if kind is bool else float
    if isinstance(value, dict):
        return dict
    return list if isinstance(value, list | tuple) else type(value)


def _decode(text: str) -> Any:
    try:
        return json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError):
        return NOTHING


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else Decimal(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits} is too large")
    return number


def _refuse(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON value")


def _last_in(text: str, opening: re.Pattern[str]) -> Any:
    """The last value that starts with `opening`; one inside another does not count."""
    decoder, found, end, work = json.JSONDecoder(parse_int=_integer), NOTHING, 0, 0
    while (place := opening.search(text, end)) is not None:
        begins = place.start()
        try:
            found, end = decoder.raw_decode(text, begins)
        except (
            ValueError,
            RecursionError,
        ) as error:  # made by going over the text from its start, for the line
            end = begins + 1
            stopped = getattr(error, "pos", begins + _TOO_DEEP)
            work += stopped + _PARSING * (stopped - begins)
        if work > _MAX_WORK:
            return NOTHING
    return found
