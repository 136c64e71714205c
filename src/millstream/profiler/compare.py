"""How do two runs over the same items differ? Paired by item, repetitions of one item averaged first."""

import math
from collections.abc import Iterable

import msgspec
import numpy as np

from millstream.profiler.estimate import LEVEL, Floats
from millstream.profiler.paired import Difference, difference

LATENCY = "latency_s"
COST = "cost"
MEASURED = (LATENCY, "input_tokens", "output_tokens", COST)
"""The metrics that every run has, beside those of its evaluators."""

_Key = tuple[str, str | None]


class RunItem(msgspec.Struct, frozen=True):
    """One item of a run, once; a repetition is another.

    Attributes:
        id: of the dataset's row.
        input: what was asked, as text; `None` where the run does not say.
        failed: whether the item failed.
        values: by metric; `None` and absent are unknown.
        categories: by metric whose values are categories; `None` is in none of them, absent is unknown.
    """

    id: str
    input: str | None
    failed: bool
    values: dict[str, float | None]
    categories: dict[str, str | None] = {}


class Run(msgspec.Struct, frozen=True):
    """What is known of one run.

    Attributes:
        items: in any order.
        evaluators: names of the metrics that evaluators gave.
        shares: those of them that score answers, more being better.
        notes: what could not be read, in sentences.
    """

    items: list[RunItem]
    evaluators: list[str] = []
    shares: list[str] = []
    notes: list[str] = []


class Pairing(msgspec.Struct, frozen=True):
    """Which items are compared. A repetition is no item of its own.

    Attributes:
        both: items in both runs, by id and input.
        only_a: items in the first run alone.
        only_b: items in the second run alone.
        other_input: ids of both runs with another input in each; counted in the two above, too.
        by_input: whether the inputs are known; else the id alone makes a pair.
        results_a: results of the paired items in the first run, repetitions counted.
        results_b: likewise in the second.
        failed_a: those that failed.
        failed_b: likewise.
    """

    both: int
    only_a: int
    only_b: int
    other_input: int
    by_input: bool
    results_a: int
    results_b: int
    failed_a: int
    failed_b: int


class Comparison(msgspec.Struct, frozen=True):
    """The second run against the first.

    Attributes:
        level: the confidence of all intervals.
        items: which items were paired.
        metrics: `MEASURED`, then the evaluators of either run.
        shares: the metrics that score answers from 0 to 1, more being better.
    """

    level: float
    items: Pairing
    metrics: dict[str, Difference]
    shares: list[str]


def compare(first: Run, second: Run, level: float = LEVEL) -> Comparison:
    """Compare two runs over the items that both have.

    Args:
        first: the run that the differences are taken from.
        second: the other.
        level: the confidence.
    """
    first, second = _with_shares(first, second)
    by_input = all(item.input is not None for run in (first, second) for item in run.items)
    groups_a, groups_b = (_groups(run.items, by_input=by_input) for run in (first, second))
    pairs = [(groups_a[key], groups_b[key]) for key in groups_a if key in groups_b]
    alone_a, alone_b = groups_a.keys() - groups_b.keys(), groups_b.keys() - groups_a.keys()
    results_a = [item for of_item, _ in pairs for item in of_item]
    results_b = [item for _, of_item in pairs for item in of_item]
    names = dict.fromkeys((*MEASURED, *first.evaluators, *second.evaluators))
    columns = {name: _columns(name, pairs) for name in names}
    shares = [
        name for name in names if name in first.shares and name in second.shares and _bounded(columns[name])
    ]
    return Comparison(
        level=level,
        items=Pairing(
            both=len(pairs),
            only_a=len(alone_a),
            only_b=len(alone_b),
            other_input=len({key[0] for key in alone_a} & {key[0] for key in alone_b}),
            by_input=by_input,
            results_a=len(results_a),
            results_b=len(results_b),
            failed_a=sum(item.failed for item in results_a),
            failed_b=sum(item.failed for item in results_b),
        ),
        metrics={
            name: difference(a, b, shares=name in shares, level=level) for name, (a, b) in columns.items()
        },
        shares=shares,
    )


def _with_shares(*runs: Run) -> list[Run]:
    """The runs with a metric for each category that one of them has: 1 for the items in it, else 0."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for item in run.items:
            for metric, category in item.categories.items():
                found.setdefault(metric, set()).update([] if category is None else [category])

    def named(names: list[str]) -> list[str]:
        return [
            share
            for name in names
            for share in ([f"{name}.{one}" for one in sorted(found[name])] if name in found else [name])
        ]

    def told_apart(item: RunItem) -> RunItem:
        shares: dict[str, float | None] = {
            f"{metric}.{one}": float(one == category)
            for metric, category in item.categories.items()
            for one in found[metric]
        }
        return msgspec.structs.replace(item, values=item.values | shares, categories={})

    return [
        msgspec.structs.replace(
            run,
            items=[told_apart(item) for item in run.items],
            evaluators=named(run.evaluators),
            shares=named(run.shares),
        )
        for run in runs
    ]


def _groups(items: Iterable[RunItem], *, by_input: bool) -> dict[_Key, list[RunItem]]:
    """The results of each item."""
    groups: dict[_Key, list[RunItem]] = {}
    for item in items:
        groups.setdefault((item.id, item.input if by_input else None), []).append(item)
    return groups


def _columns(name: str, pairs: Iterable[tuple[list[RunItem], list[RunItem]]]) -> tuple[Floats, Floats]:
    """The values of the items that have one in both runs."""
    values = [
        (value_a, value_b)
        for of_a, of_b in pairs
        if (value_a := _mean(name, of_a)) is not None and (value_b := _mean(name, of_b)) is not None
    ]
    columns = np.array(values, np.float64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


def _bounded(columns: tuple[Floats, Floats]) -> bool:
    both = np.concatenate(columns)
    return len(both) > 0 and bool(np.all((both >= 0) & (both <= 1)))


def _mean(name: str, results: Iterable[RunItem]) -> float | None:
    """Over the results of one item that know the value."""
    known = [
        value for item in results if (value := item.values.get(name)) is not None and math.isfinite(value)
    ]
    return math.fsum(known) / len(known) if known else None
