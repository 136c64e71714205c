"""An event loop for other people's code: what hangs in it holds up neither the run nor the exit."""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any, Final, NoReturn, Self, TypeVar

T = TypeVar("T")

GRACE_S: Final = 2.0
"""How long cancelled code may take to clean up, and how long it may hold the event loop for it."""
_LOOK_S: Final = 0.1
ENGINE_TASK: Final = "millstream eval"
"""Begins the names of our own tasks, which `StallWatch` may not break off half-way."""


async def in_workers(work: Callable[[], Coroutine[Any, Any, None]], count: int, name: str) -> None:
    """Run so many of the same at a time. When cancelled, or when one raises, all are cancelled.

    Args:
        work: makes one.
        count: how many.
        name: of their tasks.
    """
    workers = [asyncio.create_task(work(), name=f"{ENGINE_TASK} {name} {number}") for number in range(count)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def give_up(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait a little; something of it may still run afterwards."""
    task.cancel()
    await asyncio.wait({task}, timeout=GRACE_S)
    if task.done() and not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain


class DaemonExecutor(ThreadPoolExecutor):
    """A thread of its own for every call, which the end of the program does not wait for.

    In a pool, calls that hang would take the place of those to come, and Python's exit would wait for them.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)  # none is ever started

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Run `fn` now."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  # the future carries it to who waits
                future.set_exception(error)

        threading.Thread(target=run, name="millstream-call", daemon=True).start()
        return future


def run_until_stopped(
    main: Coroutine[Any, Any, T],
    on_signal: Callable[[], None],
    at_once: Callable[[], NoReturn],
) -> T:
    """Run a coroutine to its end, or until SIGINT or SIGTERM: then it is cancelled and cleans up.

    A signal raises nothing in the code that it interrupts, which may be anybody's. What other tasks raise to
    end the program ends only themselves.

    Args:
        main: the coroutine.
        on_signal: called in the handler of the first signal, before anything is cancelled.
        at_once: ends the process whatever runs. Called in the handler of a further signal, also when this
            function has returned; and in a thread, when the event loop stands still after a signal.

    Raises:
        KeyboardInterrupt: a signal came; the process has to end now.
    """
    loop = asyncio.new_event_loop()
    loop.set_default_executor(DaemonExecutor())
    task = loop.create_task(main, name=ENGINE_TASK)
    with _on_signals(loop, task, on_signal, at_once) as received:
        try:
            result = _to_its_end(loop, task)
        except asyncio.CancelledError:
            if not received:
                raise
        finally:
            _close(loop)
        if received:  # also where it came to its end all the same: who waits for us wanted it stopped
            raise KeyboardInterrupt
        return result


def _to_its_end(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[T]") -> T:
    while True:
        try:
            return loop.run_until_complete(task)
        except (KeyboardInterrupt, SystemExit):  # leave the loop from whichever task raised them
            if task.done():
                raise


@contextlib.contextmanager
def _on_signals(
    loop: asyncio.AbstractEventLoop,
    task: "asyncio.Task[Any]",
    on_signal: Callable[[], None],
    at_once: Callable[[], NoReturn],
) -> Iterator[list[int]]:
    received: list[int] = []
    wake = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # the signature of handlers
        received.append(number)
        if len(received) > 1:  # perhaps while this very handler runs
            at_once()
        on_signal()
        with contextlib.suppress(RuntimeError):  # the loop is closed: it came to its end just now
            loop.call_soon_threadsafe(task.cancel)
        wake.set()

    def watch() -> None:
        wake.wait()
        if received and not _answers_until_closed(loop):
            at_once()

    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield received
        return
    threading.Thread(target=watch, name="millstream-stop-watch", daemon=True).start()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        if not received:
            for number, handler in before.items():
                signal.signal(number, handler)
            wake.set()


def _answers_until_closed(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a loop goes on until it is closed; not where something holds it for longer than `GRACE_S`."""
    while True:
        answered = threading.Event()
        try:
            loop.call_soon_threadsafe(answered.set)
        except RuntimeError:  # it is closed
            return True
        if not answered.wait(GRACE_S):
            return loop.is_closed()
        time.sleep(_LOOK_S)


def in_foreign_task(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the code that a signal has just interrupted on the loop's thread is not ours."""
    task = asyncio.current_task(loop)
    return task is not None and not task.get_name().startswith(ENGINE_TASK)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    try:
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=GRACE_S))
        with contextlib.suppress(TimeoutError):
            loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), GRACE_S))
    finally:
        loop.set_exception_handler(lambda *_: None)  # tasks that would not end have been waited for
        loop.close()


class StallWatch:
    """Breaks off a call that holds the event loop for longer than `limit_s`: no timeout of asyncio could.

    An `async` function that calls something slow without `await` keeps every item from going on. A thread
    watches the loop; when it stands still, `error` is raised inside the call that runs. Code that does not
    come back to Python (a C library that never returns) cannot be broken off.

    Args:
        limit_s: seconds; `None` watches nothing.
        error: makes the exception.
    """

    def __init__(self, limit_s: float | None, error: Callable[[], Exception]) -> None:
        self._limit_s = limit_s
        self._error = error
        self._stopped = threading.Event()
        self._beat = 0.0

    def __enter__(self) -> Self:
        if self._limit_s is not None and threading.current_thread() is threading.main_thread():
            self._loop = asyncio.get_running_loop()
            self._before = signal.signal(signal.SIGURG, self._break_off)  # ignored by default, by everyone
            self._beat = self._loop.time()
            self._thread = threading.Thread(
                target=self._watch, args=(self._limit_s,), name="millstream-stall-watch", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_thread"):
            self._stopped.set()
            self._thread.join()
            signal.signal(signal.SIGURG, self._before)

    def _watch(self, limit_s: float) -> None:
        main = threading.main_thread().ident
        step_s = min(1.0, limit_s / 4)
        while main is not None and not self._stopped.wait(step_s):
            if self._loop.time() - self._beat > limit_s:
                signal.pthread_kill(main, signal.SIGURG)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._tick)

    def _tick(self) -> None:
        self._beat = self._loop.time()

    def _break_off(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  # the signature of handlers
        if (
            self._limit_s is not None
            and self._loop.time() - self._beat > self._limit_s
            and in_foreign_task(self._loop)
        ):
            self._beat = self._loop.time()
            raise self._error()
