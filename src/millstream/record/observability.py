"""`ObservabilityContext`: where in a chain of workflows one is; and which one this code runs in."""

from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Annotated, Any, Final, Self

import msgspec

from millstream import context, sources
from millstream.chain import Chain, WorkflowMetadata
from millstream.context import SpanContext
from millstream.errors import InputError
from millstream.record import recorder
from millstream.record.live import LiveSpan, leave
from millstream.record.not_recorded import NotRecorded
from millstream.record.serialize import to_json, to_text
from millstream.record.workflow_span import WorkflowSpan, now_ns

_TraceId = Annotated[str, msgspec.Meta(pattern="^(?!0{32})[0-9a-f]{32}$")]
_SpanId = Annotated[str, msgspec.Meta(pattern="^(?!0{16})[0-9a-f]{16}$")]
VERSION: Final = 1
"""Of what `to_dict` gives."""


class _Workflow(WorkflowMetadata, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A workflow as it has to be in a dict."""

    workflow_id: _SpanId
    parent_workflow_id: _SpanId | None = None
    status: Annotated[str, msgspec.Meta(pattern="^(running|completed|failed)$")] = "running"


class _Form(msgspec.Struct, forbid_unknown_fields=True):
    """What `to_dict` gives."""

    trace_id: _TraceId
    root_span_id: _SpanId
    current_span_id: _SpanId
    workflow_chain: Annotated[tuple[_Workflow, ...], msgspec.Meta(min_length=1)]
    custom_attributes: dict[str, Any] = {}
    sampled: bool = True
    version: int = VERSION


class ObservabilityContext:
    """A chain of workflows, root first, in one trace; can travel to other processes as a dict.

    A context of which the invoker made a call is that call's. Any other stands for a workflow that others are
    invoked in; its span begins when the context is made, ends with the last of them, and is written when the
    context is no longer used. As a context manager it is exact: then the span ends with the block.

    Attributes:
        trace_id: 32 hex digits, the trace id of the chain's spans.
        current_span_id: 16 hex digits, the span of the last workflow.
    """

    __slots__ = ("_entered", "_span", "current_span_id", "trace_id")

    def __init__(self, span: WorkflowSpan, current_span_id: str | None = None) -> None:
        """Contexts are made by `create_root_context` and its like."""
        self._span = span
        self._entered: list[tuple[Any, Any]] = []
        self.trace_id = span.trace_id
        self.current_span_id = current_span_id or span.span_id

    @property
    def root_span_id(self) -> str:
        """16 hex digits, the span of the first workflow."""
        return self._span.chain.workflows[0].workflow_id

    @property
    def workflow_chain(self) -> tuple[WorkflowMetadata, ...]:
        """The workflows from the root to the current one; those around it as they were when it was made."""
        return self._span.chain.workflows

    @property
    def custom_attributes(self) -> dict[str, Any]:
        """What `add_attribute` added; children inherit a copy."""
        return self._span.chain.custom_attributes

    @classmethod
    def create_root_context(
        cls, workflow_name: str = "root", trace_id: str | None = None, root_span_id: str | None = None
    ) -> Self:
        """A chain of one workflow, in the trace of the current span, else in a new one.

        Args:
            workflow_name: for people and queries; not empty.
            trace_id: 32 hex digits, or a UUID; the trace to be in.
            root_span_id: 16 hex digits; the id that the workflow's span is to have.

        Raises:
            InputError: the name or an id cannot be one.
        """
        name = _checked_name(workflow_name)
        around = _surroundings()
        if trace_id is not None:
            trace_id = _checked(str(trace_id).replace("-", "").lower(), _TraceId, "trace_id", "32 hex digits")
            if around is not None and around.trace_id != trace_id:
                around = None
        elif around is None or isinstance(around, NotRecorded):
            trace_id = sources.active.ids.trace_id()
        else:
            trace_id = around.trace_id
        if root_span_id is not None:
            root_span_id = _checked(str(root_span_id).lower(), _SpanId, "root_span_id", "16 hex digits")
        start_ns = now_ns(around)
        workflow = WorkflowMetadata(
            name, root_span_id or sources.active.ids.span_id(), start_time=start_ns / 1e9
        )
        return cls(WorkflowSpan(trace_id, Chain((workflow,)), start_ns=start_ns, around=around))

    def create_child_context(self, workflow_name: str, workflow_id: str | None = None) -> Self:
        """The chain with one more workflow at its end; this context stays as it is.

        Args:
            workflow_name: for people and queries; not empty.
            workflow_id: 16 hex digits; the id that the workflow's span is to have.

        Raises:
            InputError: the name or the id cannot be one.
        """
        name = _checked_name(workflow_name)
        if workflow_id is not None:
            workflow_id = _checked(str(workflow_id).lower(), _SpanId, "workflow_id", "16 hex digits")
        here = self._here()
        start_ns = now_ns(here or self._span.place)
        child = WorkflowMetadata(
            name,
            workflow_id or sources.active.ids.span_id(),
            self._span.span_id,
            start_time=start_ns / 1e9,
        )
        chain = Chain((*self.workflow_chain, child), dict(self.custom_attributes))
        return type(self)(
            WorkflowSpan(self.trace_id, chain, start_ns=start_ns, parent=self._span, around=here)
        )

    def create_span_context(self, span_id: str) -> Self:
        """The same workflow at one of its spans: what is invoked with it starts in that span.

        Args:
            span_id: 16 hex digits; a span of this workflow.

        Raises:
            InputError: the id cannot be one.
        """
        return type(self)(self._span, _checked(str(span_id).lower(), _SpanId, "span_id", "16 hex digits"))

    def add_attribute(self, key: str, value: Any) -> None:
        """Add a custom attribute: for its own span, spans in it that start later, and later children."""
        self.custom_attributes[to_text(key)] = value

    def get_current_workflow(self) -> WorkflowMetadata:
        """The last workflow of the chain."""
        return self._span.chain.innermost

    def get_workflow_depth(self) -> int:
        """How deep the current workflow is: 0 for the root."""
        return len(self.workflow_chain) - 1

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the version of this form; `from_dict` of another process takes them."""
        place = self._span.exist()
        form = {
            "trace_id": self.trace_id,
            "root_span_id": self.root_span_id,
            "current_span_id": self.current_span_id,
            "workflow_chain": self.workflow_chain,
            "custom_attributes": self.custom_attributes,
            "sampled": place is None or place.sampled,
            "version": VERSION,
        }
        built: dict[str, Any] = msgspec.json.decode(to_json(form))
        return built

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """The context that `to_dict` wrote, in this process or in another.

        Raises:
            InputError: a field is missing, unknown or wrong, or the version is unknown.
        """
        if not isinstance(value, Mapping):
            raise InputError(
                f"an ObservabilityContext is read from the dict of to_dict, not from {type(value)}"
            )
        version = value.get("version", VERSION)
        if version != VERSION:
            raise InputError(
                f"ObservabilityContext version {version!r} is not known; this release reads {VERSION}."
                " Update the process that reads it"
            )
        try:
            form = msgspec.convert(dict(value), _Form)
        except msgspec.ValidationError as error:
            raise InputError(f"not an ObservabilityContext as to_dict writes it: {error}") from error
        if form.workflow_chain[0].workflow_id != form.root_span_id:
            raise InputError("not an ObservabilityContext: root_span_id is not the first workflow's id")
        chain = Chain(
            tuple(WorkflowMetadata(**msgspec.structs.asdict(workflow)) for workflow in form.workflow_chain),
            form.custom_attributes,
        )
        place = SpanContext.remote(form.trace_id, chain.innermost.workflow_id, sampled=form.sampled)
        place.workflow = chain
        return cls(WorkflowSpan(form.trace_id, chain, place=place), form.current_span_id)

    @classmethod
    def of(cls, span: SpanContext) -> Self | None:
        """The context of the workflow that a span is in."""
        chain, above = span.workflow, span
        if chain is None:
            return None
        while isinstance(above, LiveSpan) and above.parent and above.span_id != chain.innermost.workflow_id:
            above = above.parent
        if above.span_id != chain.innermost.workflow_id:
            sampled = span.sampled
            above = SpanContext.remote(span.trace_id, chain.innermost.workflow_id, sampled=sampled)
            above.workflow = chain
        return cls(WorkflowSpan(span.trace_id, chain, place=above))

    def invoke(self, content: Any = msgspec.UNSET, workload_id: str | None = None) -> WorkflowSpan:
        """The workflow's span, open: for who runs it. `content` is its input."""
        self._span.place = self._span.begin(content, workload_id)
        return self._span

    def _here(self) -> SpanContext | None:
        """The span that a child starts in where that is not this workflow's own."""
        here = context.innermost()
        if self.current_span_id != self._span.span_id:
            if here is None or here.span_id != self.current_span_id:
                here = SpanContext.remote(self.trace_id, self.current_span_id)
                here.workflow = self._span.chain
            return here
        inside = here is not None and here.workflow is not None and here.trace_id == self.trace_id
        return here if inside and here.workflow.innermost.workflow_id == self._span.span_id else None  # type: ignore[union-attr]  # it is inside

    def __enter__(self) -> Self:
        span = self._span.exist()
        if isinstance(span, LiveSpan):
            self._entered.append((None, running.set(self)))
            span.__enter__()
        else:
            self._entered.append((context.current.set(span) if span else None, running.set(self)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        span, (current, ran) = self._span.place, self._entered.pop()
        running.reset(ran)
        if isinstance(span, LiveSpan):
            leave(span)
            self._span.end(error)
        elif current is not None:
            context.current.reset(current)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObservabilityContext) and self._value() == other._value()

    __hash__ = None  # type: ignore[assignment]  # attributes may be added

    def _value(self) -> tuple[Any, ...]:
        return (self.trace_id, self.current_span_id, self.workflow_chain, self.custom_attributes)

    def __repr__(self) -> str:
        path = " -> ".join(workflow.workflow_name for workflow in self.workflow_chain)
        return f"<ObservabilityContext {path!r} trace {self.trace_id} span {self.current_span_id}>"


running: Final[ContextVar[ObservabilityContext | None]] = ContextVar("millstream_workflow", default=None)
"""The workflow that this code runs in; a thread, or another process, has it by its current span alone."""
_called: Final[ContextVar[tuple[str | None, ObservabilityContext] | None]] = ContextVar(
    "millstream_called_workflow", default=None
)
"""The workflow that was called last, and the span that it was called in."""


def _surroundings() -> SpanContext | None:
    """The span that a root of a chain starts in."""
    span = context.innermost()
    if span is None and context.joined is None:
        span = context.opentelemetry_parent()
    active = recorder.get()
    return active.remote_parent if span is None and active is not None else span


def _checked(value: str, kind: Any, name: str, what: str) -> str:
    try:
        checked: str = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise InputError(f"{name} {value!r} cannot be one: it is {what}, not all of them 0") from None
    return checked


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise InputError(
            f"workflow_name must be a text, not {type(name).__name__}; give the name that its span is to have"
        )
    if not name.strip():
        raise InputError("workflow_name is empty; give the name that its span is to have")
    return to_text(name)


def running_context() -> ObservabilityContext | None:
    """The workflow that this code runs in, here or, as a request tells, in another process."""
    here, around = context.innermost(), running.get()
    if isinstance(here, NotRecorded):
        return around
    if here is None:
        active = recorder.get()
        if around is not None or active is None or active.remote_parent is None:
            return around
        here = active.remote_parent
    if here.workflow is None:
        return around if isinstance(here, LiveSpan) else None
    if around is not None and around.workflow_chain is here.workflow.workflows:
        return around
    return ObservabilityContext.of(here)


def current_context() -> ObservabilityContext | None:
    """The context of the last call that was made from here, else that of the workflow that this runs in."""
    here, last = context.innermost(), _called.get()
    if last is not None and last[0] == (None if here is None else here.span_id):
        return last[1]
    return running_context()


def begin_calls() -> Token[Any]:
    """Where a workflow begins, no call has been made from it."""
    return _called.set(None)


def call_made(made: ObservabilityContext) -> None:
    """Remember the last call that was made from here."""
    here = context.innermost()
    _called.set((None if here is None else here.span_id, made))
