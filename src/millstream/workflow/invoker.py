"""`ObservabilityWorkflowInvoker`: call anything as one workflow of a chain."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from pydantic import TypeAdapter, ValidationError

from millstream.errors import InputError, WorkflowError
from millstream.record.invocation import Invocation
from millstream.record.observability import (
    ObservabilityContext,
    call_made,
    current_context,
    running,
)
from millstream.record.steps import IntermediateStep, subscribe
from millstream.workflow.answers import answer_text
from millstream.workflow.callees import callee_of


class ObservabilityWorkflowInvoker:
    """Calls workflows so that each is one span of kind WORKFLOW, in its place in the chain of workflows.

    A workflow is one of a workflow file (`open_workflow`), one of its functions, a sync or async function or
    any object that can be called, a LangGraph graph or LangChain runnable, or the URL of an HTTP endpoint:
    the message is posted to it as JSON, and to one that ends in `/chat/completions` as a user's message.

    Without `parent_context` a call is in the workflow that runs, and a root where none does.
    """

    @staticmethod
    async def invoke_workflow_with_context(
        workflow: Any,
        message: Any,
        workflow_name: str,
        parent_context: ObservabilityContext | None = None,
        to_type: Any = None,
    ) -> Any:
        """Call a workflow with a message.

        Args:
            workflow: anything that the class's description names.
            message: what it is asked.
            workflow_name: the name of its span; not empty.
            parent_context: the workflow that it is called in.
            to_type: what the result is to be, such as `str` or a pydantic model.

        Raises:
            InputError: an argument is not what it must be.
            WorkflowError: an endpoint answered with an error, or the result cannot be made a `to_type`.
            UnreachableError: an endpoint does not answer.
            Exception: whatever the workflow raised, recorded on its span.
        """
        callee = callee_of(workflow, workflow_name)
        with Invocation(workflow_name, _checked(parent_context), message, callee.workload_id) as invocation:
            result = _as_type(await callee.call(message), to_type)
            invocation.span.set_output(result)
            return result

    @staticmethod
    async def invoke_workflow_stream_with_context(
        workflow: Any,
        message: Any,
        workflow_name: str,
        parent_context: ObservabilityContext | None = None,
        to_type: Any = None,
    ) -> AsyncIterator[Any]:
        """Call a workflow, and give what it gives as it comes; one that gives no pieces gives its result.

        The span lasts until the last piece. What the consumer does between two is not in it. Arguments and
        errors are those of `invoke_workflow_with_context`; `to_type` is that of a piece.
        """
        callee = callee_of(workflow, workflow_name)
        invocation = Invocation(workflow_name, _checked(parent_context), message, callee.workload_id)
        invocation.begin()
        pieces = None
        try:
            while True:
                invocation.enter()
                try:
                    pieces = pieces or callee.stream(message)
                    piece = _as_type(await anext(pieces), to_type)
                except StopAsyncIteration:
                    break
                finally:
                    invocation.leave()
                invocation.span.add_chunk(piece)
                yield piece
        except BaseException as error:
            invocation.end(error)  # a consumer that stops early is no error
            if pieces is not None:
                with suppress(RuntimeError):
                    await pieces.aclose()
            raise
        invocation.end()

    @staticmethod
    async def invoke_with_steps_and_context(
        workflow: Any,
        message: Any,
        workflow_name: str,
        parent_context: ObservabilityContext | None = None,
        to_type: Any = None,
    ) -> tuple[Any, list[IntermediateStep]]:
        """Call a workflow; gives its result, and the events of all spans in it, in this process.

        Arguments and errors are those of `invoke_workflow_with_context`.
        """
        callee = callee_of(workflow, workflow_name)
        invocation = Invocation(workflow_name, _checked(parent_context), message, callee.workload_id)
        steps = _Steps(invocation)
        with subscribe(steps.take), invocation:
            result = _as_type(await callee.call(message), to_type)
            invocation.span.set_output(result)
        return result, steps.taken

    @staticmethod
    def get_current_observability_context() -> ObservabilityContext | None:
        """The context of the last call made from here, else that of the workflow that this runs in."""
        return current_context()

    @staticmethod
    def create_observability_context(workflow_name: str, trace_id: str | None = None) -> ObservabilityContext:
        """A root context that calls without `parent_context` are in from now on, in this task or thread."""
        context = ObservabilityContext.create_root_context(workflow_name, trace_id)
        running.set(context)
        call_made(context)
        return context


class _Steps:
    """The events of the spans of one call, among those of all."""

    def __init__(self, invocation: Invocation) -> None:
        self.taken: list[IntermediateStep] = []
        self._invocation = invocation
        self._inside: set[str] = set()

    def take(self, step: IntermediateStep) -> None:
        """Keep an event of a span that is the call's own, or in it."""
        own = self._invocation.context
        if step.UUID in self._inside or step.parent_id in self._inside or own.current_span_id == step.UUID:
            self._inside.add(step.UUID)
            self.taken.append(step)


def _checked(parent: Any) -> ObservabilityContext | None:
    if parent is None or isinstance(parent, ObservabilityContext):
        return parent
    raise InputError(
        f"parent_context must be an ObservabilityContext, not {type(parent).__name__};"
        " ObservabilityContext.from_dict reads what to_dict wrote"
    )


def _as_type(result: Any, to_type: Any) -> Any:
    """A result as what was asked for: a text is read as JSON where it must become something else."""
    if to_type is None or (isinstance(to_type, type) and isinstance(result, to_type)):
        return result
    if to_type is str:
        return answer_text(result)
    adapter = TypeAdapter(to_type)
    with suppress(ValidationError):
        return adapter.validate_python(result)
    try:
        return adapter.validate_json(answer_text(result))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise WorkflowError(f"the workflow's result is no {to_type}: {problem}") from None
