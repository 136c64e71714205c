"""A model as the judge of answers, by a rubric of the user's own."""

import math
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from millstream.errors import ConfigError
from millstream.evaluation.evaluators.base import Binding, EvalItem, EvaluatorBase, Score
from millstream.evaluation.judging.comparison import OUTCOMES, WIN, compare
from millstream.evaluation.judging.judge import Judge
from millstream.evaluation.judging.others import OtherAnswers
from millstream.evaluation.judging.prompt import question
from millstream.evaluation.judging.scale import LabelScale, NumberScale, Scale
from millstream.evaluation.judging.vote import Vote, score_of_votes
from millstream.workflow.answers import answer_text

_DEFAULT_SCALE: Final = (0.0, 10.0)
_SCALE: Final = "scale is [low, high], two numbers, the lower first"
_TASK: Final = """\
You judge the answer to a question. What is good is told by this rubric and nothing else:

{rubric}"""


class LlmJudge(EvaluatorBase):
    """Asks a model for a score of the answer, or whether it is better than another one.

    Attributes:
        llm_name: key under `llms`.
        rubric: what is good, in words.
        rubric_file: a text file with it, relative to the workflow file.
        scale: lowest and highest score; default 0 to 10.
        labels: instead of a scale: what the judge may say, and the number from 0 to 1 that it stands for.
        votes: how often the judge is asked.
        compare_to: instead of a score: what the answer is compared with, a column of the dataset, or the
            output folder of another run (with a `/` in it).
    """

    llm_name: str
    rubric: Annotated[str, Field(min_length=1)] | None = None
    rubric_file: Path | None = None
    scale: tuple[float, float] | None = None
    labels: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = Field(None, min_length=2)
    votes: int = Field(1, ge=1)
    compare_to: Annotated[str, Field(min_length=1)] | None = None

    _others: OtherAnswers | None = PrivateAttr(None)

    @field_validator("rubric", mode="before")
    @classmethod
    def _rubric_is_text(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            raise ValueError(  # noqa: TRY004  # pydantic's
                "a text is needed here; a file with it is named by rubric_file: PATH"
            )
        return value

    @field_validator("scale", mode="before")
    @classmethod
    def _scale_is_a_pair(cls, value: Any) -> Any:
        if value is not None and not (isinstance(value, list | tuple) and len(value) == len(_DEFAULT_SCALE)):
            raise ValueError(_SCALE)
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.rubric is None) == (self.rubric_file is None):
            raise ValueError("say what is good: give rubric (text) or rubric_file (a path), one of them")
        if sum(option is not None for option in (self.scale, self.labels, self.compare_to)) > 1:
            raise ValueError("scale, labels and compare_to are three ways to judge; give one of them")
        low, high = self.scale or _DEFAULT_SCALE
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(_SCALE)
        return self

    def unscorable(self, item: EvalItem) -> str | None:
        """Nothing to compare the answer with."""
        if self._others is None:
            return None
        other = self._others.of(item)
        if item.output is None and other.failed:
            return f"both runs failed on this item, the other with {other.failed}"
        return other.absent

    def bind(self, binding: Binding) -> "JudgeOfAnswers":
        """See `EvaluatorBase`."""
        binding.models.check_llm(self.llm_name, f"{binding.where}.llm_name")
        rubric = self.rubric or _read(binding.directory, self.rubric_file, f"{binding.where}.rubric_file")
        if self.compare_to:
            self._others = OtherAnswers(self.compare_to, binding)
        return JudgeOfAnswers(
            Judge(binding.models, self.llm_name), rubric, self._scale(), self.votes, self._others
        )

    def _scale(self) -> Scale:
        if self.compare_to:
            return OUTCOMES
        return LabelScale(self.labels) if self.labels else NumberScale(*(self.scale or _DEFAULT_SCALE))


class JudgeOfAnswers:
    """A judge with its model, ready to be called with items.

    Args:
        judge: who is asked.
        rubric: what is good.
        scale: of the raw scores.
        votes: how often each item is judged.
        others: what answers are compared with; `None` where each is scored by itself.
    """

    def __init__(
        self, judge: Judge, rubric: str, scale: Scale, votes: int, others: OtherAnswers | None
    ) -> None:
        self.scale = scale
        self._judge = judge
        self._rubric = rubric
        self._votes = votes
        self._others = others

    async def __call__(self, item: EvalItem) -> Score:
        """Judge one item."""
        material = {"question": answer_text(item.question)}
        if item.expected is not None:
            material["expected_answer"] = answer_text(item.expected)
        answer = "" if item.output is None else answer_text(item.output)
        if self._others is None:
            return await self._scored(lambda: self._score(material, answer))
        other = self._others.of(item)
        if other.absent:
            return Score(None, other.absent)
        if other.failed:
            return Score(1.0, {"raw": WIN, "reasoning": f"the other run failed on this item: {other.failed}"})
        rival = answer_text(other.answer)
        return await self._scored(lambda: compare(self._judge, self._rubric, material, answer, rival))

    async def _scored(self, ask: Callable[[], Awaitable[Vote]]) -> Score:
        return await score_of_votes(ask, self._votes, scale=self.scale)

    async def _score(self, material: dict[str, str], answer: str) -> Vote:
        asked = question(
            _TASK.format(rubric=self._rubric.strip()), {**material, "answer": answer}, self.scale
        )
        verdict = await self._judge.ask(asked, self.scale)
        return Vote(verdict.share, {"raw": verdict.raw, "reasoning": verdict.reasoning})


def _read(directory: Path, path: Path | None, where: str) -> str:
    """The text of a rubric's file; `path` is relative to the folder of the workflow file."""
    try:
        text = (directory / (path or "")).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{where}: {directory / (path or '')} cannot be read: {reason}") from error
    if not text.strip():
        raise ConfigError(f"{where}: {directory / (path or '')} is empty")
    return text
