"""Running a workflow: built once, asked as often as one likes, each run one trace."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from millstream.record.opening import start_span
from millstream.span import SpanKind
from millstream.workflow.answers import answer_of
from millstream.workflow.builder import Builder
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.functions import Function
from millstream.workflow.logging import log_messages


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
        with start_span(
            self.name,
            kind=SpanKind.WORKFLOW,
            input=message,
            attributes=dict(attributes or {}),
            workload_id=self.name,
            trace_id=trace_id,
        ) as span:
            async with within or nullcontext():
                answer = answer_of(await self._function.call_unrecorded(message))
            span.set_output(answer)
            return answer


@asynccontextmanager
async def open_workflow(config: WorkflowConfig) -> AsyncIterator[Workflow]:
    """Build what the section `workflow` needs; at the end, components clean up, the last built first.

    Args:
        config: from `load_config`.

    Raises:
        ConfigError: something in the file is wrong.
        MissingExtraError: something it uses is not installed.
    """
    with log_messages(config.general.telemetry.logging):
        builder = Builder(config)
        try:
            yield Workflow(config, builder, await builder.get_workflow())
        finally:
            await builder.aclose()
