"""Carries the current span into threads: `threading.Thread` and thread pools do not do it by themselves.

Only our own context variable travels; the rest of the context stays as Python leaves it.
"""

import functools
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from millstream.context import SpanContext, current

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
        _pools.worker = getattr(thread, "_worker", None)
        pool.submit = functools.wraps(pool.submit)(_submit)


class _Pools:
    submit: Any = None
    """Python's own `ThreadPoolExecutor.submit`."""
    worker: Any = None
    """What the threads of a pool run; they are told apart by it."""


_pools: Final = _Pools()


@functools.wraps(_thread_start)
def _start(self: Thread) -> None:
    span = current.get()
    # A pool's worker outlives the call that happened to start it: its work brings its own span.
    target = getattr(self, "_target", None)
    if span is not None and (target is None or target is not _pools.worker):
        run = self.run

        def run_in_span() -> None:
            del self.run  # the instance's own again; else it would refer to itself for ever
            _call_in(span, run)

        self.run = run_in_span  # type: ignore[method-assign]
    _thread_start(self)


def _submit(
    self: "ThreadPoolExecutor", fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> "Future[Any]":
    span = current.get()
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
