"""A model as the judge of the way to an answer: the steps that were recorded."""

from typing import ClassVar, Final

from millstream.evaluation.evaluators.base import Binding, EvalItem, EvaluatorBase, Score
from millstream.evaluation.judging.judge import Judge
from millstream.evaluation.judging.prompt import question
from millstream.evaluation.judging.scale import NumberScale, Scale
from millstream.evaluation.judging.steps import steps_of, tools_of
from millstream.evaluation.judging.vote import Vote, score_of_votes
from millstream.workflow.answers import answer_text

_SCALE: Final = NumberScale(1, 5)
_TASK: Final = """\
You judge how an AI system went about answering a question: the steps that it took, and what came of them. \
Weigh these:

1. Does the final answer help with the question{reference}?
2. Is the order of the steps logical?
3. Are the tools used in a helpful way, with the right arguments, and are their results used?
4. Are there needless steps, or steps repeated without a reason?
5. Are these the right tools for the question{offered}?
{expected}
5 is a way that could hardly be better, 3 one with clear faults that still leads to the answer, 1 one that \
is no use."""
_EXPECTED: Final = """\
6. The steps that were expected are given. Steps that are missing or wrong count against it; other steps \
that do the same work as well do not.
"""


class TrajectoryJudge(EvaluatorBase):
    """Asks a model for a score of the recorded steps, from 1 to 5.

    The criteria are those of LangChain's trajectory evaluation, which the reference asks.

    Attributes:
        llm_name: key under `llms`.
    """

    llm_name: str

    def bind(self, binding: Binding) -> "JudgeOfSteps":
        """See `EvaluatorBase`."""
        binding.models.check_llm(self.llm_name, f"{binding.where}.llm_name")
        return JudgeOfSteps(Judge(binding.models, self.llm_name))


class JudgeOfSteps:
    """A judge with its model, ready to be called with items.

    Args:
        judge: who is asked.
    """

    scale: ClassVar[Scale] = _SCALE

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    async def __call__(self, item: EvalItem) -> Score:
        """Judge one item."""
        steps = steps_of(item.spans)
        if not steps.n:
            return Score(None, "no model call, tool, retrieval or function was recorded for this item")
        material = {"question": answer_text(item.question)}
        tools = tools_of(item.spans)
        if tools:
            material["tools_offered"] = tools
        if item.expected_trajectory is not None:
            material["expected_steps"] = answer_text(item.expected_trajectory)
        if item.expected is not None:
            material["expected_answer"] = answer_text(item.expected)
        material["steps"] = steps.text
        material["final_answer"] = "" if item.output is None else answer_text(item.output)
        asked = question(_task(material), material, _SCALE)

        async def ask() -> Vote:
            verdict = await self._judge.ask(asked, _SCALE)
            told = {"raw": verdict.raw, "reasoning": verdict.reasoning, "steps": steps.n}
            return Vote(verdict.share, {**told, "cut": steps.cut} if steps.cut else told)

        return await score_of_votes(ask, 1, rep=item.rep, scale=_SCALE)


def _task(material: dict[str, str]) -> str:
    return _TASK.format(
        reference=", and agree with the expected answer" if "expected_answer" in material else "",
        offered=", among those that were offered" if "tools_offered" in material else "",
        expected=_EXPECTED if "expected_steps" in material else "",
    )
