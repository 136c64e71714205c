"""`millstream eval`: runs a workflow over a dataset, scores it, profiles it."""

import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from millstream.cli.eval_calibrate import calibrate_command
from millstream.cli.eval_progress import Shown
from millstream.cli.eval_stopping import Stopping
from millstream.cli.eval_tables import ends, number, one_line, print_scores, print_slices, print_worst
from millstream.cli.options import option
from millstream.errors import RunTimeoutError
from millstream.evaluation.config import parse_eval, with_slices
from millstream.evaluation.engine import EvalResult, evaluate
from millstream.evaluation.gates import broken_gates, parse_gate
from millstream.evaluation.loop import run_until_stopped
from millstream.evaluation.summary import EvalSummary
from millstream.evaluation.usage import cost_text
from millstream.evaluation.wording import counted
from millstream.workflow.config import load_config
from millstream.workflow.validation import in_file

_MAX_LISTED = 5
_WIDTH = 110


class _EvalCommand(click.Command):
    """`eval calibrate …` is a command with options of its own; everything else is `eval`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        if args[:1] == [calibrate_command.name]:
            name = f"{info_name} {calibrate_command.name}"
            return calibrate_command.make_context(name, args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("eval", cls=_EvalCommand)
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
@option("--skip_workflow", is_flag=True, help="Score the answers of an earlier run, or of the dataset, anew.")
@option("--endpoint", metavar="URL", help="Ask a workflow that is served there: a chat (.../v1), or JSON.")
@option("--resume", is_flag=True, help="Go on where an earlier run was stopped.")
@option("--retry-failed", is_flag=True, help="With --resume: failed items and missing scores again.")
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
    help="Exit 1 when the average of an evaluator is under X (avg_*: above X). METRIC.KEY: one of several.",
)
@option(
    "--slices",
    multiple=True,
    metavar="FIELD",
    help="Scores also by the values of this field of the dataset; all: by every field with few values.",
)
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def eval_command(
    *,
    config_file: Path,
    dataset: str | None,
    reps: int,
    endpoint: str | None,
    skip_workflow: bool,
    resume: bool,
    retry_failed: bool,
    overrides: Sequence[tuple[str, str]],
    fail_under: Sequence[str],
    slices: Sequence[str],
    as_json: bool,
) -> int:
    """Run a workflow over a dataset, score its answers and profile it.

    `millstream eval calibrate` measures a judge among its evaluators against people.

    The last line on stdout is the path of report.html. Exit codes: 0 done, 1 a --fail-under was broken, 2
    wrong configuration or dataset, 3 items failed or scores are missing or the time of the run was over, 4 a
    server or the disk is needed and not there, 130 interrupted.
    """
    config = with_slices(load_config(config_file, overrides), slices)
    with in_file(config.path):
        settings = parse_eval(config.eval, dataset)
    gates = [parse_gate(text, settings.evaluators) for text in fail_under]
    with Shown(verbose=settings.general.verbose) as shown:
        stopping = Stopping(lambda: shown.interrupted(settings.general.folder))
        try:
            result = run_until_stopped(
                evaluate(
                    config,
                    dataset=dataset,
                    reps=reps,
                    resume=resume,
                    retry_failed=retry_failed,
                    skip_workflow=skip_workflow,
                    endpoint=endpoint,
                    overrides=overrides,
                    progress=shown,
                ),
                stopping.begin,
                stopping.end_at_once,
            )
        except KeyboardInterrupt:
            shown.close()
            stopping.end_at_once()
        except RunTimeoutError as error:
            shown.close()
            _say(str(error))
            return _leave(error.exit_code, hanging=True)
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
        print_scores(console, summary)
        print_slices(console, summary)
    console.print(_figures(summary))
    if summary.workflow.llm_calls or summary.judges.llm_calls:
        console.print(_model_calls(summary))
    for metric in summary.metrics:
        if metric.missing:
            reason = escape(one_line(metric.missing_reason or ""))
            missing = counted(metric.missing, "score is", "scores are")
            console.print(f"{escape(metric.name)}: {missing} missing ({reason})", soft_wrap=True)
    for failure in summary.failures[:_MAX_LISTED]:
        rep = f" (rep {failure.rep})" if failure.rep > 1 else ""
        text = f"failed: {failure.id!r}{rep}: {one_line(failure.reason)}"
        console.print(escape(text), highlight=False, soft_wrap=True)
    if len(summary.failures) > _MAX_LISTED:
        console.print(f"and {len(summary.failures) - _MAX_LISTED} more failed; see workflow_output.json")
    print_worst(console, summary)


def _figures(summary: EvalSummary) -> Table:
    table = Table(title="Run", title_justify="left")
    headings = ("items", "failed", "p50 runtime", "p95 runtime", "LLM calls", "tokens in / out")
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_row(
        str(summary.items),
        str(len(summary.failures)),
        number(summary.runtime_p50_s, "s"),
        number(summary.runtime_p95_s, "s"),
        str(summary.llm_calls),
        f"{_count(summary.input_tokens)} / {_count(summary.output_tokens)}",
    )
    interval = (ends(summary.runtime_p50_interval_s), ends(summary.runtime_p95_interval_s))
    if interval != ("-", "-"):
        table.add_row("", f"{100 * summary.level:g} % interval", *interval, "", "")
    return table


def _model_calls(summary: EvalSummary) -> Table:
    """What the calls cost, those of judges apart."""
    table = Table(title="Model calls", title_justify="left")
    table.add_column("by")
    for heading in ("calls", "from cache", "tokens in / out", "cost"):
        table.add_column(heading, justify="right")
    for name, used in (("workflow", summary.workflow), ("judges", summary.judges)):
        tokens = f"{_count(used.input_tokens)} / {_count(used.output_tokens)}"
        cost = cost_text(used, summary.currency) if used.llm_calls else "-"
        table.add_row(name, str(used.llm_calls), str(used.cached), tokens, cost)
    return table


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
