"""`--fail-under METRIC=X`: bounds that a run must keep."""

import math
from collections.abc import Collection, Sequence

import msgspec

from millstream.errors import ConfigError, nearest
from millstream.evaluation.summary import EvalSummary


class Gate(msgspec.Struct, frozen=True):
    """A bound for the average of an evaluator: the least, or, where lower is better, the most it may be."""

    metric: str
    bound: float


def parse_gate(text: str, metrics: Collection[str]) -> Gate:
    """One gate as it is written on the command line.

    Args:
        text: `METRIC=X`.
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
    if name not in metrics:
        raise ConfigError(f"--fail-under {text}: no evaluator is called {name!r}{nearest(name, metrics)}")
    return Gate(name, bound)


def broken_gates(gates: Sequence[Gate], summary: EvalSummary) -> list[str]:
    """A sentence for every gate that the averages do not keep; an evaluator without any score keeps none."""
    broken = []
    for gate in gates:
        metric = summary.metric(gate.metric)
        if metric.average is None:
            broken.append(f"{gate.metric} has no score; {gate.bound:g} was asked for")
        elif metric.lower_is_better and metric.average > gate.bound:
            broken.append(f"{gate.metric} is {metric.average:.6g}, above {gate.bound:g} (lower is better)")
        elif not metric.lower_is_better and metric.average < gate.bound:
            broken.append(f"{gate.metric} is {metric.average:.6g}, under {gate.bound:g}")
    return broken
