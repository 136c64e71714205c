"""Sizes as people write them: `500MB`, `2GiB`."""

import re
from typing import Final

_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_UNITS: Final = {
    "": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def size_bytes(text: str) -> int:
    """The bytes of a size, of a bare number as many.

    Raises:
        ValueError: it is none; the message says how one is written.
    """
    match = _AMOUNT.fullmatch(text.strip().lower())
    if match is None or match[2] not in _UNITS:
        known = ", ".join(unit for unit in _UNITS if unit)
        raise ValueError(f"{text!r} is no size; write bytes, or 2GiB (units: {known})")
    return round(float(match[1]) * _UNITS[match[2]])
