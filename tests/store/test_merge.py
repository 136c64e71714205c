"""Spans of one call become one, in bounded memory, whatever the order of their ends."""

import random
import time
from collections import Counter

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import millstream
from millstream import Span, SpanKind, Status, Usage, open_store, semconv, start_span
from millstream.context import current
from millstream.record.opening import open_span
from millstream.record.recorder import get
from millstream.store import merge
from millstream.store.merge import Merger

LLM, TOOL, EMBEDDING = SpanKind.LLM, SpanKind.TOOL, SpanKind.EMBEDDING
FUNCTION, TASK = SpanKind.FUNCTION, SpanKind.TASK


def answer(span, response_id=None, **usage):
    if response_id:
        span.set_attribute(semconv.RESPONSE_ID, response_id)
    if usage:
        span.set_usage(Usage(**usage))


def open_in(parent, kind=LLM, name="call"):
    return open_span(get(), name, kind, msgspec.UNSET, parent)


def names(spans):
    return sorted(span.name for span in spans())


def test_a_call_inside_a_call_tells_it_what_it_does_not_know(spans, home):
    with start_span("outer", kind=LLM, input="asked", attributes={"a": 1, "b": 1}) as outer:
        answer(outer, output_tokens=5)
        with start_span("inner", kind=LLM, input="other", attributes={"b": 2, "c": 2}) as inner:
            inner.add_chunk()
            inner.set_output("answered")
            answer(inner, "r1", input_tokens=3, output_tokens=9)
            with start_span("below"):
                pass
    below, call = sorted(spans(), key=lambda span: span.name)
    assert (call.span_id, call.name) == (outer.span_id, "outer")
    assert (call.input, call.output, call.usage) == ("asked", "answered", Usage(3, 5))
    assert {"a": 1, "b": 1, "c": 2, semconv.RESPONSE_ID: "r1"}.items() <= call.attributes.items()
    first_s = (inner.start_ns - outer.start_ns) / 1e9
    assert first_s < call.attributes[semconv.TIME_TO_FIRST_CHUNK_S] < call.duration_s
    assert below.parent_id == outer.span_id
    store = open_store(home)
    list(store.spans())
    assert store.merged == {"LLM": 1}


@pytest.mark.parametrize("tells_all", ["outer", "inner"])
def test_all_choices_stay_when_one_instrumentation_tells_the_first_only(spans, tells_all):
    choices = [{"role": "assistant", "content": text} for text in "ab"]
    with start_span("outer", kind=LLM) as outer, start_span("inner", kind=LLM) as inner:
        for span, name in ((outer, "outer"), (inner, "inner")):
            span.set_output(choices if name == tells_all else choices[0])
            reasons = ["stop", "length"] if name == tells_all else ["stop"]
            span.set_attribute(semconv.RESPONSE_FINISH_REASONS, reasons)
    (call,) = spans()
    assert call.output == choices
    assert call.attributes[semconv.RESPONSE_FINISH_REASONS] == ["stop", "length"]


def test_five_deep_are_one(spans):
    nest = [open_in(None, name="1")]
    for number in range(2, 6):
        nest.append(open_in(nest[-1], name=str(number)))
    answer(nest[-1], "r", output_tokens=1)
    open_in(nest[-1], FUNCTION, "below").end()
    for span in reversed(nest):
        span.end()
    call, below = spans()
    assert (call.name, call.usage, below.parent_id) == ("1", Usage(output_tokens=1), call.span_id)


def test_calls_with_other_responses_are_other_calls(spans):
    with start_span("outer", kind=LLM) as outer:
        answer(outer, "r1", output_tokens=1)
        with start_span("inner", kind=LLM) as inner:
            answer(inner, "r2", output_tokens=2)
    assert names(spans) == ["inner", "outer"]


@pytest.mark.parametrize("counted", [False, True])
def test_of_several_answered_calls_inside_one_each_counts_once(spans, counted):
    with start_span("outer", kind=LLM) as outer:
        for number in range(2):
            with start_span(f"inner {number}", kind=LLM) as inner:
                answer(inner, f"r{number}", output_tokens=2)
        if counted:
            answer(outer, output_tokens=4)
    assert sum(span.usage.output_tokens for span in spans() if span.usage) == 4
    assert len(spans()) == (1 if counted else 3)


def test_a_failed_attempt_and_the_one_that_was_answered_are_one_call(spans):
    with start_span("outer", kind=LLM):
        with pytest.raises(ValueError, match="429"), start_span("first", kind=LLM):
            raise ValueError("429")
        with start_span("second", kind=LLM) as second:
            answer(second, "r", output_tokens=2)
    (call,) = spans()
    assert (call.name, call.status, call.usage) == ("outer", Status.OK, Usage(output_tokens=2))


def test_neighbours_with_one_response_are_one_call(spans):
    with start_span("parent") as parent:
        first, wrapper = open_in(parent, name="first"), open_in(parent, FUNCTION, "wrapper")
        second = open_in(wrapper, name="second")
        below = open_in(second, FUNCTION, "below")
        for span in (first, second):
            answer(span, "r", output_tokens=2)
        for span in (below, second, wrapper, first):
            span.end()
    by_name = {span.name: span for span in spans()}
    assert set(by_name) == {"parent", "first", "wrapper", "below"}
    assert by_name["below"].parent_id == first.span_id
    assert by_name["first"].usage == Usage(output_tokens=2)


def test_a_response_that_comes_again_from_a_cache_is_another_call(spans):
    with start_span("parent"):
        for _ in range(2):
            with start_span("call", kind=LLM) as call:
                answer(call, "r", output_tokens=2)
    assert names(spans) == ["call", "call", "parent"]


def test_a_duplicate_that_is_told_of_after_the_call_counts_once(spans):
    with start_span("parent") as parent:
        with start_span("call", kind=LLM) as call:
            answer(call, "r", output_tokens=2)
        late = open_span(get(), "late", LLM, msgspec.UNSET, parent, start_ns=call.start_ns)
        answer(late, "r", output_tokens=2)
        late.end(end_ns=call.start_ns + 1)
    assert names(spans) == ["call", "parent"]


def test_tools_of_one_name(spans):
    with start_span("weather", kind=TOOL) as outer, start_span("weather", kind=TOOL) as inner:
        inner.set_output("rain")
        with start_span("other", kind=TOOL):
            pass
    tool, other = spans()
    assert (tool.span_id, tool.output, other.parent_id) == (outer.span_id, "rain", outer.span_id)


def test_a_tool_that_runs_itself_twice_stays_as_it_is(spans):
    with start_span("tree", kind=TOOL):
        for _ in range(2):
            with start_span("tree", kind=TOOL):
                pass
    assert len(spans()) == 3


def test_tool_calls_with_other_ids_are_other_calls(spans):
    for number, kind in enumerate((TOOL, TOOL)):
        span = start_span("weather", kind=kind, attributes={semconv.TOOL_CALL_ID: f"c{number}"})
        span.__enter__()
    while (span := current.get()) is not None:
        span.__exit__(None, None, None)
    assert len(spans()) == 2


def test_embeddings_in_batches_count_each(spans):
    with start_span("all", kind=EMBEDDING):
        for _ in range(3):
            with start_span("batch", kind=EMBEDDING) as batch:
                answer(batch, input_tokens=5)
    assert sum(span.usage.input_tokens for span in spans() if span.usage) == 15
    with start_span("one", kind=EMBEDDING), start_span("request", kind=EMBEDDING) as request:
        answer(request, input_tokens=5)
    assert "request" not in names(spans)


def test_a_stream_that_outlives_the_call_it_is_in(spans):
    outer = open_in(None, name="outer")
    inner = open_in(outer, name="inner")
    outer.end()
    answer(inner, "r", output_tokens=2)
    inner.end()
    (call,) = spans()
    assert call.usage == Usage(output_tokens=2)
    assert call.end_ns > outer.start_ns
    assert call.duration_s >= (inner.start_ns - outer.start_ns) / 1e9


def test_a_call_inside_one_that_is_still_open_is_shown_with_it(spans):
    with start_span("outer", kind=LLM):
        with start_span("inner", kind=LLM) as inner:
            answer(inner, "r", output_tokens=2)
        (call,) = spans()
    assert (call.name, call.status, call.end_ns, call.usage) == ("outer", None, None, Usage(output_tokens=2))


def test_a_span_that_a_processor_drops_holds_nothing_up(home):
    with millstream.recording(
        home=home / "dropping", processors=[lambda span: span if span.name != "x" else None]
    ):
        with start_span("x", kind=LLM), start_span("kept", kind=LLM), start_span("below"):
            pass
        with start_span("x", kind=LLM), start_span("kept too", kind=LLM):
            pass
    assert sorted(span.name for span in open_store(home / "dropping").spans()) == [
        "below",
        "kept",
        "kept too",
    ]


# Memory


def a_span(number, kind, parent=None, end_ns=None, start_ns=0, **fields):
    parent_id = None if parent is None else f"{parent:016x}"
    status = None if end_ns is None else Status.OK
    return Span("a" * 32, f"{number:016x}", parent_id, str(number), kind, start_ns, end_ns, status, **fields)


@pytest.mark.parametrize("root_kind", [FUNCTION, SpanKind.AGENT, SpanKind.WORKFLOW])
def test_a_long_root_holds_nothing(root_kind):
    merger = Merger(Counter())
    merger.opened(a_span(1, root_kind))
    given = 0
    for number in range(2, 5_000):
        merger.opened(a_span(number, LLM, 1, start_ns=number))
        attributes = {semconv.RESPONSE_ID: str(number)}
        given += len(list(merger.ended(a_span(number, LLM, 1, number + 1, number, attributes=attributes))))
        assert len(merger._held) <= 1
    assert given == 4_998


def test_what_is_held_is_bounded(monkeypatch):
    monkeypatch.setattr(merge, "MOST_HELD", 10)
    merger = Merger(Counter())
    merger.opened(a_span(1, TASK))
    given = []
    for number in range(2, 1_000):
        merger.opened(a_span(number, LLM, 1, start_ns=number))
        given += merger.ended(a_span(number, LLM, 1, number + 1, number))
        assert len(merger._held) <= 11
    given += merger.ended(a_span(1, TASK, end_ns=2_000))
    given += merger.rest()
    assert sorted(int(span.name) for span in given) == list(range(1, 1_000))
    assert not merger._traces


@pytest.mark.parametrize("response_id", [None, "r"])
def test_many_calls_at_once_are_read_in_time_in_proportion_to_them(response_id):
    def seconds(calls):
        merger = Merger(Counter())
        told = [
            a_span(
                number,
                LLM,
                end_ns=100_000,
                attributes={semconv.RESPONSE_ID: f"{response_id}{number}"} if response_id else {},
            )
            for number in range(calls)
        ]
        for span in told:
            merger.opened(span)
        started = time.process_time()
        given = [one for span in told for one in merger.ended(span)] + list(merger.rest())
        assert len(given) == calls
        return time.process_time() - started

    seconds(1_000)
    assert seconds(40_000) < 40 * max(seconds(4_000), 0.05)  # 100 times where each waits for each


def test_a_parent_that_is_itself_or_goes_round_is_given():
    merger = Merger(Counter())
    spans = [a_span(1, LLM, 1, 5), a_span(2, LLM, 3, 5), a_span(3, LLM, 2, 5)]
    for span in spans:
        merger.opened(span)
    given = [one for span in spans for one in merger.ended(span)] + list(merger.rest())
    assert 1 <= len(given) <= 3


# Against a model

_KINDS = [LLM, LLM, FUNCTION, TASK, EMBEDDING]
_STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from(_KINDS)), max_size=40)


def play(steps):
    """Open spans inside open ones and end them in any order; what the parent of each is to be, by name."""
    opened, kinds, parents, still_open = {}, {}, {}, []
    for number, (opens, which, kind) in enumerate(steps):
        if opens or not still_open:
            above = still_open[which % len(still_open)] if still_open else None
            name = str(number)
            opened[name] = open_in(opened.get(above), kind, name)
            kinds[name], parents[name] = kind, above
            still_open.append(name)
        else:
            opened[still_open.pop(which % len(still_open))].end()
    for name in still_open:
        opened[name].end()

    def survivor(name):
        above = parents[name]
        merges = above is not None and kinds[name] in (LLM, EMBEDDING) and kinds[above] is kinds[name]
        return survivor(above) if merges else name

    return {name: above and survivor(above) for name, above in parents.items() if survivor(name) == name}


def tree(spans):
    spans = list(spans)
    names_of = {span.span_id: span.name for span in spans}
    assert len(names_of) == len(spans)
    return {span.name: names_of.get(span.parent_id) for span in spans}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS, seed=st.integers())
def test_any_tree_in_any_order(steps, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    with millstream.recording(home=folder):
        expected = play(steps)
    if not expected:
        return
    assert tree(open_store(folder).spans()) == expected
    lines = [line for path in (folder / "journal").glob("*.jsonl") for line in path.read_bytes().splitlines()]
    ends = [line for line in lines if b'"end_ns"' in line]
    random.Random(seed).shuffle(ends)  # noqa: S311  # no secret
    (folder / "shuffled.jsonl").write_bytes(b"\n".join(ends) + b"\n")
    assert tree(open_store(folder / "shuffled.jsonl").spans()) == expected
    merged = open_store(folder).spans()
    (folder / "again.jsonl").write_bytes(b"".join(msgspec.json.encode(span) + b"\n" for span in merged))
    assert tree(open_store(folder / "again.jsonl").spans()) == expected
