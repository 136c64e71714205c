"""Dataset x workflow x evaluators: asks, saves each answer as it comes, scores, writes, profiles."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import msgspec

from millstream import sources
from millstream.errors import ConfigError, StorageError
from millstream.evaluation.answered import earlier_answers
from millstream.evaluation.config import with_dataset
from millstream.evaluation.dataset import Dataset
from millstream.evaluation.files import check_recordable, locked_folder
from millstream.evaluation.fingerprint import evaluated_config
from millstream.evaluation.metadata import FINISHED, Metadata, describe_run
from millstream.evaluation.outputs import (
    WORKFLOW_OUTPUT,
    for_report,
    score_file,
    write_answers,
    write_effective,
    write_scores,
)
from millstream.evaluation.prepare import Prepared, prepare
from millstream.evaluation.progress import Progress, Silent
from millstream.evaluation.reachability import Reachability
from millstream.evaluation.recorded import lost_spans, read_spans
from millstream.evaluation.results import RESULTS_FILE, ItemResult, read_results
from millstream.evaluation.runner import Ask, Runner
from millstream.evaluation.scoring import NOT_ANSWERED, score_all
from millstream.evaluation.summary import EvalSummary, summarise
from millstream.evaluation.takeover import Takeover
from millstream.evaluation.wording import counted
from millstream.profiler.results import EvaluationSummary
from millstream.record import journal_home, recorder, stats
from millstream.span import Span
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.delivery import delivering
from millstream.workflow.runner import Workflow, open_workflow
from millstream.workflow.secrets import masked

REPORT: Final = "report.html"


class EvalResult(msgspec.Struct, frozen=True):
    """A finished evaluation.

    Attributes:
        output_dir: where the files are.
        summary: the figures.
        report: `report.html`; `None` where it could not be written.
        problems: what went wrong beside the items: analyses, files of the profile, lost spans.
        spans_lost: whether spans could not be recorded.
        hanging: whether something of an item that was given up may still run; do not wait for it at exit.
    """

    output_dir: Path
    summary: EvalSummary
    report: Path | None
    problems: list[str]
    spans_lost: bool
    hanging: bool


async def evaluate(
    config: WorkflowConfig,
    *,
    dataset: str | Path | None = None,
    reps: int = 1,
    resume: bool = False,
    retry_failed: bool = False,
    skip_workflow: bool = False,
    overrides: Sequence[tuple[str, str]] = (),
    progress: Progress | None = None,
) -> EvalResult:
    """Evaluate a workflow.

    Every answer is in `results.jsonl` as soon as it is there; scores are written before the profile.

    Args:
        config: the workflow file.
        dataset: a dataset file or URL that takes the place of the configured one.
        reps: how often each item is asked.
        resume: ask only what an earlier run in this folder did not finish.
        retry_failed: with `resume`, ask failed items again.
        skip_workflow: score answers that are there already.
        overrides: those already applied to `config`, to be written down.
        progress: told what happens.

    Raises:
        ConfigError: the configuration is wrong, or `resume` would mix two workflows.
        InputError: the dataset is wrong.
        UnreachableError: a server that every item needs is down.
        StorageError: the results cannot be written; what is done stays.
        asyncio.CancelledError: cancelled; what is done stays.
    """
    if skip_workflow and (resume or reps != 1):
        raise ConfigError("--skip_workflow asks nobody: it goes neither with --resume nor with --reps")
    if retry_failed and not resume:
        raise ConfigError("--retry-failed needs --resume")
    prepared = prepare(config, dataset)
    _profiler()  # what it needs is missing now, not after the last item
    run = _Run(config, prepared, progress or Silent(), _effective(config, dataset))
    description = describe_run(
        config, prepared, overrides=overrides, reps=reps, resume=resume, skip_workflow=skip_workflow
    )
    if skip_workflow and not prepared.config.general.folder.exists():
        run.earlier(prepared.config.general.folder)  # an error leaves no folder behind
    async with nullcontext() if skip_workflow else delivering(config):
        with locked_folder(prepared.config.general.folder) as folder:
            try:
                metadata = Metadata(folder)
                state = FINISHED
                if skip_workflow:
                    results = run.earlier(folder)
                    metadata.content = {**metadata.before, **description}
                    state = metadata.before.get("state", FINISHED)
                    write_effective(folder, run.effective)
                else:
                    results = await run.ask(
                        folder, metadata, description, reps=reps, resume=resume, retry_failed=retry_failed
                    )
                home = Path(metadata.content.get("journal_home") or journal_home())
                outcome = await run.finish(folder, results, home)
                _remove_scores_of_others(folder, metadata, prepared)
                metadata.write(state=state)
            except StorageError as error:
                raise run.explained(error) from error.__cause__
    return outcome


class _Run:
    """One evaluation on its way: what all its steps need."""

    def __init__(
        self, config: WorkflowConfig, prepared: Prepared, progress: Progress, effective: dict[str, Any]
    ) -> None:
        self.effective = effective
        self.saved = 0
        """Results that are in the file, those of an earlier run included."""
        self._config = config
        self._general = prepared.config.general
        self._dataset_config = prepared.config.dataset
        self._metrics = prepared.metrics
        self._models = prepared.models
        self._dataset: Dataset = prepared.dataset
        self._rows = {item.id: item.row for item in prepared.dataset.items}
        self._progress = progress
        self._hanging = False
        self._lost: dict[str, int] = {}
        for note in prepared.dataset.notes:
            progress.note(note)

    def explained(self, error: StorageError) -> StorageError:
        """The error, with what to do where there is something to go on with."""
        if not self.saved:
            return error
        kept = counted(self.saved, "result is", "results are")
        return StorageError(f"{error}; {kept} kept; the same command with --resume goes on")

    def earlier(self, folder: Path) -> list[ItemResult]:
        """The answers that are there already, for `--skip_workflow`."""
        results = earlier_answers(folder, self._dataset_config, self._dataset.items)
        path = folder / RESULTS_FILE
        if path.exists() and not (folder / WORKFLOW_OUTPUT).exists():
            answered = sum(result.error is None or result.error.type != NOT_ANSWERED for result in results)
            have = "has" if answered == 1 else "have"
            self._progress.note(
                f"{answered} of {counted(len(results), 'item')} {have} an answer in {path}, of a run that "
                "was stopped; --resume asks the others."
            )
        return results

    async def ask(
        self,
        folder: Path,
        metadata: Metadata,
        description: Any,
        *,
        reps: int,
        resume: bool,
        retry_failed: bool,
    ) -> list[ItemResult]:
        """Ask what is not answered yet; every result, old and new, in the order of items and repetitions."""
        home = journal_home()
        if recorder.get() is not None:
            check_recordable(home)
        plan = [Ask(item, rep) for rep in range(1, reps + 1) for item in self._dataset.items]
        kept = self._kept(folder, metadata, home, retry_failed=retry_failed) if resume else {}
        done = {ask.key: kept[ask.key] for ask in plan if ask.key in kept}
        self.saved = len(done)
        pending = [ask for ask in plan if ask.key not in kept]
        async with open_workflow(self._config) as workflow:
            evaluators = sorted({*description["evaluators"], *metadata.before.get("evaluators", [])})
            metadata.content = {
                **description,
                "run_id": sources.new_trace_id(),
                "evaluated": evaluated_config(self._config.raw_effective),
                "journal_home": str(home),
                "evaluators": evaluators,
            }
            self._progress.started(len(plan), len(done))
            dropped = stats()["dropped"]
            with Takeover(
                folder,
                metadata,
                self.effective,
                evaluators=evaluators,
                resume=resume,
                note=self._progress.note,
            ) as takeover:
                await self._ask_pending(workflow, metadata.content["run_id"], pending, done, takeover)
            now = stats()["dropped"].items()
            self._lost = {why: n - dropped.get(why, 0) for why, n in now if n > dropped.get(why, 0)}
        metadata.content["evaluators"] = description["evaluators"]
        return [done[item.id, rep] for item in self._dataset.items for rep in range(1, reps + 1)]

    async def _ask_pending(
        self,
        workflow: Workflow,
        run_id: str,
        pending: Sequence[Ask],
        done: dict[tuple[str, int], ItemResult],
        takeover: Takeover,
    ) -> None:
        """Ask what is left, and put the results to those that are done."""

        def save(result: ItemResult) -> None:
            takeover.save(result)
            done[result.key] = result
            self.saved = len(done)
            self._progress.finished(result)

        runner = Runner(
            workflow,
            max_concurrency=self._general.max_concurrency,
            timeout_s=self._general.timeout_s,
            run_id=run_id,
            reachability=Reachability(len(pending), self._general.max_concurrency),
            save=save,
        )
        await runner.run(pending)
        takeover.complete()
        self._hanging = runner.hanging

    def _kept(
        self, folder: Path, metadata: Metadata, home: Path, *, retry_failed: bool
    ) -> dict[tuple[str, int], ItemResult]:
        """The results of an earlier run that still hold."""
        earlier = read_results(folder / RESULTS_FILE)
        if not earlier:
            self._progress.note("There is nothing to resume; all items are asked.")
            return {}
        metadata.check_resumable(self._config, home)
        items = {item.id: item for item in self._dataset.items}
        kept = {}
        for key, result in earlier.items():
            item = items.get(result.id)
            same = item is not None and (result.question, result.expected) == (item.question, item.expected)
            if item is not None and same and not (retry_failed and result.error is not None):
                kept[key] = msgspec.structs.replace(result, index=item.index)
        return kept

    async def finish(self, folder: Path, results: list[ItemResult], home: Path) -> EvalResult:
        """Score, write, and profile last, so that nothing it does can lose a score."""
        self._progress.phase("scoring")
        spans, note = read_spans(home, results)
        if note:
            self._progress.note(note)
        async with self._models:
            scores = await score_all(
                self._metrics,
                results,
                self._rows,
                spans,
                expected_trajectory_key=self._dataset_config.structure.expected_trajectory_key,
                max_concurrency=self._general.max_concurrency,
            )
        summary = summarise(self._metrics, results, scores, spans)
        write_answers(folder, self._dataset_config, results, self._rows, spans)
        for metric in summary.metrics:
            write_scores(folder, metric, scores[metric.name])
        problems = lost_spans(self._lost)
        spans_lost = bool(problems)
        self._progress.phase("profiling")
        report = self._profile(
            folder, for_report(self._config.name, summary, results, scores), spans, problems
        )
        return EvalResult(folder, summary, report, problems, spans_lost, self._hanging)

    def _profile(
        self,
        folder: Path,
        evaluation: EvaluationSummary,
        spans: dict[str, list[Span]],
        problems: list[str],
    ) -> Path | None:
        order = [item.trace_id for item in evaluation.items if item.trace_id is not None]
        profile, write_profile = _profiler()
        try:
            found = profile(
                (span for trace_id in order for span in spans.get(trace_id, [])),
                self._general.profiler,
                trace_order=order,
            )
            found.complete()
            problems += [f"the analysis {name} failed: {why}" for name, why in found.failures.items()]
            files = write_profile(
                found,
                folder,
                evaluation=evaluation,
                on_error=lambda name, error: problems.append(f"{name} could not be written: {error}"),
            )
        except Exception as error:  # noqa: BLE001  # scores are safe; a fault of the profile is told, not fatal
            problems.append(f"the profile failed: {type(error).__name__}: {error}")
            return None
        return next((file for file in files if file.name == REPORT), None)


def _profiler() -> tuple[Any, Any]:
    """`profile` and `write_profile`, imported late so that mistakes in the configuration are told at once."""
    from millstream.profiler import profile, write_profile  # noqa: PLC0415

    return profile, write_profile


def _effective(config: WorkflowConfig, dataset: str | Path | None) -> dict[str, Any]:
    effective = dict(config.raw_effective)
    if dataset is not None:
        effective["eval"] = with_dataset(effective.get("eval") or {}, masked(str(dataset)))
    return effective


def _remove_scores_of_others(folder: Path, metadata: Metadata, prepared: Prepared) -> None:
    """Scores of evaluators that an earlier run had and this one has not would pass for this run's."""
    for name in {*metadata.before.get("evaluators", [])} - {metric.name for metric in prepared.metrics}:
        try:
            score_file(folder, str(name)).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"{score_file(folder, str(name))} cannot be removed: {error.strerror}"
            ) from error
