"""Items in the order of what went wrong most: failed, then without a score, then the lowest scores."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from millstream.evaluation.registry import Metric
from millstream.evaluation.values import Column

Floats = NDArray[np.float64]


class Ranking(NamedTuple):
    """Results in the order of what went wrong most.

    Attributes:
        order: their numbers.
        wrong: with how many of them, the first ones, anything is wrong.
    """

    order: list[int]
    wrong: int


def worst_first(
    metrics: Sequence[Metric], failed: Sequence[bool], figures: Mapping[str, Sequence[Column]]
) -> Ranking:
    """The results, the worst first.

    Failed items come first, then those with a missing score, then the others by the mean of what they lack
    of the best score: from 0 to 1 for shares, else between the worst and the best of this run.
    Measures of the run (`avg_*`) count only where no evaluator scores answers; categories have no order.
    Equals stay in the order of the dataset.

    Args:
        metrics: the evaluators.
        failed: one a result.
        figures: the columns of each evaluator, aligned with the results.
    """
    n = len(failed)
    missing = np.zeros(n, np.int64)
    of_answers: list[Floats] = []
    of_runs: list[Floats] = []
    for metric in metrics:
        found = figures[metric.name]
        missing += np.any([np.isnan(column.values) for column in found], axis=0)
        places = [_places(column.values, metric) for column in found if not column.category]
        (of_runs if metric.score_failed else of_answers).extend(places)
    place = _mean(of_answers or of_runs, n)
    has_failed = np.array(failed, bool)
    order = np.lexsort((place, -missing, ~has_failed))
    return Ranking(order.tolist(), int((has_failed | (missing > 0) | (place < 1)).sum()))


def _places(values: Floats, metric: Metric) -> Floats:
    """Where each value lies between the worst, 0, and the best, 1; NaN where there is none."""
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return values
    low, high = float(known.min()), float(known.max())
    if not metric.score_failed and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    if low == high:
        return np.where(np.isnan(values), values, 1.0)
    return (high - values) / (high - low) if metric.lower_is_better else (values - low) / (high - low)


def _mean(places: Sequence[Floats], n: int) -> Floats:
    """Over the values that are known; 1 where none is."""
    if not places:
        return np.ones(n)
    table = np.array(places)
    known = ~np.isnan(table)
    sums = np.where(known, table, 0).sum(axis=0)
    mean: Floats = np.where(known.any(axis=0), sums / np.maximum(known.sum(axis=0), 1), 1.0)
    return mean
