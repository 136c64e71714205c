"""How good is a forecast on requests that it has not seen? Rolling origin, by start of the request.

The oldest third of the requests is only learned from. The rest is held out in `BLOCKS` blocks, one after
the other: what is forecast for a block is learned from the requests before it and from no other. Intervals
are calibrated by what was missed in the blocks before (split conformal, Romano et al. 2019, Conformalized
Quantile Regression, with scores in units of the interval's width), so the first block has no error and no
coverage of its own.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec
import numpy as np

from millstream.profiler.estimate import student_half_width
from millstream.profiler.forecast import models
from millstream.profiler.forecast.baseline import (
    TAIL,
    GroupedQuantiles,
    GroupedShares,
    Grouping,
    Interval,
    first_guess,
    position_of,
    within,
)
from millstream.profiler.forecast.states import States
from millstream.profiler.forecast.timeline import Floats
from millstream.store.table import Bools, Ints

BASELINE: Final = "baseline"
NEXT_TOOL: Final = "next_tool"
BLOCKS = 3
OLDEST = 1 / 3
NOISE = 0.05
COVERAGE = 1 - 2 * TAIL


class EvaluationRow(msgspec.Struct, frozen=True):
    """How one target is forecast, and how well on requests that were not learned from.

    Fields are read by attribute or, as of a mapping, by key.

    Attributes:
        target: `remaining_llm_calls`, `remaining_tokens`, `remaining_s` or `next_tool`.
        model: `baseline` unless a model was better by more than noise.
        error: mean absolute error of the median, in calls, tokens or seconds; of `next_tool` the share of
            states where another tool came than the most likely one.
        baseline_error: the same of the baseline.
        coverage: share of states whose value was in the interval of 90 %; of `next_tool`, among the most
            likely tools that together have 90 %.
        n: requests it was measured on.
        states: states of them.
    """

    target: str
    model: str
    error: float
    baseline_error: float
    coverage: float
    n: int
    states: int

    def __getitem__(self, field: str) -> str | float | int:
        if field not in self.__struct_fields__:
            raise KeyError(field)
        value: str | float | int = getattr(self, field)
        return value

    def keys(self) -> tuple[str, ...]:
        """The names of the fields."""
        return self.__struct_fields__


class Correction(NamedTuple):
    """By how much of their width the ends of intervals are moved outwards."""

    low: float
    high: float


class Choice(NamedTuple):
    """What came out for one target: the row, and the calibration for what is fitted on all requests."""

    row: EvaluationRow
    correction: Correction


class _Fold(NamedTuple):
    """One block, and what is before it to learn from."""

    block: int
    learned: States
    grouping: Grouping
    values: Floats
    baseline: GroupedQuantiles
    unseen: States
    actual: Floats

    def forecast(self, name: str) -> Interval:
        """What a model says of the block, before calibration."""
        if name == BASELINE:
            return self.baseline.predict(self.unseen)
        fitted = models.fit(name, self.baseline, self.grouping, self.learned, self.values)
        return fitted.predict(self.unseen)


class _HeldOut(NamedTuple):
    """Held-out states: their block, request and value, and the forecasts of each model."""

    block: Ints
    request: Ints
    values: Floats
    floor: Floats
    raw: dict[str, Interval]


def evaluate(target: str, states: States, values: Floats, *, whole: bool) -> Choice:
    """Choose the model of one target and measure it.

    Args:
        target: its name.
        states: of all requests, by start.
        values: what was still to come, shape (n,).
        whole: values are whole numbers.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    folds = [_fold(states, values, *split) for split in _splits(states.request)]
    measured = _held_out(folds[1:], (BASELINE,))
    baseline_error = _error(measured, BASELINE, whole=whole)
    model, error = BASELINE, baseline_error
    if baseline_error > 0:
        measured = _held_out(folds[1:], (BASELINE, *models.NAMES))
        better = [name for name in models.NAMES if _beats(measured, name, whole)]
        errors = {name: _error(measured, name, whole=whole) for name in better}
        if errors:
            model, error = min(errors.items(), key=lambda item: item[1])
    held = _with_first(folds[0], measured, model)
    row = EvaluationRow(
        target=target,
        model=model,
        error=error,
        baseline_error=baseline_error,
        coverage=_coverage(held, model, whole=whole),
        n=len(np.unique(measured.request)),
        states=len(measured.values),
    )
    return Choice(row, _correction(held, model, held.block >= 0))


def evaluate_next_tool(states: States) -> EvaluationRow:
    """Measure the shares of the next tool."""
    wrong, covered, request = [], [], []
    for block, earlier, later in _splits(states.request):
        if block == 0:
            continue
        unseen = states.take(later)
        fitted = GroupedShares.fit(states.take(earlier))
        shares = fitted.predict(unseen)
        actual = position_of(unseen.next_tool, fitted.tools)
        wrong.append(first_guess(shares) != actual)
        covered.append(within(shares, actual, COVERAGE))
        request.append(unseen.request)
    error = float(np.mean(np.concatenate(wrong)))
    return EvaluationRow(
        target=NEXT_TOOL,
        model=BASELINE,
        error=error,
        baseline_error=error,
        coverage=float(np.mean(np.concatenate(covered))),
        n=len(np.unique(np.concatenate(request))),
        states=sum(map(len, wrong)),
    )


def calibrated(raw: Interval, floor: float | Floats, correction: Correction, *, whole: bool) -> Interval:
    """The intervals moved by the correction, never below 0, in order, of whole numbers where values are.

    Args:
        raw: what a model said.
        floor: the least spread; of the baseline that the model corrects.
        correction: in units of the spread.
        whole: values are whole numbers.
    """
    spread = raw.spread(floor)
    low, high = raw.low - correction.low * spread, raw.high + correction.high * spread
    median = np.maximum(raw.median, 0)
    if whole:
        low, median, high = np.ceil(low - 1e-9), np.round(median), np.floor(high + 1e-9)
    return Interval(np.clip(low, 0, median), median, np.maximum(high, median))


def _splits(request: Ints) -> Iterator[tuple[int, Bools, Bools]]:
    """Each block with what is before it and what is in it."""
    requests = int(request.max()) + 1
    edges = np.round(np.linspace(OLDEST * requests, requests, BLOCKS + 1)).astype(np.int64)
    for block in range(BLOCKS):
        earlier = request < edges[block]
        yield block, earlier, (request < edges[block + 1]) & ~earlier


def _fold(states: States, values: Floats, block: int, earlier: Bools, later: Bools) -> _Fold:
    learned = states.take(earlier)
    grouping = Grouping.fit(learned)
    baseline = GroupedQuantiles.fit(grouping, values[earlier])
    return _Fold(block, learned, grouping, values[earlier], baseline, states.take(later), values[later])


def _held_out(folds: list[_Fold], names: tuple[str, ...]) -> _HeldOut:
    sizes = [len(fold.unseen) for fold in folds]
    forecasts = {name: [fold.forecast(name) for fold in folds] for name in names}
    return _HeldOut(
        block=np.repeat([fold.block for fold in folds], sizes),
        request=np.concatenate([fold.unseen.request for fold in folds]),
        values=np.concatenate([fold.actual for fold in folds]),
        floor=np.repeat([fold.baseline.floor for fold in folds], sizes),
        raw={name: _joined(found) for name, found in forecasts.items()},
    )


def _with_first(first: _Fold, later: _HeldOut, model: str) -> _HeldOut:
    """All blocks. The first has no error of its own, so only the model that was chosen forecasts it."""
    before = _held_out([first], (model,))
    return _HeldOut(
        block=np.concatenate((before.block, later.block)),
        request=np.concatenate((before.request, later.request)),
        values=np.concatenate((before.values, later.values)),
        floor=np.concatenate((before.floor, later.floor)),
        raw={model: _joined([before.raw[model], later.raw[model]])},
    )


def _joined(found: list[Interval]) -> Interval:
    return Interval(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _part(held: _HeldOut, name: str, seen: Bools) -> Interval:
    return Interval(*(end[seen] for end in held.raw[name]))


def _misses(held: _HeldOut, name: str, *, whole: bool) -> Floats:
    """Absolute errors of the median."""
    median = np.maximum(held.raw[name].median, 0)
    return np.abs(held.values - (np.round(median) if whole else median))


def _error(held: _HeldOut, name: str, *, whole: bool) -> float:
    return float(np.mean(_misses(held, name, whole=whole)))


def _beats(held: _HeldOut, name: str, whole: bool) -> bool:  # noqa: FBT001
    """Whether a model is better than the baseline by more than noise.

    A one-sided Student t test, paired by request, of what the model misses less in total; the level is
    `NOISE` shared by the models that are tried.
    """
    less = _misses(held, BASELINE, whole=whole) - _misses(held, name, whole=whole)
    _, of = np.unique(held.request, return_inverse=True)
    gain: Floats = np.bincount(of, weights=less).astype(np.float64)
    half = student_half_width(gain, 1 - 2 * NOISE / len(models.NAMES))
    return half is not None and float(gain.mean()) - half > 0


def _correction(held: _HeldOut, name: str, seen: Bools) -> Correction:
    """From the states in `seen`: how far values were outside, so that 5 % are beyond each end."""
    raw, values = _part(held, name, seen), held.values[seen]
    spread = raw.spread(held.floor[seen])
    requests = len(np.unique(held.request[seen]))
    share = min(np.ceil((1 - TAIL) * (requests + 1)) / requests, 1.0)
    below, above = (raw.low - values) / spread, (values - raw.high) / spread
    return Correction(*(float(np.quantile(miss, share, method="higher")) for miss in (below, above)))


def _coverage(held: _HeldOut, name: str, *, whole: bool) -> float:
    inside = 0
    for block in range(1, BLOCKS):
        correction = _correction(held, name, held.block < block)
        at = held.block == block
        low, _, high = calibrated(_part(held, name, at), held.floor[at], correction, whole=whole)
        inside += int(np.sum((held.values[at] >= low) & (held.values[at] <= high)))
    return inside / int(np.sum(held.block > 0))
