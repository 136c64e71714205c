import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.simulate.api_error import ApiError
from millstream.simulate.limits import BlockCache, RateLimiter
from millstream.simulate.rules import PrefixCache, RateLimits


def test_a_minute_of_requests_may_come_at_once_then_they_trickle():
    limiter = RateLimiter(RateLimits(requests_per_minute=3), "m")
    for _ in range(3):
        limiter.admit(10, 100.0)
    with pytest.raises(ApiError) as caught:
        limiter.admit(10, 100.0)
    assert (caught.value.status, caught.value.code, caught.value.kind) == (
        429,
        "rate_limit_exceeded",
        "requests",
    )
    assert caught.value.headers == {"retry-after": "20", "retry-after-ms": "20000"}
    limiter.admit(10, 100.0 + caught.value.retry_after_s)


def test_tokens_are_limited_and_a_refused_request_costs_nothing():
    limiter = RateLimiter(RateLimits(tokens_per_minute=100, requests_per_minute=100), "m")
    limiter.admit(80, 0.0)
    with pytest.raises(ApiError, match=r"tokens per min \(TPM\): Limit 100, Requested 50") as caught:
        limiter.admit(50, 0.0)
    assert caught.value.retry_after_s == pytest.approx(18)
    limiter.admit(20, 0.0)


def test_what_can_never_fit_is_said_without_a_time_to_wait():
    with pytest.raises(ApiError, match="Request too large") as caught:
        RateLimiter(RateLimits(tokens_per_minute=100), "m").admit(101, 0.0)
    assert caught.value.headers == {}


def test_without_limits_all_may_come():
    for _ in range(1000):
        RateLimiter(RateLimits(), "m").admit(10**9, 0.0)


@given(st.integers(1, 500), st.lists(st.floats(0, 120), max_size=60))
def test_no_minute_admits_more_than_two_buckets(limit, gaps):
    limiter, now = RateLimiter(RateLimits(requests_per_minute=limit), "m"), 0.0
    admitted, waits = [], []
    for gap in gaps:
        now += gap
        try:
            limiter.admit(1, now)
            admitted.append(now)
        except ApiError as error:
            waits.append(error.retry_after_s)
    assert all(0 < wait_s <= 60 / limit * 1.001 for wait_s in waits)
    for start in admitted:
        assert sum(start <= at < start + 60 for at in admitted) <= 2 * limit


def tokens(text):
    return list(text)


def test_a_prefix_seen_before_is_cached_in_whole_blocks():
    cache = BlockCache(PrefixCache(block_tokens=4))
    assert cache.read_and_store(tokens("abcdefghij")) == 0
    assert cache.read_and_store(tokens("abcdefghXX")) == 8
    assert cache.read_and_store(tokens("abcdXXXXXX")) == 4
    assert cache.read_and_store(tokens("Xbcdefghij")) == 0


def test_the_last_token_is_always_computed():
    cache = BlockCache(PrefixCache(block_tokens=4))
    cache.read_and_store(tokens("abcdefgh"))
    assert cache.read_and_store(tokens("abcdefgh")) == 4


def test_the_least_recently_used_blocks_go_first_and_tails_before_heads():
    cache = BlockCache(PrefixCache(block_tokens=1, max_blocks=3))
    cache.read_and_store(tokens("abc"))
    cache.read_and_store(tokens("x"))
    assert cache.read_and_store(tokens("ab?")) == 2


def test_blocks_are_chained():
    cache = BlockCache(PrefixCache(block_tokens=2))
    cache.read_and_store(tokens("aabb"))
    assert cache.read_and_store(tokens("bbaaX")) == 0
