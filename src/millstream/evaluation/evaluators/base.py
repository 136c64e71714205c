"""What an evaluator gets, what it gives, and what the engine wants to know about it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
from pydantic import BaseModel, ConfigDict

from millstream.evaluation.models import Models
from millstream.evaluation.values import Several, Value, read_value
from millstream.span import Span


class EvalItem(msgspec.Struct, frozen=True):
    """One answered question, as evaluators see it.

    Attributes:
        id: of the dataset's row.
        rep: which repetition, from 1.
        question: what was asked.
        expected: the right answer; `None` where the dataset has none.
        output: the workflow's answer; `None` when it failed.
        spans: what was recorded while it ran, by start time.
        row: the whole row of the dataset.
        expected_trajectory: the right steps; `None` where the dataset has none.
    """

    id: str
    rep: int
    question: Any
    expected: Any
    output: Any
    spans: list[Span]
    row: dict[str, Any]
    expected_trajectory: Any = None


class Binding(NamedTuple):
    """What an evaluator is tied to before the first item.

    Attributes:
        directory: what files in the options are relative to.
        where: path of the evaluator in the workflow file, for errors.
        models: of the workflow file; those checked in `bind` are made before the first question.
        output_dir: where the run writes.
    """

    directory: Path
    where: str
    models: Models
    output_dir: Path


class Score(msgspec.Struct, frozen=True):
    """What an evaluator says of an item.

    Attributes:
        score: a number, a category, or several of them by name; `None` where nothing could be measured.
        reasoning: why it is what it is, or why there is none.
        incomplete: why some of several values are missing.
    """

    score: Value | Several | None
    reasoning: Any = None
    incomplete: str | None = None


class EvaluatorBase(BaseModel):
    """Options of an evaluator as fields, and what kind of measure it is.

    Class attributes, which plugins may set as well:
        needs_expected: an item without an expected answer has a missing score.
        score_failed: failed items are scored too; otherwise they score 0 without a call.
        lower_is_better: a gate then fails above its bound.
        unit: of the score, such as `s`; empty for a share or a count.
        quick: takes next to no time whatever the item is: called in place, without a thread of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    needs_expected: ClassVar[bool] = False
    score_failed: ClassVar[bool] = False
    lower_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = ""
    quick: ClassVar[bool] = False

    def unscorable(self, item: EvalItem) -> str | None:  # noqa: ARG002  # for those that look
        """Why no answer to this item could be scored; a failed item then has a missing score, not 0."""
        return None

    def bind(self, binding: Binding) -> Callable[[EvalItem], Any]:  # noqa: ARG002  # for those that load
        """What is called with each item.

        Raises:
            ConfigError: a file or a model that the options name is not there.
        """
        if not callable(self):
            raise TypeError(f"{type(self).__name__} must have a __call__(item)")
        return self


def as_score(value: Any) -> Score:
    """What an evaluator returned as a `Score`.

    Args:
        value: a number, a truth value, a category (text), several of these by name, `{score, reasoning}` with
            one of them as the score, or a `Score`.
    """
    reasoning = incomplete = None
    if isinstance(value, Score):
        value, reasoning, incomplete = value.score, value.reasoning, value.incomplete
    elif isinstance(value, Mapping):
        reasoning = value.get("reasoning")
        if "score" in value:
            value = value["score"]
        else:
            value = {name: part for name, part in value.items() if name != "reasoning"}
    if value is None:
        return Score(None, reasoning or "the evaluator returned no score")
    score, problem = read_value(value)
    if score is None:
        return Score(None, problem)
    return Score(score, reasoning, problem or incomplete)
