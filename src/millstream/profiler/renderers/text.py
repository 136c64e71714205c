"""`workflow_profiling_report.txt`: a summary, then bottlenecks, call trees and concurrency if asked for."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from millstream.profiler.bottlenecks import NestedStack, SimpleOperation
from millstream.profiler.concurrency import Concurrency, Spike
from millstream.profiler.engine import Profile
from millstream.profiler.estimate import NS_PER_S
from millstream.profiler.renderers.files import replacing
from millstream.profiler.renderers.sentences import plain, sentences
from millstream.profiler.requests import requests
from millstream.profiler.results import Failure
from millstream.profiler.tree import self_time_ns, tree_order
from millstream.profiler.units import duration
from millstream.store.table import KINDS, Ints, SpanTable

T = TypeVar("T")
MAX_SUMMARY_ROWS = 15
MAX_TREES = 20
MAX_SPIKES = 50
MAX_TREE_ROWS = 500
_MAX_INDENT = 40
_KEYS = "eval.general.profiler"


def write(profile: Profile, path: Path) -> None:
    """Write the file."""
    with replacing(path) as file:
        for section in sections(profile):
            file.write(f"\n\n\n{section}".encode(errors="backslashreplace"))
        file.write(b"\n")


def sections(profile: Profile) -> Iterator[str]:
    """The summary, and the sections that are switched on."""
    spikes = profile.config.concurrency_spike_analysis.enable
    yield "\n".join(["=== Summary ===", *map(plain, _summary(profile))])
    if profile.simple_stack is not None:
        yield _section("---- BOTTLENECK REPORT ----", profile.simple_stack, _simple)
    if profile.nested_stack is not None:
        heading = "=== Multi-Example Nested Call Profiling Report ==="
        yield _section(heading, profile.nested_stack, lambda found: [*_nested(found), *_trees(profile.table)])
    if spikes:
        yield _section(
            "=== Concurrency Spike Analysis ===",
            profile.concurrency,
            lambda found: [*_concurrency(found), *_spikes(profile.spikes), *_latency_by_level(found)],
        )


def _summary(profile: Profile) -> Iterator[str]:
    counts = profile.requests
    if not isinstance(counts, Failure):
        yield (
            f"{counts.n} requests, {counts.failed} failed, {counts.cancelled} cancelled, "
            f"{counts.unfinished} unfinished; {len(profile.table)} spans"
        )
    yield from (f"The analysis {name} failed: {error}" for name, error in profile.failures.items())
    latency = [] if isinstance(profile.latency, Failure) else profile.latency
    yield from _listed(
        "Latency, the largest total time first:",
        [
            f"{row.kind} {row.name}: {row.n} calls, {row.errors} failed, mean {duration(row.mean.value)}, "
            f"p50 {duration(row.p50.value)}, p95 {duration(row.p95.value)}, p99 {duration(row.p99.value)}"
            for row in latency
        ],
    )
    models = [] if isinstance(profile.tokens, Failure) else profile.tokens
    yield from _listed(
        "Tokens:",
        [
            f"{row.name}: {row.calls} calls, {_count(row.input_tokens)} input, "
            f"{_count(row.output_tokens)} output"
            for row in models
        ],
    )
    own = [] if isinstance(profile.self_time, Failure) else profile.self_time
    yield from _listed(
        "Self time:",
        [f"{row.kind} {row.name}: {duration(row.self_s)}, {100 * row.share:.1f} %" for row in own],
    )
    yield from ("", *sentences(profile))
    off = [key for key, on in _switches(profile) if not on]
    if off:
        yield from ("", "More is written here with these keys set to true:", *(f"  {key}" for key in off))


def _switches(profile: Profile) -> Iterator[tuple[str, bool]]:
    bottlenecks = profile.config.bottleneck_analysis
    yield f"{_KEYS}.bottleneck_analysis.enable_simple_stack", bottlenecks.enable_simple_stack
    yield f"{_KEYS}.bottleneck_analysis.enable_nested_stack", bottlenecks.enable_nested_stack
    yield f"{_KEYS}.concurrency_spike_analysis.enable", profile.config.concurrency_spike_analysis.enable


def _listed(title: str, lines: list[str]) -> Iterator[str]:
    if not lines:
        return
    yield from ("", title, *(f"  {line}" for line in lines[:MAX_SUMMARY_ROWS]))
    if len(lines) > MAX_SUMMARY_ROWS:
        yield f"  … and {len(lines) - MAX_SUMMARY_ROWS} more"


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else str(tokens)


def _section(heading: str, found: T | Failure, lines: Callable[[T], Iterable[str]]) -> str:
    body = [f"This analysis failed: {found.error}"] if isinstance(found, Failure) else lines(found)
    return "\n".join([heading, *map(plain, body)])


def _simple(found: dict[str, SimpleOperation]) -> Iterator[str]:
    if not found:
        yield "No LLM or TOOL call has ended."
    for operation in found.values():
        yield (
            f"{operation.operation_type} {operation.operation_name}: {operation.usage_count} calls, "
            f"mean {operation.avg_duration:.3f} s, p95 {operation.p95_duration:.3f} s, "
            f"p99 {operation.p99_duration:.3f} s, at most {operation.max_concurrency} at once, "
            f"score {operation.bottleneck_score:.3f} (mean x at once)"
        )


def _nested(found: NestedStack) -> Iterator[str]:
    levels = found.concurrency
    yield f"Concurrency when busy: p50 {levels.p50}, p90 {levels.p90}, p95 {levels.p95}, p99 {levels.p99}"
    yield ""
    yield "Top bottlenecks by self time:"
    for place, node in enumerate(found.top_bottlenecks, start=1):
        yield (
            f"{place}) {node.operation_type} {node.operation_name} [{node.uuid}]: "
            f"self {node.self_time:.3f} s, duration {node.duration:.3f} s, subtree {node.subtree_time:.3f} s"
        )


def _trees(table: SpanTable) -> Iterator[str]:
    """The call trees of the slowest requests."""
    found = requests(table)
    recorded = np.flatnonzero(found.recorded)
    slowest = recorded[np.argsort(-found.run_time_ns[recorded], kind="stable")][:MAX_TREES].tolist()
    own, bounds = self_time_ns(table), table.bounds()
    which = (
        "every request"
        if len(slowest) == len(recorded)
        else f"the {len(slowest)} slowest of {len(recorded)} requests"
    )
    yield ""
    yield f"Call trees of {which}:"
    for request in slowest:
        yield ""
        yield f"Request {request} (trace {table.trace_ids[request]})"
        yield from _tree(table, own, np.arange(bounds[request], bounds[request + 1]))


def _tree(table: SpanTable, own: Ints, request: Ints) -> Iterator[str]:
    rows = tree_order(table, request)
    for row in rows[:MAX_TREE_ROWS]:
        span = table.spans[row]
        indent = "  " * min(int(table.depth[row]) + 1, _MAX_INDENT)
        if table.end_ns[row] < 0:
            figures = "open"
        else:
            lasted_ns = table.end_ns[row] - table.start_ns[row]
            figures = f"{lasted_ns / NS_PER_S:.3f} s, self {own[row] / NS_PER_S:.3f} s"
        mark = f", {span.status.value}" if span.status is not None and span.status.value != "ok" else ""
        yield f"{indent}{KINDS[table.kind[row]]} {span.name}: {figures}{mark}"
    if len(rows) > MAX_TREE_ROWS:
        yield f"  … and {len(rows) - MAX_TREE_ROWS} more"


def _concurrency(found: Concurrency) -> Iterator[str]:
    yield f"LLM and TOOL calls: {found.n}, at most {found.max} at once, busy {found.busy_s:.3f} s"
    yield (
        f"Concurrency when busy: p50 {found.p50_concurrency}, p90 {found.p90_concurrency}, "
        f"p95 {found.p95_concurrency}, p99 {found.p99_concurrency}"
    )
    yield f"Spikes (threshold {found.spike_threshold}): {found.spikes}"


def _spikes(found: list[Spike] | Failure) -> Iterator[str]:
    if isinstance(found, Failure):
        yield f"  they could not be listed: {found.error}"
        return
    highest = sorted(found, key=lambda spike: (-spike.concurrency, spike.start_time))[:MAX_SPIKES]
    for spike in highest:
        yield (
            f"  {spike.start_time:.3f} to {spike.end_time:.3f} ({spike.end_time - spike.start_time:.3f} s): "
            f"peak {spike.concurrency}, {len(spike.active_uuids)} calls"
        )
    if len(found) > len(highest):
        yield f"  … and {len(found) - len(highest)} lower ones"


def _latency_by_level(found: Concurrency) -> Iterator[str]:
    yield "Mean latency by concurrency at the middle of the call:"
    for level, latency_s in found.average_latency_by_concurrency.items():
        yield f"  {level}: {latency_s:.3f} s"
