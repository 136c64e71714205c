"""Rate limits and prompt caches: what a model remembers of the requests before."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from millstream.simulate.api_error import ApiError
from millstream.simulate.rules import PrefixCache, RateLimits

_ROUNDING: Final = 1e-6
"""A bucket that lacks less than this has enough: who waits exactly as long as told is let in."""


class Bucket:
    """A token bucket: holds one minute's worth, refills steadily, starts full.

    Args:
        per_minute: what it holds.
    """

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at_s = -math.inf

    def missing_s(self, amount: float, now_s: float) -> float:
        """Seconds until `amount` can be taken; 0 when it can be now, infinite when it never can."""
        self._level = min(float(self.per_minute), self._level + (now_s - self._at_s) * self.per_minute / 60)
        self._at_s = now_s
        if amount > self.per_minute:
            return math.inf
        missing = amount - self._level
        return missing * 60 / self.per_minute if missing > _ROUNDING else 0.0

    def take(self, amount: float) -> None:
        """Take it out."""
        self._level -= amount


class RateLimiter:
    """The rate limits of one model.

    Args:
        limits: requests and tokens a minute; an absent one does not bind.
        model: named in the error.
    """

    def __init__(self, limits: RateLimits, model: str) -> None:
        self._model = model
        self._buckets = {
            kind: Bucket(per_minute)
            for kind, per_minute in (
                ("requests", limits.requests_per_minute),
                ("tokens", limits.tokens_per_minute),
            )
            if per_minute is not None
        }

    def admit(self, tokens: int, now_s: float) -> None:
        """Count one request of so many tokens, prompt and answer together; a refused one counts nothing.

        Raises:
            ApiError: 429; with `Retry-After`, unless the request is larger than a whole minute's tokens.
        """
        amounts = {"requests": 1, "tokens": tokens}
        for kind, bucket in self._buckets.items():
            wait_s = bucket.missing_s(amounts[kind], now_s)
            if wait_s > 0:
                raise self._refused(kind, bucket.per_minute, amounts[kind], wait_s)
        for kind, bucket in self._buckets.items():
            bucket.take(amounts[kind])

    def _refused(self, kind: str, limit: int, wanted: int, wait_s: float) -> ApiError:
        short = {"requests": "RPM", "tokens": "TPM"}[kind]
        what = f"for {self._model} on {kind} per min ({short}): Limit {limit}, Requested {wanted}."
        if math.isinf(wait_s):
            message = f"Request too large {what} The input or output tokens must be reduced."
            return ApiError(429, message, kind=kind, code="rate_limit_exceeded")
        message = f"Rate limit reached {what} Please try again in {wait_s:.3f}s."
        return ApiError(429, message, kind=kind, code="rate_limit_exceeded", retry_after_s=wait_s)


class BlockCache:
    """A prompt cache of chained blocks, least recently used first out, as inference servers keep it.

    Args:
        config: block size in tokens and number of blocks.
    """

    def __init__(self, config: PrefixCache) -> None:
        self._config = config
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def read_and_store(self, tokens: Sequence[str]) -> int:
        """How many leading tokens were there, the last one never; afterwards all full blocks are."""
        size = self._config.block_tokens
        chain = self._chain(tokens, size)
        hits = 0
        while hits < len(chain) and chain[hits] in self._blocks:
            hits += 1
        for block in reversed(chain):  # the head is touched last, so that it outlives its continuations
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._config.max_blocks:
            self._blocks.popitem(last=False)
        return min(hits, (len(tokens) - 1) // size) * size

    @staticmethod
    def _chain(tokens: Sequence[str], size: int) -> list[bytes]:
        chain: list[bytes] = []
        before = b""
        for start in range(0, len(tokens) - size + 1, size):
            text = "\0".join(tokens[start : start + size])
            before = blake2b(before + text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            chain.append(before)
        return chain
