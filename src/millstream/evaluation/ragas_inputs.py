"""What a metric of ragas is given of an item: from its question, answer, spans and row."""

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from millstream.evaluation.contexts import ToolCall, retrieved_contexts, tool_calls
from millstream.evaluation.evaluators.base import EvalItem
from millstream.evaluation.ragas_catalogue import Metric
from millstream.workflow.answers import answer_text

_OF_THE_RUN: Final = frozenset({"user_input", "response", "retrieved_contexts"})
_OLD: Final = (
    *("user_input", "response", "reference", "retrieved_contexts", "reference_contexts"),
    *("retrieved_context_ids", "reference_context_ids", "multi_responses", "rubrics"),
)
"""Columns of a sample; an old metric takes those that it needs."""
_ABSENT: Final = {
    "user_input": "the question is empty",
    "response": "the answer is empty",
    "reference": "the dataset has no expected answer for this item",
    "retrieved_contexts": "nothing was retrieved for this item: no RETRIEVER or TOOL span has an output",
    "reference_tool_calls": "the dataset has no expected tool calls for this item",
}


class UnscoredError(Exception):
    """Nothing could be measured; the message is the reason of the missing score."""


class Conversation(msgspec.Struct, frozen=True):
    """An item as a conversation: the question, the calls of tools with what they gave, the answer."""

    question: str
    calls: list[ToolCall]
    answer: str


def inputs_of(item: EvalItem, metric: Metric, field: str | None) -> dict[str, Any]:
    """The arguments of a metric's scoring function; those that it need not have only where the item has them.

    Args:
        item: what is scored.
        metric: what it takes.
        field: of a question that is an object, the one that is the question.

    Raises:
        UnscoredError: the item does not have one that is needed.
    """
    wanted = dict.fromkeys(_OLD, False) if metric.old else metric.inputs
    inputs: dict[str, Any] = {}
    for name, needed in wanted.items():
        value = _value(name, item, field, conversation=metric.conversation)
        if value:
            inputs[name] = value
        elif needed:
            raise UnscoredError(_absent(name, metric))
    return inputs


def lacking(item: EvalItem, metric: Metric) -> str | None:
    """Why no answer to this item could be scored: its row lacks something; `None` where it does not."""
    needed = [name for name, must in metric.inputs.items() if must and name not in _OF_THE_RUN]
    absent = [name for name in needed if not _value(name, item, None, conversation=False)]
    return _absent(absent[0], metric) if absent else None


def _absent(name: str, metric: Metric) -> str:
    return _ABSENT.get(
        name, f"{metric.name} needs {name!r}, and the dataset has no such column for this item"
    )


def _value(name: str, item: EvalItem, field: str | None, *, conversation: bool) -> Any:
    if name == "user_input":
        question = _text(_question(item.question, field))
        if not conversation:
            return question
        return Conversation(question, tool_calls(item.spans), _text(item.output))
    if name == "response":
        return _text(item.output)
    if name == "reference":
        return _text(item.expected)
    if name == "retrieved_contexts":
        return retrieved_contexts(item.spans)
    if name == "reference_tool_calls" and item.expected_trajectory is not None:
        return _decoded(item.expected_trajectory)
    return _decoded(item.row.get(name))


def _question(question: Any, field: str | None) -> Any:
    return question[field] if isinstance(question, Mapping) and field in question else question


def _text(value: Any) -> str:
    """As text; nothing where there is no more than white space, which ragas would score 0."""
    text = "" if value is None else answer_text(value)
    return text if text.strip() else ""


def _decoded(value: Any) -> Any:
    """A list or object of a cell that can only hold text."""
    if not (isinstance(value, str) and value.lstrip().startswith(("[", "{"))):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
