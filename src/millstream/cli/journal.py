"""`millstream journal`: the files that spans are recorded to."""

import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from millstream.cli.options import option
from millstream.errors import InputError, StorageError
from millstream.record import journal_home
from millstream.store import open_store
from millstream.store.manifest import SegmentSummary, summarise

_home_option = option(
    "--home",
    type=click.Path(path_type=Path),
    help="The folder of recordings. Default: MILLSTREAM_HOME, else .millstream.",
)


@click.group()
def journal() -> None:
    """The files that spans are recorded to."""


@journal.command()
@_home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(home: Path | None, *, as_json: bool) -> None:
    """Show what the journal holds: segments, spans, who still writes."""
    home = home or journal_home()
    summaries = summarise(home)
    megabytes = sum(one.size for one in summaries) / 1e6
    totals = {
        "home": str(home),
        "segments": len(summaries),
        "live": sum(1 for one in summaries if one.state.value == "live"),
        "bytes": sum(one.size for one in summaries),
        "spans": sum(one.spans for one in summaries),
        "open_spans": sum(one.open_spans for one in summaries),
        "rejected_lines": sum(one.rejected for one in summaries),
    }
    if as_json:
        click.echo(msgspec.json.encode({**totals, "files": summaries}))
        return
    if not summaries:
        click.echo(f"{home}: nothing is recorded yet")
        return
    click.echo(
        f"{home}: {totals['spans']:,} spans in {totals['segments']} segments, {megabytes:,.1f} MB; "
        f"{totals['open_spans']} open or interrupted, {totals['rejected_lines']} torn lines, "
        f"{totals['live']} segments being written"
    )
    Console(width=None if sys.stdout.isatty() else 140).print(_table(summaries))


def _table(summaries: list[SegmentSummary]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("segment", "state", "spans", "open", "torn", "first start", "last end"):
        table.add_column(
            column, justify="right" if column in ("spans", "open", "torn") else "left", no_wrap=True
        )
    for one in summaries:
        table.add_row(
            one.name,
            one.state.value,
            f"{one.spans:,}",
            str(one.open_spans),
            str(one.rejected),
            _time(one.first_start_ns),
            _time(one.last_end_ns),
        )
    return table


def _time(time_ns: int | None) -> str:
    return "" if time_ns is None else datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")


@journal.command()
@_home_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write to this .jsonl or .parquet file instead of stdout.",
)
@click.option(
    "--trace", "trace_ids", multiple=True, metavar="ID", help="Only this trace; may be given more than once."
)
def export(home: Path | None, output: Path | None, trace_ids: tuple[str, ...]) -> None:
    """Print the spans, one JSON object a line."""
    store = open_store(home or journal_home())
    spans = store.spans(trace_ids=trace_ids or None)
    try:
        if output is None:
            for span in spans:
                sys.stdout.buffer.write(msgspec.json.encode(span) + b"\n")
            sys.stdout.buffer.flush()
        elif output.suffix == ".parquet":
            from millstream.profiler.renderers.parquet import write_parquet  # noqa: PLC0415  # needs an extra

            write_parquet(spans, output)
        elif output.suffix == ".jsonl":
            with output.open("wb") as file:
                file.writelines(msgspec.json.encode(span) + b"\n" for span in spans)
        else:
            raise InputError(f"{output}: the name must end in .jsonl or .parquet")
    except OSError as error:
        if isinstance(error, BrokenPipeError | InputError | StorageError):
            raise
        raise StorageError(f"{output or 'the output'} cannot be written: {error.strerror}") from error
    _report(store.rejected, store.merged)


def _report(rejected: Counter[str], merged: Counter[str]) -> None:
    for reason, count in rejected.items():
        click.echo(f"millstream: {count} x {reason}", err=True)
    for kind, count in merged.items():
        click.echo(f"millstream: {count} x {kind} span of a call that is told of already, merged", err=True)
