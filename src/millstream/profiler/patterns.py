"""Which sequences of calls come back in many requests? PrefixSpan over the LLM and TOOL calls.

A pattern is a sequence of calls that a request makes in this order, others between them allowed. Only closed
patterns are listed: those that no longer pattern of the same requests contains. A workflow that always makes
the same 24 calls has one closed pattern, and 2^24 others that say nothing more.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from millstream.profiler.config import PrefixSpanAnalysis
from millstream.profiler.estimate import NS_PER_S, Floats, mean_interval
from millstream.profiler.prefixspan import BUDGET, Mined, Pattern, Sequences, mine
from millstream.profiler.requests import requests
from millstream.span import Span, SpanKind
from millstream.store.prompt_blocks import rendered, shown
from millstream.store.strict_json import json_text
from millstream.store.table import Ints, SpanTable

MAX_TEXTS: Final = 200_000
"""More LLM calls than this are told apart by their model only: reading their prompts would take minutes."""
MAX_RANKED: Final = 100
"""Patterns that are measured to find out which of the equally frequent take the longest."""
COMMON_PREFIX: Final = "<common_prefix>"
_PLAIN: Final = frozenset({"role", "content", "name"})


class FrequentPattern(msgspec.Struct, frozen=True):
    """One sequence of calls.

    Attributes:
        pattern: `LLM:<model>|<start of the prompt>` or `TOOL:<name>`, in order.
        frequency: number of requests that contain it: those in `examples_containing`.
        coverage: frequency / requests.
        average_duration: seconds that these calls took, summed over the pattern, in its first occurrence in a
            request; the mean over the requests in which all of them ended, null when there is none.
        average_duration_interval: Student t, 95 %.
        duration_n: number of those requests.
        examples_containing: request numbers, ascending.
    """

    pattern: list[str]
    frequency: int
    coverage: float
    average_duration: float | None
    average_duration_interval: tuple[float, float] | None
    duration_n: int
    examples_containing: list[int]


class Patterns(msgspec.Struct, frozen=True):
    """The `top_k` most frequent closed patterns; of equally frequent ones those that take the longest.

    Attributes:
        requests: all requests, those without calls too.
        calls: LLM and TOOL calls in them.
        min_support: requests that a pattern has to be in.
        complete: no pattern that belongs among these was left out.
        complete_above: patterns in more requests than this are all among these; 0 when it is complete.
        notes: what was left out, and why.
    """

    patterns: list[FrequentPattern]
    requests: int
    calls: int
    min_support: int
    complete: bool
    complete_above: int
    notes: list[str]


def patterns(
    table: SpanTable,
    config: PrefixSpanAnalysis | None = None,
    common_prefixes: Mapping[str, Sequence[str]] | None = None,
    budget: int = BUDGET,
) -> Patterns:
    """Frequent patterns of calls.

    Args:
        table: the spans. Calls are in the order of their starts; failed and open ones count.
        config: a whole `min_support` is a number of requests, a decimal fraction up to 1.0 a share of them.
        common_prefixes: by model, in the form of `prompt_blocks.shown`, for `chain_with_common_prefixes`: the
            longest that a prompt starts with is written `<common_prefix>`, so that what follows it is shown.
        budget: how much work the search may do; see `prefixspan.BUDGET`.
    """
    config = config or PrefixSpanAnalysis()
    total = int(requests(table).recorded.sum())
    rows = np.flatnonzero(table.of_kind(SpanKind.LLM, SpanKind.TOOL))
    support = least_requests(config, total)
    llm_calls = int(table.of_kind(SpanKind.LLM).sum())
    notes = []
    text_length = config.max_text_len
    if text_length and llm_calls > MAX_TEXTS:
        text_length = 0
        notes.append(
            f"{llm_calls} LLM calls are told apart by their model only: prompts are read of {MAX_TEXTS}"
        )
    prefixes = common_prefixes if config.chain_with_common_prefixes else None
    vocabulary, item = _items(table, rows, text_length, prefixes or {})
    sequences = Sequences.of(item, table.trace[rows], support)
    mined = mine(sequences, support, config.top_k, budget)
    listed = _Measure(table, rows, sequences, vocabulary, total).top(mined, config.top_k)
    complete = not mined.complete_above or (
        len(listed) == config.top_k and listed[-1].frequency > mined.complete_above
    )
    if not complete:
        notes.append(
            f"the search ended at its budget: patterns in more than {mined.complete_above} requests are all"
            " known, of the others only some; raise min_support or min_coverage, or lower max_text_len"
        )
    return Patterns(
        patterns=listed,
        requests=total,
        calls=len(rows),
        min_support=support,
        complete=complete,
        complete_above=0 if complete else mined.complete_above,
        notes=notes,
    )


def least_requests(config: PrefixSpanAnalysis, total: int) -> int:
    """In how many requests a pattern has to be: `min_support` and `min_coverage` together, at least 1."""
    wanted = config.min_support
    share = isinstance(wanted, float) and wanted <= 1
    support = _ceil(wanted * total) if share else math.ceil(wanted)
    return max(support, _ceil(config.min_coverage * total), 1)


def _ceil(requests_wanted: float) -> int:
    """Rounded up, but not because of the last bits of a product such as 0.07 * 100."""
    return math.ceil(round(requests_wanted, 9))


def _items(
    table: SpanTable, rows: Ints, text_length: int, prefixes: Mapping[str, Sequence[str]]
) -> tuple[list[str], Ints]:
    """The distinct tokens of the calls, and the position of each call's token."""
    is_llm = table.of_kind(SpanKind.LLM)[rows]
    vocabulary: dict[str, int] = {}

    def number(token: str) -> int:
        return vocabulary.setdefault(token, len(vocabulary))

    tool = [number(f"TOOL:{name}") for name in table.names]
    llm = [number(f"LLM:{name}") for name in table.models]
    item = np.where(
        is_llm,
        np.array([*llm, -1])[table.model[rows]],
        np.array([*tool, -1])[table.name[rows]],
    )
    if text_length:
        longest_first = {model: sorted(found, key=len, reverse=True) for model, found in prefixes.items()}
        for at in np.flatnonzero(is_llm).tolist():
            row = int(rows[at])
            model = table.models[table.model[row]]
            text = _text(table.spans[row], text_length, longest_first.get(model, ()))
            if text:
                item[at] = number(f"LLM:{model}|{text}")
    return list(vocabulary), item


def _text(span: Span, length: int, prefixes: Sequence[str]) -> str:
    """The first characters of a prompt, on one line, its common prefix written in short."""
    prompt = rendered(span) if prefixes else None
    text = "" if prompt is None else shown(prompt)
    common = next((prefix for prefix in prefixes if prefix and text.startswith(prefix)), "")
    text = COMMON_PREFIX + text[len(common) :] if common else prompt_text(span.input, length)
    return text[:length].replace("\n", " ")


def prompt_text(value: Any, length: int | None = None) -> str:
    """A prompt as text, or its first `length` characters: text as it is, messages as `role: content`."""
    if isinstance(value, msgspec.Raw):
        value = msgspec.json.decode(value)
    if value is None or value is msgspec.UNSET:
        return ""
    if isinstance(value, str):
        return value if length is None else value[:length]
    if not isinstance(value, list):
        return json_text(value)[:length]
    parts, known = [], 0
    for message in value:
        parts.append(message_text(message))
        known += len(parts[-1]) + 1
        if length is not None and known > length:
            break
    return "\n".join(parts)[:length]


def message_text(message: Any) -> str:
    """One message of a prompt, `role: content`; what is not a message of plain text, as JSON."""
    if isinstance(message, str):
        return message
    if isinstance(message, dict) and isinstance(content := message.get("content"), str):
        told = f"{message.get('role', '')}: {content}"
        if _PLAIN.issuperset(message):
            return told
        return f"{told}\n{json_text({key: message[key] for key in message if key not in _PLAIN})}"
    return json_text(message)


@dataclass(frozen=True, slots=True, eq=False)
class _Measure:
    """What is told of a mined pattern: the requests that contain it, and the time of its calls there."""

    table: SpanTable
    rows: Ints
    sequences: Sequences
    vocabulary: list[str]
    total: int

    def top(self, mined: Mined, top_k: int) -> list[FrequentPattern]:
        """The first `top_k`: the most frequent, then the longest lasting."""
        found = sorted(mined.patterns, key=lambda entry: (-entry.frequency, -len(entry.items), entry.items))
        ranked = [self._pattern(entry) for entry in _with_ties(found, top_k)]
        ranked.sort(key=lambda one: (-one.frequency, -(one.average_duration or 0.0), one.pattern))
        return ranked[:top_k]

    def _pattern(self, mined: Pattern) -> FrequentPattern:
        places, request = self.sequences.occurrences(mined.items)
        start_ns, end_ns = self.table.start_ns[self.rows[places]], self.table.end_ns[self.rows[places]]
        ended = (end_ns - start_ns)[(end_ns >= 0).all(axis=1)]
        seconds: Floats = ended.sum(axis=1) / NS_PER_S
        return FrequentPattern(
            pattern=[self.vocabulary[item] for item in mined.items],
            frequency=len(request),
            coverage=len(request) / self.total,
            average_duration=float(seconds.mean()) if len(seconds) else None,
            average_duration_interval=mean_interval(seconds),
            duration_n=len(seconds),
            examples_containing=request.tolist(),
        )


def _with_ties(found: Sequence[Pattern], top_k: int) -> Iterable[Pattern]:
    """The first `top_k` and what is as frequent as the last of them, up to `MAX_RANKED`."""
    if len(found) <= top_k:
        return found
    least = found[top_k - 1].frequency
    return [entry for entry in found[: max(top_k, MAX_RANKED)] if entry.frequency >= least]
