"""`millstream profile`: where the time and the tokens of recorded runs went."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

import millstream.profiler as profiler_room
from millstream.cli.options import option
from millstream.errors import ConfigError, InputError, StorageError
from millstream.profiler.config import ProfilerConfig
from millstream.profiler.renderers.files import json_bytes
from millstream.profiler.results import Failure, Source, Statistic
from millstream.store import open_store
from millstream.workflow.environment import expand
from millstream.workflow.validation import parse_model
from millstream.workflow.yaml_file import read_yaml

if TYPE_CHECKING:
    from millstream.profiler import Profile

MAX_ROWS = 15
_NO_VALUE = "-"


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@option("--output_dir", type=click.Path(path_type=Path), help="Write the report and all other files here.")
@option(
    "--config_file",
    type=click.Path(path_type=Path),
    help="A workflow file: its eval.general.profiler is used.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def profile(source: Path, output_dir: Path | None, config_file: Path | None, *, as_json: bool) -> None:
    """Show where the time and the tokens of recorded runs went.

    SOURCE is the folder that was recorded into (by default .millstream), or a file of spans. Without
    --output_dir no file is written.
    """
    config = None if config_file is None else read_config(config_file)
    found = _profile(source, config)
    if as_json:
        click.echo(json_bytes(profiler_room.findings(found)))
    else:
        _print(found)
    if output_dir is not None:
        _write(found, output_dir, quiet=as_json)


def read_config(path: Path) -> ProfilerConfig:
    """The section `eval.general.profiler` of a workflow file; the rest of the file is not looked at.

    Raises:
        ConfigError: the file cannot be read, has no such section, or a key in it is wrong.
    """
    tree: Any = read_yaml(path)
    for key in ("eval", "general", "profiler"):
        tree = tree.get(key) if isinstance(tree, dict) else None
    if tree is None:
        raise ConfigError(
            f"{path} has no section eval.general.profiler; without --config_file every analysis is on"
        )
    return parse_model(ProfilerConfig, expand(tree, os.environ)[0], "eval.general.profiler")


def _profile(source: Path, config: ProfilerConfig | None) -> "Profile":
    store = open_store(source)
    found = profiler_room.profile(store.spans(), config)
    rejected = dict(store.rejected)
    if len(found.table) == 0:
        unreadable = f"; {sum(rejected.values())} lines could not be read" if rejected else ""
        raise InputError(f"{source} holds no spans{unreadable}. Record a run first, or give another source.")
    return dataclasses.replace(found, source=Source(store.format, found.source.spans, rejected))


def _write(found: "Profile", output_dir: Path, *, quiet: bool) -> None:
    """Write all files; those that failed are named, the others are there."""
    failed: list[str] = []
    written = profiler_room.write_profile(
        found,
        output_dir,
        on_error=lambda name, error: failed.append(f"{name} ({type(error).__name__}: {error})"),
    )
    click.echo(f"{len(written)} files in {output_dir}; open {output_dir / 'report.html'}", err=quiet)
    if failed:
        raise StorageError(f"These files could not be written: {'; '.join(failed)}")


def _print(found: "Profile") -> None:
    console = Console()
    requests = found.requests
    if not isinstance(requests, Failure):
        counts = f"{requests.n:,} requests, {requests.failed:,} failed, {requests.unfinished:,} unfinished"
        console.print(Text(f"{counts}; {len(found.table):,} spans"))
    rejected = sum(found.source.rejected.values())
    if rejected:
        console.print(Text(f"{rejected:,} lines could not be read", style="red"))
    for table in (_latency(found), _models(found), _path(found)):
        if table is not None:
            console.print(table)
    concurrency = found.concurrency
    if not isinstance(concurrency, Failure) and concurrency.n:
        console.print(
            Text(
                f"LLM and TOOL calls at once: at most {concurrency.max}, "
                f"for 95 % of the busy time {concurrency.p95_concurrency} or fewer"
            )
        )
    for name, error in found.failures.items():
        console.print(Text(f"The analysis {name} failed: {error}", style="red"))


def _table(title: str, texts: int, columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < texts else "right", overflow="fold")
    return table


def _latency(found: "Profile") -> Table | None:
    rows = found.latency
    if isinstance(rows, Failure):
        return None
    columns = ["kind", "name", "calls", "failed", "open", "mean", "95 % of the mean", "p50", "p95", "p99"]
    table = _table("Latency", 2, columns)
    for row in rows[:MAX_ROWS]:
        table.add_row(
            row.kind,
            Text(row.name),
            f"{row.n:,}",
            f"{row.errors:,}",
            f"{row.open:,}",
            _seconds(row.mean.value),
            _interval(row.mean),
            *(_seconds(statistic.value) for statistic in (row.p50, row.p95, row.p99)),
        )
    table.caption = _more(len(rows))
    return table


def _models(found: "Profile") -> Table | None:
    rows = found.tokens
    if isinstance(rows, Failure) or not rows:
        return None
    table = _table(
        "Models", 1, ["model", "calls", "failed", "input", "cached", "output", "reasoning", "p50", "p95"]
    )
    for row in rows[:MAX_ROWS]:
        tokens = (row.input_tokens, row.cache_read_tokens, row.output_tokens, row.reasoning_tokens)
        table.add_row(
            Text(row.name),
            f"{row.calls:,}",
            f"{row.errors:,}",
            *(_NO_VALUE if count is None else f"{count:,}" for count in tokens),
            _seconds(row.latency_p50.value),
            _seconds(row.latency_p95.value),
        )
    table.caption = _more(len(rows))
    return table


def _path(found: "Profile") -> Table | None:
    """Critical path and self time side by side, by what the requests waited for."""
    path, own = found.critical_path, found.self_time
    if isinstance(path, Failure) or isinstance(own, Failure):
        return None
    on_path = {(row.kind, row.name): row for row in path.by_name}
    table = _table("Where the time goes", 2, ["kind", "name", "critical path", "share", "self time", "share"])
    rows = sorted(
        own, key=lambda row: -(on_path[row.kind, row.name].seconds if (row.kind, row.name) in on_path else 0)
    )
    for row in rows[:MAX_ROWS]:
        waited = on_path.get((row.kind, row.name))
        table.add_row(
            row.kind,
            Text(row.name),
            _seconds(waited.seconds if waited else 0.0),
            f"{100 * waited.share:.1f} %" if waited else "0.0 %",
            _seconds(row.self_s),
            f"{100 * row.share:.1f} %",
        )
    table.caption = _more(len(rows))
    return table


def _more(rows: int) -> str | None:
    return f"{rows - MAX_ROWS} more: --json shows all" if rows > MAX_ROWS else None


def _seconds(value: float | None) -> str:
    return _NO_VALUE if value is None else f"{value:,.3f} s"


def _interval(statistic: Statistic) -> str:
    if statistic.low is None or statistic.high is None:
        return _NO_VALUE
    return f"{statistic.low:,.3f} to {statistic.high:,.3f}"
