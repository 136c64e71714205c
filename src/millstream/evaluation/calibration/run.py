"""A calibration from the workflow file and the labels to its result."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from millstream.errors import ConfigError, InputError, UnreachableError, nearest
from millstream.evaluation.caching import cached_calls
from millstream.evaluation.calibration.answers import Labelled, earlier_scores, labelled_answers
from millstream.evaluation.calibration.labels import read_labels
from millstream.evaluation.calibration.measure import Figures, Pair, figures_of
from millstream.evaluation.calibration.verdict import notes, verdict
from millstream.evaluation.config import EvalConfig, parse_eval
from millstream.evaluation.evaluators.base import Score, as_score
from millstream.evaluation.files import json_bytes, locked_folder, write_file
from millstream.evaluation.judging.comparison import OUTCOMES
from millstream.evaluation.judging.scale import Scale
from millstream.evaluation.models import Models
from millstream.evaluation.reachability import is_unreachable
from millstream.evaluation.registry import Metric, build_evaluators
from millstream.evaluation.runner import describe
from millstream.profiler.estimate import LEVEL
from millstream.workflow.answers import answer_text
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.explain import explain
from millstream.workflow.validation import in_file

CALIBRATION: Final = "calibration.json"


class Calibration(msgspec.Struct, frozen=True):
    """A judge measured against people.

    Attributes:
        evaluator: its name in the workflow file.
        labels: where people's scores are from.
        scores_from: where the judge's are from: `judge` when it was asked now, `run` when they are those of
            the run in the output folder.
        scale: of both, in words.
        level: of the intervals.
        n: answers that both have scored.
        missing: labels without a score of the judge.
        missing_reasons: why, and how often.
        unlabelled: rows whose score is empty.
        figures: see `Figures`.
        verdict: what they mean, in a sentence.
        notes: what a reader should know, a sentence each.
        pairs: what the figures are of; scores from 0 to 1.
    """

    evaluator: str
    labels: str
    scores_from: str
    scale: str
    level: float
    n: int
    missing: int
    missing_reasons: dict[str, int]
    unlabelled: int
    figures: Figures
    verdict: str
    notes: list[str]
    pairs: list[Pair]


async def calibrate(config: WorkflowConfig, labels: Path, evaluator: str | None = None) -> Calibration:
    """Measure a judge against people.

    Args:
        config: the workflow file; its section `eval` has the judge.
        labels: a CSV file with people's scores.
        evaluator: the judge's name; may be left out where there is one judge only.

    Raises:
        ConfigError: there is no such judge, or its options are wrong.
        InputError: the labels are wrong, there are no answers to judge, or no evaluator has this name.
        UnreachableError: the judge's server is down, or lets nobody in.
    """
    models = Models(config)
    with in_file(config.path):
        parsed = parse_eval(config.eval)
        metric, scale = _judge(parsed, config.directory, models, evaluator)
    read = read_labels(labels, scale)
    answers = labelled_answers(read, parsed)
    of_label = any("answer" in label.values for label in read)
    before = None if of_label else earlier_scores(config, parsed, metric.name)
    if before is None:
        async with models:
            with in_file(config.path, UnreachableError), cached_calls(parsed.general.cache):
                scores = await _asked(metric, answers, parsed.general.max_concurrency)
    else:
        scores = [_earlier(one, before) for one in answers]
    pairs, reasons = _pairs(answers, scores)
    figures = figures_of(pairs, scale, compares=scale is OUTCOMES)
    return Calibration(
        evaluator=metric.name,
        labels=str(labels),
        scores_from="judge" if before is None else "run",
        scale=scale.wanted,
        level=LEVEL,
        n=len(pairs),
        missing=sum(reasons.values()),
        missing_reasons=dict(reasons.most_common()),
        unlabelled=sum(label.share is None for label in read),
        figures=figures,
        verdict=verdict(figures, len(pairs)),
        notes=notes(figures, len(pairs)),
        pairs=pairs,
    )


def write_calibration(folder: Path, calibration: Calibration) -> Path:
    """Write `calibration.json`.

    Args:
        folder: the output folder; made where it is not there.
        calibration: what to write.

    Raises:
        StorageError: it cannot be written, or a run is writing there.
    """
    with locked_folder(folder):
        return write_file(folder / CALIBRATION, json_bytes(msgspec.to_builtins(calibration), indent=2))


def _judge(parsed: EvalConfig, directory: Path, models: Models, name: str | None) -> tuple[Metric, Scale]:
    """The judge to be measured; the other evaluators need not be right."""
    names = list(parsed.evaluators)
    if name is None:
        judges = [one for one in names if parsed.evaluators[one].get("_type") in ("llm_judge", "trajectory")]
        if len(judges) != 1:
            which = f"name one of {', '.join(judges)} with --evaluator" if judges else "add an llm_judge"
            raise ConfigError(f"eval.evaluators has {len(judges) or 'no'} judges; {which}")
        name = judges[0]
    if name not in names:
        raise InputError(f"--evaluator: there is no eval.evaluators.{name}{nearest(name, names)}")
    only = parsed.model_copy(update={"evaluators": {name: parsed.evaluators[name]}})
    metric = build_evaluators(only, directory, models)[0]
    scale = getattr(metric.call, "scale", None)
    if scale is None:
        raise ConfigError(f"eval.evaluators.{name} is no judge: name an llm_judge or a trajectory")
    return metric, scale


async def _asked(metric: Metric, answers: Sequence[Labelled], max_concurrency: int) -> list[Score]:
    """What the judge says now. One that is down is one error, not a missing score for each answer."""
    slots = asyncio.Semaphore(max_concurrency)
    down: list[Exception] = []

    async def one(answer: Labelled) -> Score:
        if answer.item is None:
            return Score(None, answer.missing)
        async with slots:
            try:
                return as_score(await metric.call(answer.item))
            except Exception as error:  # noqa: BLE001  # the score is missing, whatever it was
                down.extend([error] if is_unreachable(error) else [])
                return Score(None, str(describe(error)))

    scores = await asyncio.gather(*(one(answer) for answer in answers))
    if down and all(score.score is None for score in scores):
        raise UnreachableError(f"The judge gave no score: {explain(down[0])}")
    return scores


def _earlier(answer: Labelled, scores: Mapping[tuple[str, int], Any]) -> Score:
    if answer.item is None:
        return Score(None, answer.missing)
    found = scores.get((answer.item.id, answer.item.rep))
    if found is None:
        return Score(None, "the run has no score of this item")
    return Score(found.get("score"), found.get("reasoning") or found.get("error"))


def _pairs(answers: Sequence[Labelled], scores: Sequence[Score]) -> tuple[list[Pair], Counter[str]]:
    pairs, reasons = [], Counter[str]()
    for answer, score in zip(answers, scores, strict=True):
        share = score.score
        if answer.item is None or not isinstance(share, int | float):
            reasons[str(score.reasoning)] += 1
            continue
        length = len(answer_text(answer.item.output))
        places = _first_places(score.reasoning)
        pairs.append(Pair(answer.item.id, answer.human, share, length, places))
    return pairs, reasons


def _first_places(reasoning: Any) -> list[bool]:
    """Of each order that was asked, whether the first place won; ties are left out."""
    told = reasoning if isinstance(reasoning, dict) else {}
    votes = told.get("votes") or [told]
    verdicts = [order.get("verdict") for vote in votes for order in vote.get("orders") or []]
    return [one == "first" for one in verdicts if one != "tie"]
