"""Where does the time go? Per operation (simple stack), per call and per name by self time (nested stack)."""

import msgspec
import numpy as np

from millstream.profiler.concurrency import calls
from millstream.profiler.estimate import NS_PER_S
from millstream.profiler.groups import groups
from millstream.profiler.sweep import Levels, sweep, weighted_percentiles
from millstream.profiler.tree import self_time_ns, subtree_time_ns
from millstream.span import SpanKind
from millstream.store.table import KINDS, Floats, Ints, SpanTable

TOP = 5


class SelfTimeRow(msgspec.Struct, frozen=True):
    """Self time of the `n` closed spans of one kind and name, and its share of all self time."""

    kind: str
    name: str
    n: int
    self_s: float
    share: float


class SimpleOperation(msgspec.Struct, frozen=True):
    """LLM or TOOL calls of one name (an LLM's is its model); seconds.

    `bottleneck_score` is the mean duration times the highest number running at once.
    """

    operation_type: str
    operation_name: str
    usage_count: int
    avg_duration: float
    p95_duration: float
    p99_duration: float
    max_concurrency: int
    bottleneck_score: float


class Node(msgspec.Struct, frozen=True, gc=False):
    """One closed call; times are Unix seconds, durations seconds. `uuid` is the span id.

    `bottleneck_score` is the self time. `concurrency_midpoint` is the number of nodes open at its middle.
    """

    uuid: str
    operation_type: str
    operation_name: str
    start_time: float
    end_time: float
    duration: float
    self_time: float
    subtree_time: float
    concurrency_midpoint: int
    bottleneck_score: float


class NodeConcurrency(msgspec.Struct, frozen=True):
    """Open nodes over time: [start, end, level] in Unix seconds; percentiles over busy time."""

    timeline_segments: list[tuple[float, float, int]]
    p50: int | None
    p90: int | None
    p95: int | None
    p99: int | None


class NestedStack(msgspec.Struct, frozen=True):
    """The call trees of all requests by `parent_id`."""

    concurrency: NodeConcurrency
    node_metrics: dict[str, Node]
    top_bottlenecks: list[Node]


def self_time(table: SpanTable) -> list[SelfTimeRow]:
    """Self time by kind and name, the largest first. Parallel spans each count in full."""
    own = self_time_ns(table)
    total_s = float(own[table.closed].sum()) / NS_PER_S
    rows = []
    for kind, name, members in groups(table, table.closed):
        seconds = float(own[members].sum()) / NS_PER_S
        rows.append(SelfTimeRow(kind, name, len(members), seconds, seconds / total_s if total_s else 0.0))
    return sorted(rows, key=lambda row: (-row.self_s, row.kind, row.name))


def simple_stack(table: SpanTable) -> dict[str, SimpleOperation]:
    """Each LLM model and TOOL, keyed `LLM:<model>` or `TOOL:<name>`, the highest score first."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in calls(table).tolist():
        found.setdefault((KINDS[table.kind[row]], operation_name(table, row)), []).append(row)
    operations = []
    for (kind, name), members in found.items():
        rows = np.array(members)
        duration_s = table.duration_ns[rows] / NS_PER_S
        levels = sweep(table.start_ns[rows], table.end_ns[rows])
        at_once = int(levels.level.max()) if len(levels.level) else 1
        average = float(duration_s.mean())
        p95, p99 = (float(value) for value in np.quantile(duration_s, [0.95, 0.99]))
        operations.append(
            SimpleOperation(kind, name, len(rows), average, p95, p99, at_once, average * at_once)
        )
    operations.sort(key=lambda operation: (-operation.bottleneck_score, operation.operation_name))
    return {f"{operation.operation_type}:{operation.operation_name}": operation for operation in operations}


def nested_stack(table: SpanTable) -> NestedStack:
    """A node for every closed span that is not a WORKFLOW, the `TOP` by self time, and their concurrency."""
    own = self_time_ns(table)
    subtree = subtree_time_ns(table, own)
    rows = np.flatnonzero(table.closed & ~table.of_kind(SpanKind.WORKFLOW))
    start, end = table.start_ns[rows], table.end_ns[rows]
    levels = sweep(start, end)
    middle = levels.at(start + (end - start) // 2)
    nodes = _nodes(table, rows, own[rows], subtree[rows], middle)
    top = np.lexsort((start, -own[rows]))[:TOP].tolist()
    return NestedStack(_node_concurrency(levels), _by_uuid(table, rows, nodes), [nodes[at] for at in top])


def operation_name(table: SpanTable, row: int) -> str:
    """The model of an LLM call, else the span's name."""
    model = int(table.model[row])
    return table.models[model] if model >= 0 else table.names[table.name[row]]


def _by_uuid(table: SpanTable, rows: Ints, nodes: list[Node]) -> dict[str, Node]:
    """Nodes by span id; one whose id is also used in an earlier trace is under `trace_id:span_id`."""
    found: dict[str, Node] = {}
    for row, node in zip(rows.tolist(), nodes, strict=True):
        span_id = table.span_ids[row]
        if span_id in found:
            span_id = f"{table.trace_ids[int(table.trace[row])]}:{span_id}"
        found[span_id] = node
    return found


def _nodes(table: SpanTable, rows: Ints, own: Ints, subtree: Ints, at_once: Ints) -> list[Node]:
    start, end = table.start_ns[rows], table.end_ns[rows]
    own_s: list[float] = (own / NS_PER_S).tolist()
    columns = (
        [table.span_ids[row] for row in rows.tolist()],
        [KINDS[kind] for kind in table.kind[rows].tolist()],
        [operation_name(table, row) for row in rows.tolist()],
        *((moment / NS_PER_S).tolist() for moment in (start, end, end - start)),
        own_s,
        (subtree / NS_PER_S).tolist(),
        at_once.tolist(),
        own_s,
    )
    return list(map(Node, *columns))


def _node_concurrency(levels: Levels) -> NodeConcurrency:
    busy = levels.level > 0
    length, level = levels.length_ns[busy], levels.level[busy]
    at_level: Floats = np.bincount(level, weights=length).astype(np.float64)
    begin, finish = levels.time_ns[:-1][busy] / NS_PER_S, levels.time_ns[1:][busy] / NS_PER_S
    return NodeConcurrency(
        list(zip(begin.tolist(), finish.tolist(), level.tolist(), strict=True)),
        *weighted_percentiles(at_level, (0.50, 0.90, 0.95, 0.99)),
    )
