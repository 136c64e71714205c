"""Dataset x workflow x evaluators: asks, saves each answer as it comes, scores, writes, profiles."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from millstream.errors import ConfigError, RunTimeoutError, StorageError, UnreachableError
from millstream.evaluation.answered import earlier_answers
from millstream.evaluation.asking import Asking
from millstream.evaluation.caching import cached_calls
from millstream.evaluation.config import with_dataset
from millstream.evaluation.endpoint import checked_endpoint
from millstream.evaluation.files import locked_folder
from millstream.evaluation.lazy import Lazy
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
from millstream.evaluation.recorded import RecordedSpans, lost_spans, read_spans
from millstream.evaluation.results import RESULTS_FILE, ItemResult
from millstream.evaluation.score_run import ScoreRun
from millstream.evaluation.scoring import NOT_ANSWERED, ItemScore
from millstream.evaluation.summary import EvalSummary, summarise
from millstream.evaluation.usage import prices_of, usage_of
from millstream.evaluation.wording import counted
from millstream.profiler.results import EvaluationSummary
from millstream.record import journal_home
from millstream.span import Span
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.delivery import delivering
from millstream.workflow.secrets import masked
from millstream.workflow.validation import in_file

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
    endpoint: str | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    progress: Progress | None = None,
) -> EvalResult:
    """Evaluate a workflow.

    Every answer is in `results.jsonl` as soon as it is there; scores are written before the profile.

    Args:
        config: the workflow file.
        dataset: a dataset file or URL that takes the place of the configured one.
        reps: how often each item is asked.
        resume: ask only what an earlier run in this folder did not finish, workflow and evaluators alike.
        retry_failed: with `resume`, ask again where an item failed or a score is missing.
        skip_workflow: score answers that are there already; anew, unless with `resume`.
        endpoint: URL of a workflow that is served elsewhere, to be asked in the place of the file's own.
        overrides: those already applied to `config`, to be written down.
        progress: told what happens.

    Raises:
        ConfigError: the configuration is wrong, or `resume` would mix two workflows.
        InputError: the dataset is wrong.
        UnreachableError: a server that every item needs is down.
        StorageError: the results cannot be written; what is done stays.
        RunTimeoutError: it ran longer than `eval.general.run_timeout_s`; what is done stays.
        asyncio.CancelledError: cancelled; what is done stays.
    """
    if skip_workflow and reps != 1:
        raise ConfigError("--skip_workflow asks nobody: it does not go with --reps")
    if skip_workflow and endpoint is not None:
        raise ConfigError("--skip_workflow asks nobody: it does not go with --endpoint")
    if endpoint is not None:
        checked_endpoint(endpoint)
    if retry_failed and not resume:
        raise ConfigError("--retry-failed needs --resume")
    prepared = prepare(config, dataset)
    _profiler()  # what it needs is missing now, not after the last item
    description = describe_run(
        config,
        prepared,
        overrides=overrides,
        reps=reps,
        resume=resume,
        skip_workflow=skip_workflow,
        endpoint=endpoint,
    )
    how = _How(reps, resume=resume, retry_failed=retry_failed, skip_workflow=skip_workflow, endpoint=endpoint)
    with ExitStack() as opened:
        run = _Run(config, prepared, how, progress or Silent(), _effective(config, dataset), opened)
        if skip_workflow and not prepared.config.general.folder.exists():
            run.earlier(prepared.config.general.folder)  # an error leaves no folder behind
        async with nullcontext() if skip_workflow else delivering(config), prepared.models:
            with (
                locked_folder(prepared.config.general.folder) as folder,
                cached_calls(prepared.config.general.cache),
            ):
                try:
                    return await run.run(folder, description)
                except StorageError as error:
                    raise run.explained(error) from error.__cause__


class _How(NamedTuple):
    """The options of one command."""

    reps: int
    resume: bool
    retry_failed: bool
    skip_workflow: bool
    endpoint: str | None


class _Run:
    """One evaluation on its way: what all its steps need."""

    def __init__(
        self,
        config: WorkflowConfig,
        prepared: Prepared,
        how: _How,
        progress: Progress,
        effective: dict[str, Any],
        opened: ExitStack,
    ) -> None:
        self._config = config
        self._prepared = prepared
        self._how = how
        self._progress = progress
        self._effective = effective
        self._opened = opened
        self._general = prepared.config.general
        self._items = prepared.dataset.items
        self._asking: Asking | None = None
        self._scoring: ScoreRun | None = None
        for note in prepared.notes:
            progress.note(note)

    async def run(self, folder: Path, description: Mapping[str, Any]) -> EvalResult:
        """Ask, score, write."""
        metadata = Metadata(folder)
        spans = self._opened.enter_context(closing(RecordedSpans()))
        limit_s = self._general.run_timeout_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                if self._how.skip_workflow:
                    state = metadata.before.get("state", FINISHED)
                    results = self.earlier(folder)
                    metadata.describe_scoring(description)
                    write_effective(folder, self._effective)
                else:
                    state = FINISHED
                    with (
                        nullcontext() if self._how.endpoint else in_file(self._config.path, UnreachableError)
                    ):
                        results = await self._answers(folder, metadata, description)
                home = Path(metadata.content.get("journal_home") or journal_home())
                with in_file(self._config.path, UnreachableError):
                    scores = await self._score(folder, results, home, spans)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise RunTimeoutError(
                f"The run reached eval.general.run_timeout_s = {limit_s:g} s: {self._reached}. "
                "What is done is kept; the same command with --resume goes on."
            ) from error
        outcome = self._finish(folder, results, scores, spans, home)
        _remove_scores_of_others(folder, metadata, self._prepared)
        metadata.write(state=state)
        return outcome

    @property
    def _reached(self) -> str:
        if self._scoring is not None:
            return f"{self._scoring.made} of {counted(self._scoring.total, 'score')} are there"
        if self._asking is not None:
            return f"{self._asking.done} of {counted(self._asking.total, 'item')} are done"
        return "nothing is done"

    @property
    def _hanging(self) -> bool:
        return any(step is not None and step.hanging for step in (self._asking, self._scoring))

    def explained(self, error: StorageError) -> StorageError:
        """The error, with what to do where there is something to go on with."""
        if self._asking is None or not self._asking.done:
            return error
        kept = counted(self._asking.done, "result is", "results are")
        return StorageError(f"{error}; {kept} kept; the same command with --resume goes on")

    def earlier(self, folder: Path) -> Sequence[ItemResult]:
        """The answers that are there already, for `--skip_workflow`."""
        results = earlier_answers(folder, self._prepared.config.dataset, self._items, self._opened)
        path = folder / RESULTS_FILE
        if path.exists() and not (folder / WORKFLOW_OUTPUT).exists():
            answered = sum(result.error is None or result.error.type != NOT_ANSWERED for result in results)
            have = "has" if answered == 1 else "have"
            others = "" if answered == len(results) else "; --resume asks the others"
            self._progress.note(
                f"{answered} of {counted(len(results), 'item')} {have} an answer in {path}, of a run that "
                f"was stopped{others}."
            )
        return results

    async def _answers(
        self, folder: Path, metadata: Metadata, description: Mapping[str, Any]
    ) -> Sequence[ItemResult]:
        """Those of the workflow."""
        self._asking = asking = Asking(
            self._config,
            self._prepared,
            folder,
            metadata,
            reps=self._how.reps,
            endpoint=self._how.endpoint,
            progress=self._progress,
        )
        if self._how.resume:
            asking.keep(failed=not self._how.retry_failed)
        await asking.run(description, self._effective)
        return asking.results(self._opened)

    async def _score(
        self, folder: Path, results: Sequence[ItemResult], home: Path, spans: RecordedSpans
    ) -> dict[str, Sequence[ItemScore]]:
        """Score what is not scored yet; an evaluator is asked once for one answer, over all runs."""
        note = read_spans(home, results, spans)
        if note:
            self._progress.note(note)
        self._scoring = run = ScoreRun(
            self._config,
            self._prepared,
            folder,
            results=results,
            spans=spans,
            progress=self._progress,
        )
        self._opened.enter_context(run.scores)
        if self._how.resume:
            run.scores.keep(results, missing=not self._how.retry_failed)
        else:
            run.scores.start_over(self._progress.note)
        return await run.run()

    def _finish(
        self,
        folder: Path,
        results: Sequence[ItemResult],
        scores: Mapping[str, Sequence[ItemScore]],
        spans: Mapping[str, list[Span]],
        home: Path,
    ) -> EvalResult:
        """Write, and profile last, so that nothing it does can lose a score."""
        items = self._items
        prices = prices_of(self._general.profiler.prices, self._progress.note)
        used = usage_of(results, scores, spans, home, prices)
        summary = summarise(
            self._prepared.metrics,
            results,
            scores,
            spans,
            used,
            rows=Lazy(len(results), lambda place: items[results[place].index].row),
            slices=self._general.slices,
            level=self._general.interval_level,
        )
        write_answers(folder, self._prepared.config.dataset, results, self._items, spans, used)
        for metric in summary.metrics:
            write_scores(folder, metric, scores[metric.name], used)
        problems = lost_spans({} if self._asking is None else self._asking.lost)
        spans_lost = bool(problems)
        self._progress.phase("profiling")
        order = [result.trace_id for result in results if result.trace_id is not None]
        report = self._profile(
            folder,
            for_report(self._config.name, summary, results, scores, used),
            order,
            spans,
            problems,
        )
        return EvalResult(folder, summary, report, problems, spans_lost, self._hanging)

    def _profile(
        self,
        folder: Path,
        evaluation: EvaluationSummary,
        order: Sequence[str],
        spans: Mapping[str, list[Span]],
        problems: list[str],
    ) -> Path | None:
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
