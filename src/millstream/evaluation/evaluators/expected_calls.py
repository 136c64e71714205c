"""The tool calls that a dataset expects, in the forms in which it may tell them."""

import json
from collections import Counter
from typing import Any

import msgspec

from millstream.evaluation.contexts import ToolCall, as_arguments, tool_calls
from millstream.store.readers.nat_steps import spans_of


class ExpectedCallsError(ValueError):
    """They cannot be understood; the message says what is wrong and what they should be."""


def expected_calls(value: Any) -> list[ToolCall] | None:
    """The calls in their order; `None` where the dataset tells nothing, as an empty field of a CSV file.

    Args:
        value: a list of `{name, arguments}`, or the `intermediate_steps` of a run, ours or the NeMo Agent
            Toolkit's, or either as JSON text. A call without `arguments` has them unset.

    Raises:
        ExpectedCallsError: it is something else.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ExpectedCallsError(f"the expected tool calls are not JSON: {value[:80]!r}") from None
    if not isinstance(value, list):
        raise ExpectedCallsError(
            f"the expected tool calls are a {type(value).__name__}; give a list of {{name, arguments}}"
        )
    if any(isinstance(step, dict) and "payload" in step for step in value):
        return tool_calls(list(spans_of(value, "0" * 32, Counter())))
    return [_call(number, step) for number, step in enumerate(value, 1)]


def _call(number: int, step: Any) -> ToolCall:
    if not isinstance(step, dict) or not isinstance(step.get("name"), str) or not step["name"]:
        raise ExpectedCallsError(f"expected tool call {number} has no name; it should be {{name, arguments}}")
    known = "arguments" in step
    return ToolCall(step["name"], as_arguments(step["arguments"]) if known else msgspec.UNSET)
