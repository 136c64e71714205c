"""`millstream eval calibrate`: a judge measured against people."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from millstream.cli.eval_stopping import Stopping
from millstream.cli.options import option
from millstream.evaluation.config import CacheConfig, parse_eval
from millstream.evaluation.loop import run_until_stopped
from millstream.evaluation.wording import counted
from millstream.workflow.config import load_config

if TYPE_CHECKING:
    from millstream.evaluation.calibration.agreement import Estimate
    from millstream.evaluation.calibration.run import Calibration

_WIDTH = 110


@click.command("calibrate")
@option(
    "--config_file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="F",
    help="The workflow file.",
)
@option(
    "--labels",
    type=click.Path(path_type=Path),
    required=True,
    metavar="L",
    help="People's scores: a CSV file with the columns id and score.",
)
@option("--evaluator", metavar="NAME", help="The judge, where the file has several.")
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def calibrate_command(*, config_file: Path, labels: Path, evaluator: str | None, as_json: bool) -> int:
    """Measure a judge against people: agreement, kappa, and where it leans.

    The answers are those in the labels' column answer, else those of the last run in the output folder.
    The last line on stdout is the path of calibration.json. Exit codes: 0 done, 2 wrong configuration or
    labels, 3 scores of the judge are missing, 4 its server or the disk is needed and not there, 130 stopped.
    """
    from millstream.evaluation.calibration.run import calibrate, write_calibration  # noqa: PLC0415  # SciPy

    config = load_config(config_file)
    general = parse_eval(config.eval).general
    stopping = Stopping(lambda: _stopped(general.cache))
    try:
        found = run_until_stopped(calibrate(config, labels, evaluator), stopping.begin, stopping.end_at_once)
    except KeyboardInterrupt:
        stopping.end_at_once()
    path = write_calibration(general.folder, found)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2, allow_nan=False))
    else:
        _print(found)
        click.echo(str(path))
    return 3 if found.missing else 0


def _stopped(cache: CacheConfig) -> str:
    if cache.enable:
        return f"Stopped. The verdicts so far are in {cache.path}; the same command asks only for the others."
    return (
        "Stopped; nothing was written. The same command asks for every verdict again; with "
        "eval.general.cache.enable they are kept."
    )


def _print(found: "Calibration") -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    asked = "asked now" if found.scores_from == "judge" else "of the last run"
    console.print(
        f"{escape(found.evaluator)}: {counted(found.n, 'answer')} scored by people and the judge "
        f"({asked}); {found.missing} missing, {found.unlabelled} without a label; "
        f"scale: {escape(found.scale)}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_table(found))
    for reason, n in found.missing_reasons.items():
        console.print(f"missing ({n}): {escape(reason[:300])}", highlight=False, soft_wrap=True)
    for sentence in [*found.notes, found.verdict]:
        console.print(escape(sentence), highlight=False, soft_wrap=True)


def _table(found: "Calibration") -> Table:
    table = Table(title="Calibration", title_justify="left")
    table.add_column("figure")
    for heading in ("value", f"{found.level:.0%} interval".replace("%", " %"), "n"):
        table.add_column(heading, justify="right")
    figures = found.figures
    rows: list[tuple[str, Estimate | None]] = [
        ("agreement", figures.agreement),
        ("kappa", figures.kappa),
        ("weighted kappa", figures.weighted_kappa),
        ("rank correlation", figures.correlation),
        ("judge - people, points", figures.mean_difference),
        ("bias by length, correlation", figures.length_bias),
        ("verdicts for the first place", figures.position_bias),
    ]
    for name, estimate in rows:
        if estimate is not None:
            low, high = estimate.low, estimate.high
            interval = "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"
            value = "-" if estimate.value is None else f"{estimate.value:.2f}"
            table.add_row(name, value, interval, str(estimate.n))
    return table
