"""What `millstream eval` prints of its scores: averages, slices, and the worst items with their reasons."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from millstream.evaluation.figures import Figure
from millstream.evaluation.slices import SliceFigures
from millstream.evaluation.summary import EvalSummary, MetricSummary
from millstream.evaluation.values import Several, Value

MAX_SLICES: Final = 5
"""Lines of one figure in the table of slices: the worst ones."""


def print_scores(console: Console, summary: EvalSummary) -> None:
    """The table of averages, and below it what is to be said of them."""
    table = _table(
        "Scores", ("evaluator",), ("average", f"{100 * summary.level:g} % interval", "n", "missing", "failed")
    )
    notes: dict[str, list[str]] = {}
    for metric in summary.metrics:
        for figure in metric.all_figures:
            name = _name(metric, figure)
            table.add_row(
                escape(name),
                number(figure.average, metric.unit),
                _interval(figure),
                str(figure.n),
                str(figure.missing),
                str(metric.failed),
            )
            if figure.note:
                notes.setdefault(figure.note, []).append(name)
    console.print(table)
    for note, names in notes.items():
        _line(console, f"{', '.join(names)}: {note}")
    for metric in summary.metrics:
        if metric.more_categories:
            _line(console, f"{metric.name}: {metric.more_categories} more categories are rarer")


def print_slices(console: Console, summary: EvalSummary) -> None:
    """The table of slices, and how many were looked at."""
    note = next((metric.slices_note for metric in summary.metrics), None)
    if note is None:
        return
    table = _table("Slices", ("evaluator", "slice"), ("average", "interval", "n", "missing", "failed"))
    notes: list[str] = []
    for metric in summary.metrics:
        for place, figure in enumerate(metric.all_figures):
            parts = _worst_first(metric, place)
            for part in parts[:MAX_SLICES]:
                found = part.figures[place]
                table.add_row(
                    escape(_name(metric, figure)),
                    escape(f"{part.field} = {one_line(part.value, 40)}"),
                    number(found.average, metric.unit),
                    _interval(found) + (" *" if found.note else ""),
                    str(found.n),
                    str(found.missing),
                    str(part.failed),
                )
            if len(parts) > MAX_SLICES:
                notes.append(f"{_name(metric, figure)}: the {MAX_SLICES} worst of {len(parts)} slices")
    console.print(table)
    if any(figure.note for metric in summary.metrics for part in metric.slices for figure in part.figures):
        _line(console, "* too few items for an interval that holds, or scores that are all the same")
    for text in [*notes, note]:
        _line(console, text)


def _worst_first(metric: MetricSummary, place: int) -> list[SliceFigures]:
    def key(part: SliceFigures) -> float:
        average = part.figures[place].average
        return float("inf") if average is None else -average if metric.lower_is_better else average

    return sorted(metric.slices, key=key)


def print_worst(console: Console, summary: EvalSummary) -> None:
    """A line for each of the worst answered items: what went wrong with it, and why."""
    judges = {one.name for one in summary.metrics if not (one.lower_is_better or one.unit)}
    for item in summary.worst:
        rep = f" (rep {item.rep})" if item.rep > 1 else ""
        wrong = {name: score for name, score in item.scores.items() if name in judges and score != 1}
        scores = (wrong or item.scores).items()
        told = "; ".join(_told(name, score, item.reasons.get(name)) for name, score in scores)
        _line(console, f"worst: {item.id!r}{rep}: {told}")


def _told(name: str, score: Value | Several | None, reason: str | None) -> str:
    told = f"{name} {score_text(score)}"
    return f"{told} ({one_line(reason, 120)})" if reason else told


def score_text(score: Value | Several | None) -> str:
    """A score as words."""
    if isinstance(score, dict):
        return ", ".join(f"{name} {score_text(part)}" for name, part in score.items())
    return score if isinstance(score, str) else "missing" if score is None else number(score)


def number(value: float | None, unit: str = "") -> str:
    """Four digits and the unit; a dash where there is none."""
    return "-" if value is None else f"{value:.4g} {unit}".rstrip()


def ends(pair: Sequence[float | None]) -> str:
    """An interval; an end that is not known is open."""
    low, high = pair
    return "-" if low is None and high is None else f"{number(low)} to {number(high)}"


def one_line(text: str, longest: int = 300) -> str:
    """A text without line breaks, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[:longest] + "…"


def _name(metric: MetricSummary, figure: Figure) -> str:
    return f"{metric.name}.{figure.key}" if figure.key else metric.name


def _interval(figure: Figure) -> str:
    return ends((figure.interval.low, figure.interval.high)) if figure.interval else "-"


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in texts:
        table.add_column(heading)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _line(console: Console, text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)
