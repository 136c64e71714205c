"""Running a workflow: built once, asked as often as one likes, each run one trace."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Final

from millstream.deliver.options import component
from millstream.errors import ConfigError, InputError, UnreachableError
from millstream.record.invocation import Invocation
from millstream.record.live import LiveSpan
from millstream.record.observability import running_context
from millstream.record.opening import start_span
from millstream.span import SpanKind
from millstream.workflow.answers import answer_of
from millstream.workflow.builder import Builder
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.delivery import delivering
from millstream.workflow.functions import Function
from millstream.workflow.logging import log_messages
from millstream.workflow.validation import in_file

_TELLING: Final = frozenset({"cross_workflow_processor", "workflow_relationship_processor"})
"""Processors that tell of each span which workflow it is in."""


class Workflow:
    """A workflow that is ready. Runs may go on at the same time.

    Attributes:
        config: the file.
        builder: what built it; gives the file's models and functions too.
    """

    def __init__(self, config: WorkflowConfig, builder: Builder, function: Function) -> None:
        self.config = config
        self.builder = builder
        self._function = function
        self._tells_workflows = _tells_workflows(config.general.telemetry.tracing)

    @property
    def name(self) -> str:
        """`general.workflow_name`, else the `_type` of the workflow (of `python`: the target's attribute)."""
        return self.config.name

    async def run(
        self,
        message: Any,
        *,
        trace_id: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        within: AbstractAsyncContextManager[Any] | None = None,
    ) -> Any:
        """Answer one message. The run is a WORKFLOW span named by the workflow, with everything in it below.

        Args:
            message: a text, or a mapping of the workflow's arguments.
            trace_id: 32 hex digits for the trace; a new one when `None`.
            attributes: recorded on the span.
            within: entered inside the span: an exception that it raises or changes is that of the span.

        Returns:
            The answer as a JSON value; mostly a text.

        Raises:
            Exception: whatever the workflow raised, recorded on the span; `explain` says what it means.
        """
        with self._span(message, trace_id) as span:
            span.set_attributes(attributes or {})
            async with within or nullcontext():
                answer = await self.call_unrecorded(message)
            span.set_output(answer)
            return answer

    async def call_unrecorded(self, message: Any) -> Any:
        """As `run`, without a span of its own: for who has one around it."""
        return answer_of(await self._function.call_unrecorded(message))

    async def pieces_unrecorded(self, message: Any) -> AsyncGenerator[Any, None]:
        """As `call_unrecorded`, piece by piece where the workflow gives pieces."""
        async for piece in self._function.pieces_unrecorded(message):
            yield answer_of(piece)

    @contextmanager
    def _span(self, message: Any, trace_id: str | None) -> Iterator[LiveSpan]:
        """The span of a run; a part of the chain of workflows where there is one, or exporters tell of it."""
        if self._tells_workflows or running_context() is not None:
            with Invocation(
                self.name, message=message, workload_id=self.name, trace_id=trace_id
            ) as invocation:
                yield invocation.span
        else:
            with start_span(
                self.name, kind=SpanKind.WORKFLOW, input=message, workload_id=self.name, trace_id=trace_id
            ) as span:
                yield span


@asynccontextmanager
async def open_workflow(config: WorkflowConfig) -> AsyncIterator[Workflow]:
    """Build what the section `workflow` needs; at the end, components clean up, the last built first.

    What is recorded meanwhile is delivered to the file's exporters, once a process.

    Args:
        config: from `load_config`.

    Raises:
        ConfigError: something in the file is wrong.
        MissingExtraError: something it uses is not installed.
    """
    with log_messages(config):
        async with delivering(config):
            with in_file(config.path):
                builder = Builder(config)
            try:
                with in_file(config.path, ConfigError, InputError, UnreachableError):
                    function = await builder.get_workflow()
                yield Workflow(config, builder, function)
            finally:
                await builder.aclose()


def _tells_workflows(tracing: Mapping[str, Any]) -> bool:
    """Whether an exporter has such a processor; else spans need not say which workflow they are in."""
    processors = [
        entry.get("_type", entry.get("type")) if isinstance(entry, Mapping) else entry
        for name, section in tracing.items()
        for entry in component(section, name).get("processors") or ()
    ]
    return not _TELLING.isdisjoint(processors)
