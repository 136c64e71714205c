"""An answer that should be JSON, compared field by field."""

import json
import re
from typing import Any, ClassVar, Final

from millstream.evaluation.evaluators.base import EvalItem, EvaluatorBase, Score

_FENCED: Final = re.compile(r"```[\w-]*[ \t]*\n(.*?)```", re.DOTALL)
_MAX_ATTEMPTS: Final = 200
_NOTHING: Final = object()


class JsonMatch(EvaluatorBase):
    """The share of the expected object's fields that the answer has with the same value.

    The answer may be JSON or have text around it: the last fenced block, else the last object, is taken.
    Lists and single values are compared as a whole. Further fields of the answer do not count.

    Attributes:
        fields: only these fields are compared; default all of the expected ones.
    """

    needs_expected: ClassVar[bool] = True

    fields: list[str] | None = None

    def unscorable(self, item: EvalItem) -> str | None:
        """An expected answer that is no JSON, or has nothing to compare."""
        expected = _value(item.expected)
        if expected is _NOTHING:
            return "the expected answer is not JSON"
        if isinstance(expected, dict) and not self._names(expected):
            return "the expected answer has none of the fields to compare"
        return None

    def __call__(self, item: EvalItem) -> Score:
        """Score one item."""
        reason = self.unscorable(item)
        if reason is not None:
            return Score(None, reason)
        expected = _value(item.expected)
        answer = (
            item.output if not isinstance(item.output, str) else extract_json(item.output, type(expected))
        )
        if answer is _NOTHING:
            return Score(0.0, "the answer holds no JSON of the expected kind")
        if not isinstance(expected, dict):
            same = equal(expected, answer)
            return Score(float(same), None if same else "the JSON differs")
        return self._share(expected, answer)

    def _share(self, expected: dict[str, Any], answer: Any) -> Score:
        names = self._names(expected)
        if not isinstance(answer, dict):
            return Score(0.0, "the answer is not a JSON object")
        wrong = [name for name in names if name not in answer or not equal(expected[name], answer[name])]
        reason = f"differ or missing: {', '.join(wrong)}" if wrong else None
        return Score((len(names) - len(wrong)) / len(names), reason)

    def _names(self, expected: dict[str, Any]) -> list[str]:
        return [name for name in expected if self.fields is None or name in self.fields]


def extract_json(text: str, kind: type) -> Any:
    """The JSON value of this kind that a text holds or is; a private mark where there is none."""
    candidates = [text, *reversed(_FENCED.findall(text))]
    for candidate in candidates:
        value = _decode(candidate)
        if isinstance(value, kind):
            return value
    if kind not in (dict, list):
        return _decode(text)
    return _last_in(text, "{" if kind is dict else "[")


def equal(left: Any, right: Any) -> bool:
    """Whether two JSON values are the same; unlike in Python, true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


def _value(expected: Any) -> Any:
    return _decode(expected) if isinstance(expected, str) else expected


def _decode(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOTHING


def _last_in(text: str, opening: str) -> Any:
    """The last value in a text that starts with `opening`; one inside another does not count."""
    decoder, found, place = json.JSONDecoder(), _NOTHING, text.find(opening)
    for _ in range(_MAX_ATTEMPTS):
        if place < 0:
            break
        try:
            found, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        place = text.find(opening, end)
    return found
