"""Carries the current span into processes that Python starts: `multiprocessing` and process pools.

What travels is what would travel over HTTP. A program started as another one takes its environment:
`context.inject_environment`.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from millstream import context
from millstream.record import faults
from millstream.record.integrations.on_import import when_imported

if TYPE_CHECKING:
    from concurrent.futures import Future

_WORKERS: Final = ("multiprocessing.pool", "concurrent.futures.process")
"""Modules whose processes outlive the call that started them: their work brings its own span."""
_POOL_METHODS: Final = ("apply_async", "_map_async", "imap", "imap_unordered")


def install() -> None:
    """Start carrying, where such processes are used."""
    when_imported("multiprocessing.process", _carry_into_processes)
    when_imported("multiprocessing.pool", _carry_into_pools)
    when_imported("concurrent.futures.process", _carry_into_executors)


def run_in(headers: dict[str, str], function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """In the other process: call a function inside the span that `headers` tell of, or inside none."""
    token = context.current.set(None)  # a fork inherits what was current then
    try:
        with context.extract(headers):
            return function(*args, **kwargs)
    finally:
        context.current.reset(token)


def _carried(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, to be called in another process as if it were called here."""
    headers: dict[str, str] = {}
    try:
        context.inject(headers)
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "a process could not be given its span")
    return functools.partial(run_in, headers, function) if headers else function


def _carry_into_processes() -> None:
    from multiprocessing.process import BaseProcess  # noqa: PLC0415  # it has been imported

    process: Any = BaseProcess
    start = process.start

    @functools.wraps(start)
    def carrying(self: Any) -> Any:
        target = getattr(self, "_target", None)
        if target is not None:
            is_worker = getattr(target, "__module__", None) in _WORKERS
            self._target = functools.partial(run_in, {}, target) if is_worker else _carried(target)
        try:
            return start(self)
        except BaseException:
            self._target = target  # it may be started again
            raise

    process.start = carrying


def _carry_into_pools() -> None:
    from multiprocessing import pool  # noqa: PLC0415  # it has been imported

    def carrying(submit: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(submit)
        def wrapper(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if not isinstance(self, pool.ThreadPool):
                func = _carried(func)
            return submit(self, func, *args, **kwargs)

        return wrapper

    for name in _POOL_METHODS:
        setattr(pool.Pool, name, carrying(getattr(pool.Pool, name)))


def _carry_into_executors() -> None:
    from concurrent.futures import process  # noqa: PLC0415  # it has been imported

    executor: Any = process.ProcessPoolExecutor
    submit = executor.submit

    @functools.wraps(submit)
    def carrying(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        result: Future[Any] = submit(self, _carried(fn), *args, **kwargs)
        return result

    executor.submit = carrying
