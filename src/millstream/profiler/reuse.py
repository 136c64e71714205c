"""How long ago was each block of a prompt used last? One pass over all prompts that caches are asked of.

A prompt touches its blocks tail to head. What one prompt was the last to use is then a stretch at its end,
and the blocks of a new prompt that were used before are a few stretches, each with one last user. The pass
finds these; sizes and lifetimes of caches are whole-column operations over them.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from millstream.store.arrays import Ints
from millstream.store.prompt_blocks import Hashes

try:
    from millstream.profiler import _reuse
except ImportError:  # built without a compiler
    _reuse = None  # type: ignore[assignment]
COMPILED: Final = _reuse is not None
_EVER: Final = 2**63 - 1
_REASONS: Final = 5
_ROW: Final = np.dtype(
    [("rank", np.int64), ("request", np.int32), ("owner", np.int32), ("end", np.int32), ("unused", np.int32)]
)


@dataclass(frozen=True, slots=True, eq=False)
class Reuse:
    """Stretches of blocks that were used before, by request and depth, one element a stretch.

    Attributes:
        rows: as they were found.
    """

    rows: "np.ndarray[Any, Any]"

    @property
    def request(self) -> Ints:
        """Position of the request that uses them again, ascending."""
        return self.rows["request"]

    @property
    def begin(self) -> Ints:
        """How many blocks of its prompt come before them."""
        request, end = self.request, self.end
        follows = np.zeros(len(end), bool)
        follows[1:] = request[1:] == request[:-1]
        return np.where(follows, np.concatenate((end[:1], end[:-1])), 0)

    @property
    def end(self) -> Ints:
        """How many blocks of its prompt they end with."""
        return self.rows["end"]

    @property
    def owner(self) -> Ints:
        """Position of the last request that used them."""
        return self.rows["owner"]

    @property
    def rank(self) -> Ints:
        """How many different blocks were used after the first of them; behind it each has one more."""
        return self.rows["rank"]

    def depth(self, start_ns: Ints, within_ns: int = _EVER) -> Ints:
        """How many blocks each prompt begins with that were used before, shape (requests,).

        Args:
            start_ns: when the requests started, Unix nanoseconds, shape (requests,).
            within_ns: what was used longer ago than this does not count.
        """
        deepest = np.zeros(len(start_ns), np.int64)
        if COMPILED:
            _reuse.depth(self.rows.view(np.uint8), start_ns, deepest, np.array([within_ns]))
        else:  # a stretch was never used later than the one before it: the last one stays
            recent = start_ns[self.request] - start_ns[self.owner] <= within_ns
            deepest[self.request[recent]] = self.end[recent]
        return deepest

    def tokens(self, start_ns: Ints, length: Ints, input_tokens: Ints, within_ns: int = _EVER) -> Ints:
        """Input tokens of the blocks that `depth` counts, shape (requests,).

        Tokens are taken to be in proportion to blocks, the last of which is half full, on average.

        Args:
            start_ns: as for `depth`.
            length: blocks of each prompt, shape (requests,).
            input_tokens: of the requests, -1 is unknown and counts as 0, shape (requests,).
            within_ns: as for `depth`.
        """
        if COMPILED:
            found = np.empty(len(length), np.int64)
            _reuse.tokens(
                self.rows.view(np.uint8), start_ns, length, input_tokens, found, np.array([within_ns])
            )
            return found
        share = self.depth(start_ns, within_ns) / (length + 0.5)
        share *= np.maximum(input_tokens, 0)
        return share.astype(np.int64)

    def used_since(self, different: int) -> Ints:
        """How many blocks were found with 0, 1, 2, … others used since, shape (different + 1,).

        Args:
            different: how many blocks there were.
        """
        change = np.zeros(different + 1, np.int64)
        if COMPILED:
            _reuse.ranks(self.rows.view(np.uint8), change)
        else:
            np.add.at(change, self.rank, 1)
            np.add.at(change, self.rank + self.end - self.begin, -1)
        return np.cumsum(change, out=change)


def reuse(blocks: Hashes, start: Ints, length: Ints) -> Reuse:
    """The stretches of all prompts that were used before.

    Args:
        blocks: chained hashes: equal ones are equal prefixes.
        start: of each request, in order of arrival: where its blocks start in `blocks`.
        length: of each request: how many blocks it has.
    """
    if not COMPILED:
        return Reuse(np.array(_reuse_slowly(blocks, start, length), _ROW))
    return Reuse(np.frombuffer(_reuse.reuse(*_contiguous(blocks, start, length)), _ROW))


def reuse_if_chained(blocks: Hashes, start: Ints, length: Ints) -> Reuse | None:
    """As `reuse`; None where a block comes behind different others, and equal ones are not equal prefixes."""
    if not COMPILED:
        return reuse(blocks, start, length) if _is_chained(blocks, start, length) else None
    found = _reuse.reuse_if_chained(*_contiguous(blocks, start, length))
    return None if found is None else Reuse(np.frombuffer(found, _ROW))


def rounded(tokens: Ints, step: int, minimum: int) -> Ints:
    """Tokens of calls as a provider counts them: in steps, and from a minimum on."""
    if not COMPILED:
        whole = tokens - tokens % step
        return np.where(whole >= minimum, whole, 0)
    found = np.empty(len(tokens), np.int64)
    _reuse.rounded(tokens, found, np.array([step, minimum]))
    return found


def not_read(tokens: tuple[Ints, ...], step: int) -> Ints:
    """Tokens that caches did not read, of calls.

    Args:
        tokens: of each call: all of its input; what an earlier prompt began with, too; of that, what was not
            too long ago; of that, what the cache could have read; what it read. Five columns.
        step: in which the provider counts.

    Returns:
        Tokens that came for the first time, were too long ago, too short, less than a step, and unknown; how
        many calls have most of theirs in each; tokens that were read and not readable. Shape (11,).
    """
    came_in, shared, fresh, readable, read = tokens
    if COMPILED:
        sums = np.empty(2 * _REASONS + 1, np.int64)
        _reuse.not_read(came_in, shared, fresh, readable, read, np.array([step]), sums)
        return sums
    below = fresh - readable
    is_rounded = (readable > 0) & (below < step)
    by_reason = np.stack(
        (
            came_in - shared,
            shared - fresh,
            np.where(is_rounded, 0, below),
            np.where(is_rounded, below, 0),
            np.maximum(readable - read, 0),
        )
    )
    most = np.bincount(by_reason.argmax(axis=0)[by_reason.any(axis=0)], minlength=_REASONS)
    return np.concatenate((by_reason.sum(axis=1), most, [np.maximum(read - readable, 0).sum()]))


def _contiguous(blocks: Hashes, start: Ints, length: Ints) -> tuple[Hashes, Ints, Ints]:
    return np.ascontiguousarray(blocks), np.ascontiguousarray(start), np.ascontiguousarray(length, np.int64)


def _is_chained(blocks: Hashes, start: Ints, length: Ints) -> bool:
    before: dict[int, int | None] = {}
    for at, count in zip(start.tolist(), length.tolist(), strict=True):
        last = None
        for block in blocks[at : at + count].tolist():
            if before.setdefault(block, last) != last:
                return False
            last = block
    return True


def _reuse_slowly(blocks: Hashes, start: Ints, length: Ints) -> list[tuple[int, int, int, int, int]]:
    """As `_reuse.c` does it."""
    owners: dict[int, int] = {}
    held = RunningSums(len(start))
    prompts = [blocks[at : at + count] for at, count in zip(start.tolist(), length.tolist(), strict=True)]
    found = []
    for request, prompt in enumerate(prompts):
        depth = 0
        while depth < len(prompt):
            owner = owners.get(int(prompt[depth]))
            if owner is None:
                break
            other = prompts[owner]
            same = min(len(prompt), len(other)) - depth
            differs = prompt[depth : depth + same] != other[depth : depth + same]
            end = depth + (int(differs.argmax()) if differs.any() else same)
            found.append((held.total - held.up_to(owner) + depth, request, owner, end, 0))
            held.add(owner, depth - end)
            if end < len(other):
                owners[int(other[end])] = owner
            depth = end
        if len(prompt):
            owners[int(prompt[0])] = request
            held.add(request, len(prompt))
    return found


class RunningSums:
    """Sums of the first numbers of a row of numbers that change (Fenwick, 1994)."""

    def __init__(self, count: int) -> None:
        self._sums = [0] * (count + 1)
        self.total = 0

    def add(self, at: int, value: int) -> None:
        """Add to one number."""
        self.total += value
        at += 1
        while at < len(self._sums):
            self._sums[at] += value
            at += at & -at

    def up_to(self, at: int) -> int:
        """The sum of the numbers up to and with one."""
        found = 0
        at += 1
        while at > 0:
            found += self._sums[at]
            at -= at & -at
        return found
