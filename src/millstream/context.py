"""Where am I: the current span, the workflow chain, and W3C Trace Context in and out of the process."""

import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, Self

import msgspec

from millstream import sources
from millstream.errors import InputError


class SpanContext(msgspec.Struct, eq=False):
    """What a new span needs to know of the one it starts in; also stands for a span of another process.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        workload_id: the nearest workload scope, which children inherit.
        anchor_ns: Unix time of the monotonic clock's zero, read once where the trace enters this process,
            so that spans of one trace stay in order when the wall clock is set.
        sampled: whether the trace is recorded, as W3C's trace flags say.
    """

    trace_id: str
    span_id: str
    workload_id: str | None
    anchor_ns: int
    sampled: bool = True

    @classmethod
    def remote(cls, trace_id: str, span_id: str, *, sampled: bool = True) -> "SpanContext":
        """A span that another process has open."""
        clock = sources.active.clock
        return cls(trace_id, span_id, None, clock.wall_ns() - clock.monotonic_ns(), sampled)


current: ContextVar[SpanContext | None] = ContextVar("millstream_current_span", default=None)
"""The span that new spans start in. Copied by asyncio tasks; `record.threads` carries it into threads."""

_tracestate: ContextVar[str | None] = ContextVar("millstream_tracestate", default=None)
_baggage: ContextVar[Mapping[str, str] | None] = ContextVar("millstream_baggage", default=None)

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1
_MAX_BAGGAGE_BYTES: Final = 8192  # https://www.w3.org/TR/baggage/#limits


def parse_traceparent(value: str) -> SpanContext | None:
    """The remote span that a `traceparent` header names; `None` when the header is not valid.

    Source: https://www.w3.org/TR/trace-context/#traceparent-header
    """
    match = _TRACEPARENT.fullmatch(value.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return SpanContext.remote(trace_id, span_id, sampled=bool(int(flags, 16) & _SAMPLED))


def inject(carrier: MutableMapping[str, str]) -> None:
    """Write the current span into `carrier` as `traceparent`, with `tracestate` and `baggage` if any.

    Without a current span nothing is written, so a carrier's own headers stay as they are.
    """
    span = current.get()
    if span is None:
        return
    if span.sampled:
        carrier["traceparent"] = f"00-{span.trace_id}-{span.span_id}-01"
    else:
        ids = sources.active.ids  # a trace that is not recorded has no ids of its own
        carrier["traceparent"] = f"00-{ids.trace_id()}-{ids.span_id()}-00"
    if tracestate := _tracestate.get():
        carrier["tracestate"] = tracestate
    if baggage := _baggage.get():
        from urllib.parse import quote  # noqa: PLC0415  # few programs carry baggage

        carrier["baggage"] = ",".join(
            f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in baggage.items()
        )


@contextmanager
def extract(carrier: Mapping[str, str]) -> Iterator[SpanContext | None]:
    """Continue the trace that `carrier` names: spans started in the block are children of its span.

    Keys are looked up without regard to case; what is not text is passed over. A carrier without a valid
    `traceparent` changes nothing.

    Yields:
        The remote span, or `None`.
    """
    headers = {
        key.lower(): value
        for key, value in carrier.items()
        if isinstance(key, str) and isinstance(value, str)
    }
    remote = parse_traceparent(headers.get("traceparent", ""))
    if remote is None:
        yield None
        return
    tokens = (
        current.set(remote),
        _tracestate.set(headers.get("tracestate")),
        _baggage.set(_parse_baggage(headers.get("baggage", ""))),
    )
    try:
        yield remote
    finally:
        with suppress(ValueError):  # left in another context than it was entered in
            current.reset(tokens[0])
            _tracestate.reset(tokens[1])
            _baggage.reset(tokens[2])


def get_baggage() -> Mapping[str, str]:
    """The baggage that `extract` took in: names and values, decoded."""
    return _baggage.get() or {}


def _parse_baggage(header: str) -> dict[str, str] | None:
    if not header:
        return None
    from urllib.parse import unquote  # noqa: PLC0415

    baggage = {}
    for member in header[:_MAX_BAGGAGE_BYTES].split(","):
        key, separator, value = member.partition(";")[0].partition("=")
        if separator and key.strip():
            baggage[unquote(key.strip())] = unquote(value.strip())
    return baggage or None


class WorkflowMetadata(msgspec.Struct, frozen=True):
    """One workflow of a chain. Times are Unix seconds."""

    workflow_name: str
    workflow_id: str
    parent_workflow_id: str | None = None
    start_time: float | None = None
    end_time: float | None = None
    status: str = "running"
    tags: dict[str, str] = {}


class ObservabilityContext(msgspec.Struct):
    """A chain of workflows that belong to one trace, root first; can travel as a dict.

    Attributes:
        trace_id: 32 hex digits, the trace id of the chain's spans.
        root_span_id: 16 hex digits, the span of the first workflow.
        current_span_id: 16 hex digits, the span of the last workflow.
        workflow_chain: the workflows from the root to the current one.
        custom_attributes: what `add_attribute` added; children inherit a copy.
    """

    trace_id: str
    root_span_id: str
    current_span_id: str
    workflow_chain: tuple[WorkflowMetadata, ...] = ()
    custom_attributes: dict[str, Any] = {}
    version: int = 1

    @classmethod
    def create_root_context(cls, workflow_name: str, trace_id: str | None = None) -> Self:
        """A chain of one workflow, in a new trace unless `trace_id` is given."""
        span_id = sources.active.ids.span_id()
        return cls(
            trace_id=trace_id or sources.active.ids.trace_id(),
            root_span_id=span_id,
            current_span_id=span_id,
            workflow_chain=(WorkflowMetadata(workflow_name, span_id),),
        )

    def create_child_context(self, workflow_name: str) -> Self:
        """The chain with one more workflow at its end; this context stays as it is."""
        span_id = sources.active.ids.span_id()
        child = WorkflowMetadata(workflow_name, span_id, parent_workflow_id=self.current_span_id)
        return type(self)(
            trace_id=self.trace_id,
            root_span_id=self.root_span_id,
            current_span_id=span_id,
            workflow_chain=(*self.workflow_chain, child),
            custom_attributes=dict(self.custom_attributes),
        )

    def add_attribute(self, key: str, value: Any) -> None:
        """Add a custom attribute to this context and to the children made from it later."""
        self.custom_attributes[key] = value

    def get_current_workflow(self) -> WorkflowMetadata | None:
        """The last workflow of the chain."""
        return self.workflow_chain[-1] if self.workflow_chain else None

    def get_workflow_depth(self) -> int:
        """How deep the current workflow is: 0 for the root."""
        return max(len(self.workflow_chain) - 1, 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars, with the version of this form."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """The context that `to_dict` wrote.

        Raises:
            InputError: a field is missing or of the wrong type, or the version is unknown.
        """
        try:
            context = msgspec.convert(dict(value), cls)
        except msgspec.ValidationError as error:
            raise InputError(f"not an ObservabilityContext: {error}") from error
        if context.version != 1:
            raise InputError(
                f"ObservabilityContext version {context.version} is not known; this release reads 1"
            )
        return context
