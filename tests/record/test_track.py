import asyncio
import contextvars
import functools
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

import millstream
from millstream import Status, start_span, track_function, track_unregistered_function
from millstream.context import current
from millstream.sources import CountingIds, SteppingClock
from millstream.span import Span


def by_name(spans) -> dict[str, Span]:
    return {span.name: span for span in spans()}


def test_a_whole_trace_is_exact(tmp_path):
    @track_function(metadata={"team": "search"})
    def inner(a, b=2):
        return {"sum": a + b}

    @track_unregistered_function(name="scope")
    def outer(x):
        return inner(x)

    with millstream.recording(home=tmp_path, clock=SteppingClock(), ids=CountingIds()):
        outer(1)
    second, first = millstream.open_store(tmp_path).spans()
    start = 1_700_000_000_000_000_000
    assert msgspec.to_builtins(first) == {
        "trace_id": "0" * 31 + "1",
        "span_id": "0" * 15 + "1",
        "parent_id": None,
        "name": "scope",
        "kind": "FUNCTION",
        "start_ns": start,
        "end_ns": start + 3_000_000,
        "status": "ok",
        "error": None,
        "input": {"x": 1},
        "output": {"sum": 3},
        "usage": None,
        "workload_id": "scope",
        "attributes": {},
        "events": [],
        "links": [],
    }
    assert (second.name, second.parent_id, second.trace_id) == ("inner", first.span_id, first.trace_id)
    assert (second.input, second.output) == ({"a": 1, "b": 2}, {"sum": 3})
    assert second.workload_id == "scope"
    assert second.attributes == {"team": "search"}
    assert (second.start_ns, second.end_ns) == (start + 1_000_000, start + 2_000_000)


def test_methods_leave_self_out_and_keep_their_kind(spans):
    class Tool:
        @track_function
        def plain(self, x):
            return x

        @track_function
        @classmethod
        def of_class(cls, x):
            return x

        @staticmethod
        @track_function
        def static(x, *rest, flag=False, **more):
            return x

    Tool().plain(1)
    Tool.of_class(2)
    Tool.static(3, 4, flag=True, other=5)
    recorded = by_name(spans)
    assert recorded["plain"].input == {"x": 1}
    assert recorded["of_class"].input == {"x": 2}
    assert recorded["static"].input == {"x": 3, "rest": [4], "flag": True, "more": {"other": 5}}


def test_what_inspect_says_stays(spans):
    @track_function
    async def coroutine(a: int) -> str:
        """Says."""
        return str(a)

    @track_function
    def plain(a: int) -> str:
        return str(a)

    assert inspect.iscoroutinefunction(coroutine)
    assert not inspect.iscoroutinefunction(plain)
    assert coroutine.__doc__ == "Says."
    assert list(inspect.signature(coroutine).parameters) == ["a"]


def test_wrong_arguments_raise_what_python_raises_and_are_recorded(spans):
    @track_function
    def f(a):
        return a

    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        f()
    (span,) = spans()
    assert span.status is Status.ERROR
    assert span.error.type == "TypeError"
    assert current.get() is None


@pytest.mark.parametrize("metadata", ["text", {1: 2}])
def test_bad_metadata_is_refused_at_once(metadata):
    with pytest.raises(TypeError, match="metadata must be a mapping"):
        track_function(metadata=metadata)(len)


def test_an_exception_ends_the_span_and_restores_the_parent(spans):
    @track_function
    def fails():
        raise ValueError("no")

    @track_function
    def fine():
        return 1

    with start_span("block"):
        with pytest.raises(ValueError, match="no"):
            fails()
        fine()
    recorded = by_name(spans)
    assert recorded["fails"].status is Status.ERROR
    assert (recorded["fails"].error.type, recorded["fails"].error.message) == ("ValueError", "no")
    assert recorded["fine"].parent_id == recorded["fails"].parent_id == recorded["block"].span_id
    assert recorded["block"].status is Status.OK


def test_generator_body_runs_inside_and_the_consumer_outside(spans):
    @track_function
    def inside():
        pass

    @track_function
    def outside():
        pass

    @track_function
    def numbers(n):
        for number in range(n):
            inside()
            yield number

    with start_span("block"):
        for _ in numbers(3):
            outside()
    recorded = by_name(spans)
    assert recorded["inside"].parent_id == recorded["numbers"].span_id
    assert recorded["outside"].parent_id == recorded["block"].span_id
    assert recorded["numbers"].attributes["millstream.chunk_count"] == 3
    assert recorded["numbers"].attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert recorded["numbers"].status is Status.OK


def test_generator_belongs_where_it_was_made(spans):
    @track_function
    def numbers():
        yield 1

    with start_span("maker"):
        made = numbers()
    with start_span("consumer"):
        list(made)
    recorded = by_name(spans)
    assert recorded["numbers"].parent_id == recorded["maker"].span_id


def test_generator_early_break_throw_and_send(spans):
    @track_function
    def echo():
        value = yield "first"
        while True:
            value = yield value

    early = echo()
    assert next(early) == "first"
    assert early.send(5) == 5
    early.close()
    failing = echo()
    next(failing)
    with pytest.raises(KeyError):
        failing.throw(KeyError("x"))
    for _ in echo():
        break
    assert [span.status for span in spans()] == [Status.OK, Status.ERROR, Status.OK]
    assert current.get() is None


def test_generator_keeps_its_return_value(spans):
    @track_function
    def inner():
        yield 1
        return "result"

    def outer():
        result = yield from inner()
        yield result

    assert list(outer()) == [1, "result"]


async def test_async_generator_break_and_aclose(spans):
    @track_function
    async def numbers():
        for number in range(10):
            await asyncio.sleep(0)
            yield number

    async for number in numbers():
        if number == 2:
            break
    closed = numbers()
    await anext(closed)
    await closed.aclose()
    assert [number async for number in numbers()] == list(range(10))
    broken, aclosed, whole = spans()
    assert [span.status for span in (broken, aclosed, whole)] == [Status.OK] * 3
    assert [span.attributes["millstream.chunk_count"] for span in (broken, aclosed, whole)] == [3, 1, 10]


async def test_cancellation(spans):
    @track_function
    async def slow():
        await asyncio.sleep(60)

    @track_function
    async def stream():
        yield 1
        await asyncio.sleep(60)

    async def consume():
        async for _ in stream():
            pass

    for make in (slow, consume):
        task = asyncio.create_task(make())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    recorded = by_name(spans)
    assert recorded["slow"].status is Status.CANCELLED
    assert recorded["stream"].status is Status.CANCELLED


async def test_parallel_tasks_are_siblings(spans):
    @track_function
    async def work(name, seconds):
        await asyncio.sleep(seconds)
        return await leaf(name)

    @track_function
    async def leaf(name):
        return name

    with start_span("root") as root:
        await asyncio.gather(
            asyncio.create_task(work("a", 0.02)), asyncio.create_task(work("b", 0.01)), work("c", 0)
        )
    works = {span.input["name"]: span for span in spans() if span.name == "work"}
    leaves = {span.input["name"]: span for span in spans() if span.name == "leaf"}
    assert {span.parent_id for span in works.values()} == {root.span_id}
    assert all(leaves[name].parent_id == works[name].span_id for name in "abc")


def test_threads_and_pools_continue_the_span_that_started_them(spans):
    @track_function
    def leaf(where):
        return where

    with ThreadPoolExecutor(1) as pool:
        with start_span("first") as first:
            pool.submit(leaf, "pool in first").result()
            thread = threading.Thread(target=leaf, args=("thread",))
            thread.start()
            thread.join()
        with start_span("second") as second:
            pool.submit(leaf, "pool in second").result()
            asyncio.run(asyncio.to_thread(leaf, "to_thread"))
        pool.submit(leaf, "pool in none").result()
    parents = {span.input["where"]: span.parent_id for span in spans() if span.name == "leaf"}
    assert parents == {
        "pool in first": first.span_id,
        "thread": first.span_id,
        "pool in second": second.span_id,
        "to_thread": second.span_id,
        "pool in none": None,
    }


def test_a_closed_coroutine_is_cancelled(spans):
    @track_function
    async def waits():
        await asyncio.sleep(0)

    coroutine = waits()
    coroutine.send(None)
    coroutine.close()
    assert by_name(spans)["waits"].status is Status.CANCELLED


def test_leaving_in_another_context_does_not_raise(spans):
    span = start_span("block")
    contextvars.copy_context().run(span.__enter__)
    span.__exit__(None, None, None)
    assert by_name(spans)["block"].status is Status.OK


def test_partial_and_callable_objects(spans):
    class Adder:
        def __call__(self, a, b):
            return a + b

    assert track_function(functools.partial(Adder(), 1))(2) == 3
    assert [span.output for span in spans()] == [3]


def test_nothing_is_recorded_while_off(tmp_path):
    @track_function
    def f():
        return millstream.current_span()

    with millstream.recording(home=tmp_path / "off", enabled=False):
        f().set_attribute("a", 1)
        with start_span("block") as span:
            span.set_output(1)
            span.add_event("x")
    assert not (tmp_path / "off").exists()


def test_content_off_keeps_structure(tmp_path):
    @track_function
    def f(secret):
        return secret

    with millstream.recording(home=tmp_path, capture_content=False):
        f("hidden")
    (span,) = millstream.open_store(tmp_path).spans()
    assert (span.input, span.output) == (msgspec.UNSET, msgspec.UNSET)
    assert "hidden" not in next((tmp_path / "journal").iterdir()).read_text()


def test_events_attributes_and_usage(spans):
    with start_span("llm", kind=millstream.SpanKind.LLM, input=["hi"], attributes={"a": {1, 2}}) as span:
        assert millstream.current_span() is span
        span.add_event("retry", {"wait_s": 1.5})
        span.set_usage(millstream.Usage(3, 4))
        span.set_output({"role": "assistant"})
    span.set_attribute("late", 1)
    (recorded,) = spans()
    assert recorded.attributes == {"a": [1, 2]}
    assert recorded.events[0].name == "retry"
    assert recorded.events[0].attributes == {"wait_s": 1.5}
    assert recorded.start_ns <= recorded.events[0].time_ns <= recorded.end_ns
    assert recorded.usage == millstream.Usage(3, 4)


def test_subscribers_see_events_as_they_happen():
    seen = []

    @track_function
    def numbers():
        yield from "ab"

    @track_unregistered_function
    def scope():
        list(numbers())

    with millstream.subscribe(seen.append), start_span("flow", kind=millstream.SpanKind.WORKFLOW):
        scope()
    scope()
    assert [step.event_type for step in seen] == [
        "WORKFLOW_START",
        "FUNCTION_START",
        "SPAN_START",
        "SPAN_CHUNK",
        "SPAN_CHUNK",
        "SPAN_END",
        "FUNCTION_END",
        "WORKFLOW_END",
    ]
    assert seen[3].payload.data.chunk == "a"
    ancestry = seen[2].function_ancestry
    assert (ancestry.function_name, ancestry.parent_name) == ("scope", "flow")
    assert seen[0].parent_id == "root"
    assert seen[1].parent_id == seen[0].UUID == seen[-1].UUID


def test_a_subscriber_that_raises_harms_nobody(spans, monkeypatch):
    monkeypatch.setattr("millstream.record.faults.strict", False)

    @track_function
    def f():
        return 1

    with millstream.subscribe(lambda step: 1 / 0):
        assert f() == 1
    assert by_name(spans)["f"].status is Status.OK
    assert millstream.stats()["dropped"]["a subscriber raised"] >= 2


def test_spans_that_no_scope_is_around_have_the_name_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MILLSTREAM_NAME", "nightly")
    with millstream.recording(home=tmp_path), start_span("root"):

        @track_unregistered_function(name="scope")
        def inner():
            with start_span("leaf"):
                pass

        inner()
    assert {span.name: span.workload_id for span in millstream.open_store(tmp_path).spans()} == {
        "root": "nightly",
        "scope": "scope",
        "leaf": "scope",
    }
