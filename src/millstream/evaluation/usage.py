"""What the model calls of the items, and apart from them those of their judges, used: tokens, money, time."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from millstream.errors import ConfigError, MillstreamError
from millstream.evaluation.results import ItemResult
from millstream.evaluation.scoring import ItemScore
from millstream.evaluation.wording import counted
from millstream.profiler.cost import PriceTable, cost_of_call, price_table
from millstream.span import Span, SpanKind
from millstream.store import open_store
from millstream.store.table import is_cached

Number = TypeVar("Number", int, float)


class CallFigures(msgspec.Struct, frozen=True):
    """The model calls of one trace, or of several.

    Attributes:
        llm_calls: how many were recorded; one that was sent again is one.
        cached: how many of them were answered from the cache of an evaluation.
        input_tokens: sum of what is known; `None` when nothing is.
        output_tokens: likewise.
        cost: what was paid for them; `None` where one call has no price, or there is no call. Cached calls
            cost nothing.
        latency_s: seconds from the first start to the last end; of several traces, their sum. `None` when
            nothing ended.
        cost_known: the cost of those that have a price; `None` where none has.
        unpriced: how many have none: the model has no price, or the call did not tell its tokens.
    """

    llm_calls: int = 0
    cached: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    latency_s: float | None = None
    cost_known: float | None = None
    unpriced: int = 0


def call_figures(spans: Sequence[Span], prices: PriceTable) -> CallFigures:
    """The figures of one trace.

    Args:
        spans: of it; a root with an end tells the latency.
        prices: from `price_table`.
    """
    calls = [span for span in spans if span.kind is SpanKind.LLM]
    usages = [call.usage for call in calls if call.usage is not None]
    costs = [cost_of_call(call, prices) for call in calls]
    unpriced = costs.count(None)
    known = _sum(costs)
    return CallFigures(
        llm_calls=len(calls),
        cached=sum(map(is_cached, calls)),
        input_tokens=_sum(usage.input_tokens for usage in usages),
        output_tokens=_sum(usage.output_tokens for usage in usages),
        cost=None if unpriced else known,
        latency_s=_latency_s(spans),
        cost_known=known,
        unpriced=unpriced,
    )


def together(figures: Iterable[CallFigures]) -> CallFigures:
    """The sum of several; a cost that is unknown for one that has calls is unknown for all."""
    each = list(figures)
    unpriced = sum(one.unpriced for one in each)
    known = _sum(one.cost_known for one in each)
    return CallFigures(
        llm_calls=sum(one.llm_calls for one in each),
        cached=sum(one.cached for one in each),
        input_tokens=_sum(one.input_tokens for one in each),
        output_tokens=_sum(one.output_tokens for one in each),
        cost=None if unpriced else known,
        latency_s=_sum(one.latency_s for one in each),
        cost_known=known,
        unpriced=unpriced,
    )


def prices_of(users: Path | Mapping[str, Any] | None, note: Callable[[str], None]) -> PriceTable:
    """The prices for an evaluation; none at all where a package's cannot be read: scores are worth more.

    Args:
        users: the user's own table.
        note: told what is wrong.
    """
    try:
        return price_table(users)
    except ConfigError as error:
        note(f"The costs are unknown: {error}.")
        return PriceTable(currency="USD", date="2000-01-01", models={})


class Usage(msgspec.Struct, frozen=True):
    """What an evaluation used, by trace.

    Attributes:
        currency: of every cost.
        workflow: the figures of each run of an item, of those too that were made again.
        judges: those of each call of an evaluator that asks a model, likewise.
    """

    currency: str
    workflow: Mapping[str, CallFigures]
    judges: Mapping[str, CallFigures]

    def of(self, trace_ids: Iterable[str]) -> CallFigures:
        """The sum over some traces, of items or of judges."""
        found = (self.workflow.get(trace_id) or self.judges.get(trace_id) for trace_id in trace_ids)
        return together(one for one in found if one is not None)


NO_USAGE: Final = Usage("USD", {}, {})


def usage_of(
    results: Sequence[ItemResult],
    scores: Mapping[str, Sequence[ItemScore]],
    spans: Mapping[str, list[Span]],
    home: Path,
    prices: PriceTable,
) -> Usage:
    """What the items and their judges used.

    Args:
        results: the items; the traces of earlier attempts are read here.
        scores: by evaluator; their traces are read here.
        spans: of the items' last runs, by trace.
        home: the folder of recordings.
        prices: from `price_table`.
    """
    judged = {trace_id for of_metric in scores.values() for one in of_metric for trace_id in one.traces}
    earlier: set[str] = set()
    since_ns: int | None = None
    for result in results:
        earlier.update(one.trace_id for one in result.earlier)
        starts = [one.start_ns for one in result.attempts if one.start_ns is not None]
        since_ns = min(starts if since_ns is None else [since_ns, *starts], default=None)
    read = _read(home, judged | earlier, since_ns, prices)
    last = {trace_id: call_figures(of_item, prices) for trace_id, of_item in spans.items()}
    return Usage(
        prices.currency,
        {trace_id: read[trace_id] for trace_id in sorted(earlier) if trace_id in read} | last,
        {trace_id: read[trace_id] for trace_id in sorted(judged) if trace_id in read},
    )


def _read(
    home: Path, trace_ids: set[str], since_ns: int | None, prices: PriceTable
) -> dict[str, CallFigures]:
    """The figures of some traces; what cannot be read back is not there: the items' spans tell why."""
    found: dict[str, list[Span]] = {}
    if trace_ids:
        with contextlib.suppress(MillstreamError, OSError):
            for span in open_store(home).spans(trace_ids=trace_ids, since_ns=since_ns):
                found.setdefault(span.trace_id, []).append(span)
    return {trace_id: call_figures(spans, prices) for trace_id, spans in found.items()}


def _latency_s(spans: Sequence[Span]) -> float | None:
    ends = [span.end_ns for span in spans if span.end_ns is not None]
    return (max(ends) - min(span.start_ns for span in spans)) / 1e9 if ends else None


def _sum(figures: Iterable[Number | None]) -> Number | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known[1:], known[0]) if known else None


def calls_text(figures: CallFigures, currency: str) -> str:
    """What model calls used, in a few words; empty where there was none."""
    if not figures.llm_calls:
        return ""
    parts = [counted(figures.llm_calls, "call")]
    if figures.cached:
        parts.append(f"{figures.cached} cached")
    parts.append(f"{_count(figures.input_tokens)} / {_count(figures.output_tokens)} tokens")
    parts.append(cost_text(figures, currency))
    if figures.latency_s is not None:
        parts.append(f"{figures.latency_s:.3g} s")
    return ", ".join(parts)


def cost_text(figures: CallFigures, currency: str) -> str:
    """What model calls cost, as far as it is known."""
    if figures.cost_known is None:
        return "cost unknown"
    known = f"{figures.cost_known:.4g} {currency}"
    return f"at least {known}, {figures.unpriced} not priced" if figures.unpriced else known


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"
