"""The items of an evaluation in the report: a table with the worst first, and what is told of each."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from markupsafe import Markup

from millstream.profiler.cost import price_table, request_costs
from millstream.profiler.engine import Profile
from millstream.profiler.renderers.embed import script_safe
from millstream.profiler.renderers.files import shortened
from millstream.profiler.results import EvaluationSummary, Failure, ItemSummary, ScoreSummary, Value
from millstream.profiler.units import number

MAX_ITEMS: Final = 2000
TEXT_BUDGET: Final = 6_000_000
"""Characters of all questions, answers and reasons in the page."""
_LENGTHS: Final = (50_000, 20_000, 8000, 4000, 2000, 1000, 400)
"""How long one text may be; the first with which the budget is kept."""
_CUT: Final = " … [cut in this report]"


class _Column(NamedTuple):
    """One value of one evaluator; `key` is empty where it has one value only."""

    evaluator: str
    key: str
    lower_is_better: bool
    is_number: bool

    @property
    def name(self) -> str:
        return f"{self.evaluator}.{self.key}" if self.key else self.evaluator

    def of(self, item: ItemSummary) -> Value | None:
        """What it is of an item; a failed item has 0 in every number, and is in no category."""
        score = item.scores.get(self.evaluator)
        if isinstance(score, dict):
            return score.get(self.key)
        return "" if not self.is_number and item.error is not None and score == 0 else score


class _Row(NamedTuple):
    """One line of the table."""

    item: ItemSummary
    rank: int
    cells: list[str | None]
    state: str


def items_panel(
    profile: Profile, evaluation: EvaluationSummary | None, embedded: Collection[str]
) -> dict[str, Any]:
    """What the templates show of the items.

    Args:
        profile: for tokens and costs.
        evaluation: its items.
        embedded: traces whose timeline is in the page.
    """
    items = evaluation.items if evaluation else []
    order = (evaluation.worst_first if evaluation else None) or range(len(items))
    shown = [items[place] for place in order[:MAX_ITEMS]]
    columns = _columns(shown, evaluation.scores if evaluation else [])
    rows = [_row(item, rank, columns) for rank, item in enumerate(shown, 1)]
    texts = _cut_to_fit(shown)
    return {
        "item_rows": rows,
        "item_columns": columns,
        "items_note": _note(len(items), evaluation.failed if evaluation else 0, len(shown), texts.cut),
        "several_reps": any(item.rep != shown[0].rep for item in shown),
        "embedded": embedded,
        "item_data": Markup(script_safe(_data(profile, rows, columns, texts.limit))),  # noqa: S704  # escaped there
    }


def _columns(items: Sequence[ItemSummary], scores: Sequence[ScoreSummary]) -> list[_Column]:
    """Evaluators in their order; the values of each in the order of the first item that has them."""
    lower = {score.name: score.lower_is_better for score in scores}
    found: dict[tuple[str, str], None] = {}
    for evaluator in dict.fromkeys(name for item in items for name in item.scores):
        given = [item.scores.get(evaluator) for item in items]
        keys = dict.fromkeys(key for score in given if isinstance(score, dict) for key in score)
        found.update(dict.fromkeys((evaluator, key) for key in keys or [""]))
    columns = [_Column(evaluator, key, lower_is_better=False, is_number=True) for evaluator, key in found]
    return [
        column._replace(
            is_number=not any(isinstance(column.of(item), str) for item in items),
            lower_is_better=lower.get(column.name, False),
        )
        for column in columns
    ]


def _row(item: ItemSummary, rank: int, columns: Iterable[_Column]) -> _Row:
    values = [column.of(item) for column in columns]
    state = (
        "failed" if item.error is not None else "missing" if any(value is None for value in values) else ""
    )
    return _Row(item, rank, [None if value is None else _shown(value) for value in values], state)


def _shown(value: Value) -> str:
    return shortened(value) if isinstance(value, str) else number(value)


class _Texts(NamedTuple):
    """The most characters of a text, and how many texts are longer."""

    limit: int
    cut: int


def _cut_to_fit(items: Iterable[ItemSummary]) -> _Texts:
    texts = [
        text
        for item in items
        for text in (item.question, item.expected, item.answer, item.error, *item.reasons.values())
        if text
    ]
    lengths = np.array([len(text) for text in texts], np.int64)
    fits = (limit for limit in _LENGTHS if int(np.minimum(lengths, limit).sum()) <= TEXT_BUDGET)
    limit = next(fits, _LENGTHS[-1])
    return _Texts(limit, int((lengths > limit).sum()))


def _data(profile: Profile, rows: Sequence[_Row], columns: Sequence[_Column], limit: int) -> dict[str, Any]:
    """What the page's script knows of the items, in the order of the table."""
    costs = _costs(profile)

    def text(value: str | None) -> str | None:
        return value if value is None or len(value) <= limit else value[:limit] + _CUT

    return {
        "columns": [
            {"name": column.name, "number": column.is_number, "lower": column.lower_is_better}
            for column in columns
        ],
        "currency": costs.currency,
        "items": [
            {
                "id": shortened(row.item.id),
                "rep": row.item.rep,
                "trace": row.item.trace_id,
                "state": row.state,
                "question": text(row.item.question),
                "expected": text(row.item.expected),
                "answer": text(row.item.answer),
                "error": text(row.item.error),
                "scores": [column.of(row.item) for column in columns],
                "reasons": [
                    [name, [column.name for column in columns if column.evaluator == name], text(reason)]
                    for name, reason in row.item.reasons.items()
                ],
                "runtime_s": row.item.runtime_s,
                "calls": row.item.calls,
                "judges": row.item.judges,
                "cost": costs.of_trace.get(row.item.trace_id or ""),
            }
            for row in rows
        ],
    }


class _Costs(NamedTuple):
    """What each request cost, where all its calls have a price."""

    currency: str
    of_trace: Mapping[str, float]


def _costs(profile: Profile) -> _Costs:
    if isinstance(profile.cost, Failure) or not profile.cost.priced:
        return _Costs("", {})
    table = profile.table
    found = request_costs(table, price_table(profile.config.prices))
    known = np.flatnonzero(~np.isnan(found)).tolist()
    return _Costs(profile.cost.currency, {table.trace_ids[one]: float(found[one]) for one in known})


def _note(items: int, failed: int, shown: int, cut_texts: int) -> str:
    note = f"{items:,} items, {failed:,} failed; those with which most went wrong come first."
    if shown < items:
        note += f" The {shown:,} worst are here; the scores of all are in the files beside this page."
    if cut_texts:
        note += f" {cut_texts:,} long texts are cut here and marked so."
    return note
