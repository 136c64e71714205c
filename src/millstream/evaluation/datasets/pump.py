"""An iterator read on a thread of its own: for what may hang, or runs an event loop."""

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

T = TypeVar("T")

_WAITING: Final = 4
"""Members that are held until they are asked for."""
_LOOK_S: Final = 0.1


class SilentError(Exception):
    """Nothing came for too long."""


def pumped(make: Callable[[], Iterator[T]], silence_s: float | None = None) -> Iterator[T]:
    """The members of an iterator that is made and read on a thread.

    Args:
        make: called on the thread.
        silence_s: the longest wait for a member, in seconds; `None` waits for ever.

    Raises:
        SilentError: nothing came for so long; the thread is left behind.
        BaseException: what the iterator raised.
    """
    box: queue.Queue[tuple[str, Any]] = queue.Queue(_WAITING)
    left = threading.Event()
    context = contextvars.copy_context()
    run = threading.Thread(target=context.run, args=(_read, make, box, left), name="dataset", daemon=True)
    run.start()
    try:
        while True:
            try:
                what, value = box.get(timeout=silence_s)
            except queue.Empty:
                raise SilentError from None
            if what == "end":
                return
            if what == "error":
                raise value
            yield value
    finally:
        left.set()


def _read(
    make: Callable[[], Iterator[T]], box: "queue.Queue[tuple[str, Any]]", left: threading.Event
) -> None:
    def put(what: str, value: Any) -> bool:
        while not left.is_set():
            try:
                box.put((what, value), timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False

    try:
        for value in make():
            if not put("member", value):
                return
    except BaseException as error:  # noqa: BLE001  # raised where it is read
        put("error", error)
    else:
        put("end", None)
