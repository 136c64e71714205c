"""Sizes and times as people write them: `2GiB`, `30d`."""

import re
from collections.abc import Mapping
from typing import Final

SIZES: Final = {
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
"""Bytes of a unit."""
TIMES: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
"""Seconds of a unit."""
_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def amount(text: str, units: Mapping[str, int], example: str) -> float:
    """A number with a unit, in bytes or seconds.

    Args:
        text: such as `500 MB`; small letters will do.
        units: `SIZES` or `TIMES`.
        example: of a right one, for the message.

    Raises:
        ValueError: it is none.
    """
    match = _AMOUNT.fullmatch(text.strip().lower())
    if match is None or match[2] not in units:
        known = ", ".join(unit for unit in units if unit)
        raise ValueError(f"{text!r} is no amount; write {example} (units: {known})")
    return float(match[1]) * units[match[2]]
