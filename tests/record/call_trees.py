"""Call trees: as descriptions, as programs that run under the recorder, and as what must then be recorded."""

import asyncio
import contextlib
import contextvars
import functools
import itertools
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from millstream import Span, Status, recording, start_span, track_function, track_unregistered_function

ASYNC = ("coroutine", "ablock", "agenerator", "task", "gather", "group", "cancelled", "to_thread", "executor")
IN_PLACE = ("function", "scope", "block", "generator", "context")
ELSEWHERE = ("thread", "pool", "to_thread", "executor")
"""Kinds whose children run in a thread of their own, where no event loop runs."""
AT_ONCE = ("gather", "group")
LARGE = 1500
"""Characters that are stored apart from the span."""


class BoomError(Exception):
    """What nodes raise."""


class Node(msgspec.Struct):
    """A call.

    Attributes:
        kind: how it is made.
        children: the calls that it makes, in order.
        raises: whether it raises at its end.
        catches: whether it goes on when a child has raised.
        large: whether its argument is.
        take: of a generator, items that are taken before it is left; it yields one after each child.
        closes: whether it is then closed, rather than forgotten.
        below: of one that is cancelled, kinds of calls below it, in the last of which it waits.
        name: unique in the tree.
    """

    kind: str
    children: list["Node"] = []
    raises: bool = False
    catches: bool = False
    large: bool = False
    take: int = 9
    closes: bool = True
    below: list[str] = []
    name: str = ""

    @property
    def text(self) -> str:
        return self.name + "x" * (LARGE if self.large else 0)


_seldom = st.sampled_from([False] * 7 + [True])
DEPTH = 4


@functools.cache
def _nodes(depth: int, *, in_loop: bool) -> st.SearchStrategy[Node]:
    """Calls that may be made where an event loop runs or where none does."""
    kinds = (*IN_PLACE, *ASYNC, "thread", "pool") if in_loop else (*IN_PLACE, "thread", "pool", "loop")
    return st.one_of(*(_node(kind, depth, in_loop=in_loop) for kind in kinds))


def _node(kind: str, depth: int, *, in_loop: bool) -> st.SearchStrategy[Node]:
    inside = kind == "loop" or (in_loop and kind not in ELSEWHERE)
    if kind in IN_PLACE and in_loop:
        children = st.deferred(lambda: _in_place(depth - 1))
    else:
        children = st.deferred(lambda: _nodes(depth - 1, in_loop=inside))
    return st.builds(
        Node,
        kind=st.just(kind),
        children=st.lists(children, max_size=3, min_size=int(depth == DEPTH)) if depth else st.just([]),
        raises=_seldom,
        catches=st.booleans(),
        large=_seldom,
        take=st.integers(0, 4) if kind in ("generator", "agenerator") else st.just(0),
        closes=st.booleans() if kind in ("generator", "agenerator") else st.just(False),
        below=st.lists(st.sampled_from(["coroutine", "ablock", "agenerator"]), max_size=2)
        if kind == "cancelled"
        else st.just([]),
    )


@functools.cache
def _in_place(depth: int) -> st.SearchStrategy[Node]:
    """Calls that may be made by code that is not asynchronous while an event loop runs."""
    return st.one_of(*(_node(kind, depth, in_loop=True) for kind in (*IN_PLACE, "thread", "pool")))


def named(root: Node, prefix: str = "") -> Node:
    """The same tree, with names."""
    stack, number = [root], 0
    while stack:
        node = stack.pop()
        node.name, number = f"{prefix}{node.kind}{number}", number + 1
        stack += node.children
    return root


trees: st.SearchStrategy[Node] = st.one_of(
    *(_node(kind, DEPTH, in_loop=False) for kind in ("function", "loop", "loop", "thread"))
).map(named)


# A tree as a program


def call(node: Node) -> Any:
    """Make a call, from code that is not asynchronous, or may be."""
    if node.kind == "block":
        with start_span(node.name, input={"text": node.text}) as span:
            result = body(node)
            span.set_output(result)
            return result
    if node.kind == "generator":
        return consume(node)
    function = tracked(node, body)
    if node.kind == "context":
        return contextvars.copy_context().run(function, node.text)
    if node.kind == "pool":
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function, node.text).result()
    if node.kind == "thread":
        return in_thread(function, node.text)
    return function(node.text)


def tracked(node: Node, inside: Callable[[Node], Any]) -> Callable[[str], Any]:
    def function(text: str) -> Any:
        return asyncio.run(abody(node)) if node.kind == "loop" else inside(node)

    if node.kind == "scope":
        return track_unregistered_function(name=node.name)(function)
    function.__name__ = node.name
    return track_function(function)


def body(node: Node) -> int:
    fine = 0
    for child in node.children:
        try:
            call(child)
        except BoomError:
            if not node.catches:
                raise
        else:
            fine += 1
    if node.raises:
        raise BoomError(node.name)
    return fine


def in_thread(function: Callable[[str], Any], text: str) -> Any:
    raised: list[BoomError] = []

    def run() -> None:
        try:
            function(text)
        except BoomError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def consume(node: Node) -> None:
    def function(text: str) -> Iterator[int]:
        for number, child in enumerate(node.children):
            try:
                call(child)
            except BoomError:
                if not node.catches:
                    raise
            with start_span(f"{node.name} holds {number}"):
                yield number
                with start_span(f"{node.name} goes on {number}"):
                    pass
        if node.raises:
            raise BoomError(node.name)

    function.__name__ = node.name
    items = track_function(function)(node.text)
    for number in range(node.take):
        try:
            next(items)
        except StopIteration:
            return
        with start_span(f"{node.name} item {number}"):
            pass
    if node.closes:
        items.close()


async def acall(node: Node) -> Any:
    """Make a call, from asynchronous code."""
    if node.kind not in ASYNC:
        return call(node)
    if node.kind == "ablock":
        with start_span(node.name, input={"text": node.text}) as span:
            result = await abody(node)
            span.set_output(result)
            return result
    if node.kind == "agenerator":
        return await aconsume(node)
    if node.kind == "to_thread":
        return await asyncio.to_thread(tracked(node, body), node.text)
    if node.kind == "executor":
        return await asyncio.get_running_loop().run_in_executor(None, tracked(node, body), node.text)
    waits = asyncio.Event()

    async def function(text: str) -> int:
        result = await abody(node)
        if node.kind == "cancelled":
            await wait_below(node, 0, waits)
        return result

    function.__name__ = node.name
    coroutine = track_function(function)(node.text)
    if node.kind == "task":
        return await asyncio.create_task(coroutine)
    if node.kind == "cancelled":
        return await cancel(coroutine, waits)
    return await coroutine


async def cancel(coroutine: Any, waits: asyncio.Event) -> None:
    task = asyncio.create_task(coroutine)
    waiting = asyncio.create_task(waits.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not task.done():
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def wait_below(node: Node, depth: int, waits: asyncio.Event) -> None:
    """Wait for ever, in the last of the calls below."""
    if depth == len(node.below):
        waits.set()
        await asyncio.Event().wait()
    name = f"{node.name} below {depth}"
    if node.below[depth] == "ablock":
        with start_span(name):
            await wait_below(node, depth + 1, waits)
        return

    async def coroutine() -> None:
        await wait_below(node, depth + 1, waits)

    async def generator() -> AsyncIterator[int]:
        await wait_below(node, depth + 1, waits)
        yield 1

    if node.below[depth] == "coroutine":
        coroutine.__name__ = name
        await track_function(coroutine)()
    else:
        generator.__name__ = name
        async for _ in track_function(generator)():
            pass


async def abody(node: Node) -> int:
    fine = 0
    if node.kind in AT_ONCE:
        results = await at_once(node)
        fine = sum(1 for result in results if not isinstance(result, BoomError))
        for result in results:
            if isinstance(result, BoomError) and not node.catches:
                raise result
    else:
        for child in node.children:
            try:
                await acall(child)
            except BoomError:
                if not node.catches:
                    raise
            else:
                fine += 1
    if node.raises:
        raise BoomError(node.name)
    return fine


async def at_once(node: Node) -> list[Any]:
    async def one(child: Node) -> Any:
        try:
            await asyncio.sleep(0)
            await acall(child)
        except BoomError as error:
            return error

    if node.kind == "gather":
        return await asyncio.gather(*(one(child) for child in node.children))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(child)) for child in node.children]
    return [task.result() for task in tasks]


async def aconsume(node: Node) -> None:
    async def function(text: str) -> AsyncIterator[int]:
        for number, child in enumerate(node.children):
            await asyncio.sleep(0)
            try:
                await acall(child)
            except BoomError:
                if not node.catches:
                    raise
            if node.closes:
                with start_span(f"{node.name} holds {number}"):
                    yield number
                    with start_span(f"{node.name} goes on {number}"):
                        pass
            else:
                yield number
        if node.raises:
            raise BoomError(node.name)

    function.__name__ = node.name
    items = track_function(function)(node.text)
    for number in range(node.take):
        try:
            await anext(items)
        except StopAsyncIteration:
            return
        with start_span(f"{node.name} item {number}"):
            pass
    if node.closes:
        await items.aclose()


# What must be recorded


class Expected(msgspec.Struct):
    """A span as it must be; `after` is the sibling that must have ended before it starts."""

    parent: str | None
    status: Status
    error: str | None = None
    input: Any = msgspec.UNSET
    output: Any = msgspec.UNSET
    workload_id: str | None = None
    chunks: int | None = None
    after: str | None = None


class Model:
    """The spans of a tree, by name."""

    def __init__(self, root: Node) -> None:
        self.spans: dict[str, Expected] = {}
        self.raised = self._call(root, None, None, None)

    def _call(self, node: Node, parent: str | None, scope: str | None, after: str | None) -> str | None:
        """Add what a call leaves; gives the name of the node whose exception comes out of it."""
        span = self.spans[node.name] = Expected(parent, Status.OK, after=after)
        span.input = {"text": node.text}
        span.workload_id = scope = node.name if node.kind == "scope" else scope
        if node.kind in ("generator", "agenerator"):
            raised = self._generator(node, span, scope)
        else:
            fine, raised = self._children(node, scope)
            if raised is None and node.raises:
                raised = node.name
            if raised is None and node.kind == "cancelled":
                self._below(node, span, scope)
            elif raised is None:
                span.output = fine
        if raised is not None:
            span.status, span.error = Status.ERROR, raised
        return raised

    def _children(self, node: Node, scope: str | None) -> tuple[int, str | None]:
        fine, last, first_raised = 0, None, None
        for child in node.children:
            raised = self._call(child, node.name, scope, None if node.kind in AT_ONCE else last)
            last = child.name
            fine += raised is None
            if raised is not None and not node.catches:
                first_raised = first_raised or raised
                if node.kind not in AT_ONCE:
                    break
        return fine, first_raised

    def _below(self, node: Node, span: Expected, scope: str | None) -> None:
        span.status, span.error = Status.CANCELLED, ""
        parent = node.name
        for depth in range(len(node.below)):
            name = f"{node.name} below {depth}"
            self.spans[name] = Expected(parent, Status.CANCELLED, "", workload_id=scope)
            self.spans[name].input = msgspec.UNSET if node.below[depth] == "ablock" else {}
            parent = name

    def _generator(self, node: Node, span: Expected, scope: str | None) -> str | None:
        chunks, last, held = 0, None, None
        outside = Expected(span.parent, Status.OK, workload_id=self._scope_of(span.parent))
        for number in range(node.take):
            if held is not None:
                goes_on = f"{node.name} goes on {number - 1}"
                self.spans[goes_on] = Expected(held, Status.OK, workload_id=scope)
            if number == len(node.children):
                if node.raises:
                    return self._chunked(span, chunks, node.name)
                break
            child = node.children[number]
            raised = self._call(child, node.name, scope, last)
            last = child.name
            if raised is not None and not node.catches:
                return self._chunked(span, chunks, raised)
            if node.kind == "generator" or node.closes:
                last = held = f"{node.name} holds {number}"
                self.spans[held] = Expected(node.name, Status.OK, workload_id=scope, after=child.name)
            self.spans[f"{node.name} item {number}"] = msgspec.structs.replace(outside)
            chunks += 1
        return self._chunked(span, chunks, None)

    def _scope_of(self, name: str | None) -> str | None:
        return None if name is None else self.spans[name].workload_id

    @staticmethod
    def _chunked(span: Expected, chunks: int, raised: str | None) -> str | None:
        span.chunks = chunks or None
        return raised


def compare(spans: list[Span], expected: dict[str, Expected], *, killed: bool = False) -> None:
    """See that what was recorded is what must be: every span once, in its place, with its times in order.

    Args:
        spans: of one tree.
        expected: by name.
        killed: whether the process died meanwhile: then there may be fewer, and some interrupted.
    """
    if killed:
        assert {span.name for span in spans} <= expected.keys()
        assert len({span.name for span in spans}) == len(spans)
    else:
        assert sorted(span.name for span in spans) == sorted(expected)
    by_id = {span.span_id: span for span in spans}
    by_name = {span.name: span for span in spans}
    for span in spans:
        must = expected[span.name]
        parent = by_id.get(span.parent_id)
        assert (None if parent is None else parent.name) == must.parent
        if parent is not None:
            assert parent.trace_id == span.trace_id
            assert parent.start_ns <= span.start_ns
        if must.after is not None:
            assert by_name[must.after].end_ns <= span.start_ns
        if killed and span.status is Status.INTERRUPTED:
            continue
        assert span.start_ns <= span.end_ns
        if parent is not None and parent.end_ns is not None:
            assert span.end_ns <= parent.end_ns
        assert seen(span, must) == must


def seen(span: Span, must: Expected) -> Expected:
    """What was recorded of a span, in the form of what must be."""
    return Expected(
        must.parent,
        span.status,
        None if span.error is None else span.error.message,
        span.input,
        span.output,
        span.workload_id,
        span.attributes.get("millstream.chunk_count"),
        must.after,
    )


def run_for_ever(number: int, folder: Path) -> None:
    """Run one tree after another until killed; says which, before and after, in files."""
    runs = itertools.count()

    @seed(number)
    @settings(max_examples=100_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(root=trees)
    def run(root: Node) -> None:
        run_number = next(runs)
        named(root, f"{run_number} ")
        path = folder / f"{run_number}.json"
        path.with_suffix(".part").write_bytes(msgspec.json.encode(root))
        path.with_suffix(".part").rename(path)
        with contextlib.suppress(BoomError):
            call(root)
        path.with_suffix(".done").touch()

    with recording(segment_bytes=100_000):
        run()


if __name__ == "__main__":
    run_for_ever(int(sys.argv[1]), Path(sys.argv[2]))
