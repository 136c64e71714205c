"""What do prompts begin with? The starts that many calls of a model share, with their text.

A start is listed where fewer calls share a longer one: it is as long as all its calls agree. Up to
`MAX_TEXTS` calls in `MAX_SPANS` spans are compared by their text, to the character; more by the hashes of
blocks of 64 bytes.
"""

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np

from millstream.profiler.config import PromptCachingPrefixes
from millstream.span import SpanKind
from millstream.store.prompt_blocks import (
    BLOCK_BYTES,
    PromptBlocks,
    content_start,
    prompt_blocks,
    rendered,
    shown,
)
from millstream.store.table import Ints, SpanTable

MAX_TEXTS: Final = 20_000
MAX_SPANS: Final = 50_000
"""To see the text of the calls in a file, all its spans are read."""
MAX_PREFIXES: Final = 100


class PrefixInfo(msgspec.Struct, frozen=True):
    """One start of prompts.

    Attributes:
        prefix: its text: tools as JSON, then messages as `role: content`, each on a line of its own.
        prefix_length: characters of it.
        calls_count: calls whose prompts begin with it.
        calls_percentage: these / all calls of the model, 0 to 1.
        input_tokens_percentage: its tokens in these calls / all input tokens of the model, 0 to 1; null when
            no call knows them. A prompt's tokens are taken to be spread evenly over its text.
    """

    prefix: str
    prefix_length: int
    calls_count: int
    calls_percentage: float
    input_tokens_percentage: float | None


class ModelPrefixes(msgspec.Struct, frozen=True):
    """The starts that the calls of a model share, the most common first.

    Attributes:
        total_calls: all calls of the model.
        calls_without_prompt: those of them whose content was not recorded.
        block_bytes: how exact the lengths are: 1, or the size of a block.
        complete: false where there are more than the `MAX_PREFIXES` most common, which are listed.
    """

    total_calls: int
    prefix_info: list[PrefixInfo]
    calls_without_prompt: int
    block_bytes: int
    complete: bool


class _Shared(NamedTuple):
    """Calls that share a start.

    Attributes:
        calls: positions among the calls of the model whose prompts are known.
        length: of the start, in bytes.
        above: the same of the larger group that this one is a part of.
        place: where the group begins among the sorted texts.
    """

    calls: Ints
    length: int
    above: int
    place: int = 0


class _Prompts(Protocol):
    """The prompts of one model's calls, from which groups that share a start are made."""

    length: Ints

    def all(self) -> _Shared: ...
    def split(self, shared: _Shared, least: int) -> Iterator[_Shared]: ...
    def text(self, call: int) -> bytes: ...


def prefixes(
    table: SpanTable, config: PromptCachingPrefixes | None = None, blocks: PromptBlocks | None = None
) -> dict[str, ModelPrefixes]:
    """The shared starts of prompts, by model.

    Args:
        table: the spans; open and failed calls count.
        config: `min_frequency` is the share of a model's calls that have to share a start, at least two.
        blocks: the prompts of the table's spans, where they are at hand; they are read from the spans where
            they are needed and not.
    """
    config = config or PromptCachingPrefixes()
    return prefixes_by_share(table, [config.min_frequency], blocks)[0]


def prefixes_by_share(
    table: SpanTable, shares: Sequence[float], blocks: PromptBlocks | None = None
) -> list[dict[str, ModelPrefixes]]:
    """The same for each of several `min_frequency`; prompts are read once."""
    rows = np.flatnonzero(table.of_kind(SpanKind.LLM))
    by_text = len(rows) <= MAX_TEXTS and len(table) <= MAX_SPANS
    if not by_text and blocks is None:
        blocks = prompt_blocks(table.spans)
    found: list[dict[str, ModelPrefixes]] = [{} for _ in shares]
    for code, model in enumerate(table.models):
        calls = rows[table.model[rows] == code]
        prompts: _Prompts
        if by_text or blocks is None:
            texts = [rendered(table.spans[row]) for row in calls.tolist()]
            told = np.array([text is not None for text in texts], bool)
            prompts = _Texts([text for text in texts if text is not None])
        else:
            told = blocks.known[calls]
            prompts = _Blocks(table, blocks, calls[told])
        for of_share, share in zip(found, shares, strict=True):
            of_share[model] = _of_model(prompts, table.input_tokens[calls[told]], len(calls), share)
    return found


def _of_model(prompts: _Prompts, input_tokens: Ints, total: int, min_frequency: float) -> ModelPrefixes:
    least = max(2, math.ceil(round(min_frequency * total, 9)))
    tokens = np.maximum(input_tokens, 0)
    tokens_per_byte = tokens / np.maximum(prompts.length, 1)
    listed: list[PrefixInfo] = []
    shared, complete = _most_common(prompts, least)
    for one in shared:
        text = prompts.text(int(one.calls[0]))[: one.length]
        prefix = shown(text)
        in_prefix = float(tokens_per_byte[one.calls].sum()) * one.length
        listed.append(
            PrefixInfo(
                prefix=prefix,
                prefix_length=len(prefix),
                calls_count=len(one.calls),
                calls_percentage=len(one.calls) / total,
                input_tokens_percentage=min(in_prefix / int(tokens.sum()), 1.0) if tokens.any() else None,
            )
        )
    without = total - len(prompts.length)
    return ModelPrefixes(total, listed, without, 1 if isinstance(prompts, _Texts) else BLOCK_BYTES, complete)


def _most_common(prompts: _Prompts, least: int) -> tuple[list[_Shared], bool]:
    """Groups of at least `least` calls that share a start, the largest first, and whether these are all."""
    found: list[_Shared] = []
    if len(prompts.length) < least:
        return found, True
    waiting = [(0, 0, prompts.all())]
    made = 0
    while waiting and len(found) < MAX_PREFIXES:
        shared = heapq.heappop(waiting)[-1]
        if shared.length > shared.above and shared.length > content_start(prompts.text(int(shared.calls[0]))):
            found.append(shared)
        for part in prompts.split(shared, least):
            made += 1
            heapq.heappush(waiting, (-len(part.calls), made, part))
    return found, not waiting


class _Texts:
    """Prompts as text, sorted: those that share a start are side by side."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        order = sorted(range(len(texts)), key=texts.__getitem__)
        self._texts = texts
        self._sorted = [texts[call] for call in order]
        self._order: Ints = np.array(order, np.int64)
        self.length: Ints = np.array([len(text) for text in texts], np.int64)

    def text(self, call: int) -> bytes:
        """The prompt of a call."""
        return self._texts[call]

    def all(self) -> _Shared:
        """All calls."""
        return self._shared(0, len(self._texts), 0)

    def split(self, shared: _Shared, least: int) -> Iterator[_Shared]:
        """Those of the calls that share a longer start."""
        at, stop = shared.place, shared.place + len(shared.calls)
        depth = _common(self._sorted[at], self._sorted[stop - 1])
        while at < stop and len(self._sorted[at]) == depth:
            at += 1
        while at < stop:
            byte = self._sorted[at][depth]
            until = bisect_right(range(stop), byte, at, key=lambda place: self._sorted[place][depth])
            if until - at >= least:
                yield self._shared(at, until, shared.length)
            at = until

    def _shared(self, at: int, stop: int, above: int) -> _Shared:
        first = self._sorted[at]
        length = _common(first, self._sorted[stop - 1])
        while length < len(first) and first[length] & 0xC0 == 0x80:  # noqa: PLR2004  # inside a character
            length -= 1
        return _Shared(self._order[at:stop], length, above, at)


def _common(one: bytes, other: bytes) -> int:
    """How many bytes two texts begin with alike."""
    same, most = 0, min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    while most - same > 1:
        middle = (same + most) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            most = middle
    return same


class _Blocks:
    """Prompts as chained hashes: prompts with one hash alike at a depth share all up to there."""

    def __init__(self, table: SpanTable, blocks: PromptBlocks, rows: Ints) -> None:
        self._table = table
        self._hashes = blocks.hashes
        self._rows = rows
        self._first = blocks.first[rows]
        self._count = blocks.length[rows]
        self.length: Ints = self._count * BLOCK_BYTES + BLOCK_BYTES // 2

    def text(self, call: int) -> bytes:
        """The prompt of a call."""
        return rendered(self._table.spans[int(self._rows[call])]) or b""

    def all(self) -> _Shared:
        """All calls."""
        return self._shared(np.arange(len(self._rows)), 0, 0)

    def split(self, shared: _Shared, least: int) -> Iterator[_Shared]:
        """Those of the calls that share a longer start."""
        depth = shared.length // BLOCK_BYTES
        longer = shared.calls[self._count[shared.calls] > depth]
        block = self._hashes[self._first[longer] + depth]
        order = np.argsort(block, kind="stable")
        ordered = block[order]
        bounds = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True])))
        for at in np.flatnonzero(np.diff(bounds) >= least).tolist():
            yield self._shared(longer[order[bounds[at] : bounds[at + 1]]], depth + 1, shared.length)

    def _shared(self, calls: Ints, depth: int, above: int) -> _Shared:
        first = self._first[calls]
        most = int(self._count[calls].min()) + 1  # the least that is known not to be shared
        while most - depth > 1:
            middle = (depth + most) // 2
            block = self._hashes[first + middle - 1]
            if (block == block[0]).all():
                depth = middle
            else:
                most = middle
        return _Shared(calls, depth * BLOCK_BYTES, above)
