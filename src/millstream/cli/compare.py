"""`millstream compare`: runs of evaluations side by side, item by item."""

import string
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from millstream.errors import InputError, MissingExtraError
from millstream.profiler.renderers.files import json_bytes
from millstream.profiler.units import duration

if TYPE_CHECKING:
    from millstream.profiler.compare import Comparison, Run
    from millstream.profiler.paired import Difference

_WIDTH = 120
"""Columns of the tables where the output is no terminal."""
_ROOMY = 100
"""Columns from which there is room for the ratios."""
_UNKNOWN = "-"
_LABELS = {"latency_s": "latency", "input_tokens": "input tokens", "output_tokens": "output tokens"}


class _Named(NamedTuple):
    """A run with the letter that the output calls it by."""

    letter: str
    folder: Path
    run: "Run"
    currency: str


@click.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("runs", metavar="RUN_B...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(run_a: Path, runs: tuple[Path, ...], *, as_json: bool) -> None:
    """Compare runs of an evaluation: quality, latency, tokens and cost, with 95 % intervals.

    Each RUN is the output folder of an evaluation. Items are paired by id and input. With more than two
    runs, each is compared with the first.
    """
    named = _read([run_a, *runs])
    first, others = named[0], named[1:]
    compared = [(other, _compared(first, other)) for other in others]
    if as_json:
        content = [_content(comparison, other, first) for other, comparison in compared]
        click.echo(json_bytes(content[0] if len(content) == 1 else content))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    for number, (other, comparison) in enumerate(compared):
        if number:
            console.print()
        _print(console, first, other, comparison)


def _read(folders: list[Path]) -> list[_Named]:
    try:
        from millstream.evaluation.run_folder import read_run  # noqa: PLC0415  # NumPy, when it is needed
        from millstream.profiler.cost import price_table  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError("The comparison", "profiling") from error
    prices = price_table()
    return [
        _Named(_letter(number), folder, read_run(folder, prices), prices.currency)
        for number, folder in enumerate(folders)
    ]


def _letter(number: int) -> str:
    letters = string.ascii_uppercase
    return letters[number] if number < len(letters) else f"{letters[-1]}{number - len(letters) + 2}"


def _compared(first: _Named, other: _Named) -> "Comparison":
    from millstream.profiler.compare import compare as compare_runs  # noqa: PLC0415

    comparison = compare_runs(first.run, other.run)
    if not comparison.items.both:
        reworded = comparison.items.other_input
        why = f"; {reworded} ids are in both, with other inputs" if reworded else ""
        raise InputError(
            f"{first.folder} and {other.folder} have no item in common (by id and input){why}. "
            "Compare runs over the same dataset."
        )
    return comparison


def _content(comparison: "Comparison", other: _Named, first: _Named) -> dict[str, Any]:
    return {
        "a": str(first.folder),
        "b": str(other.folder),
        "level": comparison.level,
        "items": comparison.items,
        "metrics": comparison.metrics,
        "currency": first.currency,
        "sentence": _sentence(comparison, other),
        "notes": [*first.run.notes, *other.run.notes],
    }


def _sentence(comparison: "Comparison", other: _Named) -> str:
    from millstream.profiler.renderers.verdict import verdict  # noqa: PLC0415

    return verdict(comparison, other.letter)


def _print(console: Console, first: _Named, other: _Named, comparison: "Comparison") -> None:
    items = comparison.items
    for named, results, failed in (
        (first, items.results_a, items.failed_a),
        (other, items.results_b, items.failed_b),
    ):
        repeated = f" ({results:,} results)" if results != items.both else ""
        failures = f", {failed:,} failed" if failed else ""
        console.print(Text(f"{named.letter}  {named.folder}{repeated}{failures}"), soft_wrap=True)
    console.print(Text(_pairing(first, other, comparison)), soft_wrap=True)
    console.print()
    console.print(_table(first, other, comparison, has_ratio=console.width >= _ROOMY))
    console.print()
    console.print(Text(_sentence(comparison, other), style="bold"), soft_wrap=True)
    for note in (*first.run.notes, *other.run.notes):
        console.print(Text(note, style="yellow"), soft_wrap=True)


def _pairing(first: _Named, other: _Named, comparison: "Comparison") -> str:
    items = comparison.items
    how = "id and input" if items.by_input else "id alone, for the inputs are not in both"
    parts = [f"{items.both:,} {'item' if items.both == 1 else 'items'} in both, paired by {how}"]
    parts += [f"{items.only_a:,} only in {first.letter}"] if items.only_a else []
    parts += [f"{items.only_b:,} only in {other.letter}"] if items.only_b else []
    parts += (
        [f"{items.other_input:,} of these with the same id and another input"] if items.other_input else []
    )
    return "; ".join(parts)


def _table(first: _Named, other: _Named, comparison: "Comparison", *, has_ratio: bool) -> Table:
    a, b = first.letter, other.letter
    level = f"{100 * comparison.level:.0f} %"
    table = Table(box=None, pad_edge=False)
    table.add_column("metric", no_wrap=True, overflow="ellipsis")
    headings = ["n", a, b, f"{b} - {a}", level, *([f"{b} / {a}", level] if has_ratio else [])]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in comparison.metrics.items():
        label = f"cost, {first.currency}" if name == "cost" else _LABELS.get(name, _plain(name))
        table.add_row(*(Text(cell) for cell in [label, *_cells(name, found)][: len(headings) + 1]))
    return table


def _cells(name: str, found: "Difference") -> list[str]:
    def shown(value: float | None) -> str:
        return _value(name, value)

    def signed(value: float | None) -> str:
        return _UNKNOWN if value is None else f"{'-' if value < 0 else '+'}{_value(name, abs(value))}"

    return [
        f"{found.n:,}",
        shown(found.a),
        shown(found.b),
        signed(found.difference),
        _range(signed(found.low), signed(found.high)),
        _ratio(found.ratio),
        _range(_ratio(found.ratio_low), _ratio(found.ratio_high)),
    ]


def _value(name: str, value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    if name == "latency_s":
        return duration(value)
    if name in _LABELS:
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"  # noqa: PLR2004  # three digits
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"  # noqa: PLR2004  # three digits


def _ratio(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.2f}"


def _range(low: str, high: str) -> str:
    return _UNKNOWN if low == high == _UNKNOWN else f"{low} to {high}"


def _plain(name: str) -> str:
    """A name on one line, without signs that a terminal would obey."""
    return "".join(sign if sign.isprintable() else "?" for sign in name)
