"""Chance without a state: a draw is a hash of a key and a label, so order and concurrency change nothing."""

import json
import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from statistics import NormalDist
from typing import Any, Final, TypeVar

T = TypeVar("T")

_NORMAL: Final = NormalDist()
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_TRANSPORT_KEYS: Final = frozenset({"stream", "stream_options"})
"""How an answer travels; it changes nothing in what the answer is."""


def fingerprint(body: Mapping[str, Any]) -> bytes:
    """16 bytes that name a request by its content; streamed or not is the same request."""
    content = {key: value for key, value in body.items() if key not in _TRANSPORT_KEYS}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Draw:
    """Draws for one request: equal arguments give equal draws, whatever was drawn before.

    Args:
        seed: the server's seed.
        request: `fingerprint` of the request's body (it holds the model's name).
        times_seen: how often this very body was answered before.
    """

    def __init__(self, seed: int, request: bytes, times_seen: int) -> None:
        self._key = blake2b(f"{seed}/{times_seen}/".encode() + request, digest_size=32).digest()

    def branch(self, label: str) -> "Draw":
        """Draws of their own for a part of the request."""
        return Draw(0, self._key + label.encode(), 0)

    def uniform(self, label: str) -> float:
        """A number in the half open interval from 0 to 1."""
        return self._integer(label) / 2**64

    def integer(self, label: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both possible."""
        return low + self._integer(label) % (high - low + 1)

    def choice(self, label: str, options: Sequence[T]) -> T:
        """One of the options, each equally likely."""
        return options[self._integer(label) % len(options)]

    def factor(self, label: str, sigma: float) -> float:
        """A lognormal factor with mean 1; `sigma` is the spread of its logarithm, and 0 gives 1."""
        if sigma == 0:
            return 1.0
        z = _NORMAL.inv_cdf((self._integer(label) + 0.5) / (2**64 + 1))
        return math.exp(sigma * z - sigma * sigma / 2)

    def text(self, label: str, length: int) -> str:
        """Letters and digits, as in OpenAI's ids."""
        number = int.from_bytes(blake2b(label.encode(), key=self._key, digest_size=64).digest())
        letters = []
        for _ in range(length):
            number, index = divmod(number, len(_ALPHABET))
            letters.append(_ALPHABET[index])
        return "".join(letters)

    def _integer(self, label: str) -> int:
        return int.from_bytes(blake2b(label.encode(), key=self._key, digest_size=8).digest())
