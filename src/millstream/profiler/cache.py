"""What would a cache of prompt prefixes have saved? Its hit ratio at every size, from one pass.

A request looks its blocks up head to tail until the first miss, then touches all of them tail to head, so
that a cache that gives up the block used least recently keeps the start of a prompt as long as any of it.
Such a cache of n blocks holds the n blocks that were used last (Mattson et al., 1970): how many others were
used since a block was used last says in which sizes it is still there.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

import numpy as np

from millstream.errors import InputError
from millstream.profiler.reuse import Reuse, RunningSums, reuse_if_chained
from millstream.store.prompt_blocks import Hashes
from millstream.store.table import Ints


@dataclass(frozen=True, slots=True, eq=False)
class CacheCurve:
    """How often a cache that gives up the block used least recently would have hit, whatever its size.

    Attributes:
        requests: how many there were.
        blocks: how many they looked up, all together.
        hits: blocks found in a cache of 0, 1, 2, … blocks; the last is of one that holds them all, shape
            (different blocks + 1,).
    """

    requests: int
    blocks: int
    hits: Ints

    @property
    def distinct(self) -> int:
        """How many different blocks there were: a cache of this size gives up none."""
        return len(self.hits) - 1

    @property
    def unbounded(self) -> float:
        """The hit ratio of a cache that gives up nothing."""
        return self.hit_ratio(self.distinct)

    def hit_ratio(self, size_in_blocks: int) -> float:
        """Hit blocks / all blocks in a cache of this size; 0 where there were no blocks.

        Raises:
            InputError: the size is negative.
        """
        if size_in_blocks < 0:
            raise InputError(f"a cache has 0 blocks or more, not {size_in_blocks}")
        if self.blocks == 0:
            return 0.0
        return int(self.hits[min(size_in_blocks, self.distinct)]) / self.blocks


def cache_curve(requests: Iterable[Sequence[int | str]]) -> CacheCurve:
    """The hit ratio of a cache of every size.

    Args:
        requests: in order of arrival; each the chained hashes of its prompt's blocks, head to tail. Hashes
            that are not chained (one comes behind different others) are looked up just the same, slowly.

    Raises:
        InputError: a hash is neither a whole number nor text, or a request is no sequence of hashes.
    """
    blocks, start, length = _numbered(requests)
    found = reuse_if_chained(blocks, start, length)
    if found is not None:
        return curve_of(found, length)
    return CacheCurve(len(length), len(blocks), _hits_unchained(blocks, start, length))


def curve_of(found: Reuse, length: Ints) -> CacheCurve:
    """The curve of prompts with these lengths in blocks, of which these stretches were used before."""
    blocks = int(length.sum())
    again = int(found.depth(np.zeros(len(length), np.int64)).sum())
    hits = np.zeros(blocks - again + 1, np.int64)
    np.cumsum(found.used_since(blocks - again)[:-1], out=hits[1:])
    return CacheCurve(len(length), blocks, hits)


def _hits_unchained(blocks: Hashes, start: Ints, length: Ints) -> Ints:
    """Hits by size; equal hashes are one block wherever they are."""
    used = RunningSums(len(blocks))  # 1 at the last use of each block
    last: dict[int, int] = {}
    ranks: list[int] = []
    moment = 0
    for at, count in zip(start.tolist(), length.tolist(), strict=True):
        prompt = blocks[at : at + count].tolist()
        rank = 0
        for block in prompt:
            if block not in last:
                break
            rank = max(rank, used.total - used.up_to(last[block]))
            ranks.append(rank)
        for block in reversed(prompt):
            if block in last:
                used.add(last[block], -1)
            used.add(moment, 1)
            last[block] = moment
            moment += 1
    counts = np.bincount(np.array(ranks, np.int64), minlength=len(last))
    return np.concatenate(([0], np.cumsum(counts)))


def _numbered(requests: Iterable[Sequence[int | str]]) -> tuple[Hashes, Ints, Ints]:
    """Blocks as numbers, one request after the other, where each starts and how many it has."""
    kept = list(requests)
    for request in kept:
        if isinstance(request, str | bytes) or not hasattr(request, "__len__"):
            raise InputError(f"a request is a sequence of block hashes, not {type(request).__name__}")
    length = np.fromiter(map(len, kept), np.int64, len(kept))
    for kind in "qQ":  # 64 bits, with and without sign
        try:
            blocks = np.frombuffer(array(kind, cast("Iterable[int]", chain.from_iterable(kept))), np.uint64)
            break
        except (OverflowError, TypeError):  # another kind of hash
            continue
    else:
        blocks = np.fromiter(_counted(chain.from_iterable(kept)), np.uint64)
    return blocks, np.cumsum(length) - length, length


def _counted(blocks: Iterable[int | str]) -> Iterator[int]:
    """Blocks numbered as they come."""
    number: dict[int | str, int] = {}
    for block in blocks:
        if not isinstance(block, int | np.integer | str):
            raise InputError(f"block hashes are whole numbers or text, not {type(block).__name__}")
        yield number.setdefault(block, len(number))
