"""`all_requests_profiler_traces.json`: by the NeMo Agent Toolkit itself, by us, and by nobody careful."""

import json
import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream import SpanKind, Status, Usage, open_store, semconv
from millstream.profiler import profile
from millstream.profiler.renderers import traces
from millstream.span import Span, SpanError
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import EPOCH_NS, runs

DATA = Path(__file__).parent / "data" / "nat_traces.json"
"""Made by `make_nat_traces.py`."""
FLOAT_NS = 500
"""What a float of Unix seconds cannot tell apart."""


# By the toolkit


@pytest.fixture(scope="module")
def toolkit():
    """By request and name: spans."""
    store = open_store(DATA)
    spans = list(store.spans())
    assert store.format == "nat_traces"
    assert not store.rejected
    order = store.trace_order
    return [[span for span in spans if span.trace_id == trace_id] for trace_id in order]


def named(spans, name):
    return [span for span in spans if span.name == name]


def test_a_request_is_a_trace_also_one_without_steps_and_its_id_is_the_workflows(toolkit):
    assert [len(request) for request in toolkit] == [8, 0, 9]
    order = open_store(DATA).trace_order
    assert order == []  # nothing was read yet
    store = open_store(DATA)
    list(store.spans())
    assert store.trace_order[2] == f"{2:032x}"
    assert len(set(store.trace_order)) == 3
    assert list(store.spans([store.trace_order[2]])) == toolkit[2]
    assert store.trace_order[2] == f"{2:032x}"


def test_the_tree_is_the_one_that_was_recorded(toolkit):
    first = toolkit[0]
    by_id = {span.span_id: span for span in first}
    tree = {
        (span.name, span.kind.value): span.parent_id and by_id[span.parent_id].name
        for span in first
        if span.name != "gpt-x"
    }
    assert tree == {
        ("answer", "WORKFLOW"): None,
        ("agent", "FUNCTION"): "answer",
        ("parse", "FUNCTION"): "agent",
        ("side_by_side", "FUNCTION"): "agent",
        ("weather", "TOOL"): "side_by_side",
    }
    parallel, streamed = named(first, "gpt-x")
    assert by_id[parallel.parent_id].name == "side_by_side"
    assert by_id[streamed.parent_id].name == "agent"
    assert by_id[streamed.parent_id].span_id == named(first, "agent")[0].span_id
    assert streamed.span_id == "0000000022224222"  # the UUID's beginning
    assert all(span.parent_id is None or span.start_ns >= by_id[span.parent_id].start_ns for span in first)


def test_times_are_those_of_start_and_end_whatever_the_handler_put_beside_them(toolkit):
    steps = json.loads(DATA.read_bytes())[0]["intermediate_steps"]
    ends = [s["payload"] for s in steps if s["payload"]["event_type"] == "TOOL_END"]
    assert all(
        end["span_event_timestamp"] > end["event_timestamp"] - 0.001 for end in ends
    )  # the end told twice
    by_name = {span.output is msgspec.UNSET: span for span in named(toolkit[0], "weather")}
    assert by_name[False].duration_s == pytest.approx(0.03, abs=0.025)
    assert by_name[True].duration_s == pytest.approx(0.01, abs=0.009)
    for span in toolkit[0]:
        starts = {round(s["payload"]["event_timestamp"] * 1e9) for s in steps}
        assert {span.start_ns, span.end_ns} <= starts


def test_tokens_that_were_not_told_are_unknown(toolkit):
    untold, told = named(toolkit[0], "gpt-x")
    assert untold.usage is None
    assert told.usage == Usage(input_tokens=12, output_tokens=3, cache_read_tokens=4)
    assert all(span.usage is None for span in toolkit[0] if span.kind is not SpanKind.LLM)


def test_a_model_call_is_told_as_we_tell_it(toolkit):
    _, streamed = named(toolkit[0], "gpt-x")
    assert streamed.input == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What of Oslo?"},
    ]
    assert streamed.output == {"role": "assistant", "content": "Rain."}
    assert streamed.workload_id == "agent"
    attributes = streamed.attributes
    assert attributes[semconv.REQUEST_MODEL] == "gpt-x"
    assert attributes[semconv.FRAMEWORK] == "langchain"
    assert attributes[semconv.CHUNK_COUNT] == 3
    assert 0.004 < attributes[semconv.TIME_TO_FIRST_CHUNK_S] < streamed.duration_s
    (tool,) = attributes[semconv.TOOL_DEFINITIONS]
    assert tool["function"]["name"] == "weather"
    assert not any(name.startswith("chat_") for name in attributes)


def test_what_failed_and_what_never_ended(toolkit):
    failed = next(span for span in named(toolkit[0], "weather") if span.status is Status.ERROR)
    assert failed.error == SpanError("Error", "no such city")
    parsed, raised = named(toolkit[2], "parse")
    assert (parsed.status, parsed.input, parsed.output) == (Status.OK, [["oslo"], {"strict": False}], "OSLO")
    assert parsed.attributes["nat.provided_metadata"] == {"stage": "parse"}
    assert (raised.end_ns, raised.status) == (None, None)  # the toolkit writes no END where a function raised


# By us


def written(spans, tmp_path, name="traces.json"):
    path = tmp_path / name
    traces.write(profile(spans), path)
    return path


def holds(span):
    """What the file can hold of a span."""
    kinds = {SpanKind.WORKFLOW, SpanKind.FUNCTION, SpanKind.LLM, SpanKind.TOOL, SpanKind.TASK}
    model = span.attributes.get(semconv.REQUEST_MODEL)
    return {
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "name": model or span.name if span.kind is SpanKind.LLM else span.name,
        "kind": span.kind if span.kind in kinds else SpanKind.CHAIN,
        "status": None if span.end_ns is None else span.status,
        "error": span.error,
        "input": span.input if span.input is not None else msgspec.UNSET,
        "output": msgspec.UNSET if span.end_ns is None or span.output is None else span.output,
        "usage": None if span.end_ns is None or span.usage == Usage() else span.usage,
    }


def test_our_file_comes_back_as_the_spans_that_it_holds(tmp_path):
    spans = list(runs(40, seed=6))
    found = profile(spans)
    path = tmp_path / "traces.json"
    traces.write(found, path)
    store = open_store(path)
    read = {span.span_id: span for span in store.spans()}
    assert not store.rejected
    assert len(read) == len(spans)
    of_trace = dict(zip(store.trace_order, found.order, strict=True))
    for span in spans:
        got = read[span.span_id]
        assert of_trace[got.trace_id] == span.trace_id
        for field, value in holds(span).items():
            assert getattr(got, field) == value, field
        assert span.workload_id in (got.workload_id, None)
        assert got.attributes == {key: value for key, value in span.attributes.items() if value is not None}
        assert abs(got.start_ns - span.start_ns) < FLOAT_NS
        assert (got.end_ns is None) == (span.end_ns is None)
        assert span.end_ns is None or abs(got.end_ns - span.end_ns) < FLOAT_NS


def test_twice_written_it_is_the_same_file(tmp_path):
    first = written(list(runs(10, seed=7)), tmp_path)
    store = open_store(first)
    spans = list(store.spans())
    again = tmp_path / "again.json"
    traces.write(profile(spans, trace_order=store.trace_order), again)
    assert json.loads(again.read_bytes()) == json.loads(first.read_bytes())


counts = st.none() | st.integers(0, 9)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
contents = st.just(msgspec.UNSET) | texts | st.lists(st.integers() | texts, max_size=2)


@st.composite
def trees(draw):
    """Spans of a few traces, in any order, of every kind, some open, some of parents that are not there."""
    spans = []
    for number in range(draw(st.integers(1, 12))):
        start_ns = EPOCH_NS + draw(st.integers(0, 20)) * 1_000_000
        ended = draw(st.booleans())
        above = draw(st.sampled_from([None, "f" * 16, *(span.span_id for span in spans)]))
        status = draw(st.sampled_from(Status)) if ended else None
        name = draw(texts.filter(bool))
        spans.append(
            Span(
                f"{draw(st.integers(1, 2)):032x}",
                f"{number + 1:016x}",
                above,
                name,
                draw(st.sampled_from(SpanKind)),
                start_ns,
                start_ns + draw(st.integers(0, 20)) * 1_000_000 if ended else None,
                status,
                SpanError("E", name) if status is Status.ERROR else None,
                draw(contents),
                draw(contents),
                Usage(draw(counts), draw(counts), draw(counts), draw(counts))
                if draw(st.booleans())
                else None,
                draw(st.sampled_from([None, name, "w"])),
                {"own": draw(texts)} if draw(st.booleans()) else {},
            )
        )
    return spans


@settings(deadline=None, max_examples=150)
@given(trees())
def test_any_spans_of_ours_come_back(tmp_path_factory, spans):
    path = written(spans, tmp_path_factory.mktemp("written"))
    store = open_store(path)
    read = {(store.trace_order.index(span.trace_id), span.span_id): span for span in store.spans()}
    assert not store.rejected
    assert len(read) == len(spans)
    order = SpanTable.from_spans(spans).trace_ids
    of_trace = {(span.trace_id, span.span_id) for span in spans}
    for span in spans:
        got = read[order.index(span.trace_id), span.span_id]
        expected = holds(span)
        if span.parent_id is not None and (span.trace_id, span.parent_id) not in of_trace:
            expected["parent_id"] = got.parent_id  # of another trace, or of none: kept or a function's
        for field, value in expected.items():
            assert getattr(got, field) == value, field
        assert abs(got.start_ns - span.start_ns) < FLOAT_NS


# By nobody careful


def step(event_type, uuid="1" * 16, at=1.0, parent="root", name="n", **payload):
    event = {"event_type": event_type, "event_timestamp": at, "name": name, "UUID": uuid} | payload
    ancestry = {"function_id": "root", "function_name": "root", "parent_id": None, "parent_name": None}
    return {"parent_id": parent, "function_ancestry": ancestry, "payload": event}


@pytest.fixture
def read(tmp_path):
    """Reads one request of these steps; gives the spans and what was rejected."""

    def read(*steps, text=None):
        path = tmp_path / "traces.json"
        request = {"request_number": 0, "intermediate_steps": list(steps)}
        path.write_text(json.dumps([request]) if text is None else text)
        store = open_store(path)
        return list(store.spans()), dict(store.rejected)

    return read


def test_an_end_without_start_begins_when_it_says_and_stays_open_where_it_does_not(read):
    (known, same, late), rejected = read(
        step("LLM_END", "a", 5.0, span_event_timestamp=3.0),
        step("LLM_END", "b", 5.0, span_event_timestamp=5.0, usage_info={"token_usage": {"prompt_tokens": 7}}),
        step("LLM_END", "c", 5.0),
    )
    assert (known.start_ns, known.end_ns) == (3_000_000_000, 5_000_000_000)
    for open_ in (same, late):
        assert (open_.start_ns, open_.end_ns) == (5_000_000_000, None)
    assert same.usage == Usage(input_tokens=7)  # what it used is not lost
    assert rejected == {"END without START or start time, its span kept open": 2}


def test_an_end_that_stands_before_its_start_belongs_to_it(read):
    (span,), rejected = read(step("TOOL_END", at=2.0), step("TOOL_START", at=1.0))
    assert (span.start_ns, span.end_ns, rejected) == (1_000_000_000, 2_000_000_000, {})


def test_steps_of_one_uuid_are_told_apart_by_name_and_order(read):
    spans, rejected = read(
        step("TOOL_START", "unknown", 1.0, name="a"),
        step("TOOL_START", "unknown", 2.0, name="b"),
        step("TOOL_END", "unknown", 3.0, name="b"),
        step("TOOL_END", "unknown", 4.0, name="a"),
        step("TOOL_START", "unknown", 5.0, name="a"),
        step("TOOL_END", "unknown", 6.0, name="a"),
        step("LLM_START", "inside", 5.5, parent="unknown"),
    )
    assert [(s.name, s.duration_s) for s in spans[:3]] == [("a", 3.0), ("b", 1.0), ("a", 1.0)]
    assert len({span.span_id for span in spans}) == 4
    assert spans[3].parent_id == spans[2].span_id
    assert rejected == {}


def test_what_is_told_twice_is_one_step(read):
    spans, rejected = read(
        step("TOOL_START"), step("TOOL_START"), step("TOOL_END", at=2.0), step("TOOL_END", at=2.0)
    )
    assert [span.duration_s for span in spans] == [1.0]
    assert rejected == {"START told twice": 1, "END told twice": 1}


def test_two_uuids_that_begin_alike_are_two_spans(read):
    one, two = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
    spans, _ = read(step("TOOL_START", one), step("TOOL_START", two), step("LLM_START", "x", parent=two))
    assert len({span.span_id for span in spans}) == 3
    assert all(len(span.span_id) == 16 and int(span.span_id, 16) for span in spans)
    assert spans[2].parent_id == spans[1].span_id


def test_without_a_parent_the_function_is_the_parent(read):
    start = step("FUNCTION_START", "f")
    start["function_ancestry"] = {"function_id": "f", "function_name": "f", "parent_id": "root"}
    inside = step("LLM_START", "l", parent="remote")
    inside["function_ancestry"] = start["function_ancestry"]
    del start["parent_id"]
    lost = step("TOOL_START", "t", parent="a1b2c3d4-0000-4000-8000-000000000000")
    (function, call, tool), rejected = read(start, inside, lost)
    assert (function.parent_id, call.parent_id) == (None, function.span_id)
    assert call.workload_id == "f"
    assert tool.parent_id == "a1b2c3d400004000"  # missing, and counted as such by the table
    assert rejected == {}


def test_a_bad_step_is_counted_and_the_others_are_read(read):
    good = [step("LLM_START"), step("LLM_END", at=2.0)]
    bad = [
        None,
        7,
        {"payload": None},
        step("LLM_WHAT"),
        step("ALIEN_START"),
        step(None),
        step("TOOL_START", at=None),
        step("TOOL_START", at="yesterday"),
        step("TOOL_START", at=math.nan),
        step("TOOL_START", at=10**400),
        step("TOOL_START", at=True),
        step("TOOL_START", uuid=None),
        step("LLM_NEW_TOKEN", uuid="nowhere"),
    ]
    spans, rejected = read(*bad[:5], good[0], *bad[5:], good[1])
    assert [(span.name, span.duration_s) for span in spans] == [("n", 1.0)]
    assert sum(rejected.values()) == len(bad)
    assert rejected["step without a time"] == 5


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 1.5, "12", True, [1]])
def test_tokens_that_are_none_are_unknown_and_the_call_is_kept(read, value):
    usage = {"token_usage": {"prompt_tokens": value, "completion_tokens": 5}}
    (span,), rejected = read(step("LLM_START"), step("LLM_END", at=2.0, usage_info=usage))
    assert span.usage == Usage(output_tokens=5)
    assert rejected == {"number of tokens that is none": 1}


def test_odd_shapes_do_not_stop_the_reader(read):
    odd = [None, 7, "text", [], {"input": None}]
    steps = [
        step(
            "LLM_END", f"{n}", 2.0, data=one, metadata=one, usage_info=one, name=one, span_event_timestamp=one
        )
        for n, one in enumerate(odd)
    ]
    for one, told in zip(steps, odd, strict=True):
        one["function_ancestry"] = told
        one["parent_id"] = told
    spans, _ = read(*steps)
    assert len(spans) == len(odd)
    assert list(read(text='[{"request_number": "x", "intermediate_steps": {"a": 1}}, 5, {"b": 1}]')) == [
        [],
        {"request whose steps are no list": 1, "not a request": 2},
    ]


def test_of_a_torn_file_every_whole_step_is_read(read):
    whole = json.dumps(
        [{"request_number": 3, "intermediate_steps": [step("LLM_START"), step("LLM_END", at=2.0)]}]
    )
    for cut in range(len(whole) - 2, whole.index("LLM_END"), -7):
        spans, rejected = read(text=whole[:cut])
        assert [span.name for span in spans] == ["n"]
        assert sum(rejected.values()) == 1
    assert [span.duration_s for span in read(text=whole[:-3])[0]] == [1.0]


def test_a_step_that_is_no_json_does_not_take_its_request_along(read):
    bad = json.dumps(step("TOOL_START", "2" * 16)).replace("TOOL", "TOOL\\q")
    steps = [json.dumps(step("LLM_START")), bad, json.dumps(step("LLM_END", at=2.0))]
    text = f'[{{"request_number": 0, "intermediate_steps": [{", ".join(steps)}]}}, {json.dumps(REQUEST)}]'
    spans, rejected = read(text=text)
    assert [(span.name, span.duration_s) for span in spans] == [("n", 1.0), ("other", None)]
    assert sum(rejected.values()) == 1


REQUEST = {"request_number": 1, "intermediate_steps": [step("TOOL_START", name="other")]}


def test_requests_are_in_the_order_of_their_numbers_and_may_have_the_same(tmp_path):
    path = tmp_path / "traces.json"
    numbers = [2, 0, 1, 1, None]
    steps = [[step("TOOL_START", f"{place}")] for place in range(len(numbers))]
    told = [
        {"request_number": number, "intermediate_steps": some}
        for number, some in zip(numbers, steps, strict=True)
    ]
    path.write_text(json.dumps(told))
    store = open_store(path)
    spans = list(store.spans())
    assert [spans[place].trace_id for place in (1, 2, 3, 0, 4)] == store.trace_order
    assert list(open_store(path).spans()) == spans  # the ids are made, and the same each time
