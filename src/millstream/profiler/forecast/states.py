"""What is known of a request at a moment of its life, and what was still to come.

A request is cut at its start and at each end of an LLM or TOOL call: one state a cut. Features are made of
calls that have ended and tools that have started, so that an unfinished request has the same ones.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from millstream.profiler.forecast.timeline import LLM, TOOL, Floats, Timeline, calls_of
from millstream.profiler.requests import Requests, requests
from millstream.span import SpanKind
from millstream.store.table import UNKNOWN, Bools, Ints, SpanTable

NS_PER_S = 1e9
TARGETS = ("remaining_llm_calls", "remaining_tokens", "remaining_s")
FEATURES = (
    "llm_calls",
    "tool_calls",
    "tools_started",
    "elapsed_s",
    "tokens",
    "llm_s",
    "tool_s",
    "failed",
    "first_input_tokens",
    "last_input_tokens",
    "last_output_tokens",
    "last_llm_s",
)
MAX_STATES = 20_000
MAX_STATES_A_REQUEST = 200


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """One element a state, ordered by request and time.

    Attributes:
        request: position of the request in its list, shape (n,).
        workflow: position in the names of the table, of the request's first root; -1 unknown.
        llm_calls: LLM calls that have ended.
        tool_calls: TOOL calls that have ended.
        tools_started: TOOL calls that have started.
        last_call: position in the names, of the call that ended last; -1 before the first.
        last_tool: position in the names, of the tool that started last; -1 before the first.
        features: columns `FEATURES`; what is unknown is 0, shape (n, features).
        moment_ns: Unix nanoseconds.
        targets: columns `TARGETS`, what was still to come, shape (n, 3).
        next_tool: position in the names, of the next tool to start; -1 when none did.
    """

    request: Ints
    workflow: Ints
    llm_calls: Ints
    tool_calls: Ints
    tools_started: Ints
    last_call: Ints
    last_tool: Ints
    features: Floats
    moment_ns: Ints
    targets: Floats
    next_tool: Ints

    def __len__(self) -> int:
        return len(self.request)

    def take(self, which: Ints | Bools) -> "States":
        """Some of the states, in the order given."""
        return States(*(getattr(self, name)[which] for name in self.__slots__))


class Sample(NamedTuple):
    """Finished requests to learn from, by start.

    Attributes:
        traces: those used, evenly spread over all when there are more than `MAX_STATES` states.
        finished: how many there are.
    """

    traces: Ints
    finished: int


def finished_requests(table: SpanTable, found: Requests) -> Sample:
    """The requests that ended, however they ended, oldest first."""
    traces = np.flatnonzero(found.run_time_ns >= 0)
    traces = traces[np.lexsort((traces, found.start_ns[traces]))]
    calls = table.of_kind(SpanKind.LLM, SpanKind.TOOL) & table.closed
    cuts = np.bincount(table.trace[calls], minlength=len(table.trace_ids))[traces] + 1
    cuts = np.minimum(cuts, MAX_STATES_A_REQUEST)
    used = np.arange(len(traces))
    while (states := int(cuts[used].sum())) > MAX_STATES:
        kept = int(len(used) * MAX_STATES / states)
        used = np.linspace(0, len(traces) - 1, kept).astype(np.int64)
    return Sample(traces[used], len(traces))


def states_of(table: SpanTable, traces: Ints, found: Requests) -> States:
    """Every state of finished requests, at most `MAX_STATES_A_REQUEST` of each, evenly spread.

    Args:
        table: the spans.
        traces: positions of the requests in `table.trace_ids`, in the order wanted.
        found: the requests of the table.
    """
    calls = calls_of(table, traces)
    of = np.concatenate((traces, table.trace[calls.ended]))
    moment = np.concatenate((found.start_ns[traces], table.end_ns[calls.ended]))
    order = np.lexsort((moment, of))
    of, moment = of[order], moment[order]
    last_at_once = np.append((of[1:] != of[:-1]) | (moment[1:] != moment[:-1]), [True])[: len(of)]
    of, moment = _thinned(of[last_at_once], moment[last_at_once])
    place = np.full(len(table.trace_ids), UNKNOWN, np.int64)
    place[traces] = np.arange(len(traces))
    made = _states(table, Timeline.of(table, calls, of, moment, last=False), found)
    by_request = np.lexsort((made.moment_ns, place[made.request]))
    made = made.take(by_request)
    return States(place[made.request], *(getattr(made, name) for name in States.__slots__[1:]))


def current_state(table: SpanTable) -> tuple[States, int]:
    """The state of the only request of a table, and the latest moment that its spans tell of.

    The state is that of the end of its last call, when it has the same features as those learned from;
    tools that have started since are known in `tools_started` and `last_tool`. The end of a root is not
    looked at.
    """
    found = requests(table)
    calls = calls_of(table, np.zeros(1, np.int64))
    now = int(table.start_ns.max())
    if len(calls.ended):
        now = max(now, int(table.end_ns[calls.ended].max()))
    line = Timeline.of(table, calls, np.zeros(1, np.int64), np.array([now]), last=True)
    state = _states(table, line, found)
    since = int(table.end_ns[calls.ended].max()) if len(calls.ended) else int(found.start_ns[0])
    state.features[0, FEATURES.index("elapsed_s")] = max(since - int(found.start_ns[0]), 0) / NS_PER_S
    state.moment_ns[0] = min(since, now)
    return state, now


def state_at_start(workflow: int) -> States:
    """The state of a request of a workflow that starts now."""
    zero, none = np.zeros(1, np.int64), np.full(1, UNKNOWN)
    return States(
        request=zero,
        workflow=np.full(1, workflow),
        llm_calls=zero,
        tool_calls=zero,
        tools_started=zero,
        last_call=none,
        last_tool=none,
        features=np.zeros((1, len(FEATURES))),
        moment_ns=zero,
        targets=np.zeros((1, len(TARGETS))),
        next_tool=none,
    )


def _thinned(of: Ints, moment: Ints) -> tuple[Ints, Ints]:
    """At most `MAX_STATES_A_REQUEST` moments of each request, evenly spread; the first always."""
    if len(of) == 0:
        return of, moment
    first = np.searchsorted(of, of)
    count = np.searchsorted(of, of, side="right") - first
    rank = np.arange(len(of)) - first
    step = np.maximum(count / MAX_STATES_A_REQUEST, 1.0)
    kept = np.floor(rank / step) != np.floor((rank - 1) / step)
    return of[kept], moment[kept]


def _states(table: SpanTable, line: Timeline, found: Requests) -> States:
    """The states at the moments of a timeline."""
    llm = line.ended & np.equal(table.kind[line.row], LLM)
    tool = line.ended & np.equal(table.kind[line.row], TOOL)
    tokens = np.maximum(table.input_tokens, 0) + np.maximum(table.output_tokens, 0)
    llm_calls, llm_left = line.sums(llm)
    tool_calls, started = line.sums(tool)[0], line.sums(line.started)[0]
    tokens_used, tokens_left = line.sums(np.where(llm, tokens[line.row], 0))
    elapsed = np.maximum(line.moment_ns - found.start_ns[line.trace], 0) / NS_PER_S
    left_s = np.maximum(found.end_ns[line.trace] - line.moment_ns, 0) / NS_PER_S
    root = found.first_row[line.trace]
    counts = (llm_calls, tool_calls, started, elapsed, tokens_used)
    return States(
        request=line.trace,
        workflow=np.where(root >= 0, table.name[root], UNKNOWN),
        llm_calls=llm_calls.astype(np.int64),
        tool_calls=tool_calls.astype(np.int64),
        tools_started=started.astype(np.int64),
        last_call=line.names(table, line.latest(line.ended)),
        last_tool=line.names(table, line.latest(line.started)),
        features=np.column_stack((*counts, *_of_calls(table, line, llm, tool))),
        moment_ns=line.moment_ns,
        targets=np.column_stack((llm_left, tokens_left, left_s)),
        next_tool=line.names(table, line.following(line.started)),
    )


def _of_calls(table: SpanTable, line: Timeline, llm: Bools, tool: Bools) -> list[Floats]:
    """The features from `llm_s` on: what the calls before each moment took and used."""
    took = table.duration_ns / NS_PER_S
    last = line.latest(llm)
    figures = (
        (table.input_tokens, line.first_of(llm)),
        (table.input_tokens, last),
        (table.output_tokens, last),
        (took, last),
    )
    return [
        line.sums(np.where(llm, took[line.row], 0))[0],
        line.sums(np.where(tool, took[line.row], 0))[0],
        line.sums(line.ended & table.failed[line.row])[0],
        *(np.maximum(line.values(column, position, 0), 0) for column, position in figures),
    ]
