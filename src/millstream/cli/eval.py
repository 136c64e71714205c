"""`millstream eval`: runs a workflow over a dataset, scores it, profiles it."""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from millstream.cli.options import option
from millstream.evaluation.config import parse_eval
from millstream.evaluation.engine import EvalResult, evaluate
from millstream.evaluation.gates import broken_gates, parse_gate
from millstream.evaluation.loop import run_until_stopped
from millstream.evaluation.results import RESULTS_FILE, ItemResult
from millstream.evaluation.summary import EvalSummary, MetricSummary
from millstream.evaluation.wording import counted
from millstream.workflow.config import load_config

_MAX_LISTED = 5
_PLAIN_EVERY_S = 10.0
_WIDTH = 110
_STOPPING = b"Stopping; press Ctrl-C again to stop at once.\n"


@click.command("eval")
@option(
    "--config_file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="F",
    help="The workflow file.",
)
@option(
    "--dataset",
    metavar="P",
    help="Another dataset, a file or URL: .json, .jsonl, .csv, .parquet, .xls, .xlsx.",
)
@option("--reps", type=click.IntRange(1), default=1, show_default=True, help="How often each item is asked.")
@option("--skip_workflow", is_flag=True, help="Score the answers of an earlier run, or of the dataset.")
@option("--resume", is_flag=True, help="Go on where an earlier run was stopped.")
@option("--retry-failed", is_flag=True, help="With --resume: ask failed items again.")
@option(
    "--override",
    "overrides",
    nargs=2,
    multiple=True,
    metavar="PATH VALUE",
    help="Set a key of the workflow file, such as llms.main.temperature 0.",
)
@option(
    "--fail-under",
    "fail_under",
    multiple=True,
    metavar="METRIC=X",
    help="Exit 1 when the average of an evaluator is under X (avg_*: above X).",
)
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def eval_command(
    *,
    config_file: Path,
    dataset: str | None,
    reps: int,
    skip_workflow: bool,
    resume: bool,
    retry_failed: bool,
    overrides: Sequence[tuple[str, str]],
    fail_under: Sequence[str],
    as_json: bool,
) -> int:
    """Run a workflow over a dataset, score its answers and profile it.

    The last line on stdout is the path of report.html. Exit codes: 0 done, 1 a --fail-under was broken, 2
    wrong configuration or dataset, 3 items failed or scores are missing, 4 a server or the disk is needed and
    not there, 130 interrupted.
    """
    config = load_config(config_file, overrides)
    settings = parse_eval(config.eval, dataset)
    gates = [parse_gate(text, settings.evaluators) for text in fail_under]
    with _Shown(verbose=settings.general.verbose) as shown:
        try:
            result = run_until_stopped(
                evaluate(
                    config,
                    dataset=dataset,
                    reps=reps,
                    resume=resume,
                    retry_failed=retry_failed,
                    skip_workflow=skip_workflow,
                    overrides=overrides,
                    progress=shown,
                ),
                _said_at_once,
            )
        except KeyboardInterrupt:
            shown.close()
            _say(shown.interrupted(settings.general.folder))
            return _leave(130, hanging=True)
    broken = broken_gates(gates, result.summary)
    if as_json:
        _print_json(result, broken)
    else:
        _print(result)
    for sentence in [*result.problems, *(f"gate broken: {text}" for text in broken)]:
        _say(sentence)
    if not as_json and result.report:
        click.echo(str(result.report))
    return _leave(_exit_code(result, broken=bool(broken)), hanging=result.hanging)


def _exit_code(result: EvalResult, *, broken: bool) -> int:
    if broken:
        return 1
    if result.spans_lost:
        return 4
    return 3 if result.summary.failures or result.summary.missing or result.problems else 0


def _leave(code: int, *, hanging: bool) -> int:
    """The exit code; ends the process at once where threads of given-up items would keep it."""
    sys.stdout.flush()
    sys.stderr.flush()
    waited_for = [thread for thread in threading.enumerate() if not thread.daemon]
    if hanging and len(waited_for) > 1:
        logging.shutdown()
        os._exit(code)
    return code


class _Shown:
    """Progress on stderr: a bar in a terminal, else a line now and then."""

    def __init__(self, *, verbose: bool) -> None:
        self._console = Console(stderr=True)
        self._verbose = verbose
        self._bar: Progress | None = None
        self._task: Any = None
        self._total = self._done = self._failed = 0
        self._said_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def started(self, total: int, done: int) -> None:
        """Draw the bar."""
        self._total, self._done = total, done
        if done:
            self._line(f"{done} of {total} items {'is' if done == 1 else 'are'} done already.")
        if self._console.is_terminal:
            failed = TextColumn("{task.fields[failed]}")
            columns = (TextColumn("items"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), failed)
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("items", total=total, completed=done, failed="")
            self._bar.start()
        self._said_s = time.monotonic()

    def finished(self, result: ItemResult) -> None:
        """Move the bar."""
        self._done += 1
        self._failed += result.error is not None
        failed = f"{self._failed} failed" if self._failed else ""
        if self._bar:
            self._bar.update(self._task, completed=self._done, failed=failed)
        if self._verbose:
            outcome = str(result.error) if result.error else "ok"
            self._line(f"{result.id}: {_one_line(outcome)} ({result.runtime_s or 0:.2f} s)")
        elif not self._bar and time.monotonic() - self._said_s >= _PLAIN_EVERY_S:
            self._said_s = time.monotonic()
            self._line(f"{self._done} of {self._total} items" + (f", {failed}" if failed else ""))

    def note(self, text: str) -> None:
        """Say it above the bar."""
        self._line(text)

    def phase(self, name: str) -> None:
        """The items are done."""
        self.close()
        if self._console.is_terminal:
            self._line(f"{name} …")

    def interrupted(self, folder: Path) -> str:
        """What to say after a signal."""
        if not self._total:
            return "Stopped."
        if not self._done:
            return "Stopped before any item was finished; nothing was written."
        return (
            f"Stopped after {self._done} of {self._total} items. Their results are in "
            f"{folder / RESULTS_FILE}; the same command with --resume goes on."
        )

    def _line(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(escape(text), highlight=False, soft_wrap=True)
        else:
            _say(text)


def _said_at_once() -> None:
    """Says that a signal arrived: code that blocks may take its time. In a handler, so past all buffers."""
    with contextlib.suppress(OSError):
        os.write(2, _STOPPING)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _print_json(result: EvalResult, broken: Sequence[str]) -> None:
    content = {
        "output_dir": str(result.output_dir),
        "report": str(result.report) if result.report else None,
        "summary": msgspec.to_builtins(result.summary),
        "broken_gates": list(broken),
        "problems": result.problems,
    }
    click.echo(json.dumps(content, indent=2, allow_nan=False))


def _print(result: EvalResult) -> None:
    summary = result.summary
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    if summary.metrics:
        console.print(_scores(summary))
    console.print(_figures(summary))
    for metric in summary.metrics:
        if metric.missing:
            reason = escape(_one_line(metric.missing_reason or ""))
            missing = counted(metric.missing, "score is", "scores are")
            console.print(f"{escape(metric.name)}: {missing} missing ({reason})", soft_wrap=True)
    for failure in summary.failures[:_MAX_LISTED]:
        rep = f" (rep {failure.rep})" if failure.rep > 1 else ""
        text = f"failed: {failure.id!r}{rep}: {_one_line(failure.reason)}"
        console.print(escape(text), highlight=False, soft_wrap=True)
    if len(summary.failures) > _MAX_LISTED:
        console.print(f"and {len(summary.failures) - _MAX_LISTED} more failed; see workflow_output.json")


def _scores(summary: EvalSummary) -> Table:
    table = Table(title="Scores", title_justify="left")
    table.add_column("evaluator")
    for heading in ("average", "95 % interval", "n", "missing", "failed"):
        table.add_column(heading, justify="right")
    for metric in summary.metrics:
        table.add_row(
            escape(metric.name),
            _number(metric.average, metric.unit),
            _interval(metric),
            str(metric.n),
            str(metric.missing),
            str(metric.failed),
        )
    return table


def _figures(summary: EvalSummary) -> Table:
    table = Table(title="Run", title_justify="left")
    headings = ("items", "failed", "p50 runtime", "p95 runtime", "LLM calls", "tokens in / out")
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_row(
        str(summary.items),
        str(len(summary.failures)),
        _number(summary.runtime_p50_s, "s"),
        _number(summary.runtime_p95_s, "s"),
        str(summary.llm_calls),
        f"{_count(summary.input_tokens)} / {_count(summary.output_tokens)}",
    )
    return table


def _interval(metric: MetricSummary) -> str:
    return f"{_number(metric.interval.low)} to {_number(metric.interval.high)}" if metric.interval else "-"


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.4g} {unit}".rstrip()


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:300] + "…"  # noqa: PLR2004  # three lines of a terminal
