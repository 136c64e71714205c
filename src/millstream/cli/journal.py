"""`millstream journal`: the files that spans are recorded to."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from millstream.cli.options import option
from millstream.deliver.amounts import SIZES, TIMES, amount
from millstream.deliver.dead_letters import dead_letter_path
from millstream.deliver.eviction import evict, told
from millstream.deliver.undelivered import SinkStatus, sink_statuses
from millstream.errors import InputError, StorageError
from millstream.profiler.renderers.files import replacing
from millstream.record import journal_home
from millstream.store import compacted as parquet
from millstream.store import open_store
from millstream.store.summaries import SegmentSummary, summarise

if TYPE_CHECKING:
    from millstream.store.compaction import Compaction

_WIDE = 140
"""Columns of tables where the output is no terminal."""

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
    """Show what the journal holds, who still writes, and what each sink has had of it."""
    home = home or journal_home()
    summaries = summarise(home)
    files = parquet.compacted(home).files
    sinks = sink_statuses(home)
    megabytes = sum(one.size for one in summaries) / 1e6
    totals: dict[str, Any] = {
        "home": str(home),
        "segments": len(summaries),
        "live": sum(1 for one in summaries if one.state.value == "live"),
        "bytes": sum(one.size for one in summaries),
        "spans": sum(one.spans for one in summaries),
        "open_spans": sum(one.open_spans for one in summaries),
        "rejected_lines": sum(one.rejected for one in summaries),
        "parquet": {
            "files": len(files),
            "bytes": sum(file.size for file in files),
            "spans": sum(file.spans for file in files),
        },
    }
    if as_json:
        click.echo(msgspec.json.encode({**totals, "files": summaries, "sinks": sinks}))
        return
    if not summaries and not sinks and not files:
        click.echo(f"{home}: nothing is recorded yet")
        return
    click.echo(
        f"{home}: {_some(totals['spans'], 'span')} in {_some(totals['segments'], 'segment')}, "
        f"{megabytes:,.1f} MB; {totals['open_spans']} open or interrupted, "
        f"{_some(totals['rejected_lines'], 'torn line')}, {_some(totals['live'], 'segment')} being written"
    )
    if files:
        click.echo(f"compacted: {_files(files)}")
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    if summaries:
        console.print(_table(summaries))
    if sinks:
        console.print()
        console.print(_sinks(sinks))
    for sink in sinks:
        for sentence in _reasons(sink, home):
            click.echo(f"{sink.name}: {sentence}")


def _files(files: list["parquet.CompactedFile"]) -> str:
    megabytes = sum(file.size for file in files) / 1e6
    spans, count = sum(file.spans for file in files), _some(len(files), "Parquet file")
    return f"{_some(spans, 'span')} in {count}, {megabytes:,.1f} MB"


def _sinks(sinks: list[SinkStatus]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("sink", no_wrap=True)
    for column in ("sent", "left", "retried", "rejected", "dropped", "skipped", "evicted"):
        table.add_column(column, justify="right", no_wrap=True)
    for sink in sinks:
        counts = sink.counts
        left = "?" if sink.left is None else f"{sink.left:,}"
        others = (
            counts.retried,
            sum(counts.rejected.values()),
            sum(counts.dropped.values()),
            counts.skipped,
            counts.evicted,
        )
        table.add_row(escape(sink.name), f"{counts.sent:,}", left, *(f"{count:,}" for count in others))
    return table


def _reasons(sink: SinkStatus, home: Path) -> Iterator[str]:
    if sink.left is None:
        yield "its state cannot be read; the next delivery begins anew"
    for reason, count in sorted(sink.counts.rejected.items()):
        yield f"{count:,} rejected: {reason}"
    if sink.counts.rejected:
        where = dead_letter_path(home, sink.name)
        yield f"rejected spans lie in {where}; millstream ship --retry-rejected sends them again"
    for reason, count in sorted(sink.counts.skipped_reasons.items()):
        yield f"{count:,} skipped: {reason}"
    for reason, count in sorted(sink.counts.dropped.items()):
        yield f"{count:,} dropped: {reason}"
    for fault, count in sorted(sink.counts.processor_faults.items()):
        yield f"{count:,} went without content: the processor {fault}"
    if sink.counts.evicted:
        yield f"{sink.counts.evicted:,} were removed from the journal before they were delivered"


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
@option("--max-bytes", "max_bytes", metavar="N", help="Remove until the journal is no larger: 500MB, 2GiB.")
@option("--max-age", "max_age", metavar="D", help="Remove what was written so long ago: 36h, 30d.")
@option("--delivered", is_flag=True, help="Remove only what every sink has had.")
@option("--compacted", is_flag=True, help="Remove only segments whose spans are in Parquet, too.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
def prune(
    home: Path | None,
    max_bytes: str | None,
    max_age: str | None,
    *,
    delivered: bool,
    compacted: bool,
    as_json: bool,
) -> None:
    """Remove what nobody writes any more, the oldest first, and say what no sink had of it."""
    if max_bytes is None and max_age is None and not delivered and not compacted:
        raise click.UsageError("say what to remove: --max-bytes, --max-age, --delivered or --compacted")
    home = home or journal_home()
    evicted = evict(
        home,
        max_bytes=None if max_bytes is None else round(_amount(max_bytes, SIZES, "--max-bytes", "500MB")),
        max_age_s=None if max_age is None else _amount(max_age, TIMES, "--max-age", "30d"),
        only_delivered=delivered,
        only_compacted=compacted,
    )
    click.echo(msgspec.json.encode(evicted) if as_json else f"{home}: {told(evicted)}")


@journal.command()
@_home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compact(home: Path | None, *, as_json: bool) -> None:
    """Write finished segments as Parquet, sorted by trace, for fast profiles and for other tools.

    The journal stays as it is; `prune --compacted` removes what is in Parquet of it.
    """
    from millstream.store.compaction import compact as compact_journal  # noqa: PLC0415  # needs an extra

    home = home or journal_home()
    done = compact_journal(home)
    if as_json:
        click.echo(msgspec.json.encode(done))
        return
    click.echo(f"{home}: {_compaction(done)}")
    _report(Counter(done.rejected), Counter(done.merged))


def _compaction(done: "Compaction") -> str:
    text = "nothing new"
    if done.files:
        segments, files = _some(done.segments, "segment"), _some(len(done.files), "file")
        text = f"{_some(done.spans, 'span')} of {segments} written to {files}"
    if done.joined:
        text += f"; {done.joined} small files joined"
    if done.left:
        text += f"; {_some(done.left, 'segment')} {'is' if done.left == 1 else 'are'} being written"
    return text


def _some(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s' * (count != 1)}"


def _amount(text: str, units: Mapping[str, int], option_name: str, example: str) -> float:
    try:
        return amount(text, units, example)
    except ValueError as error:
        raise click.UsageError(f"{option_name}: {error}") from None


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
            from millstream.store.parquet import write_spans  # noqa: PLC0415  # needs an extra

            with replacing(output) as file:
                write_spans(spans, file)
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


@journal.command()
@_home_option
@click.argument("sql")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def query(home: Path | None, sql: str, *, as_json: bool) -> None:
    """Answer SQL over the view `spans`, of one row a span: the columns of spans.parquet, and duration_s.

    millstream journal query "SELECT kind, name, count(*), median(duration_s) FROM spans GROUP BY ALL"
    """
    from millstream.store.query import connect, rows_of  # noqa: PLC0415  # needs an extra

    found = rows_of(connect(home or journal_home()), sql)
    if as_json:
        if twice := [name for name, count in Counter(found.columns).items() if count > 1]:
            raise InputError(
                f"{len(twice)} names stand for several columns, as {twice[0]!r}; tell them apart by AS"
            )
        for row in found.rows:
            click.echo(msgspec.json.encode(dict(zip(found.columns, row, strict=True)), enc_hook=str))
        return
    table = Table(box=None, pad_edge=False)
    for column in found.columns:
        table.add_column(escape(column), overflow="fold")
    for row in found.rows:
        table.add_row(*("" if value is None else escape(_plain(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


def _plain(value: object) -> str:
    """A value without signs that a terminal would obey."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(value))


def _report(rejected: Counter[str], merged: Counter[str]) -> None:
    for reason, count in rejected.items():
        click.echo(f"millstream: {count} x {reason}", err=True)
    for kind, count in merged.items():
        click.echo(f"millstream: {count} x {kind} span of a call that is told of already, merged", err=True)
