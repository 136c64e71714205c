"""`report.html`: one file without network. Figures are drawn here; the page's script draws one timeline.

Everything is escaped by Jinja2; the page forbids itself every other script, style and connection.
"""

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import numpy as np
from markupsafe import Markup

from millstream.profiler.concurrency import call_levels
from millstream.profiler.engine import Profile
from millstream.profiler.estimate import NS_PER_S, Floats, quantile
from millstream.profiler.forecast.finding import Refused
from millstream.profiler.renderers import sentences, svg
from millstream.profiler.renderers.embed import MAX_SPANS, Embedded, embed
from millstream.profiler.renderers.files import replacing, shortened
from millstream.profiler.renderers.items import items_panel
from millstream.profiler.renderers.panels import latency_plots, panels
from millstream.profiler.renderers.summary import Figure, figures, lead
from millstream.profiler.requests import requests
from millstream.profiler.results import EvaluationSummary, Failure
from millstream.profiler.tokens import ModelRow
from millstream.profiler.units import number
from millstream.store.table import KINDS

MAX_ROWS = 60
MAX_SLICES = 500
MAX_LEVELS = 40
_FOLDER = Path(__file__).parent / "report"
_SECTIONS = (
    ("summary", "Summary"),
    ("scores", "Scores"),
    ("items", "Items"),
    ("timeline", "Timeline"),
    ("latency", "Latency"),
    ("models", "Models"),
    ("critical-path", "Critical path"),
    ("self-time", "Self time"),
    ("concurrency", "Concurrency"),
    ("errors", "Errors"),
    ("cost", "Cost"),
    ("prefixes", "Prefixes"),
    ("cache", "Cache"),
    ("sequences", "Sequences"),
    ("forecast", "Forecast"),
)
_SCRIPTS = ("common.js", "flame.js", "items.js", "report.js")
_ODD = {
    "open_spans": "without an end",
    "duplicate_span_ids": "with an id seen before; the last one that ended was kept",
    "missing_parents": "whose parent was not recorded",
    "parent_cycles": "that were their own ancestor; taken as roots",
    "negative_durations": "that ended before they started; their duration is 0",
    "starts_before_parent": "that started before their parent; clipped where time is shared out",
    "outlives_parent": "that ended after their parent; clipped where time is shared out",
    "impossible_times": "times outside 1970 to 2116; moved to that limit",
    "impossible_tokens": "counts below 0 or above 2**40 tokens of a call; taken as unknown",
}


def write(profile: Profile, path: Path, evaluation: EvaluationSummary | None = None) -> None:
    """Write the file."""
    with replacing(path) as file:
        file.write(render(profile, evaluation).encode(errors="backslashreplace"))


def render(profile: Profile, evaluation: EvaluationSummary | None = None) -> str:
    """The page as text."""
    embedded = embed(profile)
    profile.complete()  # the forecast may be in the making until here
    style = (_FOLDER / "report.css").read_text("utf-8")
    script = "".join((_FOLDER / name).read_text("utf-8") for name in _SCRIPTS)
    page = _environment().get_template("report.html.j2")
    return page.render(
        _page(profile, evaluation, embedded)
        | _charts(profile)
        | panels(profile)
        | {
            "style": Markup(style),  # noqa: S704  # our own file
            "script": Markup(script),  # noqa: S704  # our own file
            "data": Markup(embedded.json),  # noqa: S704  # escaped by script_safe
            "style_hash": _hash(style),
            "script_hash": _hash(script),
        }
    )


@cache
def _environment() -> jinja2.Environment:
    """The templates, which are compiled once a process."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        optimized=False,  # most processes write one page: to fold its constants takes longer
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        seconds=svg.seconds, bar=svg.bar, number=_number, count=_count, percent=_percent,
        share=_share, cut=_cut, per_call=_per_call, money=sentences.money, amount=sentences.amount,
    )  # fmt: skip
    environment.tests.update(
        failure=lambda found: isinstance(found, Failure), refused=lambda found: isinstance(found, Refused)
    )
    return environment


def _shown(value: Any) -> Any:
    """What a template puts into the page: markup is ours, plain text may be of any length."""
    return shortened(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _page(profile: Profile, evaluation: EvaluationSummary | None, embedded: Embedded) -> dict[str, Any]:
    table = profile.table
    shown = {"scores": bool(evaluation and evaluation.scores), "items": bool(evaluation and evaluation.items)}
    here: list[Figure] = figures(profile)
    return {
        "title": evaluation.title if evaluation else _title(profile),
        "subtitle": _subtitle(profile),
        "sections": [section for section in _SECTIONS if shown.get(section[0], True)],
        "lead": lead(profile),
        "figures": here,
        "evaluation": evaluation,
        "max_slices": MAX_SLICES,
        **items_panel(profile, evaluation, {table.trace_ids[number] for number in embedded.requests}),
        "embed_note": _embed_note(profile, embedded),
        "kinds": [KINDS[kind] for kind in np.unique(table.kind).tolist()],
        "max_rows": MAX_ROWS,
        "latency": profile.latency,
        "tokens": profile.tokens,
        "critical_path": profile.critical_path,
        "self_time": profile.self_time,
        "concurrency": profile.concurrency,
        "odd": [f"{n:,} {_ODD[what]}." for what, n in msgspec.structs.asdict(table.oddities).items() if n],
    }


def _charts(profile: Profile) -> dict[str, Any]:
    run_time_ns = requests(profile.table).run_time_ns
    run_time_s: Floats = np.sort(run_time_ns[run_time_ns >= 0]) / NS_PER_S
    marks = [
        (f"p{round(share * 100)} {svg.seconds(at.value)}", at.value)
        for share in (0.5, 0.95)
        if (at := quantile(run_time_s, share)).value is not None
    ]
    latency = [] if isinstance(profile.latency, Failure) else profile.latency
    found = profile.concurrency
    levels = [] if isinstance(found, Failure) else list(found.concurrency_distribution.items())
    threshold = None if isinstance(found, Failure) else found.spike_threshold
    models = [] if isinstance(profile.tokens, Failure) else profile.tokens
    per_call = [_per_call(row, column) or 0 for row in models for column in ("input_tokens", "output_tokens")]
    return {
        "runtime_chart": svg.histogram(run_time_s, marks),
        "runtime_n": f"{len(run_time_s):,}",
        **latency_plots(profile.table, latency[:MAX_ROWS]),
        "concurrency_chart": svg.level_chart(call_levels(profile.table), threshold),
        "level_rows": levels[:MAX_LEVELS],
        "more_levels": max(len(levels) - MAX_LEVELS, 0),
        "top_level_s": max((time_s for _, time_s in levels), default=0.0),
        "model_s": sum(row.total_s for row in models),
        "top_per_call": max(per_call, default=0),
    }


def _title(profile: Profile) -> str:
    table = profile.table
    roots = {table.names[name] for name in table.name[table.roots()].tolist()}
    return f"Profile of {roots.pop()}" if len(roots) == 1 else "Profile"


def _subtitle(profile: Profile) -> str:
    table = profile.table
    if len(table) == 0:
        return "No spans."
    first = datetime.fromtimestamp(int(table.start_ns.min()) / NS_PER_S, UTC)
    last_ns = max(int(table.end_ns.max()), int(table.start_ns.max()))
    last = datetime.fromtimestamp(last_ns / NS_PER_S, UTC)
    rejected = sum(profile.source.rejected.values())
    dropped = f", {rejected:,} lines could not be read" if rejected else ""
    return f"{len(table):,} spans from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC{dropped}"


def _embed_note(profile: Profile, embedded: Embedded) -> str:
    notes = []
    total = int(requests(profile.table).recorded.sum())
    if len(embedded.requests) < total:
        notes.append(
            f"Here are {len(embedded.requests):,} of {total:,} requests (at most {MAX_SPANS:,} spans): "
            "those that failed or did not end, then the slowest."
        )
    if embedded.cut_texts:
        notes.append(
            f"{embedded.cut_texts:,} long texts are cut here and marked so; spans.parquet has them whole."
        )
    return " ".join(notes)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)  # noqa: RUF001  # the sign for "no value"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"  # noqa: RUF001  # the sign for "no value"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"  # noqa: RUF001  # the sign for "no value"


def _share(value: float | None, total: float) -> float:
    return (value or 0.0) / total if total else 0.0


def _per_call(row: ModelRow, column: str) -> float | None:
    """Tokens per call that knows its usage."""
    total = getattr(row, column)
    return total / row.calls_with_usage if total is not None and row.calls_with_usage else None


def _cut(text: str | None, limit: int) -> str:
    text = "" if text is None else str(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
