"""Shared starts of prompts against counting them one by one; the hashes of their blocks."""

import math
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream import Span, SpanKind, Usage, semconv
from millstream.profiler import prefixes as module
from millstream.profiler.config import PromptCachingPrefixes
from millstream.profiler.prefixes import prefixes
from millstream.store import prompt_blocks as prompt_blocks_module
from millstream.store import prompt_blocks as rendering
from millstream.store.prompt_blocks import BLOCK_BYTES, block_hashes, once, prompt_blocks, rendered, shown
from millstream.store.table import SpanTable

ALWAYS = PromptCachingPrefixes(min_frequency=0)


def call(number, prompt, model="m", *, tools=None, tokens=100):
    attributes = {semconv.REQUEST_MODEL: model}
    if tools is not None:
        attributes[semconv.TOOL_DEFINITIONS] = tools
    return Span(
        trace_id="t",
        span_id=f"{number:016x}",
        parent_id=None,
        name=model,
        kind=SpanKind.LLM,
        start_ns=number,
        end_ns=number + 1,
        input=prompt,
        usage=None if tokens is None else Usage(tokens, 1),
        attributes=attributes,
    )


def table(*prompts, **fields):
    return SpanTable.from_spans(call(number, prompt, **fields) for number, prompt in enumerate(prompts))


@pytest.fixture(params=["MAX_TEXTS", "MAX_SPANS"])
def by_blocks(monkeypatch, request):
    """Compare prompts by their hashes, as it is done where there are many."""
    monkeypatch.setattr(module, request.param, 0)


def chat(system, user):
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def told(found):
    return {(info.prefix, info.calls_count) for info in found.prefix_info}


# Shares


SYSTEM = (
    "You judge e-mails. Answer with one word, phishing or not, and say nothing else whatever the mail says."
)


def test_a_system_prompt_that_all_calls_share_is_shared_by_all():
    """The reference says half: it counts the end of each call as a call with an empty prompt."""
    found = prefixes(table(*(chat(SYSTEM, f"{number} mails") for number in range(10))))["m"]
    assert found.total_calls == 10
    (info,) = found.prefix_info
    assert info.prefix == f"system: {SYSTEM}\nuser: "
    assert info.prefix_length == len(info.prefix)
    assert (info.calls_count, info.calls_percentage) == (10, 1.0)
    assert info.input_tokens_percentage == pytest.approx((8 + len(SYSTEM) + 6) / (8 + len(SYSTEM) + 6 + 7))


@pytest.mark.usefixtures("by_blocks")
def test_blocks_at_hand_are_used_and_one_prompt_is_read_for_its_text():
    spans = [call(number, chat(SYSTEM, f"{number} mails")) for number in range(10)]
    blocks = prompt_blocks(spans)
    for span in spans[1:]:
        span.input = None
    (info,) = prefixes(SpanTable.from_spans(spans), None, blocks)["m"].prefix_info
    assert (info.prefix, info.calls_count) == (f"system: {SYSTEM}"[:64], 10)


@pytest.mark.usefixtures("by_blocks")
def test_by_blocks_the_share_is_the_same_and_the_text_ends_with_a_block():
    found = prefixes(table(*(chat(SYSTEM, f"{number} mails") for number in range(10))))["m"]
    (info,) = found.prefix_info
    assert info.prefix == f"system: {SYSTEM}"[:64]
    assert (info.calls_count, info.calls_percentage, found.block_bytes) == (10, 1.0, 64)


def test_each_model_has_prefixes_of_its_own_and_nothing_else_has():
    spans = [call(number, chat(SYSTEM, str(number)), model) for number, model in enumerate("aabb")]
    spans += [
        Span("t", f"{number:016x}", None, "tool", SpanKind.TOOL, number, input=chat(SYSTEM, "x"))
        for number in range(9, 12)
    ]
    found = prefixes(SpanTable.from_spans(spans))
    assert {model: (one.total_calls, one.prefix_info[0].calls_count) for model, one in found.items()} == {
        "a": (2, 2),
        "b": (2, 2),
    }


def test_a_longer_prefix_of_fewer_calls_stands_beside_the_shorter_one():
    other = SYSTEM.replace("one word", "two words")
    found = prefixes(
        table(*(chat(other if number % 5 == 0 else SYSTEM, f"{number}") for number in range(10)))
    )
    shares = [(info.calls_percentage, info.prefix) for info in found["m"].prefix_info]
    assert shares == [
        (1.0, "system: You judge e-mails. Answer with "),
        (0.8, f"system: {SYSTEM}\nuser: "),
    ]


def test_the_least_share_counts_all_calls_and_is_at_least_two():
    prompts = [chat(SYSTEM, f"{number}") for number in range(3)] + [
        f"{number} alone" for number in range(4, 8)
    ]
    for share, expected in ((3 / 7, 1), (0.43, 0), (0.0, 1), (1.0, 0)):
        found = prefixes(table(*prompts), PromptCachingPrefixes(min_frequency=share))["m"]
        assert len(found.prefix_info) == expected, share
    assert prefixes(table(prompts[0]), ALWAYS)["m"].prefix_info == []


def test_prompts_that_share_no_content_share_nothing():
    """All messages of users begin with `user: `."""
    found = prefixes(table(*([{"role": "user", "content": f"{number}"}] for number in range(5))), ALWAYS)
    assert found["m"].prefix_info == []
    assert prefixes(table("abc", "xyz"), ALWAYS)["m"].prefix_info == []


def test_a_prefix_ends_between_characters():
    found = prefixes(table("grüß dich é", "grüß dich è", "grüß dich é", "grüß euch"), ALWAYS)["m"]
    assert told(found) == {("grüß ", 4), ("grüß dich ", 3), ("grüß dich é", 2)}


def test_calls_whose_content_was_not_recorded_are_calls():
    spans = [call(0, "the same start 1"), call(1, "the same start 2"), call(2, None), call(3, msgspec.UNSET)]
    found = prefixes(SpanTable.from_spans(spans))["m"]
    assert (found.total_calls, found.calls_without_prompt) == (4, 2)
    assert found.prefix_info[0].calls_percentage == 0.5


def test_calls_that_do_not_know_their_tokens():
    assert (
        prefixes(table("same 1", "same 2", tokens=None))["m"].prefix_info[0].input_tokens_percentage is None
    )
    spans = [call(0, "same 1", tokens=60), call(1, "same 2", tokens=None)]
    (info,) = prefixes(SpanTable.from_spans(spans))["m"].prefix_info
    assert info.input_tokens_percentage == pytest.approx(6 / 7)


def test_no_spans():
    assert prefixes(SpanTable.from_spans([])) == {}


def test_what_is_left_out_is_said(monkeypatch):
    monkeypatch.setattr(module, "MAX_PREFIXES", 3)
    texts = [f"{letter}{letter} {number}" for letter in "abcde" for number in range(ord(letter) - 90)]
    found = prefixes(table(*texts), ALWAYS)["m"]
    assert not found.complete
    assert [info.prefix for info in found.prefix_info] == ["ee ", "dd ", "cc "]
    assert prefixes(table(*texts[:14]), ALWAYS)["m"].complete


def test_tools_come_first():
    tools = [{"type": "function", "function": {"name": "search", "parameters": {}}}]
    found = prefixes(table("one", "two", tools=tools))["m"]
    (info,) = found.prefix_info
    assert info.prefix == '{"type":"function","function":{"name":"search","parameters":{}}}\n'


# Against counting


WORDS = st.lists(st.lists(st.sampled_from(["a", "b", "é", "è", "ab"]), max_size=5), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(WORDS, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_all_prefixes_by_text(words, share):
    """Of each set of calls that share a start, the longest that all of them share."""
    prompts = ["".join(word) for word in words]
    least = max(2, math.ceil(round(share * len(prompts), 9)))
    longest = {}
    for prompt in prompts:
        for length in range(1, len(prompt) + 1):
            calls = frozenset(at for at, other in enumerate(prompts) if other.startswith(prompt[:length]))
            if len(calls) >= least:
                longest[calls] = max(longest.get(calls, ""), prompt[:length], key=len)
    found = prefixes(table(*prompts), PromptCachingPrefixes(min_frequency=share))["m"]
    assert told(found) == {(prefix, len(calls)) for calls, prefix in longest.items()}
    assert len(found.prefix_info) == len(longest)
    counts = [info.calls_count for info in found.prefix_info]
    assert counts == sorted(counts, reverse=True)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=12))
def test_all_prefixes_by_blocks(paths):
    """As by text, where all texts are of whole blocks."""
    prompts = ["".join(f"{part}" * BLOCK_BYTES for part in path)[1:] for path in paths]
    by_text = prefixes(table(*prompts), ALWAYS)["m"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_TEXTS", 0)
        by_blocks = prefixes(table(*prompts), ALWAYS)["m"]
    whole = {one for one in told(by_text) if (len(one[0]) + 1) % BLOCK_BYTES == 0}
    assert told(by_blocks) == whole == told(by_text)


# Blocks


def test_equal_prefixes_have_equal_hashes_and_others_have_not():
    rng = np.random.default_rng(1)
    texts = [bytes(rng.integers(97, 99, rng.integers(0, 400)).astype(np.uint8)) for _ in range(300)]
    texts += [text[:100] + b"x" + text[101:] for text in texts] + [texts[0][:64] + text for text in texts]
    hashes, length = block_hashes(texts)
    assert length.tolist() == [len(text) // BLOCK_BYTES for text in texts]
    prefix_of, hash_of, at = {}, {}, 0
    for text, count in zip(texts, length.tolist(), strict=True):
        for depth in range(1, count + 1):
            prefix, value = text[: depth * BLOCK_BYTES], int(hashes[at])
            assert prefix_of.setdefault(value, prefix) == prefix
            assert hash_of.setdefault(prefix, value) == value
            at += 1
    assert at == len(hashes)
    assert len(prefix_of) > 500


@given(
    st.binary(min_size=BLOCK_BYTES * 3, max_size=BLOCK_BYTES * 3), st.integers(0, 1535), st.integers(0, 1535)
)
def test_every_bit_counts(text, one, other):
    """Two bits are turned, in the same or in different words and blocks."""
    changed = bytearray(text)
    for bit in {one, other}:
        changed[bit // 8] ^= 1 << bit % 8
    before, after = block_hashes([text])[0], block_hashes([bytes(changed)])[0]
    first = min(one, other) // 8 // BLOCK_BYTES
    assert (before == after).tolist() == [block < first for block in range(3)]


def test_blocks_that_change_places_change_the_hash():
    blocks = [bytes([65 + number]) * BLOCK_BYTES for number in range(20)]
    ends = {int(block_hashes([b"".join(blocks)])[0][-1])}
    for one in range(20):
        for other in range(one):
            moved = blocks.copy()
            moved[one], moved[other] = moved[other], moved[one]
            ends.add(int(block_hashes([b"".join(moved)])[0][-1]))
    assert len(ends) == 191


def test_hashes_are_the_same_everywhere():
    """Files keep them: a change of these numbers makes the caches of old and new files differ."""
    text = bytes(range(32, 127)) * 2
    expected = [0xD9BE9A48A1517D18, 0x0D874D754330CC60]
    code = f"from millstream.store import prompt_blocks as b; print(b.block_hashes([{text!r}])[0].tolist())"
    told_by_another = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert msgspec.json.decode(told_by_another.stdout) == block_hashes([text])[0].tolist() == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.text(max_size=300)), max_size=8))
def test_blocks_of_spans(prompts):
    """In parts, and as if they were hashed alone."""
    spans = [
        call(number, text) if is_llm else Span("t", "s", None, "f", SpanKind.FUNCTION, 0, input=text)
        for number, (is_llm, text) in enumerate(prompts)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "_BYTES_AT_ONCE", 500)
        found = prompt_blocks(iter(spans))
    assert found.known.tolist() == [is_llm for is_llm, _ in prompts]
    assert len(found.first) == len(found.length) == len(spans)
    for number, span in enumerate(spans):
        alone = block_hashes([rendered(span) or b""])[0]
        assert found.hashes[found.first[number] :][: found.length[number]].tolist() == alone.tolist()
    assert found.length.sum() == len(found.hashes)


# The one form of a prompt


PARTS = st.text(alphabet="a\x1b\x1c\x1d\x1e\x1f\\[]^_é: \n", max_size=4)
CONTENTS = st.one_of(PARTS, st.none(), st.lists(st.fixed_dictionaries({"type": PARTS}), max_size=2))
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": PARTS, "content": CONTENTS}, optional={"tool_calls": st.lists(PARTS, max_size=2)}
    ),
    max_size=3,
)


@settings(max_examples=500)
@given(MESSAGES, MESSAGES, st.none() | st.lists(st.fixed_dictionaries({"name": PARTS}), max_size=2))
def test_no_two_prompts_have_one_form(one, other, tools):
    same = [{**message, "content": message["content"]} for message in one]
    assert rendered(call(0, one)) == rendered(call(1, same))
    if one != other:
        assert rendered(call(0, one)) != rendered(call(1, other))
    if tools:
        assert rendered(call(0, one)) != rendered(call(1, one, tools=tools))


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20), max_size=4))
def test_a_conversation_that_goes_on_begins_as_before(contents):
    messages = [{"role": "user", "content": content} for content in contents]
    before, after = rendered(call(0, messages[:-1])), rendered(call(0, messages))
    assert after.startswith(before)
    assert shown(after) == "\n".join(f"user: {content}" for content in contents)


def test_what_people_are_shown():
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    prompt = [
        {"role": "system", "content": "Be\x1ekind"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
    ]
    assert shown(rendered(call(0, prompt))).split("\n") == [
        "system: Be\x1ekind",
        'user: [{"type":"text","text":"hi"}]',
        "assistant",
        '{"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]}',
        "tool: 4",
        '{"tool_call_id":"c1"}',
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("text", "text"),
        ("", ""),
        ([], ""),
        (["a", "b"], "a\nb"),
        ({"prompt": 1}, None),
        (7, "7"),
        (msgspec.Raw(b'[{"role":"user","content":"raw"}]'), "user: raw"),
        ([{"type": "function_call_output", "output": "x"}], '\n{"type":"function_call_output","output":"x"}'),
        ("half a pair \ud800 of surrogates", "half a pair  of surrogates"),
    ],
)
def test_prompts_of_other_forms(prompt, expected):
    form = rendered(call(0, prompt))
    assert form is not None
    if expected is not None:
        assert shown(form) == expected


def test_no_prompt():
    assert rendered(call(0, None)) is None
    assert rendered(call(0, msgspec.UNSET)) is None
    assert rendered(Span("t", "s", None, "f", SpanKind.TOOL, 0, input="text")) is None


@given(st.lists(st.text("ab", max_size=6), max_size=30))
def test_prompts_are_kept_once(texts):
    """A prompt lies where a longer one begins with it; all are as they were."""
    prompts = [
        b"".join(text[at : at + 1].encode() * BLOCK_BYTES for at in range(len(text))) for text in texts
    ]
    hashes, length = block_hashes(prompts)
    kept, first = once(hashes, length)
    before = np.cumsum(length) - length
    for number, size in enumerate(length.tolist()):
        assert kept[first[number] :][:size].tolist() == hashes[before[number] :][:size].tolist()
    left = [text for text, nxt in zip(texts, [*texts[1:], ""], strict=False) if not nxt.startswith(text)]
    assert len(kept) <= sum(map(len, left))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_blocks_module, "COMPILED", False)
        again, at = once(hashes, length)
    assert kept.tolist() == again.tolist()
    assert first.tolist() == at.tolist()


@pytest.mark.skipif(not prompt_blocks_module.COMPILED, reason="millstream was built without a C compiler")
@pytest.mark.parametrize("length", [[3], [1], [-1, 3], [2**62, 2**62]])
def test_blocks_that_are_no_prompts_are_refused(length):
    with pytest.raises(ValueError, match="not those of the prompts"):
        once(np.zeros(2, np.uint64), np.array(length))
