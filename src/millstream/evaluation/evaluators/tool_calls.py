"""The tools that were called, and their arguments, against the expected ones. No model is needed."""

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from millstream.evaluation.contexts import ToolCall
from millstream.evaluation.contexts import tool_calls as recorded_calls
from millstream.evaluation.evaluators.base import EvalItem, EvaluatorBase, Score
from millstream.evaluation.evaluators.expected_calls import ExpectedCallsError, expected_calls
from millstream.evaluation.evaluators.json_values import equal
from millstream.evaluation.evaluators.matching import (
    Matching,
    TooManyCallsError,
    argument_scores,
    by_name,
    match,
    same_call,
)

_MAX_SHOWN: Final = 20
_MAX_CHARS: Final = 200


class ToolCalls(EvaluatorBase):
    """1 when the tools that were called are the expected ones, else 0.

    Attributes:
        mode: `exact`: the same calls in the same order. `any_order`: the same calls, each as often. `subset`:
            every call made is an expected one, each used up once. `superset`: every expected call was made,
            others may have been as well.
        arguments: `exact`: a call is the expected one when its tool and all its arguments are. `ignore`: when
            its tool is.
    """

    mode: Literal["exact", "any_order", "subset", "superset"] = "exact"
    arguments: Literal["exact", "ignore"] = "exact"

    def unscorable(self, item: EvalItem) -> str | None:
        """Expected calls that are not there, or cannot be understood."""
        try:
            expected = expected_calls(item.expected_trajectory)
        except ExpectedCallsError as error:
            return str(error)
        if expected is None:
            return (
                "the dataset has no expected tool calls for this item (column of"
                " eval.general.dataset.structure.expected_trajectory_key)"
            )
        if self.arguments == "exact" and not _complete(expected):
            name = next(call.name for call in expected if call.arguments is msgspec.UNSET)
            return (
                f"the expected call of {name} has no arguments; give {{}} for none, or set arguments: ignore"
            )
        return None

    def __call__(self, item: EvalItem) -> Score:
        """Score one item."""
        reason = self.unscorable(item)
        if reason is not None:
            return Score(None, reason)
        if not item.spans:
            return Score(None, "no spans were recorded for this item")
        expected = expected_calls(item.expected_trajectory) or []
        called = recorded_calls(item.spans)
        if self.arguments == "exact" and not _complete(called):
            return Score(
                None, "what the tools were given was not recorded (MILLSTREAM_CAPTURE_CONTENT is false)"
            )
        compares = self.arguments == "exact"
        try:
            matching = match(called, expected, arguments=compares)
            by_arguments = match(called, expected) if _complete([*called, *expected]) else None
        except TooManyCallsError as error:
            return Score(None, str(error))
        in_order = len(called) == len(expected) and all(
            same_call(one, other, arguments=compares) for one, other in zip(called, expected, strict=True)
        )
        return Score(
            float(self._right(matching, in_order=in_order)),
            {
                "why": _why(matching, in_order=in_order),
                "called": _texts(called),
                "missing": _texts(matching.missing),
                "unexpected": _texts(matching.unexpected),
                "different": _limited([_difference(*pair) for pair in matching.different]),
                "values": None
                if by_arguments is None
                else msgspec.to_builtins(argument_scores(by_arguments)),
            },
        )

    def _right(self, matching: Matching, *, in_order: bool) -> bool:
        calls_too_many = bool(matching.unexpected or matching.different)
        calls_too_few = bool(matching.missing or matching.different)
        return {
            "exact": in_order,
            "any_order": not calls_too_many and not calls_too_few,
            "subset": not calls_too_many,
            "superset": not calls_too_few,
        }[self.mode]


def _complete(calls: Sequence[ToolCall]) -> bool:
    return all(call.arguments is not msgspec.UNSET for call in calls)


def _why(matching: Matching, *, in_order: bool) -> str:
    if in_order:
        return "the calls are the expected ones"
    parts = []
    for what, texts in (
        ("not called: ", _texts(matching.missing)),
        ("not expected: ", _texts(matching.unexpected)),
        ("", _limited([_difference(*pair) for pair in matching.different])),
    ):
        if texts:
            parts.append(what + ", ".join(texts))
    return "; ".join(parts) or "the calls are the expected ones in another order"


def _difference(called: ToolCall, expected: ToolCall) -> str:
    ours, theirs = by_name(called), by_name(expected)
    told = []
    for name in dict.fromkeys([*theirs, *ours]):
        if name not in ours:
            told.append(f"{name} was not given, expected {_short(theirs[name])}")
        elif name not in theirs:
            told.append(f"{name} was {_short(ours[name])}, not expected")
        elif not equal(ours[name], theirs[name]):
            told.append(f"{name} was {_short(ours[name])}, expected {_short(theirs[name])}")
    return f"{called.name}: {', '.join(_limited(told))}"


def _texts(calls: Sequence[ToolCall]) -> list[str]:
    return _limited([_text(call) for call in calls[: _MAX_SHOWN + 1]], len(calls))


def _limited(texts: list[str], count: int | None = None) -> list[str]:
    more = (len(texts) if count is None else count) - _MAX_SHOWN
    return [*texts[:_MAX_SHOWN], f"and {more} more"] if more > 0 else texts


def _text(call: ToolCall) -> str:
    if call.arguments is msgspec.UNSET:
        given = "…"
    elif isinstance(call.arguments, dict):
        given = ", ".join(_limited([f"{name}={_short(value)}" for name, value in call.arguments.items()]))
    else:
        given = _short(call.arguments)
    failed = "" if call.error is None else f" failed: {_cut(call.error)}"
    return f"{call.name}({given}){failed}"


def _short(value: Any) -> str:
    try:
        return _cut(msgspec.json.encode(value).decode())
    except (TypeError, ValueError, RecursionError):
        return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + "…"
