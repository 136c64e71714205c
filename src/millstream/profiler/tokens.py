"""What do the models use? Calls, tokens and latency of each model."""

import msgspec
import numpy as np

from millstream.profiler import estimate
from millstream.profiler.groups import of_models
from millstream.profiler.results import Statistic
from millstream.span import Status
from millstream.store.table import STATUS_CODE, Ints, SpanTable

_ERROR = STATUS_CODE[Status.ERROR.value]


class ModelRow(msgspec.Struct, frozen=True):
    """The LLM calls of one model. Token counts are sums of what is known, null when no call knows.

    Calls that were answered from the cache of an evaluation have tokens, and are in no figure of time.

    Attributes:
        name: `gen_ai.request.model`, else the model that answered, else the span's name.
        calls: all calls, failed and open ones included.
        calls_with_usage: calls that know their input or output tokens.
        latency_p50: seconds, of calls that ended.
        latency_p95: likewise.
        time_to_first_chunk_p50: seconds, of calls that streamed.
        output_tokens_per_s: output tokens of calls that ended / their total duration.
        cached: calls that were answered from the cache of an evaluation.
    """

    name: str
    calls: int
    errors: int
    open: int
    calls_with_usage: int
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    reasoning_tokens: int | None
    total_s: float
    latency_p50: Statistic
    latency_p95: Statistic
    time_to_first_chunk_p50: Statistic
    output_tokens_per_s: float | None
    cached: int = 0


def tokens(table: SpanTable) -> list[ModelRow]:
    """One row a model, the one with the most calls first."""
    rows = [_model(table, name, members) for name, members in of_models(table)]
    return sorted(rows, key=lambda row: (-row.calls, row.name))


def known_sum(column: Ints) -> int | None:
    """Sum of the known values (-1 is unknown); None when none is known."""
    known = column >= 0
    return int(column.sum(where=known)) if known.any() else None


def _model(table: SpanTable, name: str, rows: Ints) -> ModelRow:
    end_ns, came_in, output = table.end_ns[rows], table.input_tokens[rows], table.output_tokens[rows]
    closed, cached = end_ns >= 0, table.cached[rows]
    timed = closed & ~cached
    duration_ns = end_ns - table.start_ns[rows]
    ordered_ns = duration_ns[timed]
    ordered_ns.sort()
    ordered_s = ordered_ns / estimate.NS_PER_S
    generated = timed & (output >= 0)
    generating_s = float(duration_ns[generated].sum()) / estimate.NS_PER_S
    first_chunk_s = table.time_to_first_chunk_s[rows][~cached]
    return ModelRow(
        name=name,
        calls=len(rows),
        errors=int((table.status[rows] == _ERROR).sum()),
        open=int((~closed).sum()),
        calls_with_usage=int(((came_in >= 0) | (output >= 0)).sum()),
        input_tokens=known_sum(came_in),
        output_tokens=known_sum(output),
        cache_read_tokens=known_sum(table.cache_read_tokens[rows]),
        reasoning_tokens=known_sum(table.reasoning_tokens[rows]),
        total_s=float(ordered_s.sum()),
        latency_p50=estimate.quantile(ordered_s, 0.50),
        latency_p95=estimate.quantile(ordered_s, 0.95),
        time_to_first_chunk_p50=estimate.quantile(np.sort(first_chunk_s[~np.isnan(first_chunk_s)]), 0.50),
        output_tokens_per_s=float(output[generated].sum()) / generating_s if generating_s else None,
        cached=int(cached.sum()),
    )
