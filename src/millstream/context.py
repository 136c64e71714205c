"""Where am I: the current span, and W3C Trace Context and Baggage in and out of the process."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

import msgspec

from millstream import sources, w3c
from millstream.chain import MEMBER, Chain


class _Place(msgspec.Struct, eq=False):
    trace_id: str
    span_id: str
    workload_id: str | None
    anchor_ns: int


class SpanContext(_Place, eq=False, kw_only=True):
    """What a new span needs to know of the one it starts in; also stands for a span of another process.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        workload_id: the nearest workload scope, which children inherit.
        anchor_ns: Unix time of the monotonic clock's zero, read once where the trace enters this process,
            so that spans of one trace stay in order when the wall clock is set.
        sampled: whether the process that the trace came from records it.
        opened_in: what another tracing library had current when the span was opened; `None` without one.
        workflow: the workflows that the span is in, of those that were invoked with a context; children
            inherit it.
    """

    sampled: bool = True
    opened_in: Any = None
    workflow: Chain | None = None

    @classmethod
    def remote(cls, trace_id: str, span_id: str, *, sampled: bool = True) -> "SpanContext":
        """A span that another process, or another tracing library, has open."""
        clock = sources.active.clock
        return SpanContext(trace_id, span_id, None, clock.wall_ns() - clock.monotonic_ns(), sampled=sampled)


current: ContextVar[SpanContext | None] = ContextVar("millstream_current_span", default=None)
"""The span that new spans start in. Copied by asyncio tasks; `record.threads` carries it into threads."""

joined: Callable[[SpanContext | None], tuple[SpanContext | None, Any]] | None = None
"""Set where spans of another tracing library are recorded, too.

Given the span that ours would start in, it tells the innermost of that and the other library's current span,
and what that library has current now, for `SpanContext.opened_in`.
"""

_tracestate: ContextVar[tuple[str, str] | None] = ContextVar("millstream_tracestate", default=None)
"""The id of a trace and its `tracestate`."""
_baggage: ContextVar[tuple[str, ...] | None] = ContextVar("millstream_baggage", default=None)
_too_long: Final[list[str]] = []
"""The member of a baggage that was too long, the last time one was."""
OTEL: Final = "opentelemetry.trace"
"""The module by which a program uses OpenTelemetry."""


def innermost() -> SpanContext | None:
    """The span that this code runs in, ours or one that is copied from another tracing library."""
    span = current.get()
    return span if joined is None else joined(span)[0]


def opentelemetry_parent() -> SpanContext | None:
    """The span that OpenTelemetry has current, where the program uses it; it is never imported here."""
    api = sys.modules.get(OTEL)
    if api is None:
        return None
    span = getattr(api, "get_current_span", _nothing)()
    if span is None or not ((theirs := span.get_span_context()).is_remote or span.is_recording()):
        return None
    if not theirs.is_valid:
        return None
    return SpanContext.remote(
        f"{theirs.trace_id:032x}", f"{theirs.span_id:016x}", sampled=bool(theirs.trace_flags & 1)
    )


def _nothing() -> None:
    """Stands for a function of a module that is being imported."""


def parse_traceparent(value: str, baggage: Iterable[str] = ()) -> SpanContext | None:
    """The remote span that a `traceparent` header names, in the workflow that a baggage tells of.

    Returns:
        `None` when the header is not valid.
    """
    told = w3c.parse_traceparent(value)
    if told is None:
        return None
    span = SpanContext.remote(told[0], told[1], sampled=told[2])
    if any(_is_ours(member) for member in baggage):
        span.workflow = Chain.of_member(w3c.baggage_values(baggage)[MEMBER], span.trace_id)
    return span


def environment_parent() -> SpanContext | None:
    """The span that the environment of this process names."""
    return parse_traceparent(
        os.environ.get("TRACEPARENT", ""), w3c.parse_baggage(os.environ.get("BAGGAGE", ""))
    )


def _is_ours(member: str) -> bool:
    return member.startswith(MEMBER) and member[len(MEMBER) :].lstrip(" \t").startswith("=")


def inject(carrier: Any) -> None:
    """Write the current span into `carrier` as `traceparent`, with `tracestate` and `baggage` if any.

    The names and ids of the workflows that it is in are a member of the baggage.

    Without a current span nothing is written, so a carrier's own headers stay as they are.

    Args:
        carrier: a mutable mapping, or a list of pairs as the headers of an ASGI message; names are written
            as text, or as bytes where the carrier holds bytes.
    """
    if headers := _headers():
        w3c.write(carrier, headers)


def inject_environment(env: MutableMapping[str, str] | None = None) -> MutableMapping[str, str]:
    """An environment for a subprocess, which continues the current span.

    Args:
        env: changed and returned; default a copy of this process's environment.

    Returns:
        `env` with `TRACEPARENT`, `TRACESTATE` and `BAGGAGE`, for `subprocess.run(..., env=env)`.
    """
    if env is None:
        env = dict(os.environ)
    if headers := _headers():
        env.pop(w3c.TRACESTATE.upper(), None)  # of this process's own parent
        env.update({name.upper(): value for name, value in headers.items()})
    return env


def _headers() -> dict[str, str]:
    """What is to travel; nothing without a current span."""
    span = innermost()
    if span is None:
        return {}
    headers = {w3c.TRACEPARENT: _traceparent(span)}
    state = _tracestate.get() or _environment_tracestate()
    if state is not None and state[0] == span.trace_id:
        headers[w3c.TRACESTATE] = state[1]
    members = [member for member in _members() if not _is_ours(member)]
    if span.workflow is not None:
        members = _with_workflow(members, span.workflow.member(span.trace_id))
    if members:
        headers[w3c.BAGGAGE] = ",".join(members)
    return headers


def _with_workflow(members: list[str], member: str) -> list[str]:
    if len(",".join(members)) + 1 + len(member) <= w3c.MAX_BYTES:
        return [*members, member]
    if member not in _too_long:  # said once
        import logging  # noqa: PLC0415  # most programs never need it

        _too_long[:] = [member]
        logging.getLogger("millstream").warning(
            "millstream: a chain of workflows is too long for a header (%d bytes): the other process goes on"
            " with the trace alone; shorten the names, or send ObservabilityContext.to_dict()",
            len(member),
        )
    return members


def _traceparent(span: SpanContext) -> str:
    if span.trace_id.strip("0"):
        return f"00-{span.trace_id}-{span.span_id}-{'01' if span.sampled else '00'}"
    ids = sources.active.ids  # a trace that was not sampled here has no ids of its own
    return f"00-{ids.trace_id()}-{ids.span_id()}-00"


@contextmanager
def extract(carrier: Any) -> Iterator[SpanContext | None]:
    """Continue the trace that `carrier` names: spans started in the block are children of its span.

    A carrier without a valid `traceparent` leaves the current span as it is.

    Args:
        carrier: a mapping or pairs. Names are looked up without regard to case and may be bytes; values may
            be bytes or lists. An environment will do: `extract(os.environ)`.

    Yields:
        The remote span, or `None`.
    """
    headers = w3c.read(carrier)
    baggage = w3c.parse_baggage(headers.get(w3c.BAGGAGE, ""))
    remote = parse_traceparent(headers.get(w3c.TRACEPARENT, ""), baggage)
    restore: list[tuple[ContextVar[Any], Any]] = []
    if remote is not None:
        state = w3c.parse_tracestate(headers.get(w3c.TRACESTATE, ""))
        restore = [
            (current, current.set(remote)),
            (_tracestate, _tracestate.set((remote.trace_id, state) if state else None)),
        ]
    if remote is not None or baggage:
        restore.append((_baggage, _baggage.set(baggage)))
    try:
        yield remote
    finally:
        with suppress(ValueError):  # left in another context than it was entered in
            for variable, token in restore:
                variable.reset(token)


def get_baggage() -> Mapping[str, str]:
    """The baggage that `extract` took in, else that of the environment: names and values, decoded."""
    return w3c.baggage_values(_members())


def _members() -> tuple[str, ...]:
    members = _baggage.get()
    return w3c.parse_baggage(os.environ.get("BAGGAGE", "")) if members is None else members


def _environment_tracestate() -> tuple[str, str] | None:
    state = w3c.parse_tracestate(os.environ.get("TRACESTATE", ""))
    told = w3c.parse_traceparent(os.environ.get("TRACEPARENT", "")) if state else None
    return (told[0], state) if told and state else None
