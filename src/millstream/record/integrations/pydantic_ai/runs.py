"""Runs of Pydantic AI's agents: a span each, current while the framework works on the run.

Every way to run an agent enters `Agent.iter`. The block around it is the caller's own, which may hand out
pieces of a stream to others, so there the span is not current; the calls of a run find it by the run's id.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
)
from typing import Any, Final

from pydantic_ai import Agent, CallToolsNode, ModelRequestNode, exceptions
from pydantic_ai.run import AgentRun

from millstream import context, semconv
from millstream.record.integrations.methods import Methods, argument, started
from millstream.record.integrations.observed import Observed, begin, quietly
from millstream.record.integrations.pydantic_ai.messages import content_json
from millstream.span import SpanKind

FRAMEWORK: Final = "pydantic-ai"

_CANCELLED: Final[Any] = getattr(exceptions, "RunCancelled", ())
_TIMED_OUT: Final[Any] = getattr(exceptions, "RunTimedOut", ())
_runs: Final[dict[str, Observed]] = {}
"""The runs that have not ended, by their ids."""
_methods: Final = Methods()


def install() -> None:
    """Record the runs of every agent."""
    _methods.put(Agent, ["iter"], _record_run)
    _methods.put(AgentRun, ["next", "_run_node_with_hooks"], _inside_run)
    for node in (ModelRequestNode, CallToolsNode):
        _methods.put(node, ["stream"], _inside_stream)


def uninstall() -> None:
    """Put the methods back; runs that have begun are recorded to their end."""
    _methods.undo()


def inside(run_id: str | None) -> AbstractContextManager[object]:
    """A block in which the run is current, unless what is current already is in it."""
    run = _runs.get(run_id) if run_id else None
    here: Any = context.current.get()
    while run is not None and here is not None:
        if here is run.span:
            return nullcontext()
        here = getattr(here, "parent", None)
    return nullcontext() if run is None else run.inside()


@asynccontextmanager
async def entered(
    manager: AbstractAsyncContextManager[Any], block: Callable[[], AbstractContextManager[object]]
) -> AsyncIterator[Any]:
    """The same manager, entered and left inside a block; what its user does in between is outside of it."""
    with block():
        value = await manager.__aenter__()
    try:
        yield value
    except BaseException as error:  # the manager decides
        with block():
            if not await manager.__aexit__(type(error), error, error.__traceback__):
                raise
    else:
        with block():
            await manager.__aexit__(None, None, None)
    finally:
        del manager, value  # as in `recording`


def _record_run(iterate: Callable[..., Any]) -> Callable[..., Any]:
    begin_run = _methods.while_on(_begin_run)

    @functools.wraps(iterate)
    @asynccontextmanager
    async def recording(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        manager = iterate(self, *args, **kwargs)
        run = started(begin_run, self, args, kwargs)
        if run is None:
            async with manager as agent_run:
                yield agent_run
            return
        agent_run = failure = None
        try:
            async with entered(manager, run.inside) as agent_run:
                _runs.setdefault(_id_of(agent_run), run)
                yield agent_run
        except BaseException as error:
            failure = error
            raise
        finally:
            _end_run(run, agent_run, failure)
            # A failed run keeps its error, whose traceback holds this frame: no cycle through here.
            del self, args, kwargs, manager, agent_run, failure

    return recording


def _id_of(agent_run: Any) -> str:
    return getattr(agent_run, "run_id", None) or str(id(agent_run))


def _begin_run(agent: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed:
    name = agent.name or "agent"
    prompt = argument(args, kwargs, 0, "user_prompt")
    return begin(
        SpanKind.AGENT,
        name,
        content_json(prompt),
        framework=FRAMEWORK,
        attributes={semconv.OPERATION_NAME: "invoke_agent", semconv.AGENT_NAME: agent.name},
    )


def _end_run(run: Observed, agent_run: Any, failure: BaseException | None) -> None:
    if agent_run is not None:
        if _runs.get(_id_of(agent_run)) is run:
            del _runs[_id_of(agent_run)]
        _tell_result(run, agent_run)
    if isinstance(failure, _CANCELLED) and not isinstance(failure, _TIMED_OUT):
        failure = asyncio.CancelledError(str(failure))
    run.end(failure)


@quietly
def _tell_result(run: Observed, agent_run: Any) -> None:
    run.know({semconv.CONVERSATION_ID: getattr(agent_run, "conversation_id", None)})
    if agent_run.result is not None:
        run.answer(agent_run.result.output)


def _inside_run(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            with inside(_id_of(self)):
                return await method(self, *args, **kwargs)
        finally:
            del self  # as the method does itself, for the error that the run keeps

    return wrapper


def _inside_stream(stream: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stream)
    @asynccontextmanager
    async def wrapper(self: Any, ctx: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        manager = stream(self, ctx, *args, **kwargs)
        block = functools.partial(inside, getattr(ctx.state, "run_id", None))
        try:
            async with entered(manager, block) as pieces:
                yield pieces
        finally:
            del self, ctx, args, kwargs, manager  # as in `recording`

    return wrapper
