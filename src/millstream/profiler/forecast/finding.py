"""The forecast as a finding: what to expect of the next request, how wrong that was, or why there is none."""

import msgspec

from millstream.errors import InputError, MissingExtraError
from millstream.profiler.forecast.evaluation import NEXT_TOOL, EvaluationRow
from millstream.profiler.forecast.forecaster import Forecast, Quantiles, fit
from millstream.profiler.forecast.training import Training, training_of
from millstream.store.table import SpanTable


class TargetFinding(msgspec.Struct, frozen=True):
    """One figure of a request that starts now, of the most frequent workflow; see `EvaluationRow`.

    `low`, `median` and `high` are the 5 %, 50 % and 95 % quantile.
    """

    low: float
    median: float
    high: float
    model: str
    error: float
    baseline_error: float
    coverage: float
    n: int


class ToolShare(msgspec.Struct, frozen=True):
    """How likely a tool is to come next; `tool` is null for none."""

    tool: str | None
    probability: float


class NextToolFinding(msgspec.Struct, frozen=True):
    """The first tool of a request that starts now, the likeliest first; see `EvaluationRow`."""

    tools: list[ToolShare]
    model: str
    error: float
    baseline_error: float
    coverage: float
    n: int


class Refused(msgspec.Struct, frozen=True):
    """There is no forecast, and why."""

    refused: str


Finding = dict[str, TargetFinding | NextToolFinding] | Refused


def forecast(table: SpanTable) -> Finding:
    """What to expect of the next request by target, or why that cannot be said."""
    try:
        training = training_of(table)
    except InputError as error:
        return Refused(str(error))
    return learned(training)


def learned(training: Training) -> Finding:
    """The same from what a table told."""
    try:
        forecaster = fit(training)
    except MissingExtraError as error:
        return Refused(str(error))
    expected = forecaster.at_start()
    return {row.target: _finding(row, expected) for row in forecaster.evaluation}


def read(text: bytes) -> Finding:
    """A finding that was written as JSON."""
    told = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    if "refused" in told:
        return msgspec.json.decode(text, type=Refused)
    found: dict[str, TargetFinding | NextToolFinding] = {
        name: msgspec.json.decode(one, type=TargetFinding) for name, one in told.items() if name != NEXT_TOOL
    }
    return {**found, NEXT_TOOL: msgspec.json.decode(told[NEXT_TOOL], type=NextToolFinding)}


def _finding(row: EvaluationRow, expected: Forecast) -> TargetFinding | NextToolFinding:
    measured = (row.model, row.error, row.baseline_error, row.coverage, row.n)
    figure = getattr(expected, row.target)
    if isinstance(figure, Quantiles):
        return TargetFinding(figure.low, figure.median, figure.high, *measured)
    likeliest = sorted(figure.items(), key=lambda item: (-item[1], item[0] or ""))
    return NextToolFinding([ToolShare(tool, share) for tool, share in likeliest], *measured)
