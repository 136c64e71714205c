"""How much of the input did providers' caches read, how much could they have read, and why do these differ?

Each model has caches of its own. Its calls are played back in the order of their starts. The record knows
neither the calls of other programs nor which server a call went to, and a call can only read what an earlier
one has written, which the record takes to be at once: what could have been read is an upper bound. Tokens of
a part of a prompt are taken to be in proportion to its text.
"""

from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from millstream.profiler.cache import CacheCurve, curve_of
from millstream.profiler.estimate import NS_PER_S, Floats, student_half_width
from millstream.profiler.groups import of_models
from millstream.profiler.provider_caches import AS_OF, CACHES, ProviderCache, own_cache, with_minimum
from millstream.profiler.results import Statistic
from millstream.profiler.reuse import Reuse, not_read, reuse, rounded
from millstream.span import SpanKind
from millstream.store.prompt_blocks import Hashes, PromptBlocks, prompt_blocks
from millstream.store.table import KIND_CODE, Bools, Ints, SpanTable

REASONS: Final = ("first_time", "expired", "below_minimum", "rounded", "unknown")


class CachePoint(msgspec.Struct, frozen=True):
    """A cache of `blocks` blocks of 64 bytes that gives up those used least recently."""

    blocks: int
    hit_ratio: float


class ProviderHits(msgspec.Struct, frozen=True):
    """What a provider's cache could have read.

    Attributes:
        applies: it is the cache that this model's requests use by default.
        hit_ratio: tokens it could have read / input tokens, of the calls that know them; null without any.
    """

    cache: ProviderCache
    applies: bool
    hit_ratio: float | None


class NotRead(msgspec.Struct, frozen=True):
    """Input that was not read from a cache, for one reason.

    Attributes:
        tokens: of all calls.
        calls: those that have the most of their unread tokens here.
    """

    tokens: int
    calls: int


class CacheOpportunity(msgspec.Struct, frozen=True):
    """The calls of one model.

    Attributes:
        calls: all that were sent: those answered from the cache of an evaluation are in no figure.
        calls_with_prompt: those whose content was recorded.
        prompt_blocks: full blocks of 64 bytes in their prompts.
        different_blocks: a cache of this size gives up none.
        unbounded: hit blocks / all blocks in such a cache; null without blocks.
        curve: the same in smaller caches, ascending.
        calls_compared: calls that know their prompt, input tokens and tokens read; the figures below are of
            these.
        observed: tokens read / input tokens; Student t over the requests (ratio estimate).
        achievable: what the model's own cache could have read / input tokens; without one that is known,
            what any earlier prompt began with.
        achievable_by: that cache.
        not_read: by reason. `first_time`: no earlier prompt began like this. `expired`: the last was too long
            ago. `below_minimum`: the prompt, or what was shared, is too short for the cache. `rounded`: less
            than a step. `unknown`: the cache could have read it and did not: another server, a cache that was
            full, or requests that did not ask for it.
        tokens_read: from caches.
        tokens_read_beyond: of these, what the record does not explain: other programs, or longer lifetimes.
        providers: what the caches of `providers_as_of` could have read, of the calls that know their prompt
            and input tokens.
    """

    model: str
    calls: int
    calls_with_prompt: int
    prompt_blocks: int
    different_blocks: int
    unbounded: float | None
    curve: list[CachePoint]
    calls_compared: int
    observed: Statistic
    achievable: float | None
    achievable_by: ProviderCache | None
    not_read: dict[str, NotRead]
    tokens_read: int
    tokens_read_beyond: int
    providers: list[ProviderHits]
    providers_as_of: str = AS_OF


def cache_opportunity(table: SpanTable, blocks: PromptBlocks | None = None) -> list[CacheOpportunity]:
    """One row a model, the one with the most calls first.

    Args:
        table: the spans; open and failed calls have prompts, too.
        blocks: the prompts of the table's spans; they are read from the spans where they are not at hand.
    """
    blocks = prompt_blocks(table.spans) if blocks is None else blocks
    found = [_of_model(table, blocks, model, rows) for model, rows in of_models(table)]
    return sorted(found, key=lambda row: (-row.calls, row.model))


@dataclass(frozen=True, slots=True, eq=False)
class _Calls:
    """The calls of one model with a known prompt, in order, one element a call."""

    hashes: Hashes
    first: Ints
    length: Ints
    start_ns: Ints
    input_tokens: Ints
    found: Reuse
    by_minimum: dict[int, tuple[Ints, "_Calls"]] = field(default_factory=dict)
    by_ttl: dict[float, Ints] = field(default_factory=dict)

    def shared(self) -> Ints:
        """Tokens that were used before, however long ago; 0 where a call's are unknown."""
        return self.found.tokens(self.start_ns, self.length, self.input_tokens)

    def fresh(self, ttl_s: float) -> Ints:
        """Tokens that were used not longer ago than this."""
        if ttl_s not in self.by_ttl:
            within_ns = int(ttl_s * NS_PER_S)
            self.by_ttl[ttl_s] = self.found.tokens(self.start_ns, self.length, self.input_tokens, within_ns)
        return self.by_ttl[ttl_s]

    def readable(self, cache: ProviderCache) -> Ints:
        """Tokens that a provider's cache could have read."""
        calls, cached = self.of_at_least(cache.minimum_tokens)
        tokens = np.zeros(len(self.length), np.int64)
        tokens[calls] = cached.rounded(cache)
        return tokens

    def readable_in_all(self, cache: ProviderCache) -> int:
        """The same of all calls together."""
        return int(self.of_at_least(cache.minimum_tokens)[1].rounded(cache).sum())

    def rounded(self, cache: ProviderCache) -> Ints:
        """Fresh tokens, as a provider counts them."""
        return rounded(self.fresh(cache.ttl_s), cache.step_tokens, cache.minimum_tokens)

    def of_at_least(self, minimum: int) -> tuple[Ints, "_Calls"]:
        """Calls with so many tokens, as if there were no others: shorter ones are not kept."""
        if minimum not in self.by_minimum:
            calls = np.flatnonzero(self.input_tokens >= minimum)
            if len(calls) == len(self.length):
                return self.by_minimum.setdefault(minimum, (calls, self))
            columns = (
                column[calls] for column in (self.first, self.length, self.start_ns, self.input_tokens)
            )
            self.by_minimum[minimum] = calls, _Calls.of(self.hashes, *columns)
        return self.by_minimum[minimum]

    @classmethod
    def of(cls, hashes: Hashes, first: Ints, length: Ints, start_ns: Ints, input_tokens: Ints) -> "_Calls":
        """Calls in order of their starts."""
        return cls(hashes, first, length, start_ns, input_tokens, reuse(hashes, first, length))


def _of_model(table: SpanTable, blocks: PromptBlocks, model: str, rows: Ints) -> CacheOpportunity:
    is_call = (table.kind[rows] == KIND_CODE[SpanKind.LLM.value]) & ~table.cached[rows]
    total = int(is_call.sum())
    rows = rows[is_call & blocks.known[rows]]
    rows = rows[np.argsort(table.start_ns[rows], kind="stable")]
    calls = _Calls.of(
        blocks.hashes,
        blocks.first[rows],
        blocks.length[rows].astype(np.int64),
        table.start_ns[rows],
        table.input_tokens[rows],
    )
    length = calls.length
    curve = curve_of(calls.found, length)
    own = own_cache(model)
    compared = (calls.input_tokens > 0) & (table.cache_read_tokens[rows] >= 0)
    read = np.minimum(table.cache_read_tokens[rows], calls.input_tokens)
    shared = calls.shared()
    readable = shared if own is None else calls.readable(own)
    not_read, beyond = _not_read(calls, own, shared, readable, read, compared)
    all_input = int(calls.input_tokens[compared].sum())
    return CacheOpportunity(
        model=model,
        calls=total,
        calls_with_prompt=len(rows),
        prompt_blocks=curve.blocks,
        different_blocks=curve.distinct,
        unbounded=curve.unbounded if curve.blocks else None,
        curve=_points(curve),
        calls_compared=int(compared.sum()),
        observed=_share(read[compared], calls.input_tokens[compared], table.trace[rows][compared]),
        achievable=int(readable[compared].sum()) / all_input if all_input else None,
        achievable_by=own,
        not_read=not_read,
        tokens_read=int(read[compared].sum()),
        tokens_read_beyond=beyond,
        providers=_providers(calls, model, own),
    )


def _points(curve: CacheCurve) -> list[CachePoint]:
    sizes = [2**power for power in range(curve.distinct.bit_length()) if 2**power < curve.distinct]
    return [CachePoint(size, curve.hit_ratio(size)) for size in (*sizes, curve.distinct) if size]


def _providers(calls: _Calls, model: str, own: ProviderCache | None) -> list[ProviderHits]:
    tokens = int(np.maximum(calls.input_tokens, 0).sum())
    found = []
    for cache in (with_minimum(cache, model) for cache in CACHES):
        ratio = calls.readable_in_all(cache) / tokens if tokens else None
        found.append(ProviderHits(cache, cache == own, ratio))
    return found


def _not_read(
    calls: _Calls, own: ProviderCache | None, shared: Ints, readable: Ints, read: Ints, compared: Bools
) -> tuple[dict[str, NotRead], int]:
    """Input tokens of compared calls that were not read, by reason; tokens read without an explanation."""
    fresh = shared if own is None else calls.fresh(own.ttl_s)
    step = 1 if own is None else own.step_tokens
    columns = (calls.input_tokens, shared, fresh, readable, read)
    sums = not_read(tuple(column[compared] for column in columns), step)
    tokens, most = sums[: len(REASONS)], sums[len(REASONS) : -1]
    told = {reason: NotRead(int(tokens[at]), int(most[at])) for at, reason in enumerate(REASONS)}
    return told, int(sums[-1])


def _share(part: Ints, whole: Ints, request: Ints) -> Statistic:
    """Sum of the parts / sum of the wholes; the calls of one request are not independent."""
    if not whole.sum():
        return Statistic(None, None, None)
    ratio = float(part.sum() / whole.sum())
    seen = np.bincount(request) > 0
    sizes: Floats = np.bincount(request, whole)[seen].astype(np.float64)
    half = student_half_width((np.bincount(request, part)[seen] - ratio * sizes) / sizes.mean())
    if half is None:
        return Statistic(ratio, None, None)
    return Statistic(ratio, max(ratio - half, 0.0), min(ratio + half, 1.0))
