"""Carries the current span into threads: `threading.Thread` and thread pools do not do it by themselves.

Only our own context variable travels; the rest of the context stays as Python leaves it.
"""

import functools
import sys
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from millstream.context import SpanContext, current, innermost
from millstream.record import faults

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

_thread_start: Final = Thread.start


def install() -> None:
    """Start carrying; twice is once."""
    Thread.start = _start  # type: ignore[method-assign]
    try:
        from concurrent.futures import thread  # noqa: PLC0415  # not a cost of importing us
    except RuntimeError:  # the interpreter is shutting down: no pool can be made any more
        return
    if _pools.submit is None:
        pool: Any = thread.ThreadPoolExecutor
        _pools.submit = pool.submit
        pool.submit = functools.wraps(pool.submit)(_submit)


class _Pools:
    submit: Any = None
    """Python's own `ThreadPoolExecutor.submit`."""
    carries = False
    """Whether `multiprocessing.pool.ThreadPool` carries spans, too."""


_pools: Final = _Pools()


@functools.wraps(_thread_start)
def _start(self: Thread) -> None:
    span = innermost()
    restore = None if span is None else _bring(self, span)
    try:
        _thread_start(self)
    except BaseException:
        if restore is not None:
            restore()  # it may be started again
        raise


def _bring(thread: Thread, span: SpanContext) -> Callable[[], None] | None:
    """Have the thread run in the span; gives what undoes that."""
    try:
        if _is_pool_worker(thread):  # it outlives the call that started it: its work brings its own span
            return None
        run = thread.run
        attributes = vars(thread)  # past a `__setattr__` that refuses
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "a thread could not be given its span")
        return None
    before = attributes.get("run")

    def restore() -> None:  # the thread's own again; else it would refer to itself for ever
        attributes.pop("run", None)
        if before is not None:
            attributes["run"] = before

    def run_in_span() -> None:
        restore()
        _call_in(span, run)

    attributes["run"] = run_in_span
    return restore


def _is_pool_worker(thread: Thread) -> bool:
    target = getattr(thread, "_target", None)
    module = getattr(target, "__module__", None)
    if module == "multiprocessing.pool":
        _carry_in_thread_pools()
        return True
    return module == "concurrent.futures.thread"


def _carry_in_thread_pools() -> None:
    """From the first pool on: its workers start before there is work for them."""
    if _pools.carries:
        return
    _pools.carries = True
    pool: Any = sys.modules["multiprocessing.pool"].ThreadPool
    for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
        setattr(pool, name, _carrying(getattr(pool, name)))


def _carrying(submit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(submit)
    def wrapper(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        span = innermost()
        if span is not None:
            func = functools.partial(_call_in, span, func)
        return submit(self, func, *args, **kwargs)

    return wrapper


def _submit(
    self: "ThreadPoolExecutor", fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> "Future[Any]":
    span = innermost()
    if span is not None:
        fn = functools.partial(_call_in, span, fn)
    result: Future[Any] = _pools.submit(self, fn, *args, **kwargs)
    return result


def _call_in(span: SpanContext, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    token = current.set(span)
    try:
        return fn(*args, **kwargs)
    finally:
        current.reset(token)
