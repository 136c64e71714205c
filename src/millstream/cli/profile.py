"""`millstream profile`: where the time and the tokens of recorded runs went."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

import millstream.profiler as profiler_room
from millstream.cli.options import option
from millstream.errors import ConfigError, InputError, StorageError
from millstream.profiler.config import ProfilerConfig
from millstream.profiler.renderers.files import json_bytes
from millstream.profiler.results import Failure, Source, Statistic
from millstream.profiler.units import duration
from millstream.store import open_store
from millstream.workflow.environment import expand
from millstream.workflow.validation import parse_model
from millstream.workflow.yaml_file import read_yaml

if TYPE_CHECKING:
    from millstream.profiler import Profile

MAX_ROWS = 15
_WIDTH = 120
"""Columns of the tables where the output is no terminal."""
_ROOMY = 100
"""Columns from which there is room for the less important figures."""
_GAP = 2
_LEAST_NAME = 8


class _Column(NamedTuple):
    """One column of a table: its heading, and a row's text in it."""

    heading: str
    cell: Callable[[Any], str]
    is_text: bool = False
    is_name: bool = False


def _plain(name: str) -> str:
    """A name on one line, without signs that a terminal would obey."""
    return "".join(sign if sign.isprintable() else "?" for sign in name)


_NAME = _Column("name", lambda row: _plain(row.name), is_text=True, is_name=True)
_KIND_AND_NAME = (_Column("kind", lambda row: row.kind, is_text=True), _NAME)


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
    if store.format == "parquet":
        of_file = profiler_room.profile_file(source, config)
        if of_file is not None and len(of_file.table):
            return of_file
    spans = list(store.spans())
    found = profiler_room.profile(spans, config, trace_order=store.trace_order)
    rejected = dict(store.rejected)
    if len(found.table) == 0:
        unreadable = f"; {sum(rejected.values())} lines could not be read" if rejected else ""
        raise InputError(f"{source} holds no spans{unreadable}. Record a run first, or give another source.")
    found.source = Source(store.format, found.source.spans, rejected)
    return found


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
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console = Console(width=_WIDTH)
    requests = found.requests
    if not isinstance(requests, Failure):
        parts = [f"{requests.n:,} requests", f"{requests.failed:,} failed"]
        parts += [f"{requests.cancelled:,} cancelled"] if requests.cancelled else []
        counts = ", ".join([*parts, f"{requests.unfinished:,} unfinished"])
        console.print(Text(f"{counts}; {len(found.table):,} spans"))
    rejected = sum(found.source.rejected.values())
    if rejected:
        console.print(Text(f"{rejected:,} lines could not be read", style="red"))
    for table in (_latency(found, console.width), _models(found, console.width), _path(found, console.width)):
        if table is not None:
            console.print()
            console.print(table)
    concurrency = found.concurrency
    if not isinstance(concurrency, Failure) and concurrency.n:
        console.print()
        console.print(
            Text(
                f"LLM and TOOL calls at once: at most {concurrency.max}, "
                f"for 95 % of the busy time {concurrency.p95_concurrency} or fewer"
            )
        )
    from millstream.profiler.renderers.sentences import sentences  # noqa: PLC0415  # needs the extra

    console.print()
    for sentence in sentences(found):
        console.print(Text(sentence))
    for name, error in found.failures.items():
        console.print(Text(f"The analysis {name} failed: {error}", style="red"))


def _table(title: str, columns: Sequence[_Column], rows: Sequence[Any], total: int, width: int) -> Table:
    """One line a row; what is too long is a name, and is cut."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    wide = [max(map(cell_len, [column.heading, *map(column.cell, rows)])) for column in columns]
    figures = sum(cells for column, cells in zip(columns, wide, strict=True) if not column.is_name)
    for_name = max(width - figures - _GAP * (len(columns) - 1), _LEAST_NAME)
    for column, cells in zip(columns, wide, strict=True):
        table.add_column(
            column.heading,
            justify="left" if column.is_text else "right",
            overflow="ellipsis",
            no_wrap=True,
            width=min(cells, for_name) if column.is_name else cells,
        )
    for row in rows:
        table.add_row(*(Text(column.cell(row)) for column in columns))
    table.caption = f"{total - MAX_ROWS} more: --json shows all" if total > MAX_ROWS else None
    return table


def _latency(found: "Profile", width: int) -> Table | None:
    if isinstance(found.latency, Failure):
        return None
    rows = found.latency[:MAX_ROWS]
    columns = [*_KIND_AND_NAME, _Column("n", lambda row: f"{row.n:,}")]
    columns += _unless_zero(rows, "failed", "errors")
    columns += _unless_zero(rows, "open", "open")
    columns += [_Column("mean", lambda row: duration(row.mean.value))]
    columns += [_Column("± 95 %", lambda row: _half_width(row.mean))] if width >= _ROOMY else []
    columns += [
        _Column("p50", lambda row: duration(row.p50.value)),
        _Column("p95", lambda row: duration(row.p95.value)),
        _Column("p99", lambda row: duration(row.p99.value)),
    ]
    return _table("Latency", columns, rows, len(found.latency), width)


def _models(found: "Profile", width: int) -> Table | None:
    if isinstance(found.tokens, Failure) or not found.tokens:
        return None
    rows = found.tokens[:MAX_ROWS]
    columns = [_NAME._replace(heading="model"), _Column("calls", lambda row: f"{row.calls:,}")]
    columns += _unless_zero(rows, "failed", "errors")
    columns += [
        _Column("input", lambda row: _count(row.input_tokens)),
        _Column("cached", lambda row: _count(row.cache_read_tokens)),
        _Column("output", lambda row: _count(row.output_tokens)),
    ]
    columns += [_Column("reasoning", lambda row: _count(row.reasoning_tokens))] if width >= _ROOMY else []
    columns += [
        _Column("p50", lambda row: duration(row.latency_p50.value)),
        _Column("p95", lambda row: duration(row.latency_p95.value)),
    ]
    return _table("Models", columns, rows, len(found.tokens), width)


def _path(found: "Profile", width: int) -> Table | None:
    """Critical path and self time side by side, by what the requests waited for."""
    path, own = found.critical_path, found.self_time
    if isinstance(path, Failure) or isinstance(own, Failure):
        return None
    on_path = {(row.kind, row.name): (row.seconds, row.share) for row in path.by_name}

    def waited(row: Any) -> tuple[float, float]:
        return on_path.get((row.kind, row.name), (0.0, 0.0))

    columns = [
        *_KIND_AND_NAME,
        _Column("critical path", lambda row: duration(waited(row)[0])),
        _Column("share", lambda row: f"{100 * waited(row)[1]:.1f} %"),
        _Column("self time", lambda row: duration(row.self_s)),
        _Column("share", lambda row: f"{100 * row.share:.1f} %"),
    ]
    rows = sorted(own, key=lambda row: -waited(row)[0])
    return _table("Where the time goes", columns, rows[:MAX_ROWS], len(own), width)


def _unless_zero(rows: Sequence[Any], heading: str, attribute: str) -> list[_Column]:
    """A column for what mostly is zero, where it is not."""
    if not any(getattr(row, attribute) for row in rows):
        return []
    return [_Column(heading, lambda row: f"{getattr(row, attribute):,}")]


def _count(tokens: int | None) -> str:
    return "-" if tokens is None else f"{tokens:,}"


def _half_width(statistic: Statistic) -> str:
    """The mean's interval; its lower end may have been moved to 0."""
    if statistic.value is None or statistic.high is None:
        return "-"
    return f"±{duration(statistic.high - statistic.value)}"
