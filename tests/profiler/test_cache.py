"""The hit ratio of caches against plain simulations, another simulator, and a trace of a real service."""

import json
import os
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream import Span, SpanKind, Usage, semconv
from millstream.errors import InputError
from millstream.profiler import CacheCurve, cache_curve, reuse
from millstream.profiler.cache_opportunity import REASONS, cache_opportunity
from millstream.profiler.provider_caches import (
    ANTHROPIC_1H,
    ANTHROPIC_5M,
    OPENAI_24H,
    OPENAI_30M,
    OPENAI_IN_MEMORY,
    own_cache,
    with_minimum,
)
from millstream.store.prompt_blocks import BLOCK_BYTES, prompt_blocks, rendered
from millstream.store.table import SpanTable

if not reuse.COMPILED and os.environ.get("CI") == "true" and shutil.which("cc"):
    raise RuntimeError("there is a C compiler, but millstream.profiler._reuse was not built")

MOONCAKE = (
    Path(os.environ.get("MILLSTREAM_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    / "mooncake-conversation.jsonl"
)
PATHS = st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=14)


def chained(paths):
    """Block hashes of paths: one number for each different prefix."""
    numbers = {}
    return [
        [numbers.setdefault(tuple(path[: depth + 1]), len(numbers)) for depth in range(len(path))]
        for path in paths
    ]


def lru(requests, size):
    """As the definition says, block by block."""
    cache, hits, blocks = OrderedDict(), 0, 0
    for request in requests:
        blocks += len(request)
        for block in request:
            if block not in cache:
                break
            hits += 1
        for block in reversed(request):
            cache.pop(block, None)
            cache[block] = True
            while len(cache) > size:
                cache.popitem(last=False)
    return hits / blocks if blocks else 0.0


@pytest.fixture(params=[True, False], ids=["compiled", "python"])
def compiled(request, monkeypatch):
    if request.param and not reuse.COMPILED:
        pytest.skip("millstream was built without a C compiler")
    monkeypatch.setattr(reuse, "COMPILED", request.param)


@pytest.mark.parametrize("make", [chained, list], ids=["chained", "not chained"])
@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "python"])
def test_every_size_hits_as_the_simulation_does(make, is_compiled):
    if is_compiled and not reuse.COMPILED:
        pytest.skip("millstream was built without a C compiler")

    @settings(deadline=None)
    @given(PATHS)
    def check(paths):
        requests = make(paths)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reuse, "COMPILED", is_compiled)
            curve = cache_curve(requests)
        assert curve.distinct == len({block for request in requests for block in request})
        for size in range(curve.distinct + 2):
            assert curve.hit_ratio(size) == lru(requests, size)
        assert curve.unbounded == curve.hit_ratio(curve.distinct)

    check()


@pytest.mark.skipif(not reuse.COMPILED, reason="millstream was built without a C compiler")
@given(PATHS)
@settings(deadline=None)
def test_compiled_as_in_python(paths):
    for requests in (chained(paths), paths):
        length = np.array([len(request) for request in requests], np.int64)
        blocks = np.array([block for request in requests for block in request], np.uint64)
        columns = (blocks, np.cumsum(length) - length, length)
        fast = reuse.reuse_if_chained(*columns)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reuse, "COMPILED", False)
            slow = reuse.reuse_if_chained(*columns)
        assert (fast is None) == (slow is None)
        if fast is not None:
            for name in ("request", "begin", "end", "owner", "rank"):
                assert getattr(fast, name).tolist() == getattr(slow, name).tolist()
            assert reuse.reuse(*columns).rank.tolist() == fast.rank.tolist()
            different = len(set(blocks.tolist()))
            start_ns = np.arange(len(length)) * 10
            told = [fast.depth(start_ns, within) for within in (0, 10, 25)] + [fast.used_since(different)]
            input_tokens = length * 17 - 1
            told += [fast.tokens(start_ns, length, input_tokens, within) for within in (0, 10, 25)]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(reuse, "COMPILED", False)
                again = [slow.depth(start_ns, within) for within in (0, 10, 25)] + [
                    slow.used_since(different)
                ]
                again += [slow.tokens(start_ns, length, input_tokens, within) for within in (0, 10, 25)]
            assert [one.tolist() for one in told] == [one.tolist() for one in again]


CALLS = st.lists(st.tuples(*[st.integers(0, 6)] * 5), max_size=20)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_tokens_not_read_by_reason_one_call_at_a_time(is_compiled):
    if is_compiled and not reuse.COMPILED:
        pytest.skip("millstream was built without a C compiler")

    @given(CALLS, st.integers(1, 5), st.integers(0, 5))
    def check(calls, step, minimum):
        columns = [np.array(column, np.int64) for column in zip(*calls, strict=True)] or [
            np.zeros(0, np.int64)
        ] * 5
        tokens, calls_most, beyond = [0] * 5, [0] * 5, 0
        for came_in, shared, fresh, readable, read in calls:
            below = fresh - readable
            is_rounded = readable > 0 and below < step
            reasons = [
                came_in - shared,
                shared - fresh,
                0 if is_rounded else below,
                below if is_rounded else 0,
            ]
            reasons.append(max(readable - read, 0))
            tokens = [one + other for one, other in zip(tokens, reasons, strict=True)]
            calls_most[reasons.index(max(reasons))] += any(reasons)
            beyond += max(read - readable, 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reuse, "COMPILED", is_compiled)
            assert reuse.not_read(tuple(columns), step).tolist() == [*tokens, *calls_most, beyond]
            counted = reuse.rounded(columns[0], step, minimum).tolist()
        whole = [call[0] // step * step for call in calls]
        assert counted == [one if one >= minimum else 0 for one in whole]

    check()


@pytest.mark.skipif(not reuse.COMPILED, reason="millstream was built without a C compiler")
def test_many_requests_that_branch_everywhere():
    """Tables and buffers grow; the twins still agree."""
    rng = np.random.default_rng(7)
    requests = chained(rng.integers(0, 2, rng.integers(0, 40)).tolist() for _ in range(6000))
    curve = cache_curve(requests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reuse, "COMPILED", False)
        assert cache_curve(requests).hits.tolist() == curve.hits.tolist()
    assert curve.hit_ratio(500) == lru(requests, 500)


def test_kvcache_simulator_agrees():
    """It counts the last half of the requests only; hits there are all hits less those of the first half.

    Its cache loses the start of a prompt that is longer than the cache, so sizes begin at the longest.
    """
    try:
        from kvcache_sim.plan import build_execution_plan
        from kvcache_sim.policies import simulate_ceiling, simulate_policy
        from kvcache_sim.trace import parse_trace_lines
    except ModuleNotFoundError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("the package kvcache-simulator is not installed")
    rng = np.random.default_rng(3)
    requests = chained(
        np.minimum(rng.geometric(0.6, 12), 4)[: rng.integers(1, 12)].tolist() for _ in range(800)
    )
    lines = [
        json.dumps({"block_size": 1, "hash_ids": request, "input_length": len(request)})
        for request in requests
    ]
    plan = build_execution_plan(parse_trace_lines(lines))
    whole, before = cache_curve(requests), cache_curve(requests[: len(requests) // 2])
    blocks = whole.blocks - before.blocks

    def hits(size):
        return round(whole.hit_ratio(size) * whole.blocks - before.hit_ratio(size) * before.blocks)

    compared = 0
    for size in (11, 12, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987):
        theirs = simulate_policy(plan, "lru", size)
        if theirs.measurementMode == "fixed_window":  # else their cache was not full by then
            assert (hits(size), blocks) == (theirs.hitTokens, theirs.totalTokens)
            compared += 1
    assert compared > 5
    assert hits(whole.distinct) == simulate_ceiling(plan).hitTokens


def test_a_real_service():
    if not MOONCAKE.exists():
        pytest.skip(f"there is no {MOONCAKE.name} (MILLSTREAM_TEST_DATA says where)")
    with MOONCAKE.open() as lines:
        requests = [json.loads(line)["hash_ids"] for line in lines]
    curve = cache_curve(requests)
    assert len(requests) == curve.requests == 12_031
    assert round(curve.unbounded, 4) == 0.3664
    assert curve.hit_ratio(10_000) == lru(requests, 10_000)


@pytest.mark.usefixtures("compiled")
def test_hashes_of_all_kinds_give_one_curve():
    requests = [[0, 1, 2], [0, 1, 3], [], [0, 4], [0, 1, 2]]
    whole = cache_curve(requests)
    assert whole.hit_ratio(3) == lru(requests, 3) > 0
    kinds = [
        lambda block: f"{block:02d}",
        lambda block: 2**64 - 1 - block,
        lambda block: -block,
        lambda block: 2**70 + block,
        np.uint64,
        lambda block: str(block) if block else 0,
    ]
    for kind in kinds:
        curve = cache_curve(tuple(kind(block) for block in request) for request in requests)
        assert curve.hits.tolist() == whole.hits.tolist()
    arrays = cache_curve(np.array(request, np.int64) for request in requests)
    assert arrays.hits.tolist() == whole.hits.tolist()


@pytest.mark.usefixtures("compiled")
def test_nothing_to_look_up():
    for requests in ([], [[]], [[], []]):
        curve = cache_curve(requests)
        assert isinstance(curve, CacheCurve)
        assert (curve.requests, curve.blocks, curve.distinct) == (len(requests), 0, 0)
        assert curve.unbounded == curve.hit_ratio(0) == curve.hit_ratio(9) == 0


def test_bad_input_is_refused_with_what_to_give():
    for requests, message in (
        (["abc"], "sequence of block hashes, not str"),
        ([5], "sequence of block hashes, not int"),
        ([[1.5]], "whole numbers or text, not float"),
        ([["a", None]], "whole numbers or text, not NoneType"),
    ):
        with pytest.raises(InputError, match=message):
            cache_curve(requests)
    with pytest.raises(InputError, match="0 blocks or more"):
        cache_curve([[1]]).hit_ratio(-1)


@pytest.mark.skipif(not reuse.COMPILED, reason="millstream was built without a C compiler")
@pytest.mark.parametrize(
    ("blocks", "start", "length"),
    [
        (np.zeros(2, np.uint64), np.array([0]), np.array([3])),
        (np.zeros(2, np.uint64), np.array([-1]), np.array([1])),
        (np.zeros(2, np.uint64), np.array([3]), np.array([0])),
        (np.zeros(2, np.uint64), np.array([0]), np.array([-1])),
        (np.zeros(2, np.uint64), np.array([0, 1]), np.array([1])),
        (np.zeros(2, np.uint32), np.array([0]), np.array([1])),
        ([1], [0], [1]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(blocks, start, length):
    from millstream.profiler import _reuse

    with pytest.raises((TypeError, ValueError)):
        _reuse.reuse(blocks, start, length)
    with pytest.raises(TypeError):
        _reuse.reuse(blocks, start)


@pytest.mark.skipif(not reuse.COMPILED, reason="millstream was built without a C compiler")
@pytest.mark.parametrize(
    "row", [(0, 2, 0, 1, 0), (0, -1, 0, 1, 0), (0, 0, 2, 1, 0), (9, 0, 0, 1, 0), (0, 0, 0, 9, 0)]
)
def test_stretches_that_do_not_fit_are_refused(row):
    found = reuse.Reuse(np.array([row], reuse._ROW))
    with pytest.raises(ValueError, match=r"no request|more was used"):
        found.depth(np.zeros(2, np.int64))
        found.tokens(*np.zeros((3, 2), np.int64))
        found.used_since(3)


@pytest.mark.skipif(not reuse.COMPILED, reason="millstream was built without a C compiler")
@given(PATHS)
def test_hashes_that_are_not_chained_do_no_harm(paths):
    """What `reuse` says of them means nothing; it ends, and stays in its arrays."""
    length = np.array([len(path) for path in paths], np.int64)
    blocks = np.array([block for path in paths for block in path], np.uint64)
    found = reuse.reuse(blocks, np.cumsum(length) - length, length)
    assert (found.end <= length[found.request]).all()


# What providers' caches could have read

MINUTE_NS = 60_000_000_000
START_NS = 1_790_000_000_000_000_000


def call(number, prompt, minute, *, model="gpt-4o", tokens=None, read=None, trace="t", **fields):
    """A call with a token for each block of its prompt, unless it is said."""
    if isinstance(prompt, bytes):
        prompt = prompt.decode()
    tokens = -(-len(prompt) // BLOCK_BYTES) if tokens is None else tokens
    return Span(
        trace_id=trace,
        span_id=f"{number:016x}",
        parent_id=None,
        name=model,
        kind=SpanKind.LLM,
        start_ns=START_NS + int(minute * MINUTE_NS),
        end_ns=START_NS + int(minute * MINUTE_NS) + 1,
        input=prompt,
        usage=Usage(input_tokens=tokens, output_tokens=1, cache_read_tokens=read),
        attributes={semconv.REQUEST_MODEL: model},
        **fields,
    )


def text(seed, blocks):
    """Text of so many blocks, less the one byte that marks the message."""
    return bytes(np.random.default_rng(seed).integers(97, 123, blocks * BLOCK_BYTES - 1).astype(np.uint8))


def only(spans):
    (found,) = cache_opportunity(SpanTable.from_spans(spans))
    assert sum(found.not_read[reason].tokens for reason in REASONS) + found.tokens_read == pytest.approx(
        sum(span.usage.input_tokens for span in spans if span.usage.cache_read_tokens is not None)
        + found.tokens_read_beyond
    )
    return found


def test_a_prompt_that_comes_again_in_time():
    prompt = text(1, 4000)
    found = only([call(1, prompt, 0, read=0), call(2, prompt, 4, read=3968)])
    assert found.achievable_by == OPENAI_IN_MEMORY
    assert found.achievable == pytest.approx(3968 / 8000)  # 31 steps of 128; a whole prompt never is
    assert found.observed.value == pytest.approx(3968 / 8000)
    assert found.unbounded == 0.5
    assert found.not_read["first_time"].calls == 1
    assert found.not_read["rounded"].tokens == 31
    assert found.not_read["unknown"].tokens == found.tokens_read_beyond == 0
    assert found.curve[-1].blocks == found.different_blocks == 4000
    assert [point.hit_ratio for point in found.curve[:2]] == [1 / 8000, 2 / 8000]


def test_reasons_why_less_was_read():
    long, short = text(1, 2000), text(2, 500)
    found = only(
        [
            call(1, long, 0, read=0),
            call(2, long, 30, read=0),  # expired
            call(3, long, 31, read=0),  # nobody knows
            call(4, short, 31, read=0),
            call(5, short, 32, read=0),  # too short to be cached
            call(6, text(3, 1500), 32, read=1024),  # never seen, and read
        ]
    )
    told = {reason: found.not_read[reason].calls for reason in REASONS}
    assert told == {"first_time": 3, "expired": 1, "below_minimum": 1, "rounded": 0, "unknown": 1}
    assert found.not_read["expired"].tokens == pytest.approx(2000, abs=1)
    assert found.not_read["below_minimum"].tokens == pytest.approx(500, abs=1)
    assert found.not_read["unknown"].tokens == 1920
    assert found.tokens_read_beyond == 1024
    hits = {hit.cache.name: hit.hit_ratio for hit in found.providers}
    assert hits["24h"] > hits["in_memory, 10 min"] == found.achievable
    assert [hit.cache for hit in found.providers if hit.applies] == [OPENAI_IN_MEMORY]


def test_a_short_prompt_keeps_nothing_alive():
    """A call below the minimum does not use the cache, so what it shares with others grows old."""
    long = text(1, 2000)
    short = long[: 600 * BLOCK_BYTES]
    minutes = [call(1, long, 0, read=0), call(2, short, 8, read=0), call(3, long, 16, read=0)]
    assert only(minutes).achievable == 0
    assert only([minutes[0], call(2, long, 8, read=0), minutes[2]]).achievable > 0.6


def test_the_start_that_is_shared_has_to_reach_the_minimum():
    shared = text(1, 1000)
    found = only([call(number, shared + text(number, 1000), number, read=0) for number in range(5)])
    assert found.achievable == 0
    assert found.not_read["below_minimum"].tokens == pytest.approx(4000, abs=10)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=4), st.integers(0, 9)),
        min_size=1,
        max_size=9,
    ),
    st.integers(1, 30),
)
@settings(deadline=None, max_examples=50)
def test_lifetimes_are_those_of_a_plain_cache(calls, tokens_per_block):
    """A cache keeps what was used within 10 minutes; all prompts are long enough, hits are rounded down."""
    parts = {(level, choice): text(10 * level + choice, 64) for level in range(4) for choice in range(2)}
    spans, minute, seen, readable, total = [], 0, {}, 0, 0
    for number, (path, pause) in enumerate(calls):
        minute += pause
        prompt = b"".join(parts[level, choice] + b"\n" for level, choice in enumerate(path))[:-1]
        tokens = 1200 + tokens_per_block * len(path)
        span = call(number, prompt, minute, tokens=tokens, read=0)
        spans.append(span)
        full = len(rendered(span)) // BLOCK_BYTES
        blocks = [rendered(span)[: BLOCK_BYTES * (depth + 1)] for depth in range(full)]
        depth = 0
        while depth < full and minute - seen.get(blocks[depth], -99) <= 10:
            depth += 1
        hit = int(tokens * (depth / (full + 0.5))) // 128 * 128
        readable += hit if hit >= 1024 else 0
        total += tokens
        seen.update(dict.fromkeys(blocks, minute))
    found = only(spans)
    assert found.achievable == pytest.approx(readable / total)


def test_models_without_a_cache_we_know():
    prompt = text(1, 100)
    found = only(
        [call(1, prompt, 0, model="my-llama", read=0), call(2, prompt, 900, model="my-llama", read=64)]
    )
    assert found.achievable_by is None
    assert found.achievable == pytest.approx(0.495, abs=0.01)
    assert {reason: row.calls for reason, row in found.not_read.items()}["unknown"] == 1
    assert not any(hit.applies for hit in found.providers)


def test_each_model_has_a_cache_of_its_own():
    prompt = text(1, 2000)
    rows = cache_opportunity(
        SpanTable.from_spans(
            [call(1, prompt, 0, model="a"), call(2, prompt, 1, model="b"), call(3, prompt, 2, model="b")]
        )
    )
    assert [(row.model, row.unbounded) for row in rows] == [("b", 0.5), ("a", 0.0)]


def test_nothing_is_guessed_where_something_is_unknown():
    assert cache_opportunity(SpanTable.from_spans([])) == []
    silent = call(1, "x", 0, read=5)
    silent.input = None
    open_call = call(2, text(1, 2000), 1)
    open_call.usage = open_call.end_ns = None
    (found,) = cache_opportunity(SpanTable.from_spans([silent, open_call]))
    assert (found.calls, found.calls_with_prompt, found.calls_compared) == (2, 1, 0)
    assert found.observed.value is found.achievable is None
    assert {hit.hit_ratio for hit in found.providers} == {None}
    (found,) = cache_opportunity(SpanTable.from_spans([silent]))
    assert found.unbounded is None
    assert found.curve == []


def test_the_observed_share_has_an_interval_over_requests():
    rng = np.random.default_rng(0)
    spans = []
    for request in range(40):
        for step in range(3):
            prompt = text(100 * request + step, 40)
            number = 3 * request + step
            spans.append(call(number, prompt, number, read=int(rng.integers(0, 40)), trace=f"{request}"))
    found = only(spans)
    reads = np.array([span.usage.cache_read_tokens for span in spans]).reshape(40, 3).sum(axis=1) / 120
    half = 2.0227 * reads.std(ddof=1) / np.sqrt(40)  # equal requests: the mean of their shares
    assert found.observed.value == pytest.approx(reads.mean())
    assert found.observed.low == pytest.approx(reads.mean() - half, abs=1e-4)
    assert found.observed.high == pytest.approx(reads.mean() + half, abs=1e-4)


def test_prompts_at_hand_are_not_read_again():
    spans = [call(number, text(1, 2000), number, read=0) for number in range(3)]
    table = SpanTable.from_spans(spans)
    blocks = prompt_blocks(table.spans)
    expected = cache_opportunity(table)
    for span in spans:
        span.input = None
    assert cache_opportunity(table, blocks) == expected


@pytest.mark.parametrize(
    ("model", "cache", "minimum"),
    [
        ("gpt-4o-mini", OPENAI_IN_MEMORY, 1024),
        ("openai/gpt-4.1", OPENAI_IN_MEMORY, 1024),
        ("o3-mini", OPENAI_IN_MEMORY, 1024),
        ("gpt-5", OPENAI_IN_MEMORY, 1024),
        ("gpt-5.5", OPENAI_24H, 1024),
        ("gpt-5.6-mini", OPENAI_30M, 1024),
        ("claude-sonnet-4-5-20250929", ANTHROPIC_5M, 1024),
        ("us.anthropic.claude-opus-4-6-v1:0", ANTHROPIC_5M, 4096),
        ("anthropic/claude-haiku-4.5", ANTHROPIC_5M, 4096),
        ("claude-3-5-haiku-20241022", ANTHROPIC_5M, 2048),
        ("claude-3-5-sonnet-20241022", ANTHROPIC_5M, 1024),
        ("claude-opus-4-20250514", ANTHROPIC_5M, 1024),
        ("claude-opus-4-8", ANTHROPIC_5M, 1024),
        ("claude-opus-5", ANTHROPIC_5M, 512),
        ("gpt-4", None, None),
        ("gpt-3.5-turbo", None, None),
        ("gpt-oss-120b", None, None),
        ("meta/llama-3.1-70b-instruct", None, None),
        ("", None, None),
    ],
)
def test_which_cache_a_model_uses(model, cache, minimum):
    own = own_cache(model)
    if cache is None:
        assert own is None
        return
    assert (own.provider, own.name, own.minimum_tokens) == (cache.provider, cache.name, minimum)
    if cache is ANTHROPIC_5M:
        assert with_minimum(ANTHROPIC_1H, model).minimum_tokens == minimum
    else:
        assert with_minimum(cache, model) is cache
