"""Parts of a dataset: the items that have the same value in a field."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from millstream.errors import ConfigError, nearest
from millstream.evaluation.figures import Figure

ALL: Final = "all"
"""Instead of a field: every field with few values."""
FEW_VALUES: Final = 20
MAX_VALUES: Final = 50
"""Values of one field that are looked at: the most frequent ones."""
_LONGEST: Final = 100
_NO_VALUE: Final = "(none)"

Row = Mapping[str, Any]


class Slice(NamedTuple):
    """The results whose item has this value; `members` are their numbers."""

    field: str
    value: str
    members: NDArray[np.int64]


class Slices(NamedTuple):
    """What was looked at, and what else there is to say."""

    slices: list[Slice]
    notes: list[str]


class SliceFigures(msgspec.Struct, frozen=True):
    """One evaluator over a part of the dataset.

    Attributes:
        field: the column.
        value: its value, as text.
        items: finished items with it, repetitions counted.
        failed: those that failed.
        figures: as of the whole dataset, in the same order.
    """

    field: str
    value: str
    items: int
    failed: int
    figures: list[Figure]


def check_fields(fields: Iterable[str], rows: Iterable[Row]) -> None:
    """Check that the dataset has the fields that are to be sliced by.

    Raises:
        ConfigError: one of them is no column of it.
    """
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
    for field in fields:
        if field not in columns and field != ALL:
            raise ConfigError(
                f"eval.general.slices: the dataset has no field {field!r}{nearest(field, columns)}; "
                f"{ALL!r} takes every field with at most {FEW_VALUES} values"
            )


def slices_of(fields: Sequence[str], rows: Sequence[Row]) -> Slices:
    """The slices of finished items.

    Args:
        fields: columns of the dataset, or `all`.
        rows: of the dataset, one a result.
    """
    found: list[Slice] = []
    notes = []
    for field in _wanted(fields, rows):
        members: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            members.setdefault(_text(row.get(field)), []).append(number)
        by_size = sorted(members.items(), key=lambda pair: (-len(pair[1]), pair[0]))
        found += [Slice(field, value, np.array(numbers, np.int64)) for value, numbers in by_size[:MAX_VALUES]]
        if len(by_size) > MAX_VALUES:
            notes.append(
                f"{field} has {len(by_size):,} values; the {MAX_VALUES} with the most items were looked at."
            )
    return Slices(found, notes)


def slices_note(slices: Slices, level: float) -> str | None:
    """How many slices were looked at, and what chance does to so many; `None` without any."""
    n = len(slices.slices)
    if n == 0:
        return None
    told = f"{n} {'slice was' if n == 1 else 'slices were'} looked at."
    if n > 1:
        told += (
            f" Of so many intervals of one figure, at {100 * level:g} %, about {n * (1 - level):.2g} miss by "
            "chance alone."
        )
    return " ".join([told, *slices.notes])


def _wanted(fields: Sequence[str], rows: Sequence[Row]) -> list[str]:
    if ALL not in fields or any(ALL in row for row in rows):
        return list(dict.fromkeys(fields))
    columns = dict.fromkeys(name for row in rows for name in row)
    return list(
        dict.fromkeys([*(one for one in fields if one != ALL), *(one for one in columns if _few(one, rows))])
    )


def _few(field: str, rows: Sequence[Row]) -> bool:
    """Whether a field has a few values, at most 20, and on average two items or more of each."""
    values: set[str] = set()
    for row in rows:
        value = row.get(field)
        if isinstance(value, dict | list):
            return False
        values.add(_text(value))
        if len(values) > FEW_VALUES:
            return False
    return 1 < len(values) <= len(rows) / 2


def _text(value: Any) -> str:
    if value is None or value == "":
        return _NO_VALUE
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
