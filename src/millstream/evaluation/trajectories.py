"""What the events of one item tell: how long it took, and what its model calls used."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.errors import InputError
from millstream.profiler.cost import PriceTable, cost_of_call
from millstream.span import Span, SpanKind, Status, Usage

TRACES: Final = "all_requests_profiler_traces.json"
_TRACE: Final = "0" * 31 + "1"
_CALL: Final = "0" * 15 + "1"


class ModelCall(msgspec.Struct, frozen=True):
    """One model call that ended."""

    model: str
    usage: Usage
    cached: bool = False
    """Whether it was answered from the cache of an evaluation."""


class Trajectory(msgspec.Struct, frozen=True):
    """One item's run.

    Attributes:
        run_time_s: of the workflow, else from the first event to the last; `None` where that is unknown.
        calls: its model calls that ended.
        recorded: whether there are any events.
    """

    run_time_s: float | None = None
    calls: list[ModelCall] = []
    recorded: bool = False


class _Tokens(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _UsageInfo(msgspec.Struct, frozen=True):
    token_usage: _Tokens | None = None


class _Payload(msgspec.Struct, frozen=True):
    event_type: str
    event_timestamp: float
    name: str | None = None
    metadata: Any = None
    usage_info: _UsageInfo | None = None
    UUID: str = ""


class Event(msgspec.Struct, frozen=True):
    """What is needed of an `IntermediateStep`."""

    payload: _Payload


class Events(msgspec.Struct, frozen=True):
    """Events of one item, and how many more could not be read."""

    read: list[Event]
    unreadable: int = 0


def events(steps: Any) -> Events:
    """The events among JSON values."""
    if not isinstance(steps, list):
        return Events([], 0 if steps is None else 1)
    read = []
    for step in steps:
        try:
            read.append(msgspec.convert(step, Event))
        except msgspec.ValidationError:
            continue
    return Events(read, len(steps) - len(read))


def read_traces(path: Path) -> dict[int, Events]:
    """The events of `all_requests_profiler_traces.json` by request number; empty without the file.

    Raises:
        InputError: it is not what a profiler writes.
    """
    try:
        requests = json.loads(path.read_bytes())
        return {int(one["request_number"]): events(one["intermediate_steps"]) for one in requests}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path} does not hold the traces of a profiler: {type(error).__name__}: {error}"
        ) from error


def matched(of_rows: Sequence[Events], requests: Mapping[int, Events]) -> list[Events]:
    """All events of each row: those of the request that has its model and tool calls.

    A row without any call belongs to the request of its own number, unless that is another row's.

    Args:
        of_rows: what `workflow_output.json` has of each row: the ends of calls.
        requests: by number, which is the place of the row where the reference wrote both.
    """
    number_of = {event.payload.UUID: number for number, found in requests.items() for event in found.read}
    numbers = [
        next((number_of[uuid] for event in row.read if (uuid := event.payload.UUID) in number_of), None)
        for row in of_rows
    ]
    taken = set(numbers)
    found = []
    for place, (row, number) in enumerate(zip(of_rows, numbers, strict=True)):
        if number is None and not row.read and place not in taken:
            number = place  # noqa: PLW2901
        found.append(row if number is None else requests.get(number, row))
    return found


def trajectory(found: Sequence[Event]) -> Trajectory:
    """What events tell. A workflow that began and did not end has no run time."""
    payloads = [event.payload for event in found]
    starts = [one.event_timestamp for one in payloads if one.event_type == "WORKFLOW_START"]
    ends = [one.event_timestamp for one in payloads if one.event_type == "WORKFLOW_END"]
    if not starts and any(one.event_type.endswith("_START") for one in payloads):
        starts = ends = [one.event_timestamp for one in payloads]
    return Trajectory(
        run_time_s=max(0.0, max(ends) - min(starts)) if starts and ends else None,
        calls=[
            ModelCall(one.name or "", _usage(one.usage_info), _is_cached(one.metadata))
            for one in payloads
            if one.event_type == "LLM_END"
        ],
        recorded=bool(payloads),
    )


def cost_of(calls: Sequence[ModelCall], prices: PriceTable) -> float | None:
    """What the calls cost together; `None` where one of them has no price, or there are none."""
    costs = [cost_of_call(_span(call), prices) for call in calls]
    known = [one for one in costs if one is not None]
    return math.fsum(known) if calls and len(known) == len(costs) else None


def _span(call: ModelCall) -> Span:
    attributes = {semconv.CACHED: True} if call.cached else {}
    ended = (0, 1, Status.OK)
    return Span(
        _TRACE, _CALL, None, call.model, SpanKind.LLM, *ended, usage=call.usage, attributes=attributes
    )


def _is_cached(metadata: Any) -> bool:
    """Ours are the span's attributes."""
    return isinstance(metadata, dict) and metadata.get(semconv.CACHED) is True


def _usage(info: _UsageInfo | None) -> Usage:
    """The reference writes 0 for tokens that are unknown: a call that used none at all knows nothing."""
    tokens = info.token_usage if info is not None else None
    if tokens is None or not (tokens.prompt_tokens or tokens.completion_tokens):
        return Usage()
    return Usage(
        input_tokens=tokens.prompt_tokens,
        output_tokens=tokens.completion_tokens,
        cache_read_tokens=tokens.cached_tokens,
        reasoning_tokens=tokens.reasoning_tokens,
    )
