"""New words of the next query against sets made anew for every pair."""

import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.profiler import uniqueness as module
from millstream.profiler.uniqueness import uniqueness
from millstream.semconv import REQUEST_MODEL
from millstream.span import SpanKind
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import span

ROLES = st.sampled_from(["user", "tool"])
TEXTS = st.lists(st.sampled_from(["red", "Red", "green", "blue fish", "a_1", "x-y", ""]), max_size=3).map(
    " ".join
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXTS}), max_size=4)


def call(number, prompt, *, trace="t", model="m", kind=SpanKind.LLM):
    fields = {"trace_id": trace, "attributes": {REQUEST_MODEL: model}, "kind": kind}
    return span(f"{trace}{number}", number, number + 1, name="chat", input=prompt, **fields)


def said(*texts):
    return [{"role": "user", "content": text} for text in texts]


def words(prompt):
    return {
        word
        for message in prompt
        for word in re.findall(r"\w+", f"{message['role']}: {message['content']}".lower())
    }


@given(
    st.lists(st.tuples(st.sampled_from("tu"), st.sampled_from("mn"), MESSAGES, st.booleans()), max_size=12),
)
def test_new_words_are_those_that_the_call_before_did_not_have(calls):
    """Half of the prompts go on from the one before, as those of agents do."""
    last, spans, counts = {}, [], {}
    for number, (trace, model, said_now, goes_on) in enumerate(calls):
        before = last.get((trace, model))
        prompt = before + said_now if before is not None and goes_on else said_now
        if before is not None:
            counts.setdefault(model, []).append(len(words(prompt) - words(before)))
        last[trace, model] = prompt
        content = msgspec.Raw(msgspec.json.encode(prompt)) if number % 2 else prompt
        spans.append(call(number, content, trace=trace, model=model))
    found = uniqueness(SpanTable.from_spans(spans))
    assert {model: row.n for model, row in found.items()} == {m: len(c) for m, c in counts.items()}
    for model, row in found.items():
        assert [row.p90, row.p95, row.p99] == pytest.approx(np.percentile(counts[model], [90, 95, 99]))
        assert row.mean.value == pytest.approx(np.mean(counts[model]))
        assert row.unit == "words"


def test_a_tokenizer_gives_tokens():
    spans = [call(1, "abc"), call(2, "abcxyz")]
    found = uniqueness(SpanTable.from_spans(spans), tokenize=lambda text: text.encode())
    assert (found["m"].p90, found["m"].unit) == (3, "tokens")


def test_what_was_not_captured_is_unknown():
    spans = [call(1, said("a")), call(2, msgspec.UNSET), call(3, said("b")), call(4, said("b c"))]
    row = uniqueness(SpanTable.from_spans(spans))["m"]
    assert (row.unknown, row.n, row.p90) == (2, 1, 1)
    none = uniqueness(SpanTable.from_spans([call(1, msgspec.UNSET), call(2, msgspec.UNSET)]))["m"]
    assert (none.unknown, none.n, none.p90, none.mean.value, none.held_out) == (1, 0, None, None, None)


def test_the_later_half_is_measured_against_the_earlier_one():
    spans = []
    for request in range(40):
        new = " ".join(f"w{i}" for i in range(10 if request < 20 else 30))
        spans += [
            call(1000 * request + place, said(text), trace=f"{request:02}")
            for place, text in enumerate(["", new])
        ]
    row = uniqueness(SpanTable.from_spans(reversed(spans)))["m"]
    assert (row.held_out.n, row.held_out.below_p90, row.held_out.below_p99) == (20, 0, 0)
    same = uniqueness(SpanTable.from_spans(spans[:40]))["m"]
    assert (same.held_out.n, same.held_out.below_p90) == (10, 1)


def test_of_very_many_calls_whole_requests_are_read(monkeypatch):
    monkeypatch.setattr(module, "MAX_CALLS", 20)
    spans = [call(i, said("a" * i), trace=f"{r:02}") for r in range(20) for i in range(4)]
    assert uniqueness(SpanTable.from_spans(spans))["m"].n == 15


@pytest.mark.parametrize("spans", [[], [call(1, "x")], [call(1, "x", kind=SpanKind.TOOL), call(2, "y")]])
def test_without_two_calls_in_a_request_there_is_nothing(spans):
    assert uniqueness(SpanTable.from_spans(spans)) == {}
