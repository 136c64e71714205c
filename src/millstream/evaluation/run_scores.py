"""What the evaluators of a run said of its items, as metrics that can be compared."""

from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from millstream.evaluation.values import Several, Value, parts, read_value
from millstream.profiler.compare import MEASURED

_Waiting = defaultdict[tuple[str, Any], deque[Value | Several | None]]


class RunScores(NamedTuple):
    """The metrics that evaluators gave.

    Attributes:
        metrics: names, in the order of the evaluators; several values of one are metrics each.
        shares: those that score answers.
        values: of each row, by metric.
        categories: likewise, of metrics whose values are categories; `None` is in none of them.
    """

    metrics: list[str]
    shares: list[str]
    values: list[dict[str, float | None]]
    categories: list[dict[str, str | None]]


class _Given(NamedTuple):
    """What an evaluator said of an item."""

    score: Value | Several | None
    failed: bool


def run_scores(
    outputs: Mapping[str, list[dict[str, Any]]],
    ids: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    failed: Sequence[bool],
    *,
    ours: bool,
    shares: Collection[str],
) -> RunScores:
    """The metrics of a run.

    Args:
        outputs: items of each `<evaluator>_output.json`.
        ids: of the rows.
        rows: the answers.
        failed: whether each row failed.
        ours: whether millstream wrote the files.
        shares: evaluators of answers.
    """
    found = RunScores([], [], [{} for _ in rows], [{} for _ in rows])
    for name, items in outputs.items():
        share = name in shares
        scores = _scores(items, ours=ours)
        given = []
        for one, row, is_failed in zip(ids, rows, failed, strict=True):
            waiting = scores[one, row.get("rep")]
            score = waiting.popleft() if waiting else None
            if score is None and is_failed and share and not ours:
                score = 0.0
            given.append(_Given(score, is_failed and share))
        for part in parts(given):
            metric = f"{_metric(name)}.{part.name}" if part.name else _metric(name)
            found.metrics.append(metric)
            if share:
                found.shares.append(metric)
            for number, value in enumerate(part.values):
                if part.categories is None:
                    found.values[number][metric] = None if value is None else float(value)
                elif value is not None:
                    found.categories[number][metric] = str(value) or None
    return found


def _metric(evaluator: str) -> str:
    return f"{evaluator} (score)" if evaluator in MEASURED else evaluator


def _scores(items: list[dict[str, Any]], *, ours: bool) -> _Waiting:
    """By id and repetition, in order. An evaluator of the reference that raised wrote 0: that is no score."""
    found: _Waiting = defaultdict(deque)
    for item in items:
        reasoning = item.get("reasoning")
        raised = item.get("error") is not None or (
            isinstance(reasoning, dict) and "error" in reasoning and not item.get("score")
        )
        score = None if raised and not ours else read_value(item.get("score"))[0]
        found[str(item.get("id")), item.get("rep")].append(score)
    return found
