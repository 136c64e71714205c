"""What an evaluator may say of an item: a number, a category, or several of them by name.

Truth values are the numbers 1 and 0. A column is one figure over all items: the numbers themselves, or, for a
category, whether an item is in it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Value = float | str
Several = dict[str, Value | None]
LONGEST_NAME: Final = 100
"""Characters of a category or of the name of a value."""
MAX_CATEGORIES: Final = 20
"""Categories of one evaluator that have a share of their own: the most frequent ones."""


class Scored(Protocol):
    """What columns are made of."""

    @property
    def score(self) -> Value | Several | None:
        """What the evaluator said."""
        ...

    @property
    def failed(self) -> bool:
        """Whether the item failed."""
        ...


class Column(NamedTuple):
    """One figure over all scores of an evaluator.

    Attributes:
        key: empty for the one number of an evaluator, else the name of the value or the category, or both
            with a dot between them.
        values: aligned with the scores; NaN where there is none.
        category: whether it is a category, with 1 for the items in it and 0 for the others.
    """

    key: str
    values: NDArray[np.float64]
    category: bool


class Columns(NamedTuple):
    """The figures of an evaluator, and how many categories had too few items to have one."""

    columns: list[Column]
    more_categories: int


def read_value(value: Any) -> tuple[Value | Several | None, str | None]:
    """What an evaluator returned as a score, and why it, or a part of it, is none."""
    if not isinstance(value, Mapping):
        return _one(value)
    found: Several = {}
    problems = []
    for name, part in value.items():
        if not (isinstance(name, str) and _is_name(name)):
            return None, f"the evaluator returned a value named {_short(name)}; {_NAMES}"
        found[name], problem = _one(part)
        if problem is not None:
            problems.append(f"{name}: {problem}")
    if all(part is None for part in found.values()):
        return None, "; ".join(problems) or "the evaluator returned no score"
    return found, "; ".join(problems) or None


_NAMES: Final = f"names and categories are one line of at most {LONGEST_NAME} characters"


def _one(value: Any) -> tuple[Value | None, str | None]:
    if hasattr(value, "item") and not isinstance(value, int | float | str):  # a NumPy scalar
        value = value.item()
    if value is None:
        return None, "the evaluator returned no score"
    if isinstance(value, str):
        return (
            (value, None) if _is_name(value) else (None, f"the evaluator returned {_short(value)}; {_NAMES}")
        )
    if not isinstance(value, int | float):
        return None, f"the evaluator returned {_short(value)}, which is neither a number nor a text"
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        return None, f"the evaluator returned {_short(value)}, which is not a finite number"
    return number, None


def _is_name(text: str) -> bool:
    return 0 < len(text) <= LONGEST_NAME and text.isprintable() and not text.isspace()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"  # noqa: PLR2004  # a line


class Part(NamedTuple):
    """What an evaluator says under one name; the name is empty for its one value.

    Attributes:
        name: of the value.
        values: aligned with the scores; `None` where there is none.
        categories: the most frequent first; `None` where the values are numbers.
    """

    name: str
    values: list[Value | None]
    categories: list[str] | None


def parts(scores: Sequence[Scored]) -> list[Part]:
    """The values of one evaluator by name.

    A failed item has the score 0: it is 0 in every number, and in no category, which is the empty text here.

    Args:
        scores: of all items.
    """
    names = _names(scores)
    found = []
    for name in names:
        values = [_part(one, name, alone=names == [""]) for one in scores]
        if any(isinstance(value, str) for value in values):
            values = [
                "" if _is_zero_of_failed(one) else _category(value)
                for one, value in zip(scores, values, strict=True)
            ]
            counts = Counter(value for value in values if value)
            by_count = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
            found.append(Part(name, values, [str(category) for category, _ in by_count]))
        else:
            found.append(Part(name, values, None))
    return found


def columns(scores: Sequence[Scored]) -> Columns:
    """The figures of one evaluator over all its scores; see `parts`."""
    found: list[Column] = []
    more = 0
    for name, values, categories in parts(scores):
        if categories is None:
            numbers = [math.nan if value is None else float(value) for value in values]
            found.append(Column(name, np.array(numbers), category=False))
            continue
        more += max(len(categories) - MAX_CATEGORIES, 0)
        missing = np.array([value is None for value in values])
        for category in categories[:MAX_CATEGORIES]:
            members = np.array([value == category for value in values], np.float64)
            key = f"{name}.{category}" if name else category
            found.append(Column(key, np.where(missing, math.nan, members), category=True))
    return Columns(found, more)


def _names(scores: Iterable[Scored]) -> list[str]:
    """Names of the values in the order of their first item; the one value has none."""
    names: dict[str, None] = {}
    for one in scores:
        if isinstance(one.score, dict):
            names.update(dict.fromkeys(one.score))
        elif one.score is not None and not _is_zero_of_failed(one):
            names[""] = None
    return list(names) or [""]


def _is_zero_of_failed(one: Scored) -> bool:
    return one.failed and one.score == 0


def _part(one: Scored, name: str, *, alone: bool) -> Value | None:
    if isinstance(one.score, dict):
        return one.score.get(name)
    return one.score if alone or name == "" or _is_zero_of_failed(one) else None


def _category(value: Value | None) -> str | None:
    """A number between texts is the category of its digits."""
    return f"{value:g}" if isinstance(value, float) else value
