"""Vectors for texts without a model: words and pieces of words, counted into places that a hash chooses.

Texts are near each other when they are written alike. `car` and `automobile` are not near: nothing here knows
what a word means. It needs no download, no network and no package, and is the same on every machine, which
is what tests and a laptop without a model want. The hashing trick is that of Weinberger et al. 2009.
"""

import math
import re
import unicodedata
from array import array
from collections import Counter
from functools import lru_cache
from hashlib import blake2b
from typing import Final

_WORD: Final = re.compile(r"\w+")
_PIECES: Final = (3, 4)
_PIECE_WEIGHT: Final = 0.3
"""What a piece of a word weighs beside a whole one: many of a long word's make one that is inflected near."""


def vector_of(text: str, dimensions: int) -> list[float]:
    """A vector of length 1 for a text; all zeros for one without a word.

    Args:
        text: any text; case and composed letters make no difference.
        dimensions: of the vector.
    """
    values = [0.0] * dimensions
    words = Counter(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
    for word, count in words.items():
        often = 1 + math.log(count)  # the tenth time says less than the first
        for place, weight in _places(word):
            values[place % dimensions] += often * weight
    length = math.hypot(*values)
    if length == 0:
        return values
    return array("f", (value / length for value in values)).tolist()


@lru_cache(maxsize=1 << 16)
def _places(word: str) -> tuple[tuple[int, float], ...]:
    """Where a word counts, and how much: itself and its pieces, each with a sign of its own."""
    edged = f"<{word}>"
    pieces = {edged[start : start + size] for size in _PIECES for start in range(len(edged) - size + 1)}
    return (_place(edged, 1.0), *(_place(f"…{piece}", _PIECE_WEIGHT) for piece in sorted(pieces)))


def _place(feature: str, weight: float) -> tuple[int, float]:
    number = int.from_bytes(blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    return number >> 1, weight if number & 1 else -weight
