"""The six NOVA columns: at each event, how much of its function and of its request is still to come.

The reference groups by function name and measures "time to event end" to the last LLM_START of the group.
Here an event is one run of a function (its span), and its end is that run's last START or END.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millstream.profiler.events import Events
from millstream.span import SpanKind
from millstream.store.table import KIND_CODE, Ints, SpanTable

NS_PER_MS = 1e6
NONE_LEFT = -1.0
_LLM = KIND_CODE[SpanKind.LLM.value]


@dataclass(frozen=True, slots=True, eq=False)
class NovaColumns:
    """One element an event, in the order of `Events`.

    Attributes:
        requests_remaining: LLM_STARTs that follow in the same function run.
        time_to_next_ms: to the next of them, -1 when none follows.
        time_to_event_end_ms: to the last START or END in the same function run.
        predicted_osl: on LLM_START the output tokens of that call, -1 where unknown or another event.
        time_to_session_end_ms: to the last START or END of the request.
    """

    requests_remaining: Ints
    time_to_next_ms: NDArray[np.float64]
    time_to_event_end_ms: NDArray[np.float64]
    predicted_osl: Ints
    time_to_session_end_ms: NDArray[np.float64]


def nova(table: SpanTable, found: Events, scope: Ints) -> NovaColumns:
    """Compute the columns; `scope` is the row of the function of each event, -1 without one."""
    trace = table.trace[found.row]
    run = np.where(scope >= 0, scope, -1 - trace)
    is_call = (table.kind[found.row] == _LLM) & ~found.is_end
    order = np.lexsort((np.arange(len(run)), run))
    remaining, to_next = _following(run[order], is_call[order], found.time_ns[order])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return NovaColumns(
        requests_remaining=remaining[back],
        time_to_next_ms=to_next[back],
        time_to_event_end_ms=_to_last(run, found.time_ns),
        predicted_osl=np.where(is_call, table.output_tokens[found.row], -1),
        time_to_session_end_ms=_to_last(trace, found.time_ns),
    )


def _following(run: Ints, is_call: NDArray[np.bool_], time_ns: Ints) -> tuple[Ints, NDArray[np.float64]]:
    """Calls that follow in the same run, and milliseconds to the next; runs are contiguous."""
    n = len(run)
    if n == 0:
        return run, np.zeros(0, np.float64)
    last = np.searchsorted(run, run, side="right") - 1
    so_far = np.cumsum(is_call)
    remaining: Ints = so_far[last] - so_far
    position = np.where(is_call, np.arange(n), n)
    following = np.append(np.minimum.accumulate(position[::-1])[::-1][1:], n)
    there = following <= last
    to_next = np.full(n, NONE_LEFT)
    to_next[there] = (time_ns[following[there]] - time_ns[there]) / NS_PER_MS
    return remaining, to_next


def _to_last(group: Ints, time_ns: Ints) -> NDArray[np.float64]:
    _, of = np.unique(group, return_inverse=True)
    latest = np.zeros(int(of.max()) + 1 if len(of) else 0, np.int64)
    np.maximum.at(latest, of, time_ns)
    return np.asarray((latest[of] - time_ns) / NS_PER_MS, np.float64)
