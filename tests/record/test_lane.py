"""The compiled lane writes what the Python code writes, is taken where it should be, and leaks nothing."""

import contextlib
import gc
import mmap
import os
import shutil
import sys
import time
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from millstream import (
    Redaction,
    Sampling,
    Usage,
    context,
    current_span,
    recording,
    sources,
    start_span,
    subscribe,
    track_function,
    track_unregistered_function,
)
from millstream.record import journal, lane, recorder
from millstream.sources import RandomIds, SteppingClock

if not lane.COMPILED:
    if os.environ.get("CI") == "true" and shutil.which("cc"):
        raise RuntimeError("there is a C compiler, but millstream.record._lane was not built")
    pytest.skip("millstream was built without a C compiler", allow_module_level=True)

from millstream.record._lane import Lane, Window
from millstream.record.not_recorded import NOT_SAMPLED


class BoomError(Exception):
    pass


class Call(msgspec.Struct):
    """A call, the things done in it, in turn, and what it is given and gives back."""

    kind: str
    name: str
    value: Any
    steps: "list[Call | str]" = []


NAMES = st.sampled_from(["plan", "act", "plän", 'say "no"\n', "名"])
VALUES = st.sampled_from(
    [
        None,
        1,
        "x",
        "é",
        b"\xff",
        {1},
        "sk-" + "a" * 20,
        {"api_key": "abc"},
        "x" * 1023,
        ["y" * 1024],
        {"": {}},
    ]
)
STEPS = ["attribute", "usage", "event", "chunk", "output", "subscribe", "unsubscribe", "end", "raise"]
KINDS = ["function", "scope", "metadata", "coroutine", "generator", "agenerator", "block", "trace", "crossed"]
COMMON = ["function"] * 6 + ["scope", "block"]


def calls(depth: int) -> st.SearchStrategy[Call]:
    steps = st.sampled_from(STEPS) | calls(depth - 1) | calls(depth - 1) if depth else st.sampled_from(STEPS)
    kinds = st.sampled_from(COMMON) | st.sampled_from(KINDS)
    return st.builds(Call, kinds, NAMES, VALUES, st.lists(steps, max_size=4))


BY_WORKFLOW = Sampling(rate=0.5, workflows={"plan": 0.0, "act": 1.0})
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "capture_content": st.just(False),
        "redaction": st.sampled_from([None, Redaction(fields=["value"])]),
        "sampling": st.sampled_from([0.0, 0.5, 1.0, BY_WORKFLOW, Sampling(rate=0, keep_errors=True)]),
        "segment_bytes": st.just(1),
        "content_limit": st.just(20),
    },
)
PARENTS = st.sampled_from([None, None, f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'b' * 16}-00"])


class Program:
    """Runs calls, and keeps what a live subscriber is told meanwhile."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self._subscription: subscribe | None = None

    def close(self) -> None:
        if self._subscription is not None:
            self._subscription.unsubscribe()
        self._subscription = None

    def run(self, call: Call) -> None:
        with contextlib.suppress(BoomError):
            getattr(self, f"_{call.kind}")(call)

    def _body(self, call: Call) -> Callable[[Any], Any]:
        def body(value: Any) -> Any:
            for step in call.steps:
                self.run(step) if isinstance(step, Call) else self._step(step, call)
            return value

        body.__name__ = call.name
        return body

    def _step(self, step: str, call: Call) -> None:
        span = current_span()
        if step == "attribute":
            span.set_attribute(call.name, call.value)
        elif step == "usage":
            span.set_usage(Usage(1, 2))
        elif step == "event":
            span.add_event(call.name)
        elif step == "chunk":
            span.add_chunk(call.value)
        elif step == "output":
            span.set_output(call.value)
        elif step == "subscribe" and self._subscription is None:
            self._subscription = subscribe(self.told.append)
        elif step == "unsubscribe":
            self.close()
        elif step == "end":
            span.end()
        elif step == "raise":
            raise BoomError(str(call.value))

    def _function(self, call: Call) -> None:
        track_function(self._body(call))(call.value)

    def _scope(self, call: Call) -> None:
        track_unregistered_function(self._body(call))(value=call.value)

    def _metadata(self, call: Call) -> None:
        track_function(metadata={"is": call.value})(self._body(call))(call.value)

    def _coroutine(self, call: Call) -> None:
        async def function(value: Any) -> Any:
            return self._body(call)(value)

        function.__name__ = call.name
        drive(track_function(function)(call.value))

    def _generator(self, call: Call) -> None:
        def function(value: Any) -> Iterator[Any]:
            yield self._body(call)(value)

        function.__name__ = call.name
        for _ in track_function(function)(call.value):
            break

    def _agenerator(self, call: Call) -> None:
        async def function(value: Any) -> AsyncIterator[Any]:
            yield self._body(call)(value)

        async def consume() -> None:
            async for _ in track_function(function)(call.value):
                pass

        function.__name__ = call.name
        drive(consume())

    def _block(self, call: Call) -> None:
        with start_span(call.name, input=call.value, workload_id=call.name):
            self._body(call)(call.value)

    def _trace(self, call: Call) -> None:
        with start_span(call.name, trace_id="c" * 32):
            self._body(call)(call.value)

    def _crossed(self, call: Call) -> None:
        outer = start_span(call.name).__enter__()
        inner = start_span(call.name).__enter__()
        outer.__exit__(None, None, None)
        try:
            self._body(call)(call.value)
        finally:
            inner.__exit__(None, None, None)
            outer.end()


def drive(coroutine: Coroutine[Any, Any, Any]) -> None:
    with contextlib.suppress(StopIteration):
        coroutine.send(None)


def recorded(
    home: Path, call: Call, times: int, options: dict[str, Any], parent: str | None, *, compiled: bool
) -> tuple[list[bytes], list[Any], dict[str, Any]]:
    """The segments of the journal, what the subscriber was told, and what was counted."""
    program = Program()
    window = journal._new_window if compiled else journal._Window
    environment = {} if parent is None else {"TRACEPARENT": parent}
    clock = SteppingClock()
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(journal, "_new_window", window),
        mock.patch.object(sources.active, "clock", clock),  # the environment's parent is read by this one
    ):
        with recording(home, clock=clock, ids=RandomIds(7), **options) as made:
            if not compiled:
                made._recorder.lane = None
            for _ in range(times):
                program.run(call)
        program.close()
    lines = [path.read_bytes() for path in sorted(home.glob("journal/*"))]
    return lines, program.told, made.stats()


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # to shrink takes minutes, for these are small
)
@given(calls(3), st.sampled_from([1, 1, 150]), OPTIONS, PARENTS)
def test_the_journal_is_the_same_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory,
    call: Call,
    times: int,
    options: dict[str, Any],
    parent: str | None,
) -> None:
    homes = tmp_path_factory.mktemp("with"), tmp_path_factory.mktemp("without")
    with_lane, without = (
        recorded(home, call, times, options, parent, compiled=home is homes[0]) for home in homes
    )
    assert with_lane == without
    for home in homes:
        shutil.rmtree(home)


class Counting:
    """A lane that tells what it took."""

    def __init__(self, inner: Lane) -> None:
        self._inner = inner
        self.opened: list[bool] = []
        self.finished: list[bool] = []

    def open(self, *given: Any) -> Any:
        span = self._inner.open(*given)
        self.opened.append(span is not None)
        return span

    def finish(self, *given: Any) -> Any:
        left = self._inner.finish(*given)
        self.finished.append(left is None)
        return left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture(autouse=True)
def _no_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was imported by other tests; roots then look at its spans."""
    monkeypatch.delitem(sys.modules, context.OTEL, raising=False)


def taken(tmp_path: Path, call: Call, **options: Any) -> tuple[list[bool], list[bool]]:
    with recording(tmp_path, **options) as made:
        Program().run(Call("function", "first", None))  # makes the journal's first window
        active = made._recorder
        for ready, make in (
            (active.ready_traces, active.ids.trace_id),
            (active.ready_spans, active.ids.span_id),
        ):
            ready.clear()  # of the process's ids, of which few may be left
            make()
        counting = made._recorder.lane = Counting(made._recorder.lane)
        Program().run(call)
    return counting.opened, counting.finished


YES, NO = [True], [False]


@pytest.mark.parametrize(
    ("call", "opened", "finished"),
    [
        (Call("function", "f", {"a": [1]}, [Call("scope", "g", "x")]), YES * 2, YES * 2),
        (Call("coroutine", "f", 1), YES, YES),
        (Call("generator", "f", 1), YES, NO),  # its chunks are counted
        (Call("block", "f", 1), YES, YES),
        (Call("crossed", "f", 1), YES * 2, YES * 2),
        (Call("function", "é", 1), NO, NO),
        (Call("function", "f", "é"), YES, YES),
        (Call("function", "f", 1, ["attribute"]), YES, YES),
        (Call("function", "f", 1, ["usage"]), YES, YES),
        (Call("function", "f", 1, ["event"]), YES, YES),
        (Call("function", "f", 1, ["raise"]), YES, []),
        (Call("function", "f", "x" * 1024), YES, YES),
        (Call("function", "f", "sk-" + "a" * 20), YES, NO),
    ],
)
def test_which_spans_take_the_lane(
    tmp_path: Path, call: Call, opened: list[bool], finished: list[bool]
) -> None:
    assert taken(tmp_path, call) == (opened, finished)


def test_the_lane_is_not_taken_where_others_have_a_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Call("function", "f", 1, [Call("function", "g", 1)])
    assert taken(tmp_path, call, capture_content=False) == (YES * 2, YES * 2)
    assert taken(tmp_path, call, sampling=1.0) == (NO + YES, YES * 2)
    with subscribe(lambda _step: None):
        assert taken(tmp_path, call) == (NO * 2, NO * 2)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, context.OTEL, types.ModuleType(context.OTEL))
        assert taken(tmp_path, call) == (NO + YES, YES * 2)
    with monkeypatch.context() as patch:
        patch.setattr(context, "joined", lambda span: (span, None))
        assert taken(tmp_path, call) == (NO * 2, YES * 2)
    for options in ({"processors": [lambda span: span]}, {"sampling": Sampling(keep_errors=True)}):
        with recording(tmp_path, **options) as made:
            assert made._recorder.lane is None


def test_nothing_is_kept_of_spans_that_ended(home: Path) -> None:
    program = Program()
    calls = [
        Call("function", "g", 1),
        Call("function", "é", 1),
        Call("function", "h", 1, ["attribute"]),
        Call("function", "i", "sk-" + "a" * 20),
    ]
    functions = [track_function(program._body(call)) for call in calls]

    @track_unregistered_function
    def outer() -> None:
        for function, call in zip(functions, calls, strict=True):
            function(call.value)

    active = recorder.get()
    shared = [
        active,
        active.journal,
        active.lane,
        type(current_span()),
        context.current,
        True,
        None,
        "outer",
        -1,
    ]

    def run(spans: int) -> tuple[list[int], int]:
        for _ in range(spans // 5):
            outer()
        gc.collect()
        return [sys.getrefcount(each) for each in shared], sys.getallocatedblocks()

    before, after = run(10_000), run(100_000)
    assert after[0] == pytest.approx(before[0], abs=500)
    assert after[1] - before[1] < 2_000


def test_what_was_never_made_or_is_full_declines() -> None:
    bare = Lane.__new__(Lane)
    assert bare.open("f", None, "", None, None) is bare.drop_root("f", NOT_SAMPLED) is None
    with pytest.raises(TypeError):
        bare.finish(start_span("f"), None)
    with pytest.raises(TypeError):
        recorder.get().lane.__init__(*range(11))  # type: ignore[union-attr, misc]
    window = Window(mmap.mmap(-1, 4096))
    window.write(b"x" * 4095)
    with pytest.raises(ValueError, match="no room"):
        window.write(b"xx")
    window.write(b"x")
    window.seal()
    with pytest.raises(ValueError, match="no room"):
        Window.__new__(Window).write(b"")
    with pytest.raises(TypeError):
        window.write("x")  # type: ignore[arg-type]


CLOCKS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "negative": (lambda: -(2**62), lambda: 7),
    "at the end of 64 bits": (lambda: 2**63 - 1, lambda: -5),
    "at the other end": (lambda: -(2**63), lambda: -(2**63)),
    "more than 64 bits": (lambda: 2**70, lambda: 0),
    "in seconds": (time.time, time.perf_counter),
}


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_a_clock_may_tell_anything(
    tmp_path: Path, clock: tuple[Callable[[], Any], Callable[[], Any]]
) -> None:
    wall_ns, monotonic_ns = clock
    with recording(tmp_path, clock=types.SimpleNamespace(wall_ns=wall_ns, monotonic_ns=monotonic_ns)) as made:
        for _ in range(2):
            Program().run(Call("function", "f", 1, [Call("function", "g", 1)]))
    assert made.stats()["stored"] == 4
