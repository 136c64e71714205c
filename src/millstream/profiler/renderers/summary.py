"""The first thing a reader sees: the sentences and figures at the top of a report."""

import msgspec

from millstream.profiler.engine import Profile
from millstream.profiler.renderers.svg import seconds
from millstream.profiler.results import Failure
from millstream.profiler.tokens import ModelRow
from millstream.profiler.units import number


class Figure(msgspec.Struct, frozen=True):
    """One figure with what it is and what to know about it; `bad` marks a note that needs attention."""

    term: str
    value: str
    note: str
    bad: bool = False


def lead(profile: Profile) -> list[str]:
    """What to know first, in sentences."""
    sentences = []
    path = profile.critical_path
    if not isinstance(path, Failure) and path.by_name:
        top = path.by_name[0]
        sentences.append(
            f"{100 * top.share:.0f} % of the time that requests took went to {top.kind} {top.name} "
            f"({seconds(top.seconds)} of {seconds(path.total_s)} on the critical path)."
        )
    if len(profile.table) == 0:
        sentences.append("Nothing was recorded.")
    sentences += [f"The analysis {name} failed: {error}" for name, error in profile.failures.items()]
    return sentences


def figures(profile: Profile) -> list[Figure]:
    """The strip of figures."""
    return [*_requests(profile), *_run_time(profile), *_models(profile), *_concurrency(profile)]


def _requests(profile: Profile) -> list[Figure]:
    found = profile.requests
    if isinstance(found, Failure):
        return []
    bad = [
        f"{n:,} {what}"
        for n, what in (
            (found.failed, "failed"),
            (found.cancelled, "cancelled"),
            (found.unfinished, "unfinished"),
        )
        if n
    ]
    return [Figure("Requests", f"{found.n:,}", ", ".join(bad) or "none failed", bad=bool(bad))]


def _run_time(profile: Profile) -> list[Figure]:
    found = profile.confidence
    if isinstance(found, Failure):
        return []
    run_time, throughput = (
        found.workflow_run_time_confidence_intervals,
        found.throughput_estimate_confidence_interval,
    )
    rate = throughput.mean
    between = throughput.ninety_fifth_interval
    counts = profile.requests
    sessions = 1 if isinstance(counts, Failure) else counts.sessions
    notes = [f"over {sessions} sessions, without the pauses"] if sessions > 1 else []
    notes += [] if between is None else [f"95 %: {number(between[0])} to {number(between[1])}"]
    return [
        Figure("Mean run time", seconds(run_time.mean), _interval(run_time.ninety_fifth_interval)),
        Figure("p95 run time", seconds(run_time.p95), f"of {run_time.n:,} that ended"),
        Figure(
            "Finished per second",
            "–" if rate is None else number(rate),  # noqa: RUF001  # the sign for "no value"
            "; ".join(notes),
        ),
    ]


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"95 %: {seconds(interval[0])} to {seconds(interval[1])}"


def _models(profile: Profile) -> list[Figure]:
    rows = profile.tokens
    if isinstance(rows, Failure) or not rows:
        return []
    errors = sum(row.errors for row in rows)
    cached, reasoning = _sum(rows, "cache_read_tokens"), _sum(rows, "reasoning_tokens")
    return [
        Figure(
            "Model calls",
            f"{sum(row.calls for row in rows):,}",
            f"{errors:,} failed" if errors else f"{len(rows)} model{'s' * (len(rows) > 1)}",
            bad=bool(errors),
        ),
        Figure(
            "Input tokens",
            _short(_sum(rows, "input_tokens")),
            "" if cached is None else f"{_short(cached)} from provider's cache",
        ),
        Figure(
            "Output tokens",
            _short(_sum(rows, "output_tokens")),
            "" if reasoning is None else f"{_short(reasoning)} reasoning",
        ),
    ]


def _concurrency(profile: Profile) -> list[Figure]:
    found = profile.concurrency
    if isinstance(found, Failure) or not found.n:
        return []
    return [
        Figure("Most calls at once", str(found.max), f"half of the busy time at most {found.p50_concurrency}")
    ]


def _sum(rows: list[ModelRow], column: str) -> int | None:
    known = [value for row in rows if (value := getattr(row, column)) is not None]
    return sum(known) if known else None


def _short(tokens: int | None) -> str:
    if tokens is None:
        return "–"  # noqa: RUF001  # the sign for "no value"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if tokens >= limit:
            return f"{tokens / (1e3 if unit == 'k' else limit):.3g} {unit}"
    return f"{tokens:,}"
