"""The processors that a workflow file can name, in a recording and on spans."""

import msgspec
import pytest

import millstream
from millstream import Redaction, SpanKind, Status, open_store, start_span
from millstream.errors import ConfigError
from millstream.record.processors.sampling import SamplingProcessor
from millstream.record.processors.tagging import TaggingProcessor
from millstream.record.processors.truncation import TruncationProcessor
from millstream.sources import new_trace_id
from millstream.span import Span, SpanError, SpanEvent, SpanLink


def span(trace_id="a" * 32, **fields):
    return Span(trace_id, "b" * 16, None, "call", SpanKind.LLM, 1, 2, Status.OK, **fields)


def test_tags_take_the_place_of_attributes_of_the_same_name():
    tagged = TaggingProcessor(tags={"team": "search", "release": 3})(span(attributes={"team": "?", "a": 1}))
    assert tagged.attributes == {"team": "search", "a": 1, "release": 3}


def test_no_tags():
    with pytest.raises(ConfigError, match="give at least one"):
        TaggingProcessor(tags={})


def test_a_trace_is_sampled_as_a_whole_and_everywhere_alike():
    sample, again = SamplingProcessor(rate=0.25), SamplingProcessor(rate=0.25)
    traces = [new_trace_id() for _ in range(4000)]
    kept = {trace for trace in traces if sample(span(trace)) is not None}
    assert 0.22 < len(kept) / len(traces) < 0.28
    for trace in traces:
        assert {again(span(trace)) is not None for _ in range(3)} == {trace in kept}
    more = {trace for trace in traces if SamplingProcessor(rate=0.5)(span(trace)) is not None}
    assert kept < more


@pytest.mark.parametrize(("rate", "kept"), [(0, 0), (1, 100)])
def test_none_and_all(rate, kept):
    sample = SamplingProcessor(rate=rate)
    assert sum(sample(span(new_trace_id())) is not None for _ in range(100)) == kept


@pytest.mark.parametrize("rate", [-0.1, 1.1, True, "1"])
def test_a_rate_that_is_none(rate):
    with pytest.raises(ConfigError, match="a share from 0 to 1"):
        SamplingProcessor(rate=rate)


def test_long_texts_are_cut_wherever_they_are():
    long = "x" * 50
    cut = "x" * 10 + "… [cut: 50 characters in all]"
    one = TruncationProcessor(max_length=10)(
        span(
            error=SpanError("ValueError", long),
            input={"messages": [{"role": "user", "content": long}, {"content": [{"text": long}, 1, None]}]},
            output=long,
            attributes={"a": long, "b": "short", "c": 1.5, "d": True},
            events=[SpanEvent("e", 1, {"a": long})],
            links=[SpanLink("c" * 32, "d" * 16, {"a": long})],
        )
    )
    assert one.error == SpanError("ValueError", cut)
    assert one.input == {
        "messages": [{"role": "user", "content": cut}, {"content": [{"text": cut}, 1, None]}]
    }
    assert one.output == cut
    assert one.attributes == {"a": cut, "b": "short", "c": 1.5, "d": True}
    assert one.events == [SpanEvent("e", 1, {"a": cut})]
    assert one.links == [SpanLink("c" * 32, "d" * 16, {"a": cut})]
    again = msgspec.json.encode(one)
    assert b"x" * 11 not in again


@pytest.mark.parametrize("unit", ["characters", "bytes", "items"])
def test_a_text_that_was_cut_before_keeps_its_true_length(unit):
    note = f"… [cut: 4000000 {unit} in all]"
    cut = TruncationProcessor(max_length=10)
    one = cut(span(input="x" * 100_000 + note, output="x" * 10 + note))
    assert (one.input, one.output) == ("x" * 10 + note, "x" * 10 + note)
    again = TruncationProcessor(max_length=4)(cut(span(input="y" * 50)))
    assert again.input == "yyyy… [cut: 50 characters in all]"


def test_a_text_that_tells_of_a_cut_is_cut_all_the_same():
    told = "a note of ours ends with … [cut: 9 characters in all]"
    cut = TruncationProcessor(max_length=10)(span(input=told)).input
    assert cut == f"a note of … [cut: {len(told)} characters in all]"


def test_what_was_not_captured_stays_so():
    one = TruncationProcessor(max_length=1)(span())
    assert (one.input, one.output) == (msgspec.UNSET, msgspec.UNSET)


def test_a_value_of_great_depth():
    deep = "bottom"
    for _ in range(500):
        deep = [deep]
    cut = TruncationProcessor(max_length=3)(span(input=deep)).input
    assert b"bottom" not in msgspec.json.encode(cut)


@pytest.mark.parametrize("max_length", [0, -1, True, 1.5, "10"])
def test_a_length_that_is_none(max_length):
    with pytest.raises(ConfigError, match="at least 1"):
        TruncationProcessor(max_length=max_length)


def test_redaction_covers_every_copy_of_a_payload():
    secret = "my card is 4111 1111 1111 1111"
    one = Redaction(cards=True, fields=["user"])(
        span(
            error=SpanError("ValueError", secret),
            input={"messages": [{"content": secret}]},
            output={"user": "ann", "content": f'{{"text": "{secret}"}}'},
            attributes={"input.value": secret, "user": "ann"},
            events=[SpanEvent("e", 1, {"a": secret})],
            links=[SpanLink("c" * 32, "d" * 16, {"a": secret})],
        )
    )
    data = msgspec.json.encode(one)
    assert b"4111" not in data
    assert b"ann" not in data
    assert one.links[0].trace_id == "c" * 32


def test_in_a_recording(tmp_path):
    processors = [TaggingProcessor(tags={"team": "search"}), TruncationProcessor(max_length=5)]
    processors.append(SamplingProcessor(rate=1))
    with (
        millstream.recording(home=tmp_path, processors=processors),
        start_span("call", input={"question": "a long question"}) as one,
    ):
        one.set_output("ok")
    (recorded,) = open_store(tmp_path).spans()
    assert recorded.attributes == {"team": "searc… [cut: 6 characters in all]"}
    assert recorded.input == {"question": "a lon… [cut: 15 characters in all]"}
    assert recorded.output == "ok"
