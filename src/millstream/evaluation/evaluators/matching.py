"""Tool calls that were made against those that were expected: which is which, and which arguments agree."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from millstream.errors import MissingExtraError
from millstream.evaluation.contexts import ToolCall
from millstream.evaluation.evaluators.json_values import equal

try:
    import numpy as np
    from scipy.optimize import linear_sum_assignment
except ModuleNotFoundError as error:
    raise MissingExtraError("The evaluation", "profiling") from error

_MAX_PAIRS: Final = 1_000_000
_UNNAMED: Final = "(input)"


class TooManyCallsError(ValueError):
    """There are so many calls of one tool that comparing each with each would take too long."""


class Matching(NamedTuple):
    """Each call at most once, with what it was matched to.

    Attributes:
        same: calls that are as expected.
        different: (called, expected) of the same tool with other arguments, as alike as can be.
        missing: expected, not called.
        unexpected: called, not expected.
    """

    same: list[ToolCall]
    different: list[tuple[ToolCall, ToolCall]]
    missing: list[ToolCall]
    unexpected: list[ToolCall]


class ArgumentScores(msgspec.Struct, frozen=True):
    """How many (tool, argument, value) of the calls made are those of the expected calls.

    Attributes:
        f1: 2 x agreeing / (called + expected); `None` where no call has arguments.
        precision: agreeing / called; `None` where nothing was called with arguments.
        recall: agreeing / expected; `None` where no expected call has arguments.
    """

    f1: float | None
    precision: float | None
    recall: float | None


def same_call(called: ToolCall, expected: ToolCall, *, arguments: bool = True) -> bool:
    """Whether it is the same tool, with the same arguments where these count."""
    return called.name == expected.name and (not arguments or equal(called.arguments, expected.arguments))


def match(called: Sequence[ToolCall], expected: Sequence[ToolCall], *, arguments: bool = True) -> Matching:
    """Match calls of the same tool so that as many arguments as possible agree.

    Calls that are the same are matched first, in order; no other choice can agree in more arguments. What is
    left is an assignment problem for each tool.

    Args:
        called: the calls made.
        expected: the calls that should have been made.
        arguments: whether they count; without, calls of the same tool are the same.

    Raises:
        TooManyCallsError: more than a million pairs of calls of one tool.
    """
    found = Matching([], [], [], [])
    for name in dict.fromkeys(call.name for call in [*called, *expected]):
        ours = [call for call in called if call.name == name]
        theirs = [call for call in expected if call.name == name]
        if len(ours) * len(theirs) > _MAX_PAIRS:
            raise TooManyCallsError(
                f"{name} was called {len(ours)} times, {len(theirs)} are expected: too many to compare"
            )
        _match_one_tool(ours, theirs, found, arguments=arguments)
    return found


def argument_scores(matching: Matching) -> ArgumentScores:
    """Precision, recall and F1 of the arguments, of a matching by arguments."""
    agreeing = _count(matching.same) + sum(_agreeing(*pair) for pair in matching.different)
    called, expected = ([pair[side] for pair in matching.different] for side in (0, 1))
    made = _count([*matching.same, *called, *matching.unexpected])
    wanted = _count([*matching.same, *expected, *matching.missing])
    return ArgumentScores(
        2 * agreeing / (made + wanted) if made + wanted else None,
        agreeing / made if made else None,
        agreeing / wanted if wanted else None,
    )


def by_name(call: ToolCall) -> dict[str, Any]:
    """The arguments by name; an input without names is one of its own."""
    return call.arguments if isinstance(call.arguments, dict) else {_UNNAMED: call.arguments}


def _match_one_tool(
    ours: list[ToolCall], theirs: list[ToolCall], found: Matching, *, arguments: bool
) -> None:
    rest = []
    for call in ours:
        place = next((i for i, one in enumerate(theirs) if same_call(call, one, arguments=arguments)), None)
        if place is None:
            rest.append(call)
        else:
            found.same.append(call)
            del theirs[place]
    agreeing = np.array([[_agreeing(call, one) for one in theirs] for call in rest]).reshape(
        len(rest), len(theirs)
    )
    rows, columns = (chosen.tolist() for chosen in linear_sum_assignment(agreeing, maximize=True))
    found.different.extend((rest[i], theirs[j]) for i, j in zip(rows, columns, strict=True))
    found.unexpected.extend(rest[i] for i in sorted(set(range(len(rest))) - set(rows)))
    found.missing.extend(theirs[j] for j in sorted(set(range(len(theirs))) - set(columns)))


def _count(calls: Sequence[ToolCall]) -> int:
    return sum(len(by_name(call)) for call in calls)


def _agreeing(called: ToolCall, expected: ToolCall) -> int:
    ours, theirs = by_name(called), by_name(expected)
    return sum(name in theirs and equal(value, theirs[name]) for name, value in ours.items())
