"""Calls of the framework that give an awaitable or a `ResponseStream`: a step that begins when they run.

A stream stays the framework's own object. Its public hooks tell of each piece, make the step current while
the next one is awaited, and say that it has ended. Nothing here holds a stream: the framework takes one that
nobody holds for given up, and so do we.
"""

import inspect
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final

from millstream.record import faults
from millstream.record.integrations.observed import Observed, quietly
from millstream.record.not_recorded import NOT_RECORDED

Begin = Callable[[], Observed]
Tell = Callable[[Observed, Any], None]
Join = Callable[[list[Any]], Any]

_watched: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
"""Streams that are being recorded: several methods of an agent may hand out the same one."""


def observe(
    result: Any, begin: Begin, tell: Tell, *, see: Tell | None = None, join: Join | None = None
) -> Any:
    """The result of a call, which is recorded as a step when it is awaited or its stream is read.

    Args:
        result: an awaitable of the answer or of a stream, or a stream.
        begin: starts the step.
        tell: records the answer.
        see: is shown each piece of a stream, before anybody else.
        join: makes an answer of the pieces that came, where a stream was left before its end.
    """
    if hasattr(result, "with_pull_context_manager"):
        quietly(_Stream(begin, tell, see, join).watch)(result)
        return result
    return _awaited(result, begin, tell, see, join) if inspect.isawaitable(result) else result


async def _awaited(
    result: Awaitable[Any], begin: Begin, tell: Tell, see: Tell | None, join: Join | None
) -> Any:
    step = _start(begin)
    with step.inside():
        try:
            answer = await result
        except BaseException as error:
            step.end(error)
            raise
    if hasattr(answer, "with_pull_context_manager"):
        return observe(answer, lambda: step, tell, see=see, join=join)
    quietly(tell)(step, answer)
    step.end()
    return answer


def _start(begin: Begin) -> Observed:
    try:
        return begin()
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "a span could not be started")
        return Observed(NOT_RECORDED, inner=False)


class _Stream:
    """The step of a stream; begins with the first pull."""

    def __init__(self, begin: Begin, tell: Tell, see: Tell | None, join: Join | None) -> None:
        self._begin: Begin | None = begin
        self._tell = tell
        self._see = see
        self._join = join
        self._step: Observed | None = None
        self._pieces: list[Any] = []
        self._exhausted = False
        self._stream: Callable[[], Any] = lambda: None

    def watch(self, stream: Any) -> None:
        """Be told of everything that happens to a stream."""
        if stream in _watched:
            return
        _watched.add(stream)
        self._stream = weakref.ref(stream)
        weakref.finalize(stream, self._left)
        stream.with_pull_context_manager(lambda: _Pull(self))
        stream.with_cleanup_hook(self._closed)
        stream.with_result_hook(self._answered)
        if self._see is not None:
            stream.with_transform_hook(self._came)

    def step(self) -> Observed:
        """The step, begun if it is not yet."""
        if self._step is None and self._begin is not None:
            self._step = _start(self._begin)
            self._begin = None
        return self._step or Observed(NOT_RECORDED, inner=False)

    def stopped(self, error: BaseException) -> None:
        """A pull gave no piece, but `error`: the stream is used up, or broken off."""
        if isinstance(error, StopAsyncIteration):
            self._exhausted = True  # what stores the answer runs now; then `_answered` is called
        else:
            self._end(error)

    def _came(self, piece: Any) -> None:
        self._pieces.append(piece)
        if self._see is not None and self._step is not None:
            quietly(self._see)(self._step, piece)

    def _answered(self, answer: Any) -> None:
        if self._step is not None:
            quietly(self._tell)(self._step, answer)
            self._finish(None)

    def _closed(self) -> None:
        if not self._exhausted:
            self._end(getattr(self._stream(), "_stream_error", None))

    def _left(self) -> None:
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        if self._step is not None:
            if self._join is not None and self._pieces:
                quietly(lambda step, join: self._tell(step, join(self._pieces)))(self._step, self._join)
            self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        if self._step is not None:
            self._step.end(error)
        self._step = None
        self._pieces = []


class _Pull:
    """A block in which the next piece is awaited."""

    __slots__ = ("_inside", "_stream")

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        self._inside = self._stream.step().inside()
        self._inside.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inside.__exit__(kind, error, traceback)
        if error is not None:
            self._stream.stopped(error)
