"""What a forecast is learned from: the states of finished requests, without the table they come from."""

from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from millstream.errors import InputError
from millstream.profiler.forecast.states import States, finished_requests, states_of
from millstream.profiler.requests import requests
from millstream.span import SpanKind
from millstream.store.table import SpanTable

FEWEST_RUNS: Final = 30
"""So that 20 are held out, the fewest (19) whose extremes bound 5 % on each side."""


class Training(NamedTuple):
    """What a table tells of its finished requests.

    Attributes:
        states: of those learned from.
        names: of the table's spans; states have positions in it.
        runs: finished requests there are.
        runs_used: those learned from.
        tells_of_tokens: whether any LLM call knows its usage.
    """

    states: States
    names: list[str]
    runs: int
    runs_used: int
    tells_of_tokens: bool


class _Column(msgspec.Struct, array_like=True):
    kind: str
    shape: tuple[int, ...]
    data: bytes


class _Told(msgspec.Struct, array_like=True):
    """`Training` for another process."""

    columns: dict[str, _Column]
    rest: tuple[list[str], int, int, bool]


def training_of(table: SpanTable) -> Training:
    """What the finished requests of a table teach.

    Raises:
        InputError: fewer than `FEWEST_RUNS` requests have ended.
    """
    found = requests(table)
    sample = finished_requests(table, found)
    if sample.finished < FEWEST_RUNS:
        raise InputError(
            f"A forecast needs {FEWEST_RUNS} finished runs to learn from and to be tried on; "
            f"there are {sample.finished}. Record more of them."
        )
    known = (table.input_tokens >= 0) | (table.output_tokens >= 0)
    return Training(
        states=states_of(table, sample.traces, found),
        names=list(table.names),
        runs=sample.finished,
        runs_used=len(sample.traces),
        tells_of_tokens=bool(np.any(known & table.of_kind(SpanKind.LLM))),
    )


def encoded(training: Training) -> bytes:
    """A training as bytes."""
    states, *rest = training
    columns = {name: _column(getattr(states, name)) for name in States.__slots__}
    return msgspec.msgpack.encode((columns, rest))


def decoded(data: bytes) -> Training:
    """The training that `encoded` made bytes of."""
    told = msgspec.msgpack.decode(data, type=_Told)
    columns = {
        name: np.frombuffer(column.data, column.kind).reshape(column.shape)
        for name, column in told.columns.items()
    }
    return Training(States(**columns), *told.rest)


def _column(values: "np.ndarray[Any, Any]") -> _Column:
    return _Column(values.dtype.str, values.shape, np.ascontiguousarray(values).tobytes())
