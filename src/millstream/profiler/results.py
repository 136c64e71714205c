"""Small results that several analyses, renderers and the evaluation share. Needs no extra."""

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


class ScoreSummary(msgspec.Struct, frozen=True):
    """One evaluator over all items; `low` and `high` are the interval of the average."""

    name: str
    average: float | None
    n: int
    missing: int = 0
    failed: int = 0
    low: float | None = None
    high: float | None = None


class ItemSummary(msgspec.Struct, frozen=True):
    """One item of an evaluation, with the trace of its run."""

    id: str
    rep: int
    trace_id: str | None
    question: str
    expected: str | None
    answer: str | None
    error: str | None = None
    scores: dict[str, float | None] = {}
    calls: str = ""
    """Its model calls, tokens, cost and time, in words."""
    judges: str = ""
    """The same of the evaluators that were asked about it."""


class EvaluationSummary(msgspec.Struct, frozen=True):
    """What an evaluation found, for the report."""

    title: str
    scores: list[ScoreSummary] = []
    items: list[ItemSummary] = []
