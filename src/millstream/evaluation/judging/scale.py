"""What a judge may answer: a number between two ends, or one of some labels that stand for numbers."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

_NUMBER: Final = re.compile(r"\s*[-+]?\d+(\.\d+)?\s*")


class BadScoreError(ValueError):
    """A score that is not on the scale; the message says what it should be, as the rest of a sentence."""


class Scale(Protocol):
    """Both kinds of scale."""

    @property
    def key(self) -> str:
        """The key of the judge's JSON object that holds the score."""

    @property
    def wanted(self) -> str:
        """What the score must be, in words."""

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the score."""

    @property
    def steps(self) -> int:
        """The scale's whole points are 0 to `steps`."""

    def read(self, value: Any) -> float | str:
        """The score as it is kept.

        Raises:
            BadScoreError: it is not on the scale; nothing is clipped.
        """

    def share(self, raw: float | str) -> float:
        """A score from `read` scaled to 0..1."""

    def raw(self, share: float) -> float | str:
        """A share as a point of the scale: the number, or the nearest label."""


class NumberScale:
    """Numbers from `low` to `high`, both included."""

    key = "score"

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.wanted = f"a number from {low:g} to {high:g}"
        # No bounds: servers that make structured answers do not all know minimum and maximum.
        self.schema: dict[str, Any] = {"type": "number", "description": self.wanted}
        self.steps = max(1, round(high - low))

    def read(self, value: Any) -> float:
        """See `Scale`; a number written as text counts."""
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadScoreError(f"is not {self.wanted}")
        if not self.low <= value <= self.high:
            raise BadScoreError(f"is outside the scale from {self.low:g} to {self.high:g}")
        return value

    def share(self, raw: float | str) -> float:
        """See `Scale`."""
        return (float(raw) - self.low) / (self.high - self.low)

    def raw(self, share: float) -> float:
        """See `Scale`."""
        return round(self.low + share * (self.high - self.low), 10)


class LabelScale:
    """Labels with the number from 0 to 1 that each stands for."""

    key = "label"

    def __init__(self, labels: Mapping[str, float]) -> None:
        self.labels = dict(labels)
        self.wanted = f"one of {', '.join(map(repr, self.labels))}"
        self.schema: dict[str, Any] = {"type": "string", "enum": list(self.labels)}
        self._ordered = sorted(self.labels, key=lambda label: self.labels[label])
        self.steps = len(self._ordered) - 1

    def read(self, value: Any) -> str:
        """See `Scale`; upper and lower case and white space at the ends do not count."""
        for label in self.labels:
            if isinstance(value, str) and value.strip().casefold() == label.casefold():
                return label
        raise BadScoreError(f"is not {self.wanted}")

    def share(self, raw: float | str) -> float:
        """See `Scale`."""
        return self.labels[str(raw)]

    def raw(self, share: float) -> str:
        """See `Scale`; of two labels that are as near, the higher."""
        return min(reversed(self._ordered), key=lambda label: abs(self.labels[label] - share))


def point(scale: Scale, share: float) -> int:
    """The nearest whole point of a scale, 0 to `steps`; half way between two is the higher.

    Labels are counted in the order of their numbers.
    """
    if isinstance(scale, LabelScale):
        ordered = sorted(scale.labels, key=lambda label: scale.labels[label])
        return ordered.index(scale.raw(share))
    return min(scale.steps, math.floor(share * scale.steps + 0.5 + 1e-9))
