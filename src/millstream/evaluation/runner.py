"""Asks a workflow the questions: so many at a time, each with its limit, each failure kept as a result."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Protocol

import msgspec

from millstream import semconv, sources
from millstream.errors import InputError, ItemTimeoutError, WorkflowError
from millstream.evaluation.dataset import Item, has_question
from millstream.evaluation.loop import StallWatch, give_up, in_workers
from millstream.evaluation.reachability import Reachability
from millstream.evaluation.results import ItemError, ItemResult
from millstream.workflow.answers import answer_of
from millstream.workflow.call_cache import cache_scope
from millstream.workflow.explain import explain, is_server_failure

_MAX_MESSAGE = 10_000


class Asked(Protocol):
    """What is asked: a workflow that is open."""

    def run(
        self,
        message: Any,
        *,
        trace_id: str | None,
        attributes: dict[str, Any] | None,
        within: AbstractAsyncContextManager[Any] | None,
    ) -> Awaitable[Any]:
        """Answer one message and record it as one trace, with `within` entered inside its root."""
        ...


class Guard(AbstractAsyncContextManager["Guard"]):
    """Around one item, inside its root span: what ends it becomes an error of the item, and of the span.

    A time limit, `sys.exit`, a `KeyboardInterrupt` that no signal caused and a cancellation that nobody asked
    for would end more than the item, or be recorded as if the run had been stopped.

    Args:
        timed_out: makes the error of an item that took too long.
    """

    def __init__(self, timed_out: Callable[[], ItemTimeoutError]) -> None:
        self._timed_out = timed_out
        self.expired = False
        """Set before the item is cancelled because it took too long."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.expired:
            raise self._timed_out() from error
        if isinstance(error, SystemExit):
            raise WorkflowError(f"the workflow called sys.exit({error.code!r})") from error
        if isinstance(error, KeyboardInterrupt):
            raise WorkflowError("the workflow raised KeyboardInterrupt") from error
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling():
            raise WorkflowError("the workflow cancelled itself") from error


class Ask(msgspec.Struct, frozen=True):
    """One item to be asked, and which repetition it is."""

    item: Item
    rep: int

    @property
    def key(self) -> tuple[str, int]:
        """That of its result."""
        return self.item.id, self.rep


class Runner:
    """Runs items through a workflow.

    Args:
        workflow: answers.
        max_concurrency: items at the same time.
        timeout_s: the most one item may take; `None` is no limit.
        run_timeout_s: the most that all may take; a call that holds up everything is broken off after it.
        run_id: put on the spans of every item.
        reachability: decides whether going on makes sense.
        save: called with each result as soon as it may be saved.
    """

    def __init__(
        self,
        workflow: Asked,
        *,
        max_concurrency: int,
        timeout_s: float | None,
        run_timeout_s: float | None = None,
        run_id: str,
        reachability: Reachability,
        save: Callable[[ItemResult], None],
    ) -> None:
        self._workflow = workflow
        self._max_concurrency = max_concurrency
        self._timeout_s = timeout_s
        self._run_timeout_s = run_timeout_s
        self._run_id = run_id
        self._reachability = reachability
        self._save = save
        self.hanging = False
        """Whether an item was given up: something of it may still run; the exit must not wait for it."""

    async def run(self, asks: Iterable[Ask]) -> None:
        """Ask them all. When cancelled, or when saving fails, the running ones are cancelled.

        Args:
            asks: read one by one, as there is time for them.

        Raises:
            UnreachableError: a server that everything needs is down.
            StorageError: a result cannot be saved.
        """
        queue = iter(asks)
        with StallWatch(self._timeout_s or self._run_timeout_s, self._timed_out):
            await in_workers(lambda: self._work(queue), self._max_concurrency, "worker")

    async def _work(self, queue: Iterator[Ask]) -> None:
        for ask in queue:
            result, error = await self._ask(ask)
            for free in self._reachability.judge(result, error):
                self._save(free)

    async def _ask(self, ask: Ask) -> tuple[ItemResult, BaseException | None]:
        if not has_question(ask.item):
            error: BaseException | None = InputError("the question is empty")
            return _result(ask, None, error), error
        clock = sources.active.clock
        trace_id, start_ns, began_ns = sources.new_trace_id(), clock.wall_ns(), clock.monotonic_ns()
        answer, error = await self._limited(ask, trace_id)
        runtime_s = (clock.monotonic_ns() - began_ns) / 1e9
        return _result(ask, answer, error, trace_id, start_ns, runtime_s), error

    async def _limited(self, ask: Ask, trace_id: str) -> tuple[Any, BaseException | None]:
        guard = Guard(self._timed_out)
        task = asyncio.create_task(self._call(ask, trace_id, guard))
        try:
            await asyncio.wait({task}, timeout=self._timeout_s)
        except asyncio.CancelledError:
            await self._cancel(task)
            raise
        if not task.done():
            guard.expired = True
            await self._cancel(task)
            return None, self._timed_out()
        if task.cancelled():
            return None, WorkflowError("the workflow cancelled itself")
        error = task.exception()
        return (None, error) if error is not None else (task.result(), None)

    async def _call(self, ask: Ask, trace_id: str, guard: Guard) -> Any:
        attributes = {
            semconv.EVAL_ITEM_ID: ask.item.id,
            semconv.EVAL_REP: ask.rep,
            semconv.EVAL_RUN_ID: self._run_id,
        }
        with cache_scope(f"rep {ask.rep}"):
            answer = await self._workflow.run(
                ask.item.question, trace_id=trace_id, attributes=attributes, within=guard
            )
        return answer_of(answer)

    async def _cancel(self, task: "asyncio.Task[Any]") -> None:
        self.hanging = True
        await give_up(task)

    def _timed_out(self) -> ItemTimeoutError:
        if self._timeout_s is None:
            return ItemTimeoutError(
                f"the item held up all others for eval.general.run_timeout_s = {self._run_timeout_s:g} s"
            )
        return ItemTimeoutError(f"the item ran longer than eval.general.timeout_s = {self._timeout_s:g} s")


def _result(
    ask: Ask,
    answer: Any,
    error: BaseException | None,
    trace_id: str | None = None,
    start_ns: int | None = None,
    runtime_s: float | None = None,
) -> ItemResult:
    return ItemResult(
        id=ask.item.id,
        rep=ask.rep,
        index=ask.item.index,
        question=ask.item.question,
        expected=ask.item.expected,
        answer=answer,
        error=None if error is None else describe(error),
        trace_id=trace_id,
        start_ns=start_ns,
        runtime_s=runtime_s,
    )


def describe(error: BaseException) -> ItemError:
    """An exception as it is kept in the results; failures of a model server are told with what to do."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    try:
        message = explain(error) if is_server_failure(error) else str(error)
    except Exception:  # noqa: BLE001  # a user's __str__ may raise anything
        message = "(its message could not be read)"
    return ItemError(type(error).__name__, message[:_MAX_MESSAGE])
