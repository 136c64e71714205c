"""How much of the next query is new? Distinct words that the query before did not have.

Of each model, a call is compared with the call before it of the same model in the same request, in the order
of their starts. Without a tokenizer the unit is words: runs of letters, digits and `_` of the text in
lower case.
"""

import re
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np

from millstream.profiler import estimate
from millstream.profiler.estimate import Floats
from millstream.profiler.patterns import message_text
from millstream.profiler.results import Statistic
from millstream.span import SpanKind
from millstream.store.table import Ints, SpanTable

Tokenize = Callable[[str], Iterable[Hashable]]
_Split = Callable[[str], frozenset[Hashable]]

MAX_CALLS: Final = 100_000
"""Of more calls, requests at equal distances are read: prompts are long."""
WORDS: Final = "words"
TOKENS: Final = "tokens"
_MIN_LATER: Final = 10
_KEPT: Final = 16
"""Of so many messages the tokens are remembered: many prompts begin with the same instructions."""
_word = re.compile(r"\w+").findall


class Uniqueness(msgspec.Struct, frozen=True):
    """New words or tokens of the next query to one model.

    Attributes:
        p90: and the two after it: observed percentiles, linear interpolation; null when n is 0.
        n: pairs of calls that were compared.
        unit: `words` or `tokens`.
        mean: the number to expect, with its Student t interval.
        unknown: pairs left out, for the content of one was not captured.
        held_out: how the percentiles of the earlier half of the pairs did on the later half.
    """

    p90: float | None
    p95: float | None
    p99: float | None
    n: int
    unit: str
    mean: Statistic
    unknown: int
    held_out: "HeldOut | None"


class HeldOut(msgspec.Struct, frozen=True):
    """Share of `n` later queries that were at most the percentile of the earlier ones: 0.9 would be right."""

    n: int
    below_p90: float
    below_p95: float
    below_p99: float


def uniqueness(table: SpanTable, tokenize: Tokenize | None = None) -> dict[str, Uniqueness]:
    """What is new in the next query, by model; models that no request calls twice are left out.

    Args:
        table: the spans.
        tokenize: the tokens of a text. Without it, words are counted.
    """
    found: dict[int, list[float]] = {}
    unknown: dict[int, int] = {}
    split = lru_cache(_KEPT)(lambda text: frozenset(tokenize(text) if tokenize else _word(text.lower())))
    for model, rows in _chains(table):
        counts = found.setdefault(model, [])
        for new in _new(table, rows, split):
            if new is None:
                unknown[model] = unknown.get(model, 0) + 1
            else:
                counts.append(new)
    unit = WORDS if tokenize is None else TOKENS
    return {
        table.models[model]: _summary(np.array(counts, np.float64), unit, unknown.get(model, 0))
        for model, counts in sorted(found.items())
    }


def _chains(table: SpanTable) -> Iterable[tuple[int, Ints]]:
    """Models and the rows of their calls in a request with two or more, in order of the requests' starts."""
    rows = np.flatnonzero(table.of_kind(SpanKind.LLM))
    every = -(-len(rows) // MAX_CALLS) if len(rows) else 1
    rows = rows[table.trace[rows] % every == 0]
    key = table.trace[rows].astype(np.int64) * max(len(table.models), 1) + table.model[rows]
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    chains = [chain for chain in np.split(rows[order], first[1:]) if len(chain) > 1]
    for chain in sorted(chains, key=lambda chain: (int(table.start_ns[chain[0]]), int(chain[0]))):
        yield int(table.model[chain[0]]), chain


def _new(table: SpanTable, rows: Ints, split: _Split) -> Iterable[float | None]:
    """Of each call but the first the number of new tokens; None where a content is not known.

    A prompt that begins with all messages of the one before is the usual case: only the rest is read.
    """
    before: list[str] | None = None
    seen: frozenset[Hashable] = frozenset()
    for place, row in enumerate(rows.tolist()):
        messages = _messages(table.spans[row].input)
        if messages is None:
            tokens: frozenset[Hashable] = frozenset()
        elif before and messages[: len(before)] == before:
            tokens = seen.union(*map(split, messages[len(before) :]))
        else:
            tokens = frozenset().union(*map(split, messages))
        if place:
            yield None if messages is None or before is None else float(len(tokens - seen))
        before, seen = messages, tokens


def _messages(value: Any) -> list[str] | None:
    """The texts of a prompt's messages; None when it was not captured."""
    if isinstance(value, msgspec.Raw):
        value = msgspec.json.decode(value)
    if value is None or value is msgspec.UNSET:
        return None
    return [message_text(message) for message in value] if isinstance(value, list) else [message_text(value)]


def _summary(counts: Floats, unit: str, unknown: int) -> Uniqueness:
    p90, p95, p99 = np.quantile(counts, [0.90, 0.95, 0.99]).tolist() if len(counts) else (None, None, None)
    return Uniqueness(p90, p95, p99, len(counts), unit, estimate.mean(counts), unknown, _held_out(counts))


def _held_out(counts: Floats) -> HeldOut | None:
    """Percentiles of the earlier half, tried on the later one; None where there are too few."""
    half = len(counts) // 2
    if half < _MIN_LATER:
        return None
    later = counts[half:]
    below = [float(np.mean(later <= limit)) for limit in np.quantile(counts[:half], [0.90, 0.95, 0.99])]
    return HeldOut(len(later), *below)
