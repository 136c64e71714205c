"""Which of two answers is better? Asked in both orders, for judges prefer a place."""

from collections.abc import Mapping
from typing import Any, Final

from millstream.evaluation.judging.judge import Judge
from millstream.evaluation.judging.prompt import question
from millstream.evaluation.judging.scale import LabelScale
from millstream.evaluation.judging.vote import Vote

WIN, TIE, LOSS = "win", "tie", "loss"
OUTCOMES: Final = LabelScale({LOSS: 0.0, TIE: 0.5, WIN: 1.0})
"""Of the answer that is evaluated, against the other one."""
_PLACES: Final = LabelScale({"second": 0.0, "tie": 0.5, "first": 1.0})
_TASK: Final = """\
You compare two answers to one question. Which of them is better is told by this rubric and nothing else:

{rubric}

The label is 'first' when answer_1 is better, 'second' when answer_2 is better, 'tie' when neither is. \
Neither the order of the answers nor their length is a reason."""


async def compare(judge: Judge, rubric: str, before: Mapping[str, str], answer: str, other: str) -> Vote:
    """One vote: both orders, one after the other.

    Args:
        judge: who is asked.
        rubric: what makes an answer better.
        before: material that stands before the answers, such as the question.
        answer: the one that is evaluated.
        other: the one that it is compared with.

    Returns:
        1 for a win, 0.5 for a tie and 0 for a loss of `answer`; two orders that disagree are a tie.

    Raises:
        NoVerdictError: one of the two orders has no verdict.
        Exception: what the model's client raises.
    """
    told: list[dict[str, Any]] = []
    outcomes: list[str] = []
    for shown_first, pair in (("answer", (answer, other)), ("other", (other, answer))):
        material = {**before, "answer_1": pair[0], "answer_2": pair[1]}
        verdict = await judge.ask(question(_TASK.format(rubric=rubric.strip()), material, _PLACES), _PLACES)
        outcomes.append(OUTCOMES.raw(verdict.share if shown_first == "answer" else 1 - verdict.share))
        told.append({"shown_first": shown_first, "verdict": verdict.raw, "reasoning": verdict.reasoning})
    agree = outcomes[0] == outcomes[1]
    outcome = outcomes[0] if agree else TIE
    content: dict[str, Any] = {"raw": outcome, "orders_agree": agree, "orders": told}
    if not agree:
        content["reasoning"] = f"a tie, for the two orders disagree: {outcomes[0]}, then {outcomes[1]}"
    return Vote(OUTCOMES.share(outcome), content)
