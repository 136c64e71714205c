"""An answer that should be JSON, compared field by field."""

from typing import Any, ClassVar

from millstream.evaluation.evaluators.base import EvalItem, EvaluatorBase, Score
from millstream.evaluation.evaluators.json_values import NOTHING, as_json, equal, find_json


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
        expected = as_json(item.expected)
        if expected is NOTHING:
            return "the expected answer is not JSON"
        if isinstance(expected, dict) and not self._names(expected):
            return "the expected answer has none of the fields to compare"
        return None

    def __call__(self, item: EvalItem) -> Score:
        """Score one item."""
        reason = self.unscorable(item)
        if reason is not None:
            return Score(None, reason)
        expected = as_json(item.expected)
        answer = find_json(item.output, expected) if isinstance(item.output, str) else item.output
        if answer is NOTHING:
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
