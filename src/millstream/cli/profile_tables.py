"""What `millstream profile` prints for people: a few tables, then what stands out in sentences."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from millstream.profiler.results import Failure, Statistic
from millstream.profiler.units import duration

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


def print_tables(found: "Profile") -> None:
    """Print it, as wide as the terminal is."""
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
    columns += _unless_zero(rows, "not sent", "cached")
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
    columns += _unless_zero(rows, "not sent", "cached")
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
