"""The figures of an evaluator over all items or some of them: averages, and shares of categories."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from millstream.evaluation.statistics import Interval, interval_of, note_on
from millstream.evaluation.values import Column


class Figure(msgspec.Struct, frozen=True):
    """One of the figures of an evaluator.

    Attributes:
        key: its name; empty for the one number of an evaluator. The name of a value, a category, or
            `VALUE.CATEGORY`.
        average: the mean, or the share of the category; `None` where nothing is known.
        n: how many scores it is of.
        missing: how many have no value.
        interval: of the average; `None` with fewer than 2 items.
        note: what the interval cannot say, in words.
        count: how many scores are in the category; `None` for a number.
    """

    key: str
    average: float | None
    n: int
    missing: int
    interval: Interval | None
    note: str | None = None
    count: int | None = None


def figures_of(
    columns: Sequence[Column],
    items: NDArray[np.int64],
    members: NDArray[np.int64] | None = None,
    *,
    shares: bool,
    level: float,
) -> list[Figure]:
    """The figure of each column.

    Args:
        columns: of one evaluator.
        items: the number of the item that each score is of.
        members: the rows that count; all by default.
        shares: whether scores from 0 to 1 are shares.
        level: the confidence of the intervals.
    """
    found = []
    for column in columns:
        values, of_item = (
            (column.values, items) if members is None else (column.values[members], items[members])
        )
        known = ~np.isnan(values)
        values, of_item = values[known], of_item[known]
        n = len(values)
        as_share = shares or column.category
        interval = interval_of(values, of_item, shares=as_share, level=level) if n else None
        found.append(
            Figure(
                key=column.key,
                average=float(values.mean()) if n else None,
                n=n,
                missing=int((~known).sum()),
                interval=interval,
                note=note_on(of_item, interval),
                count=int(values.sum()) if column.category else None,
            )
        )
    return found


def item_numbers(ids: Sequence[str]) -> NDArray[np.int64]:
    """The number of each item, the same for its repetitions."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(one, len(numbers)) for one in ids], np.int64)
