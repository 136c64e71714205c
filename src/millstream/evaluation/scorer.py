"""Asks evaluators for scores: so many at a time, each with its limit; a failure is a missing score."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from millstream.errors import ItemTimeoutError, WorkflowError
from millstream.evaluation.evaluators.base import EvalItem, Score, as_score
from millstream.evaluation.judged import evaluating
from millstream.evaluation.loop import StallWatch, give_up, in_workers
from millstream.evaluation.reachability import Judges
from millstream.evaluation.registry import Metric
from millstream.evaluation.results import ItemError
from millstream.evaluation.runner import describe
from millstream.evaluation.scoring import NOT_ANSWERED, ItemScore, missing, scored
from millstream.workflow.functions import call_any


class Call(NamedTuple):
    """One evaluator and one item that it is to score.

    Attributes:
        place: of the result.
        answer: fingerprint of what is judged.
        item: with copies of its own: what an evaluator does to them, no other one sees.
        error: why the item has no answer.
        asked: whether the workflow was asked.
    """

    metric: Metric
    place: int
    answer: str
    item: EvalItem
    error: ItemError | None
    asked: bool


class Scorer:
    """Asks evaluators, so many at a time, each with its limit; a failure is a missing score.

    Sync evaluators run on threads of their own, so that none holds up the others or the exit.

    Args:
        max_concurrency: evaluators that run at the same time.
        timeout_s: the most one may take for one item.
        judges: decides whether going on makes sense.
        save: called with each score that may be saved.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        timeout_s: float,
        judges: Judges[tuple[Call, ItemScore]],
        save: Callable[[Call, ItemScore], None],
    ) -> None:
        self._max_concurrency = max_concurrency
        self._timeout_s = timeout_s
        self._judges = judges
        self._save = save
        self.hanging = False
        """Whether an evaluator was given up: something of it may still run; the exit must not wait for it."""

    async def run(self, calls: Iterable[Call | None]) -> None:
        """Ask them all. When cancelled, or when saving fails, the running ones are cancelled.

        Args:
            calls: read one by one, as there is time for them; `None` is nothing to do.

        Raises:
            UnreachableError: the server of an evaluator is down.
            StorageError: a score cannot be saved.
        """
        queue = iter(calls)
        with StallWatch(self._timeout_s, self._timed_out):
            await in_workers(lambda: self._work(queue), self._max_concurrency, "scorer")
        for call, score in self._judges.rest():
            self._save(call, score)

    async def _work(self, queue: Iterator[Call | None]) -> None:
        for call in queue:
            await asyncio.sleep(0)  # where nobody has to be waited for, signals still have to be seen
            if call is None:
                continue
            score = _without_call(call)
            if score is not None:
                self._save(call, score)
                continue
            score, fault = await self._ask(call)
            for free_call, free_score in self._judges.judge(call.metric.name, (call, score), fault):
                self._save(free_call, free_score)

    async def _ask(self, call: Call) -> tuple[ItemScore, BaseException | None]:
        traces: list[str] = []
        found = _in_place(call) if call.metric.quick else await self._limited(call, traces)
        score, fault = _as_score(call, found)
        return msgspec.structs.replace(score, trace_id=traces[0] if traces else None), fault

    async def _limited(self, call: Call, traces: list[str]) -> Score | BaseException:
        task = asyncio.create_task(_called(call, traces), name=f"evaluator {call.metric.name}")
        try:
            await asyncio.wait({task}, timeout=self._timeout_s)
        except asyncio.CancelledError:
            await self._cancel(task)
            raise
        if not task.done():
            await self._cancel(task)
            return self._timed_out()
        if task.cancelled():
            return WorkflowError("it cancelled itself")
        return task.result()

    async def _cancel(self, task: "asyncio.Task[Any]") -> None:
        self.hanging = True
        await give_up(task)

    def _timed_out(self) -> ItemTimeoutError:
        return ItemTimeoutError(f"it ran longer than eval.general.scoring_timeout_s = {self._timeout_s:g} s")


def _as_score(call: Call, found: Score | BaseException) -> tuple[ItemScore, BaseException | None]:
    failed = call.error is not None
    if isinstance(found, BaseException):
        return missing(call.item, f"the evaluator failed: {describe(found)}", failed=failed), found
    if found.score is None:
        return missing(call.item, str(found.reasoning), failed=failed), None
    return scored(call.item, found, call.error), None


async def _called(call: Call, traces: list[str]) -> Score | BaseException:
    """What an evaluator says, or what it raised: it may be anybody's code.

    Args:
        call: the evaluator and the item.
        traces: takes the id of the trace in which its model calls are recorded.
    """
    try:
        with evaluating(call.metric, call.item) as trace_id:
            traces += [] if trace_id is None else [trace_id]
            return as_score(await call_any(call.metric.call, call.item))
    except (Exception, SystemExit, KeyboardInterrupt) as fault:  # noqa: BLE001
        return fault


def _in_place(call: Call) -> Score | BaseException:
    try:
        return as_score(call.metric.call(call.item))
    except Exception as fault:  # noqa: BLE001  # as above
        return fault


def _without_call(call: Call) -> ItemScore | None:
    """The score that an item has whatever the evaluator would say; `None` where it has to be asked."""
    metric, item, error = call.metric, call.item, call.error
    failed = error is not None
    if error is not None and (error.type == NOT_ANSWERED or (metric.score_failed and not call.asked)):
        return ItemScore(item.id, item.rep, None, None, str(error), failed)
    if metric.needs_expected and item.expected is None:
        return missing(item, "the dataset has no expected answer for this item", failed=failed)
    if error is not None and not metric.score_failed:
        try:
            reason = metric.unscorable(item) if metric.unscorable else None
        except Exception as fault:  # noqa: BLE001  # a plugin may be anybody's code
            reason = f"the evaluator failed: {describe(fault)}"
        if reason is not None:
            return missing(item, reason, failed=True)
        return ItemScore(item.id, item.rep, 0.0, "the item failed", str(error), failed)
    return None
