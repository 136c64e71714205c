"""Where the symbols of a long sequence stand, as bits of Python's integers, a block of it at a time.

Algorithms on such bits compare a symbol with a whole block in a few operations, in memory that grows with the
sum of the lengths.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import msgspec

from millstream.errors import MissingExtraError

try:
    import numpy as np
except ModuleNotFoundError as error:
    raise MissingExtraError("The evaluation", "profiling") from error

_BLOCK = 1 << 14


class Pair(NamedTuple):
    """Two sequences as numbers, the same number for the same symbol.

    Attributes:
        long: of which blocks are made.
        short: which is gone through, symbol by symbol, for each block.
    """

    long: "np.ndarray[tuple[int], np.dtype[np.uint32]]"
    short: list[int]


def text_pair(one: str, other: str) -> Pair:
    """Two texts by their characters."""
    long, short = (one, other) if len(one) >= len(other) else (other, one)
    codes = np.frombuffer(long.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    return Pair(codes, [ord(character) for character in short])


def word_pair(one: Sequence[str], other: Sequence[str]) -> Pair:
    """Two lists of words."""
    long, short = (one, other) if len(one) >= len(other) else (other, one)
    numbers: dict[str, int] = {}
    fresh = count()

    def number(word: str) -> int:
        return numbers[word] if word in numbers else numbers.setdefault(word, next(fresh))

    return Pair(np.array([number(word) for word in long], np.uint32), [number(word) for word in short])


class Block(msgspec.Struct, frozen=True):
    """A piece of the long sequence.

    Attributes:
        size: how many symbols.
        places: by symbol, a bit for each place where it stands, the lowest for the first.
    """

    size: int
    places: dict[int, int]


def blocks(pair: Pair) -> Iterator[Block]:
    """The long sequence, in order; only symbols of the short one have places."""
    wanted = np.unique(np.array(pair.short, np.uint32))
    for start in range(0, len(pair.long), _BLOCK):
        codes = pair.long[start : start + _BLOCK]
        here = np.intersect1d(wanted, codes)
        yield Block(
            len(codes),
            {
                int(code): int.from_bytes(np.packbits(codes == code, bitorder="little").tobytes(), "little")
                for code in here
            },
        )
