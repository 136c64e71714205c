"""The fields and values of OTLP's JSON, which writers spell in different ways."""

import base64
import binascii
import functools
import re
from collections.abc import Mapping
from typing import Any, Final

_UPPER: Final = re.compile(r"[A-Z]")
_HEX: Final = re.compile(r"[0-9a-fA-F]*")
_DEPTH: Final = 100


@functools.cache
def _spellings(name: str) -> tuple[str, ...]:
    """`traceId`, `trace_id`, `TraceId`, `TraceID`."""
    snake = _UPPER.sub(lambda found: f"_{found[0].lower()}", name)
    pascal = name[:1].upper() + name[1:]
    return tuple(dict.fromkeys((name, snake, pascal, re.sub("Id$", "ID", pascal))))


def under(holder: Any, name: str) -> Any:
    """What an object has under a name in camel case, however it is spelled; `None` where there is nothing."""
    if isinstance(holder, dict):
        for spelling in _spellings(name):
            if spelling in holder:
                return holder[spelling]
    return None


def listed(holder: Any, name: str) -> list[Any]:
    """The list that an object has under a name."""
    value = under(holder, name)
    return value if isinstance(value, list) else []


def attributes(holder: Any) -> dict[str, Any]:
    """The attributes of a resource, span, event or link: `[{key, value}, …]` or an object."""
    told = under(holder, "attributes")
    if isinstance(told, dict):
        return {str(key): value for key, value in told.items() if value is not None}
    found = {}
    for each in told if isinstance(told, list) else ():
        key = under(each, "key")
        if isinstance(key, str) and (value := _value(under(each, "value"))) is not None:
            found[key] = value
    return found


def _value(told: Any, depth: int = 0) -> Any:
    """What an `AnyValue` holds; `None` of an empty one. Bytes stay in base64."""
    if not isinstance(told, dict) or depth > _DEPTH:
        return told
    for name, held in told.items():
        match name.replace("_", "").lower():
            case "intvalue":
                return whole(held)
            case "arrayvalue":
                return [_value(each, depth + 1) for each in listed(held, "values")]
            case "kvlistvalue":
                pairs = listed(held, "values")
                return {str(under(each, "key")): _value(under(each, "value"), depth + 1) for each in pairs}
            case "stringvalue" | "boolvalue" | "doublevalue" | "bytesvalue":
                return held
    return None


def whole(value: Any) -> int | None:
    """A whole number, or the text of one; `None` of anything else."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def id_of(value: Any, size: int) -> str | None:
    """An id as hex digits; `None` of one that is empty, zero or no id.

    Args:
        value: hex digits or base64.
        size: bytes of the id.
    """
    if not isinstance(value, str):
        return None
    digits = value.lower()
    if len(value) != 2 * size or not _HEX.fullmatch(value):
        try:
            digits = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).hex()
        except (binascii.Error, ValueError):
            return None
    return digits if len(digits) == 2 * size and digits.strip("0") else None


def named(value: Any, names: Mapping[int, str], prefix: str) -> str | None:
    """The name of an enum's value, which was told as a number or as a name; `None` of an unknown one."""
    if isinstance(value, str) and not value.isdecimal():
        name = value.upper().removeprefix(prefix)
        return name if name in names.values() else None
    number = whole(value)
    return None if number is None else names.get(number)
