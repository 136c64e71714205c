"""What is known of a request at a moment of its life, and what was still to come.

A request is cut at its start and at each end of an LLM or TOOL call: one state a cut. Features are made of
calls that have ended and tools that have started, so that an unfinished request has the same ones.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from millstream.profiler.requests import Requests, requests
from millstream.span import SpanKind
from millstream.store.table import KIND_CODE, UNKNOWN, Bools, Ints, SpanTable

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
_LLM, _TOOL = KIND_CODE[SpanKind.LLM.value], KIND_CODE[SpanKind.TOOL.value]
_INSTANT_TOOL, _CALL_END, _MOMENT, _TOOL_START = range(4)
Floats = NDArray[np.float64]


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


class _Calls(NamedTuple):
    """LLM and TOOL calls of some traces; `ended` holds rows in order of (trace, end)."""

    ended: Ints
    tools: Ints


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
    calls = _calls(table, traces)
    of = np.concatenate((traces, table.trace[calls.ended]))
    moment = np.concatenate((found.start_ns[traces], table.end_ns[calls.ended]))
    order = np.lexsort((moment, of))
    of, moment = of[order], moment[order]
    last_at_once = np.append((of[1:] != of[:-1]) | (moment[1:] != moment[:-1]), [True])[: len(of)]
    of, moment = _thinned(of[last_at_once], moment[last_at_once])
    place = np.full(len(table.trace_ids), UNKNOWN, np.int64)
    place[traces] = np.arange(len(traces))
    made = _states(table, calls, of, moment, found, _MOMENT)
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
    calls = _calls(table, np.zeros(1, np.int64))
    now = int(table.start_ns.max())
    if len(calls.ended):
        now = max(now, int(table.end_ns[calls.ended].max()))
    state = _states(table, calls, np.zeros(1, np.int64), np.array([now]), found, _TOOL_START + 1)
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


def _calls(table: SpanTable, traces: Ints) -> _Calls:
    wanted = np.zeros(len(table.trace_ids), bool)
    wanted[traces] = True
    inside = wanted[table.trace]
    tools = np.flatnonzero(inside & np.equal(table.kind, _TOOL))
    ended = np.flatnonzero(inside & table.closed & np.isin(table.kind, (_LLM, _TOOL)))
    return _Calls(ended[np.lexsort((ended, table.end_ns[ended], table.trace[ended]))], tools)


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


def _states(table: SpanTable, calls: _Calls, of: Ints, moment: Ints, found: Requests, phase: int) -> States:
    """States at moments of requests, by one merge of call ends, tool starts and moments."""
    row = np.concatenate((calls.ended, calls.tools, np.full(len(of), UNKNOWN)))
    trace = np.concatenate((table.trace[calls.ended], table.trace[calls.tools], of))
    time = np.concatenate((table.end_ns[calls.ended], table.start_ns[calls.tools], moment))
    instant = table.end_ns[calls.tools] == table.start_ns[calls.tools]
    phases = np.concatenate(
        (
            np.full(len(calls.ended), _CALL_END),
            np.where(instant, _INSTANT_TOOL, _TOOL_START),
            np.full(len(of), phase),
        )
    )
    order = np.lexsort((row, phases, time, trace))
    row, trace, phases = row[order], trace[order], phases[order]
    at = np.flatnonzero(row < 0)
    first = np.searchsorted(trace, trace[at])
    stop = np.searchsorted(trace, trace[at], side="right")
    ended = phases == _CALL_END
    started = (phases == _INSTANT_TOOL) | (phases == _TOOL_START)
    llm = ended & np.equal(table.kind[row], _LLM)
    tool = ended & np.equal(table.kind[row], _TOOL)
    tokens = np.maximum(table.input_tokens, 0) + np.maximum(table.output_tokens, 0)
    took = table.duration_ns / NS_PER_S
    moment_ns = time[order][at]
    request = trace[at]

    def so_far(values: Floats | Bools | Ints) -> tuple[Floats, Floats]:
        """Sums before each moment, and from it to the end of the request."""
        total = np.concatenate(([0.0], np.cumsum(np.asarray(values, np.float64))))
        return total[at] - total[first], total[stop] - total[at]

    llm_calls, llm_left = so_far(llm)
    tokens_used, tokens_left = so_far(np.where(llm, tokens[row], 0))
    tool_calls, started_tools = so_far(tool)[0], so_far(started)[0]
    last_llm = _latest(llm, at, first)
    features = np.column_stack(
        (
            llm_calls,
            tool_calls,
            started_tools,
            np.maximum(moment_ns - found.start_ns[request], 0) / NS_PER_S,
            tokens_used,
            so_far(np.where(llm, took[row], 0))[0],
            so_far(np.where(tool, took[row], 0))[0],
            so_far(ended & table.failed[row])[0],
            _of(table.input_tokens, row, _next(llm, first, at)),
            _of(table.input_tokens, row, last_llm),
            _of(table.output_tokens, row, last_llm),
            _of(took, row, last_llm),
        )
    )
    left_s = np.maximum(found.end_ns[request] - moment_ns, 0) / NS_PER_S
    root = found.first_row[request]
    return States(
        request=request,
        workflow=np.where(root >= 0, table.name[root], UNKNOWN),
        llm_calls=llm_calls.astype(np.int64),
        tool_calls=tool_calls.astype(np.int64),
        tools_started=started_tools.astype(np.int64),
        last_call=_named(table.name, row, _latest(ended, at, first)),
        last_tool=_named(table.name, row, _latest(started, at, first)),
        features=features,
        moment_ns=moment_ns,
        targets=np.column_stack((llm_left, tokens_left, left_s)),
        next_tool=_named(table.name, row, _next(started, at, stop)),
    )


def _latest(mark: Bools, at: Ints, first: Ints) -> Ints:
    """Position of the last mark before each position, not before `first`; -1 when there is none."""
    latest = np.maximum.accumulate(np.where(mark, np.arange(len(mark)), UNKNOWN))[at]
    return np.where(latest >= first, latest, UNKNOWN)


def _next(mark: Bools, at: Ints, stop: Ints) -> Ints:
    """Position of the first mark at or after each position, before `stop`; -1 when there is none."""
    n = len(mark)
    following = np.minimum.accumulate(np.where(mark, np.arange(n), n)[::-1])[::-1][at]
    return np.where(following < stop, following, UNKNOWN)


def _of(values: Ints | Floats, row: Ints, position: Ints) -> Floats:
    """Values of the rows at positions; 0 without a position and for what is unknown."""
    return np.where(position >= 0, np.maximum(values[row[position]], 0), 0).astype(np.float64)


def _named(name: Ints, row: Ints, position: Ints) -> Ints:
    return np.where(position >= 0, name[row[position]], UNKNOWN)
