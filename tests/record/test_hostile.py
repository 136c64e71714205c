"""What a user's program may do to its telemetry; it must neither notice nor lose the span."""

import asyncio
import contextlib
import functools
import subprocess
import sys
import threading
from multiprocessing.pool import ThreadPool
from unittest.mock import MagicMock

import msgspec
import numpy as np
import pytest

import millstream
from millstream import Status, Usage, start_span, track_function, track_unregistered_function
from millstream.context import current
from millstream.record import faults
from millstream.span import SpanKind


@pytest.fixture
def lenient(monkeypatch):
    """Faults are swallowed and counted, as in a user's program."""
    monkeypatch.setattr(faults, "strict", False)
    monkeypatch.setattr(faults, "counts", type(faults.counts)())
    return faults


def by_name(spans):
    return {span.name: span for span in spans()}


def parents(spans):
    names = {span.span_id: span.name for span in spans()}
    return {span.name: names.get(span.parent_id) for span in spans()}


CHANGED_MEANWHILE = """
from millstream.record.serialize import to_json
class Clears:
    def __repr__(self):
        items.clear()
        self.junk = [bytearray(8) for _ in range(1000)]
        return "x"
items = [Clears()]
items += [object() for _ in range(2000)]
for wrap in (list, tuple, lambda same: same, lambda same: {"a": [same]}):
    to_json(wrap(items))
    items[:] = [Clears(), *(object() for _ in range(2000))]
print("alive")
"""


def test_an_argument_that_changes_while_it_is_encoded():
    done = subprocess.run(
        [sys.executable, "-c", CHANGED_MEANWHILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda span: span.set_attribute("k", "a\ud800"),
        lambda span: span.set_attribute("a\ud800", 1),
        lambda span: span.set_attribute(None, 1),
        lambda span: span.set_attribute((1, 2), 1),
        lambda span: span.set_attribute("k", 10**5000),
        lambda span: span.set_attribute("k", object()),
        lambda span: span.add_event("x", {"\ud800": 1}),
        lambda span: span.add_event(None),
        lambda span: span.add_event("\ud800"),
        lambda span: span.set_usage(Usage(input_tokens=np.int64(3))),
        lambda span: span.end(status="ok"),
    ],
)
def test_odd_values_are_recorded(spans, change):
    with start_span("odd") as span:
        span.set_attribute("sane", 1)
        change(span)
    (recorded,) = spans()
    assert recorded.status is Status.OK
    assert recorded.attributes["sane"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda span: span.add_event("x", [1]),
        lambda span: span.set_usage("x"),
        lambda span: span.set_usage({"input_tokens": 1}),
        lambda span: span.set_usage(Usage(input_tokens=1.5)),
        lambda span: span.end(status="nonsense"),
        lambda span: span.set_attribute(MagicMock(__str__=MagicMock(side_effect=KeyError)), 1),
        lambda span: span.set_attributes([1]),
    ],
)
def test_what_cannot_be_recorded_is_counted(spans, lenient, change):
    with start_span("odd") as span:
        span.set_attribute("sane", 1)
        change(span)
    (recorded,) = spans()
    assert recorded.status is Status.OK
    assert recorded.attributes["sane"] == 1
    assert lenient.counts.total() == 1


def test_odd_values_keep_their_text(spans):
    with start_span("odd", attributes={"a\ud800": "b\ud800", None: 1, (1, 2): 2}) as span:
        span.add_event("e\ud800", {3: 4})
        span.set_usage(Usage(np.int64(3), None))
    (recorded,) = spans()
    assert recorded.attributes == {"a?": "b?", "None": 1, "(1, 2)": 2}
    assert (recorded.events[0].name, recorded.events[0].attributes) == ("e?", {"3": 4})
    assert recorded.usage == Usage(3, None)


def test_of_a_usage_the_sane_counts_stay(spans, lenient):
    with start_span("llm") as span:
        span.set_usage(Usage(input_tokens=1.5, output_tokens=2))
    assert spans()[0].usage == Usage(None, 2)


@pytest.mark.parametrize(
    ("name", "stored"), [(5, "5"), (None, "None"), ("x\ud800", "x?"), (["a"], "['a']"), ("é", "é")]
)
def test_odd_names(spans, name, stored):
    with start_span(name), start_span("child"):
        pass
    assert parents(spans) == {stored: None, "child": stored}


def test_odd_workload_ids(spans):
    with start_span("a", workload_id="w\ud800"), start_span("b", workload_id=3):
        pass
    assert {name: span.workload_id for name, span in by_name(spans).items()} == {"a": "w?", "b": "3"}


@pytest.mark.parametrize("trace_id", ['nope"', 12, "0" * 32, "", b"x"])
def test_a_trace_id_that_cannot_be_one_is_not_used(spans, lenient, trace_id):
    with start_span("a", trace_id=trace_id), start_span("b"):
        pass
    assert parents(spans) == {"a": None, "b": "a"}
    assert lenient.counts.total() == 1


def test_a_trace_id_in_capitals_is_the_same(spans):
    with start_span("a", trace_id="AB" * 16):
        pass
    assert spans()[0].trace_id == "ab" * 16


def test_attributes_that_are_none_leave_no_open_span(spans, lenient):
    with start_span("a", attributes=[1]), start_span("b"):
        pass
    assert parents(spans) == {"a": None, "b": "a"}
    assert lenient.counts.total() == 1


def test_an_unknown_kind_is_a_function(spans, lenient):
    with start_span("a", kind="NOPE"), start_span("b", kind="LLM"):
        pass
    assert [span.kind for span in spans()] == [SpanKind.FUNCTION, SpanKind.LLM]


def test_an_error_message_that_is_no_unicode(spans):
    with pytest.raises(FileNotFoundError), start_span("a"):
        raise FileNotFoundError("/nonexist\udcff\ud800")
    assert (spans()[0].error.type, spans()[0].error.message) == ("FileNotFoundError", "/nonexist??")


def test_the_end_line_is_written_whatever_is_in_the_span(spans, lenient):
    with contextlib.suppress(KeyError), start_span("a", input=1) as span:
        span.attributes = {MagicMock(__str__=MagicMock(side_effect=KeyError)): 1}
        raise KeyError("x")
    (recorded,) = spans()
    assert (recorded.status, recorded.error.type) == (Status.ERROR, "KeyError")
    assert recorded.attributes == {"millstream.incomplete": True}
    assert lenient.counts.total() == 1


class Frozen(dict):
    pass


CYCLE = {}
CYCLE["a"] = CYCLE
ASSIGNED = [
    ({"output": {"a": {1}}}, {"output": {"a": [1]}}),
    ({"output": "text"}, {"output": "text"}),
    ({"output": 0}, {"output": 0}),
    ({"input": [object]}, {"input": ["<builtins.object>"]}),
    ({"input": 5, "output": "x" * 3000}, {"input": 5, "output": "x" * 3000}),
    ({"input": {"api_key": "opaque"}}, {"input": {"api_key": "[redacted]"}}),
    ({"attributes": {"a": {1}, 2: "b\ud800"}}, {"attributes": {"a": [1], "2": "b?"}}),
    ({"attributes": Frozen(a=10**30)}, {"attributes": {"a": 10**30}}),
    ({"usage": Usage(np.int64(1))}, {"usage": Usage(1)}),
    ({"attributes": CYCLE}, {"attributes": {"a": {"a": "<cycle>"}}}),
    ({"name": 5, "kind": None}, {}),
]
"""What is assigned to the fields of a span, and what is recorded."""


@pytest.mark.parametrize("lane", [True, False])
@pytest.mark.parametrize("watched", ["not", "processor", "subscriber", "held"])
@pytest.mark.parametrize(("fields", "stored"), ASSIGNED, ids=range(len(ASSIGNED)))
def test_what_is_assigned_is_recorded(tmp_path, fields, stored, watched, lane):
    seen = []
    options = {
        "processor": {"processors": [lambda span: seen.append(span) or span]},
        "held": {"sampling": millstream.Sampling(slower_than_s=0)},
    }
    with millstream.recording(tmp_path, **options.get(watched, {})) as made, contextlib.ExitStack() as stack:
        if not lane:
            made._recorder.lane = None
        if watched == "subscriber":
            stack.enter_context(millstream.subscribe(seen.append))
        with start_span("a", input="given") as span:
            span.add_event("x")
            for name, value in fields.items():
                setattr(span, name, value)
            if "attributes" not in fields:
                span.set_attribute("sane", 1)
    (recorded,) = millstream.open_store(tmp_path).spans()
    expected = {"name": "a", "input": "given", "attributes": {"sane": 1}, "kind": SpanKind.FUNCTION, **stored}
    assert {name: getattr(recorded, name) for name in expected} == expected
    assert recorded.events[0].name == "x"
    assert bool(seen) == (watched in options or watched == "subscriber") - (watched == "held")


@pytest.mark.parametrize(
    "fields",
    [{"attributes": "x"}, {"events": [1]}, {"events": "x"}, {"usage": "x"}, {"usage": {"input_tokens": 1}}],
)
def test_what_is_assigned_and_cannot_be_is_counted(spans, lenient, fields):
    with start_span("a") as span:
        span.set_output(1)
        for name, value in fields.items():
            setattr(span, name, value)
    (recorded,) = spans()
    assert (recorded.output, recorded.status) == (1, Status.OK)
    assert lenient.counts.total() == 1


def test_assigned_content_is_not_captured_where_none_is(tmp_path):
    with millstream.recording(tmp_path, capture_content=False), start_span("a") as span:
        span.output = {"a": 1}
        span.attributes = {"b": {2}}
    (recorded,) = millstream.open_store(tmp_path).spans()
    assert (recorded.output, recorded.attributes) == (msgspec.UNSET, {"b": [2]})


def test_each_event_has_its_own_attributes(spans):
    with start_span("a") as span:
        for number in range(3):
            span.add_event("e", {"number": number})
        span.add_event("last")
    assert [event.attributes for event in spans()[0].events] == [
        {"number": 0},
        {"number": 1},
        {"number": 2},
        {},
    ]


def test_arguments_whose_truth_value_raises(spans):
    @track_function
    def f(x, y=1, *rest, **more):
        pass

    f(x=np.array([1, 2]))
    f(np.array([1, 2]), np.array([3, 4]))
    f(0, 0, np.array([1, 2]), more=np.array([3, 4]))
    assert [span.input for span in spans()] == [
        {"x": [1, 2], "y": 1},
        {"x": [1, 2], "y": [3, 4]},
        {"x": 0, "y": 0, "rest": [[1, 2]], "more": {"more": [3, 4]}},
    ]


def test_parameter_names_that_a_struct_cannot_have(spans):
    @track_function
    def f(__x, __post_init__):  # noqa: PYI063  # the name is the subject
        return __x

    assert f(1, 2) == 1
    assert spans()[0].input == {"__x": 1, "__post_init__": 2}


def test_a_class_is_refused():
    with pytest.raises(TypeError, match="K is a class: decorate its methods"):

        @track_function
        class K:
            pass


async def test_objects_with_a_special_call(spans):
    class Waits:
        async def __call__(self):
            with start_span("awaited"):
                await asyncio.sleep(0)

    class Yields:
        def __call__(self):
            with start_span("yielded"):
                yield 1

    await track_function(Waits())()
    await track_unregistered_function(functools.partial(Waits()), name="partial")()
    assert list(track_function(Yields())()) == [1]
    assert parents(spans)["yielded"] == "Yields"
    awaited = [span.parent_id for span in spans() if span.name == "awaited"]
    assert awaited == [by_name(spans)[name].span_id for name in ("Waits", "partial")]
    assert "millstream.chunk_count" in by_name(spans)["Yields"].attributes


@pytest.mark.parametrize(
    ("code", "status"), [(0, Status.OK), (None, Status.OK), (1, Status.ERROR), ("no", Status.ERROR)]
)
def test_exit_codes(spans, code, status):
    @track_function
    def leaves():
        raise SystemExit(code)

    with pytest.raises(SystemExit):
        leaves()
    assert spans()[0].status is status


def test_a_span_open_across_a_yield(spans):
    @track_function
    def stream():
        with start_span("llm"):
            yield 1
            with start_span("child"):
                yield 2
        with start_span("after"):
            pass

    with start_span("root"):
        for _ in stream():
            with start_span("consumer"):
                pass
    assert parents(spans) == {
        "root": None,
        "stream": "root",
        "llm": "stream",
        "child": "llm",
        "after": "stream",
        "consumer": "root",
    }
    assert current.get() is None


async def test_a_span_open_across_an_async_yield(spans):
    @track_function
    async def stream():
        with start_span("llm"):
            yield 1
            with start_span("child"):
                pass
        with start_span("after"):
            pass

    async for _ in stream():
        with start_span("consumer"):
            pass
    assert parents(spans) == {
        "stream": None,
        "llm": "stream",
        "child": "llm",
        "after": "stream",
        "consumer": None,
    }
    assert current.get() is None


def test_a_generator_that_another_thread_goes_on_with(spans):
    @track_function
    def stream():
        with start_span("llm"):
            yield 1
        with start_span("after"):
            yield 2

    made = stream()
    next(made)
    rest = threading.Thread(target=lambda: list(made))
    rest.start()
    rest.join()
    assert parents(spans) == {"stream": None, "llm": "stream", "after": "stream"}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_wrong_arguments_of_a_generator_end_its_span(spans, kind):
    def sync(a):
        yield a

    async def asynchronous(a):
        yield a

    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        track_function(sync if kind == "sync" else asynchronous)()
    assert spans()[0].error.type == "TypeError"


def test_a_generator_that_is_running_goes_on_being_recorded(spans):
    entered, go = threading.Event(), threading.Event()

    @track_function
    def slow():
        entered.set()
        go.wait(10)
        yield 1
        yield 2

    made = slow()
    thread = threading.Thread(target=next, args=(made,))
    thread.start()
    entered.wait(10)
    for step in (made.__next__, made.close):
        with pytest.raises(ValueError, match="generator already executing"):
            step()
    go.set()
    thread.join()
    assert list(made) == [2]
    (span,) = spans()
    assert (span.status, span.attributes["millstream.chunk_count"]) == (Status.OK, 2)


def test_leaving_out_of_order(spans):
    with start_span("root"):
        a, b = start_span("a"), start_span("b")
        a.__enter__()
        b.__enter__()
        a.__exit__(None, None, None)
        b.__exit__(None, None, None)
        with start_span("after"):
            pass
    assert current.get() is None
    assert parents(spans) == {"root": None, "a": "root", "b": "root", "after": "root"}


def test_entering_twice(spans):
    with start_span("a") as a, a:
        pass
    assert current.get() is None


def test_a_subscriber_that_calls_tracked_code(spans):
    seen = []

    @track_function
    def f():
        pass

    def callback(step):
        seen.append(step.event_type)
        f()

    with millstream.subscribe(callback):
        f()
    assert seen == ["SPAN_START", "SPAN_END"]
    assert len(spans()) == 3


def test_a_thread_is_started_again_after_it_could_not_be(spans, monkeypatch):
    @track_function
    def leaf():
        pass

    def refuse(*args, **kwargs):
        raise RuntimeError("can't start new thread")

    with start_span("root"):
        thread = threading.Thread(target=leaf)
        with monkeypatch.context() as patch:
            for name in ("_start_new_thread", "_start_joinable_thread"):  # until Python 3.12, and since
                patch.setattr(threading, name, refuse, raising=False)
            with pytest.raises(RuntimeError, match="can't start"):
                thread.start()
        assert "run" not in vars(thread)
        thread.start()
        thread.join()
    assert parents(spans) == {"root": None, "leaf": "root"}


def test_a_thread_that_refuses_attributes_or_has_its_own_run(spans):
    class Frozen(threading.Thread):
        def __setattr__(self, name, value):
            if name == "run":
                raise AttributeError(name)
            super().__setattr__(name, value)

    def own_run():
        with start_span("own"):
            pass

    with start_span("root"):
        frozen = Frozen(target=track_function(lambda: None))
        own = threading.Thread()
        own.run = own_run
        for thread in (frozen, own):
            thread.start()
            thread.join()
    assert parents(spans) == {"root": None, "<lambda>": "root", "own": "root"}
    assert own.run is own_run


def test_thread_pools_of_multiprocessing(spans):
    @track_function
    def leaf(name):
        return name

    with start_span("a") as a, ThreadPool(2) as pool:
        pool.map(leaf, ["map"])
        with start_span("b") as b:
            pool.apply_async(leaf, ["apply"]).get()
            list(pool.imap(leaf, ["imap"]))
            list(pool.imap_unordered(leaf, ["unordered"]))
            pool.starmap(leaf, [["starmap"]])
        token = current.set(None)
        pool.map(leaf, ["none"])
        current.reset(token)
    found = {span.input["name"]: span.parent_id for span in spans() if span.name == "leaf"}
    inside = dict.fromkeys(["apply", "imap", "unordered", "starmap"], b.span_id)
    assert found == {"map": a.span_id, "none": None, **inside}
