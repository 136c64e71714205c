"""Errors, cost, caches and the forecast, each in a sentence or two, for the terminal and the reports.

Of an analysis that failed nothing is said here: whoever prints these names the failures.
"""

from typing import Final

from millstream.profiler.cache_opportunity import CacheOpportunity
from millstream.profiler.cost import Cost
from millstream.profiler.engine import Profile
from millstream.profiler.forecast.finding import Finding, Refused, TargetFinding
from millstream.profiler.results import Failure
from millstream.profiler.retries import RetryRow
from millstream.profiler.units import duration, number

MOST: Final = 3
"""Names, reasons or models that one sentence names."""
WORDS: Final = {
    "first_time": "no earlier prompt began like this",
    "expired": "the last prompt that began like this was too long ago",
    "below_minimum": "too short for the cache",
    "rounded": "less than a step of the cache",
    "unknown": "could have been read and was not",
}
"""Why input was not read from a cache."""
UNITS: Final = {"remaining_llm_calls": " LLM calls", "remaining_tokens": " tokens"}


def sentences(profile: Profile) -> list[str]:
    """All of them, in the order of the report."""
    return [*errors(profile), *costs(profile), *caches(profile), *expected(profile)]


def errors(profile: Profile) -> list[str]:
    """What failed the most, and what became of it."""
    found = profile.retries
    if isinstance(found, Failure):
        return []
    failing = [row for row in found if row.errors]
    said = [f"Errors of {row.kind} {plain(row.name)}: {_failed(row)}." for row in failing[:MOST]]
    if len(failing) > MOST:
        said.append(f"Errors of {len(failing) - MOST:,} more kinds of calls.")
    return said or ["Errors: no call failed."]


def _failed(row: RetryRow) -> str:
    types = [f"{plain(name)} {n:,}" for name, n in row.errors_by_type.items()]
    of_calls = listed([percent(row.error_rate.value), *([listed(types)] if types else [])], "; ")
    text = f"{row.errors:,} of {calls(row.calls)} ({of_calls})"
    if row.retries:
        noun = "retry" if row.retries == 1 else "retries"
        text += f", {row.retries:,} {noun} of which {row.recovered:,} went well"
    if row.retries_unknown:
        text += f", {row.retries_unknown:,} more may be retries: an input was not recorded"
    return f"{text}; {duration(row.lost_s)} lost"


def costs(profile: Profile) -> list[str]:
    """The total, what a request costs, and what is not priced."""
    found = profile.cost
    if isinstance(found, Failure) or not found.calls:
        return []
    if found.total is None:
        return [f"Cost: unknown, no call could be priced ({_reasons(found)}).", *_not_sent(found)]
    each = found.cost_per_request
    parts = [f"Cost: {'at least ' if found.unpriced else ''}{money(found.total, found.currency)}"]
    if each.value is not None:
        between = "" if each.low is None else f" ({money(each.low)} to {money(each.high)})"
        parts.append(f"{money(each.value, found.currency)} a request{between}")
    said = [f"{', '.join(parts)}, by prices of {found.date}."]
    if found.unpriced:
        said.append(f"{found.calls - found.priced:,} of {calls(found.calls)} not priced: {_reasons(found)}.")
    return [*said, *_not_sent(found)]


def _not_sent(found: Cost) -> list[str]:
    """Calls that an evaluation answered from its cache, and what that saved."""
    if not found.cached:
        return []
    saved = "what that saved is unknown"
    if found.saved is not None:
        saved = (
            f"that saved {'at least ' if found.saved_unpriced else ''}{money(found.saved, found.currency)}"
        )
    share = f"{found.cached:,} of {calls(found.calls)}"
    return [f"{share} came from the cache of an evaluation and were not sent: {saved}."]


def _reasons(found: Cost) -> str:
    return listed([f"{reason}: {calls(n)}" for reason, n in found.unpriced.items()])


def caches(profile: Profile) -> list[str]:
    """Observed against achievable of the models with the most calls."""
    found = profile.cache
    if found is None or isinstance(found, Failure):
        return []
    return [f"Cache of {plain(row.model)}: {cached(row)}." for row in found[:MOST] if row.calls_with_prompt]


def cached(row: CacheOpportunity) -> str:
    """What was read from the caches of one model, what could have been, and the main reason between."""
    if row.observed.value is None:
        if row.unbounded is None:
            return "prompts are too short to tell"
        return f"{percent(row.unbounded)} of the prompts repeats earlier ones; what was read is not recorded"
    text = f"{percent(row.observed.value)} of the input was read"
    if row.achievable is not None:
        by = f" by {row.achievable_by.provider}'s {row.achievable_by.name}" if row.achievable_by else ""
        text += f", {percent(row.achievable)} could have been{by}"
    unread = {reason: one.tokens for reason, one in row.not_read.items() if one.tokens}
    if unread:
        most = max(unread, key=unread.__getitem__)
        text += f"; of the rest {percent(unread[most] / sum(unread.values()))}: {WORDS.get(most, most)}"
    return text


def expected(profile: Profile) -> list[str]:
    """What the next request is to be like, with the error of such forecasts; or why there is none."""
    found: Finding | Failure | None = profile.forecast
    if found is None or isinstance(found, Failure):
        return []
    if isinstance(found, Refused):
        return [f"No forecast: {found.refused}"]
    return [
        f"Forecast of the next request: {amount(name, one.median)}{UNITS.get(name, '')} "
        f"({amount(name, one.low)} to {amount(name, one.high)}); "
        f"on {one.n:,} unseen requests {amount(name, one.error)} off, {percent(one.coverage)} inside."
        for name, one in found.items()
        if isinstance(one, TargetFinding)
    ]


def amount(target: str, value: float) -> str:
    """A figure of a forecast with the digits that it has."""
    if target.endswith("_s"):
        return duration(value)
    return number(value)


def money(value: float | None, currency: str = "") -> str:
    """Four digits, or two decimals from 1 on; `-` when it is unknown."""
    if value is None:
        return "-"
    number = f"{value:,.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
    return f"{number} {currency}".strip()


def percent(share: float | None) -> str:
    """With one decimal; `-` when it is unknown."""
    return "-" if share is None else f"{100 * share:.1f} %"


def calls(n: int) -> str:
    """`1 call`, `2 calls`."""
    return f"{n:,} call{'s' * (n != 1)}"


def listed(parts: list[str], between: str = ", ") -> str:
    """The first few, and how many more there are."""
    more = len(parts) - MOST
    return between.join([*parts[:MOST], *([f"{more} more"] if more > 0 else [])])


def plain(name: str) -> str:
    """A name on one line, without signs that a terminal would obey."""
    return "".join(sign if sign.isprintable() else "?" for sign in name)
