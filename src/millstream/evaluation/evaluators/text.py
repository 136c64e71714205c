"""Evaluators that compare texts."""

import re
from typing import Any, ClassVar
from unicodedata import normalize

from pydantic import PrivateAttr, field_validator

from millstream.evaluation.evaluators.base import EvalItem, EvaluatorBase, Score
from millstream.evaluation.evaluators.json_values import equal
from millstream.evaluation.evaluators.pattern_search import PatternSearch
from millstream.workflow.answers import answer_text

_EXPECTED = "{expected}"


class ExactMatch(EvaluatorBase):
    """1 when the answer is the expected one, else 0.

    They are compared as text, a value that is none as its JSON; two values that are none, as JSON values.

    Attributes:
        ignore_case: upper and lower case are the same.
        strip: white space at both ends does not count.
    """

    needs_expected: ClassVar[bool] = True
    quick: ClassVar[bool] = True

    ignore_case: bool = False
    strip: bool = True

    def __call__(self, item: EvalItem) -> Score:
        """Score one item."""
        texts = isinstance(item.expected, str) or isinstance(item.output, str)
        if not texts and equal(item.expected, item.output):
            return Score(1.0)
        expected, answer = self._plain(item.expected), self._plain(item.output)
        if answer == expected:
            return Score(1.0)
        reason = f"expected {_short(expected)}, got {_short(answer)}"
        if normalize("NFC", answer) == normalize("NFC", expected):
            reason += "; they look the same, but accents are written as characters of their own in one"
        return Score(0.0, reason)

    def _plain(self, value: Any) -> str:
        text = "" if value is None else answer_text(value)
        text = text.strip() if self.strip else text
        return text.casefold() if self.ignore_case else text


class Regex(EvaluatorBase):
    """1 when the pattern is found in the answer, else 0.

    Attributes:
        pattern: a regular expression of Python's `re`; `{expected}` in it stands for the expected answer,
            taken literally.
        ignore_case: upper and lower case are the same.
    """

    pattern: str
    ignore_case: bool = False
    _search: PatternSearch = PrivateAttr(default_factory=PatternSearch)

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value.replace(_EXPECTED, "x"))
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from None
        return value

    def unscorable(self, item: EvalItem) -> str | None:
        """A pattern that needs an expected answer which is not there."""
        if _EXPECTED in self.pattern and item.expected is None:
            return "the dataset has no expected answer for this item"
        return None

    async def __call__(self, item: EvalItem) -> Score:
        """Score one item."""
        reason = self.unscorable(item)
        if reason is not None:
            return Score(None, reason)
        pattern = self.pattern
        if _EXPECTED in pattern:
            pattern = pattern.replace(_EXPECTED, re.escape(answer_text(item.expected)))
        answer = "" if item.output is None else answer_text(item.output)
        found = await self._search.search(pattern, answer, flags=re.IGNORECASE if self.ignore_case else 0)
        if found is None:
            return Score(0.0, f"nothing matches {_short(pattern)}")
        return Score(1.0, f"found {_short(found)}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "…")  # noqa: PLR2004  # a few lines
