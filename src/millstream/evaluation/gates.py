"""`--fail-under METRIC=X` and `METRIC.KEY=X`: bounds that a run must keep."""

import math
from collections.abc import Collection, Sequence

import msgspec

from millstream.errors import ConfigError, nearest
from millstream.evaluation.figures import Figure
from millstream.evaluation.summary import EvalSummary, MetricSummary


class Gate(msgspec.Struct, frozen=True):
    """A bound for an average: the least, or, where lower is better, the most it may be.

    Attributes:
        metric: the evaluator.
        bound: for the average.
        key: which of several values or categories; empty for the one number of an evaluator.
    """

    metric: str
    bound: float
    key: str = ""

    @property
    def name(self) -> str:
        """As it was written."""
        return f"{self.metric}.{self.key}" if self.key else self.metric


def parse_gate(text: str, metrics: Collection[str]) -> Gate:
    """One gate as it is written on the command line.

    Args:
        text: `METRIC=X`, or `METRIC.KEY=X` for one of several values or a category.
        metrics: names of the configured evaluators.

    Raises:
        ConfigError: it is not of this form, or no evaluator has this name.
    """
    name, equals, number = text.rpartition("=")
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not equals or not math.isfinite(bound):
        raise ConfigError(f"--fail-under {text}: write METRIC=NUMBER, such as accuracy=0.9")
    if name in metrics:
        return Gate(name, bound)
    starts = [metric for metric in metrics if name.startswith(f"{metric}.") and name != f"{metric}."]
    if not starts:
        raise ConfigError(f"--fail-under {text}: no evaluator is called {name!r}{nearest(name, metrics)}")
    metric = max(starts, key=len)
    return Gate(metric, bound, name.removeprefix(f"{metric}."))


def broken_gates(gates: Sequence[Gate], summary: EvalSummary) -> list[str]:
    """A sentence for every gate that the averages do not keep; an evaluator without any score keeps none."""
    broken = (_broken(gate, summary.metric(gate.metric)) for gate in gates)
    return [sentence for sentence in broken if sentence is not None]


def _broken(gate: Gate, metric: MetricSummary) -> str | None:
    figures = metric.all_figures
    figure = next((one for one in figures if one.key == gate.key), None)
    if figure is None:
        if not any(one.n > metric.failed for one in figures):
            return f"{gate.name} has no score; {gate.bound:g} was asked for"
        return _not_there(gate, metric, figures)
    if figure.average is None:
        return f"{gate.name} has no score; {gate.bound:g} was asked for"
    if metric.lower_is_better and figure.average > gate.bound:
        return f"{gate.name} is {figure.average:.6g}, above {gate.bound:g} (lower is better)"
    if not metric.lower_is_better and figure.average < gate.bound:
        return f"{gate.name} is {figure.average:.6g}, under {gate.bound:g}"
    return None


def _not_there(gate: Gate, metric: MetricSummary, figures: Sequence[Figure]) -> str:
    keys = [f"{metric.name}.{one.key}" for one in figures if one.key]
    if not keys:
        return f"{gate.name} is not there: {metric.name} gives one number; write {metric.name}={gate.bound:g}"
    if not gate.key:
        return f"{gate.name} has no average of its own; write one of {', '.join(keys)}"
    return f"{gate.name} is not there{nearest(gate.name, keys)}"
