"""Small results that several analyses, renderers and the evaluation share. Needs no extra."""

from collections.abc import Sequence

import msgspec


class Statistic(msgspec.Struct, frozen=True):
    """A figure with its 95 % interval; an end is null where the data cannot say."""

    value: float | None
    low: float | None
    high: float | None


class Failure(msgspec.Struct, frozen=True):
    """An analysis that raised, in the place of its result."""

    error: str


class Source(msgspec.Struct, frozen=True):
    """Where the spans came from.

    Attributes:
        format: the kind of file or store.
        spans: how many spans were read.
        rejected: lines or rows that could not be read, by reason.
    """

    format: str
    spans: int
    rejected: dict[str, int] = {}


Value = float | str
"""What an evaluator says of an item: a number, or a category."""


class ScoreSummary(msgspec.Struct, frozen=True):
    """One figure of an evaluator over all items; `low` and `high` are the interval of the average.

    Attributes:
        name: of the evaluator, with the name of the value or the category after a dot where it has several.
        average: the mean, or the share of the category; `None` where nothing is known.
        n: scores that it is of.
        missing: how many are missing.
        failed: how many items failed.
        low: the lower end of the interval.
        high: the upper end.
        note: what the interval cannot say.
        unit: of the average.
        category: whether it is the share of a category.
        lower_is_better: for latencies and counts.
        slice: the part of the dataset that it is of, as text; empty for the whole.
    """

    name: str
    average: float | None
    n: int
    missing: int = 0
    failed: int = 0
    low: float | None = None
    high: float | None = None
    note: str | None = None
    unit: str = ""
    category: bool = False
    lower_is_better: bool = False
    slice: str = ""


class ItemSummary(msgspec.Struct, frozen=True):
    """One item of an evaluation, with the trace of its run.

    Attributes:
        id: of the dataset's row.
        rep: which repetition.
        trace_id: of its run; `None` where it was not asked.
        question: what was asked.
        expected: the right answer; `None` where there is none.
        answer: what the workflow answered; `None` when it failed.
        error: why it failed.
        scores: by evaluator; `None` where it is missing.
        reasons: by evaluator, why the score is what it is, or is missing.
        runtime_s: how long it took; `None` where that is not known.
        calls: its model calls, tokens, cost and time, in words; empty where nobody counted them.
        judges: the same of the evaluators that were asked about it.
    """

    id: str
    rep: int
    trace_id: str | None
    question: str
    expected: str | None
    answer: str | None
    error: str | None = None
    scores: dict[str, Value | dict[str, Value | None] | None] = {}
    reasons: dict[str, str] = {}
    runtime_s: float | None = None
    calls: str = ""
    judges: str = ""


class EvaluationSummary(msgspec.Struct, frozen=True):
    """What an evaluation found, for the report.

    Attributes:
        title: of the page.
        scores: every figure of every evaluator.
        items: in the order of the dataset.
        failed: how many items failed.
        worst_first: numbers of the items to show, those with which most went wrong first; empty where nobody
            ranked them.
        slices: the figures over parts of the dataset.
        slices_note: how many parts were looked at.
        level: the confidence of the intervals.
    """

    title: str
    scores: list[ScoreSummary] = []
    items: Sequence[ItemSummary] = []
    failed: int = 0
    worst_first: list[int] = []
    slices: list[ScoreSummary] = []
    slices_note: str | None = None
    level: float = 0.95
