"""Vectors for texts without a model: a hashed bag of words, so that texts with words in common are near."""

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

_WORD: Final = re.compile(r"\w+")
_WHOLE_WEIGHT: Final = 0.3
"""What the text as a whole weighs beside its words: texts of the same words differ a little."""


def vector_of(text: str, dimensions: int, seed: int) -> list[float]:
    """A vector of length 1, in single precision; equal arguments give equal vectors."""
    values = [0.0] * dimensions
    words = Counter(_WORD.findall(text.lower()))
    features = [(f"word {word}", math.sqrt(count)) for word, count in words.items()]
    for feature, weight in [*features, (f"text {text}", _WHOLE_WEIGHT)]:
        for number in _numbers(feature, seed):
            values[(number >> 1) % dimensions] += weight if number & 1 else -weight
    length = math.hypot(*values)
    if length == 0:  # all has cancelled out, which takes very few dimensions
        return [1.0] + [0.0] * (dimensions - 1)
    return array("f", (value / length for value in values)).tolist()


def _numbers(feature: str, seed: int) -> Iterator[int]:
    """Eight numbers that say where the feature counts, and with which sign."""
    digest = blake2b(f"{seed}/{feature}".encode("utf-8", "surrogatepass"), digest_size=32).digest()
    return (int.from_bytes(digest[start : start + 4]) for start in range(0, 32, 4))
