"""What can be called as a workflow, and how: with one message, for a result or for pieces."""

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NamedTuple

from millstream.errors import InputError
from millstream.workflow.functions import Function, call_any, pieces_of
from millstream.workflow.http_workflow import post
from millstream.workflow.python_target import (
    METHODS,
    PythonConfig,
    compiled,
    function_of,
    input_of,
    is_runnable,
)
from millstream.workflow.runner import Workflow


class Callee(NamedTuple):
    """How to call a workflow.

    Attributes:
        call: takes the message, gives the result.
        stream: takes the message, gives pieces.
        workload_id: of one that is registered: the name that its model calls go by.
    """

    call: Callable[[Any], Awaitable[Any]]
    stream: Callable[[Any], AsyncGenerator[Any, None]]
    workload_id: str | None = None


def callee_of(workflow: Any, name: str) -> Callee:
    """How to call a workflow.

    Args:
        workflow: one of a workflow file or one of its functions, anything that can be called, a LangGraph
            graph, a LangChain runnable, or a URL.
        name: what it goes by.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(workflow, Workflow | Function):
        return Callee(workflow.call_unrecorded, workflow.pieces_unrecorded, workflow.name)
    if isinstance(workflow, str):
        return _single(post(workflow, name))
    if inspect.isroutine(workflow) or isinstance(workflow, functools.partial):
        return Callee(functools.partial(call_any, workflow), functools.partial(_pieces, workflow))
    workflow = compiled(workflow)
    if is_runnable(workflow):
        return _runnable(workflow, name)
    if not isinstance(workflow, type) and any(callable(getattr(workflow, each, None)) for each in METHODS):
        return _single(functools.partial(_call_method, workflow, name))
    if callable(workflow):
        return Callee(functools.partial(call_any, workflow), functools.partial(_pieces, workflow))
    raise InputError(
        f"workflow: a {type(workflow).__name__} cannot be called and has none of the methods"
        f" {', '.join(METHODS)}; give a workflow of open_workflow, a function, a graph or a URL"
    )


def _single(call: Callable[[Any], Awaitable[Any]]) -> Callee:
    """One that gives no pieces."""

    async def stream(message: Any) -> AsyncGenerator[Any, None]:
        yield await call(message)

    return Callee(call, stream)


async def _pieces(function: Callable[..., Any], message: Any) -> AsyncGenerator[Any, None]:
    async for piece in pieces_of(function, message):
        yield piece


def _runnable(target: Any, name: str) -> Callee:
    config = PythonConfig(target=name)

    async def stream(message: Any) -> AsyncGenerator[Any, None]:
        async for piece in target.astream(input_of(target, message, config)):
            yield piece

    return Callee(functools.partial(_call_method, target, name), stream)


async def _call_method(target: Any, name: str, message: Any) -> Any:
    function = Function(name, await function_of(target, PythonConfig(target=name)))
    return await function.call_unrecorded(message)
