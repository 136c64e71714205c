"""Asks a workflow what is not answered yet, and tells where the results of all items lie."""

from array import array
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import Any

import msgspec

from millstream import sources
from millstream.evaluation.endpoint import open_endpoint
from millstream.evaluation.files import check_recordable
from millstream.evaluation.fingerprint import evaluated_config
from millstream.evaluation.heap import heap_at_rest
from millstream.evaluation.lazy import Lazy
from millstream.evaluation.lines import NOWHERE
from millstream.evaluation.metadata import Metadata
from millstream.evaluation.prepare import Prepared
from millstream.evaluation.progress import Progress
from millstream.evaluation.reachability import Reachability
from millstream.evaluation.results import RESULTS_FILE, Attempt, ItemResult, read_results, result_at
from millstream.evaluation.runner import Ask, Asked, Runner
from millstream.evaluation.takeover import Takeover
from millstream.record import journal_home, recorder, stats
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.runner import open_workflow


class Asking:
    """All items of a dataset, each asked so many times. Of results only their offsets are in memory.

    Args:
        config: the workflow file.
        prepared: its dataset.
        folder: the output folder.
        metadata: its file.
        reps: how often each item is asked.
        endpoint: of a workflow that is served elsewhere; the file's own is asked without.
        progress: told of each result.
    """

    def __init__(
        self,
        config: WorkflowConfig,
        prepared: Prepared,
        folder: Path,
        metadata: Metadata,
        *,
        reps: int,
        endpoint: str | None,
        progress: Progress,
    ) -> None:
        self._config = config
        self._general = prepared.config.general
        self._items = prepared.dataset.items
        self._folder = folder
        self._metadata = metadata
        self._reps = reps
        self._endpoint = endpoint
        self._progress = progress
        self._home = journal_home()
        self._offsets = array("q", [NOWHERE]) * (len(self._items) * reps)
        """Of the result of each item and repetition: items in order, and of each its repetitions."""
        self._earlier: dict[int, list[Attempt]] = {}
        """At what is asked again."""
        self._resume = False
        self.total = len(self._offsets)
        self.done = 0
        """Results that are in the file, those of an earlier run included."""
        self.lost: dict[str, int] = {}
        """Recorded steps that were lost meanwhile, by reason."""
        self.hanging = False
        """Whether something of an item that was given up may still run."""

    def keep(self, *, failed: bool) -> None:
        """Take over the results of an earlier run that still hold.

        Args:
            failed: whether failed items are kept, too; else they are asked again.

        Raises:
            ConfigError: they are of another workflow.
        """
        self._resume, found = True, False
        indices = {item.id: item.index for item in self._items}
        for offset, result in read_results(self._folder / RESULTS_FILE):
            if not found:
                self._metadata.check_resumable(self._config, self._home, self._endpoint)
                found = True
            index = indices.get(result.id)
            if index is None or not 1 <= result.rep <= self._reps:
                continue
            item = self._items[index]
            holds = (result.question, result.expected) == (item.question, item.expected)
            holds = holds and (failed or result.error is None)
            place = self._place(index, result.rep)
            self._offsets[place] = offset if holds else NOWHERE
            self._earlier.pop(place, None)
            if not holds:
                self._earlier[place] = result.attempts
        if not found:
            self._progress.note("There is nothing to resume; all items are asked.")
        self.done = self.total - self._offsets.count(NOWHERE)

    async def run(self, description: Mapping[str, Any], effective: dict[str, Any]) -> None:
        """Ask what is left.

        Args:
            description: of the run, for its metadata.
            effective: the configuration to be written down.

        Raises:
            UnreachableError: a server that every item needs is down.
            StorageError: a result cannot be saved.
        """
        if recorder.get() is not None:
            check_recordable(self._home)
        before = self._metadata.before.get("evaluators", [])
        evaluators = sorted({*description["evaluators"], *before})
        async with self._open() as workflow:
            self._metadata.content = {
                **description,
                "run_id": sources.new_trace_id(),
                "evaluated": evaluated_config(self._config.raw_effective),
                "journal_home": str(self._home),
                "evaluators": evaluators,
            }
            self._progress.started(self.total, self.done)
            dropped = stats()["dropped"]
            with Takeover(
                self._folder,
                self._metadata,
                effective,
                evaluators=evaluators,
                resume=self._resume,
                note=self._progress.note,
            ) as takeover:
                await self._ask(workflow, takeover)
            now = stats()["dropped"].items()
            self.lost = {why: n - dropped.get(why, 0) for why, n in now if n > dropped.get(why, 0)}
        self._metadata.content["evaluators"] = description["evaluators"]

    def _open(self) -> AbstractAsyncContextManager[Asked]:
        if self._endpoint is None:
            return open_workflow(self._config)
        return open_endpoint(self._config, self._endpoint, self._general.endpoint)

    async def _ask(self, workflow: Asked, takeover: Takeover) -> None:
        def save(result: ItemResult) -> None:
            place = self._place(result.index, result.rep)
            result = msgspec.structs.replace(result, earlier=self._earlier.get(place, []))
            self._offsets[place] = takeover.save(result)
            self.done += 1
            self._progress.finished(result)

        runner = Runner(
            workflow,
            max_concurrency=self._general.max_concurrency,
            timeout_s=self._general.timeout_s,
            run_timeout_s=self._general.run_timeout_s,
            run_id=self._metadata.content["run_id"],
            reachability=Reachability(self.total - self.done, self._general.max_concurrency),
            save=save,
        )
        try:
            with heap_at_rest():
                await runner.run(
                    Ask(item, rep)
                    for rep in range(1, self._reps + 1)
                    for item in self._items
                    if self._offsets[self._place(item.index, rep)] == NOWHERE
                )
        finally:
            self.hanging = runner.hanging
        takeover.complete()

    def results(self, opened: ExitStack) -> Sequence[ItemResult]:
        """Every result, old and new, in the order of items and repetitions, once all are there.

        Args:
            opened: takes the file that is read when one is looked at.
        """
        file = opened.enter_context((self._folder / RESULTS_FILE).open("rb"))
        return Lazy(self.total, lambda place: result_at(file, self._offsets[place], place // self._reps))

    def _place(self, index: int, rep: int) -> int:
        return index * self._reps + rep - 1
