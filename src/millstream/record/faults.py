"""The one place where telemetry swallows its own faults: they are counted and said once, never raised.

Tests set `strict` so that a fault fails them.
"""

from collections import Counter
from typing import Final

strict = False
"""Raise instead of swallowing."""

counts: Final[Counter[str]] = Counter()
"""Faults by reason, for `stats()`."""


def swallow(error: BaseException, reason: str) -> None:
    """Count a fault of ours under `reason` and complain about the first of its kind.

    Args:
        error: what was raised.
        reason: a short, constant text; the key in `stats()`.
    """
    if strict:
        raise error
    counts[reason] += 1
    if counts[reason] == 1:
        import logging  # noqa: PLC0415  # most programs never need it

        logging.getLogger("millstream").warning(
            "millstream: %s (%s: %s); said once, counted in stats()", reason, type(error).__name__, error
        )
