"""What the report's page shows of each analysis, ready for its templates."""

from typing import Any, Final

import numpy as np
from markupsafe import Markup

from millstream.profiler.cache_opportunity import CacheOpportunity
from millstream.profiler.engine import LEAST_SHARE, Profile
from millstream.profiler.estimate import NS_PER_S, Floats
from millstream.profiler.groups import groups
from millstream.profiler.latency import LatencyRow
from millstream.profiler.prefixes import ModelPrefixes
from millstream.profiler.renderers import sentences, svg
from millstream.profiler.renderers.files import shortened
from millstream.profiler.renderers.prefix_tree import LEAST_TEXT, Start, prefix_tree
from millstream.profiler.results import Failure
from millstream.store.prompt_blocks import BLOCK_BYTES
from millstream.store.table import SpanTable

MAX_MODELS: Final = 8
"""Models of which a prefix tree and a cache are shown: those with the most calls."""
_LONGEST_AXIS: Final = 1e6
"""The axis of the latency plots reaches down to this part of its upper end."""


def panels(profile: Profile) -> dict[str, Any]:
    """Errors, cost, prefixes, caches, sequences and the forecast, and what is said of each in words."""
    found = profile.retries
    shown = [] if isinstance(found, Failure) else found
    cost = profile.cost
    starts = profile.prompt_starts
    caches = profile.cache
    return {
        "retries": found,
        "failing": [row for row in shown if row.errors or row.retries or row.retries_unknown],
        "cost": cost,
        "cost_said": sentences.costs(profile),
        "model_costs": {} if isinstance(cost, Failure) else {one.name: one for one in cost.models},
        "starts": starts,
        "least_share": LEAST_SHARE,
        "least_text": LEAST_TEXT,
        "trees": [] if starts is None or isinstance(starts, Failure) else _trees(starts),
        "cache": caches,
        "cache_models": []
        if caches is None or isinstance(caches, Failure)
        else [_cache(row) for row in caches[:MAX_MODELS]],
        "more_models": max(len(profile.table.models) - MAX_MODELS, 0),
        "reasons": sentences.WORDS,
        "patterns": profile.patterns,
        "uniqueness": profile.token_uniqueness,
        "forecast": profile.forecast,
        "targets": {"remaining_llm_calls": "LLM calls", "remaining_tokens": "Tokens", "remaining_s": "Time"},
    }


def latency_plots(table: SpanTable, rows: list[LatencyRow]) -> dict[str, Any]:
    """A plot for each row on one logarithmic axis, and the axis."""
    wanted = {(row.kind, row.name) for row in rows}
    lasted_s: dict[tuple[str, str], Floats] = {
        (kind, name): table.duration_ns[members] / NS_PER_S
        for kind, name, members in groups(table, table.closed & ~table.cached)
        if (kind, name) in wanted
    }
    longer = [values[values > 0] for values in lasted_s.values() if (values > 0).any()]
    high = max((float(values.max()) for values in longer), default=0.0)
    low = max(min((float(values.min()) for values in longer), default=0.0), high / _LONGEST_AXIS)
    plots: dict[tuple[str, str], Markup] = {}
    for row in rows:
        marks = [at.value for at in (row.p50, row.p95, row.p99) if at.value is not None]
        told = ", ".join(
            f"{name} {svg.seconds(value)}" for name, value in zip(("p50", "p95", "p99"), marks, strict=False)
        )
        label = (
            f"Latencies of {row.n:,} calls of {row.kind} {shortened(row.name)} on a logarithmic axis: {told}"
        )
        values = lasted_s.get((row.kind, row.name), np.zeros(0))
        plots[row.kind, row.name] = svg.distribution(values, low, high, marks, label)
    return {"plots": plots, "plot_axis": svg.log_axis(low, high), "axis_low": low, "axis_high": high}


def _trees(starts: dict[str, ModelPrefixes]) -> list[tuple[str, ModelPrefixes, list[Start]]]:
    """Model, its figures and its tree, the one with the most calls first."""
    by_calls = sorted(starts.items(), key=lambda item: (-item[1].total_calls, item[0]))
    return [(model, found, prefix_tree(found)) for model, found in by_calls[:MAX_MODELS]]


def _cache(row: CacheOpportunity) -> dict[str, Any]:
    sizes = f"1 to {row.different_blocks:,} blocks of {BLOCK_BYTES} bytes"
    label = f"Hit ratio of caches of {sizes} of {shortened(row.model)}"
    points = [(float(point.blocks), point.hit_ratio) for point in row.curve]
    return {
        "row": row,
        "said": sentences.cached(row),
        "curve": svg.curve(points, label, _size(1), _size(row.different_blocks))
        if row.unbounded is not None
        else Markup(""),
        "points": [(_size(point.blocks), point.hit_ratio) for point in row.curve],
        "unread": sum(one.tokens for one in row.not_read.values()),
    }


def _size(blocks: int) -> str:
    """How much text so many blocks are."""
    size = blocks * BLOCK_BYTES
    for limit, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= limit:
            return f"{size / limit:.3g} {unit}"
    return f"{size} bytes"
