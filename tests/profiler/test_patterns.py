"""Frequent patterns of calls against brute force and the package `prefixspan`."""

import itertools
import os
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.profiler import patterns as module
from millstream.profiler import prefixspan
from millstream.profiler.config import PrefixSpanAnalysis
from millstream.profiler.patterns import least_requests, patterns, prompt_text
from millstream.profiler.prefixspan import STEP, Sequences, contains, mine
from millstream.semconv import REQUEST_MODEL
from millstream.span import SpanKind
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import span

S = 1_000_000_000
databases = st.lists(st.lists(st.integers(0, 3), max_size=7), max_size=6)


def closed_patterns(database, support):
    """All subsequences, counted one by one; those that no longer one of the same frequency contains."""
    every = {
        pattern
        for sequence in database
        for length in range(1, len(sequence) + 1)
        for pattern in itertools.combinations(sequence, length)
    }
    frequency = {one: sum(contains(sequence, one) for sequence in database) for one in every}
    return only_closed({one: n for one, n in frequency.items() if n >= support})


def only_closed(frequency):
    return {
        one: n
        for one, n in frequency.items()
        if not any(n == m and len(two) > len(one) and contains(two, one) for two, m in frequency.items())
    }


def sequences(database, support):
    item = np.array([item for sequence in database for item in sequence], np.int64)
    request = np.array([number for number, sequence in enumerate(database) for _ in sequence], np.int64)
    return Sequences.of(item, request, support)


def table(database, **fields):
    """One request a sequence; letters are tools, each call takes as many seconds as its place, from 1."""
    spans = []
    for number, sequence in enumerate(database):
        trace = f"{number:032x}"
        spans.append(span("root", number, number + S, trace_id=trace, kind=SpanKind.WORKFLOW))
        spans += [
            span(
                f"{place}",
                number + place * S,
                number + (2 * place + 1) * S,
                "root",
                name=str(item),
                kind=SpanKind.TOOL,
                trace_id=trace,
                **fields,
            )
            for place, item in enumerate(sequence)
        ]
    return SpanTable.from_spans(spans)


@settings(max_examples=150, deadline=None)
@given(databases, st.integers(1, 4))
def test_mined_patterns_are_the_closed_ones(database, support):
    mined = mine(sequences(database, support), support, 10**6)
    assert dict(mined.patterns) == closed_patterns(database, support)
    assert len(dict(mined.patterns)) == len(mined.patterns)
    assert mined.complete_above == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=9), st.integers(1, 4))
def test_mined_patterns_are_those_of_prefixspan(database, support):
    try:
        from prefixspan import PrefixSpan
    except ImportError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("the package prefixspan is not installed")
    frequent = {tuple(pattern): n for n, pattern in PrefixSpan(database).frequent(support)}
    mined = mine(sequences(database, support), support, 10**6)
    assert dict(mined.patterns) == only_closed(frequent)


LIMITS = {"MAX_BRANCHES": 2, "MAX_ENDS": 3, "MAX_ALIKE": 1, "COMPARISON": 10**9}


@pytest.mark.parametrize("limit", [None, *LIMITS])
@settings(max_examples=100, deadline=None)
@given(databases, st.integers(1, 3), st.integers(0, 12))
def test_where_a_limit_is_reached_the_more_frequent_are_all_known(limit, database, support, steps):
    with pytest.MonkeyPatch.context() as patch:
        if limit is not None:
            patch.setattr(prefixspan, limit, LIMITS[limit])
        budget = steps * STEP if limit in {None, "MAX_ENDS"} else 10**9
        mined = mine(sequences(database, support), support, 10**6, budget)
    expected = closed_patterns(database, support)
    above = {one: n for one, n in expected.items() if n > mined.complete_above}
    assert {one: n for one, n in mined.patterns if n > mined.complete_above} == above
    for one, n in mined.patterns:
        assert n == sum(contains(sequence, one) for sequence in database)


@settings(max_examples=100, deadline=None)
@given(databases, st.integers(1, 3), st.integers(1, 5))
def test_the_first_are_the_most_frequent_and_then_the_longest_lasting(database, support, top_k):
    found = patterns(table(database), PrefixSpanAnalysis(min_support=support, top_k=top_k))
    expected = closed_patterns(database, support)

    def duration(pattern):
        sums = []
        for sequence in database:
            if contains(sequence, pattern):
                places, start = [], 0
                for item in pattern:
                    places.append(sequence.index(item, start))
                    start = places[-1] + 1
                sums.append(sum(place + 1 for place in places))
        return sum(sums) / len(sums)

    ranking = sorted(((-n, -duration(one)) for one, n in expected.items()))[:top_k]
    assert [(-one.frequency, pytest.approx(-one.average_duration)) for one in found.patterns] == ranking
    assert found.complete
    for one in found.patterns:
        items = tuple(int(token.removeprefix("TOOL:")) for token in one.pattern)
        holding = [number for number, sequence in enumerate(database) if contains(sequence, items)]
        assert one.examples_containing == holding
        assert one.frequency == len(holding) == expected[items]
        assert one.coverage == len(holding) / len(database)


def test_many_equal_calls_are_one_pattern():
    found = patterns(table([list(range(24))] * 20))
    assert [len(one.pattern) for one in found.patterns] == [24]
    assert found.patterns[0].frequency == 20
    assert found.complete


@pytest.mark.parametrize("kind", ["regular", "with gaps", "random", "texts"])
def test_ten_thousand_requests_of_200_calls_end_in_seconds(kind):
    rng = np.random.default_rng(5)
    requests, calls = 10_000, 200
    item = {
        "regular": np.tile(np.arange(calls), requests),
        "with gaps": np.tile(np.arange(calls) % 30, requests),
        "random": rng.integers(0, 5, requests * calls),
        "texts": rng.integers(0, 300_000, requests * calls),
    }[kind]
    request = np.repeat(np.arange(requests), calls)
    if kind == "with gaps":
        kept = rng.random(len(item)) > 0.1
        item, request = item[kept], request[kept]
    before = time.process_time()
    mined = mine(Sequences.of(item, request, 2), 2, 10)
    assert time.process_time() - before < 20
    assert mined.patterns
    longest = max(len(one.items) for one in mined.patterns)
    assert longest == {"regular": calls}.get(kind, longest)
    assert longest > {"with gaps": 5, "random": 10}.get(kind, 0)


def test_a_search_that_ended_early_says_so():
    rng = np.random.default_rng(5)
    found = patterns(table(rng.integers(0, 4, (20, 40)).tolist()), budget=50 * STEP)
    assert not found.complete
    assert found.complete_above == 20
    assert "budget" in found.notes[0]
    assert found.patterns


@pytest.mark.parametrize(
    ("min_support", "min_coverage", "least"),
    [(2, 0, 2), (4, 0, 4), (0.25, 0, 3), (1.0, 0, 10), (1, 0, 1), (3.0, 0, 3), (2, 0.5, 5), (0.07, 0.3, 3)],
)
def test_support_is_a_number_of_requests_or_a_share_of_them(min_support, min_coverage, least):
    config = PrefixSpanAnalysis(min_support=min_support, min_coverage=min_coverage)
    assert least_requests(config, 10) == least
    found = patterns(table([[1, 2]] * least + [[3]] * (10 - least)), config)
    assert [one.frequency for one in found.patterns if "TOOL:1" in one.pattern] == [least]
    assert found.min_support == least


def llm(span_id, start, prompt, trace, end=None):
    attributes = {REQUEST_MODEL: "m"}
    fields = {"name": "chat", "kind": SpanKind.LLM, "trace_id": trace, "attributes": attributes}
    return span(span_id, start, start + 10 if end is None else end, input=prompt, **fields)


def test_tokens_are_the_model_with_the_start_of_the_prompt_and_the_tool():
    messages = [{"role": "system", "content": "Be\nbrief."}, {"role": "user", "content": "Hello there"}]
    spans = [
        found
        for trace in "ab"
        for found in (
            llm("1", 0, messages, trace),
            span("2", 1, 2, name="search", kind=SpanKind.TOOL, trace_id=trace),
            llm("3", 3, msgspec.Raw(b'"What next?"'), trace),
            llm("4", 4, msgspec.UNSET, trace),
        )
    ]
    table = SpanTable.from_spans(spans)

    def tokens(length, **config):
        found = patterns(
            table,
            PrefixSpanAnalysis(max_text_len=length, **config),
            {"m": ["system: ", "system: Be\nbrief."]},
        )
        return found.patterns[0].pattern

    assert tokens(21) == ["LLM:m|system: Be brief. use", "TOOL:search", "LLM:m|What next?", "LLM:m"]
    assert tokens(0) == ["LLM:m", "TOOL:search", "LLM:m", "LLM:m"]
    chained = tokens(21, chain_with_common_prefixes=True)
    assert chained[0] == "LLM:m|<common_prefix> user:"


@given(
    st.lists(
        st.fixed_dictionaries({"role": st.sampled_from("us"), "content": st.text(max_size=8)}), max_size=4
    ),
    st.integers(0, 40),
)
def test_the_start_of_a_prompt_is_the_start_of_the_whole(messages, length):
    assert prompt_text(messages, length) == prompt_text(messages)[:length]


def test_a_message_with_tool_calls_keeps_them():
    message = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    assert prompt_text([message]) == 'assistant: \n{"tool_calls":[{"id":"1"}]}'
    assert prompt_text([{"role": "user", "content": None}]) == '{"role":"user","content":null}'
    assert prompt_text({"question": 1}) == '{"question":1}'


def test_open_calls_count_but_have_no_duration():
    spans = [llm("1", 0, "x", "a"), llm("1", 0, "x", "b")]
    spans += [
        span("2", 5, end, name="t", kind=SpanKind.TOOL, trace_id=t) for t, end in (("a", 8), ("b", None))
    ]
    found = patterns(SpanTable.from_spans(spans))
    assert [one.frequency for one in found.patterns] == [2]
    assert found.patterns[0].average_duration == pytest.approx(13e-9)
    assert found.patterns[0].duration_n == 1


def test_more_prompts_than_are_read_are_told_apart_by_the_model(monkeypatch):
    monkeypatch.setattr(module, "MAX_TEXTS", 1)
    spans = [llm("1", 0, "x", "a"), llm("1", 0, "y", "b")]
    found = patterns(SpanTable.from_spans(spans))
    assert [one.pattern for one in found.patterns] == [["LLM:m"]]
    assert "prompts are read" in found.notes[0]


@pytest.mark.parametrize("spans", [[], [span("f", 0, 1)], [span("t", 0, None, kind=SpanKind.TOOL)]])
def test_nothing_to_find_is_no_pattern(spans):
    found = patterns(SpanTable.from_spans(spans))
    assert found.patterns == []
    assert found.requests == bool(spans)
    assert found.complete
