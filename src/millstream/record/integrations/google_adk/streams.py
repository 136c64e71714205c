"""Asynchronous generators as steps, which all of ADK's runs and model calls are."""

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from typing import Any, Final

from millstream.record.integrations.methods import Begin, Listener, Methods, started
from millstream.record.integrations.observed import Observed, quietly

FRAMEWORK: Final = "google-adk"
methods: Final = Methods()
"""The methods of ADK that are replaced, as long as it is recorded."""
PAUSES: Final = frozenset({"NodeInterruptedError"})
"""Names of exceptions by which ADK leaves off, to wait for an answer from outside."""
_DONE: Final = object()


def recorded(begin: Begin, listen: Callable[[Observed], Listener]) -> Callable[[Any], Any]:
    """Record the calls of a generator method.

    The step ends when ADK has cleaned up, which it does inside the step: who leaves a run early cancels calls
    that are still open.
    """

    def replace(method: Any) -> Any:
        begin_step = methods.while_on(begin)

        @functools.wraps(method)
        async def recording(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            pieces = method(self, *args, **kwargs)
            step = started(begin_step, self, args, kwargs)
            inside = nullcontext if step is None else step.inside
            listener = None if step is None else listen(step)
            failure: BaseException | None = None
            try:
                while True:
                    with inside():
                        piece = await anext(pieces, _DONE)
                    if piece is _DONE:
                        return
                    if listener is not None:
                        quietly(listener.see)(piece)
                    yield piece
            except BaseException as error:
                failure = None if type(error).__name__ in PAUSES else error
                raise
            finally:
                try:
                    with inside():
                        await _close(pieces)
                finally:
                    if step is not None and listener is not None:
                        quietly(listener.finish)()
                        step.end(failure)
                    del failure

        return recording

    return replace


async def _close(pieces: Any) -> None:
    if not pieces.ag_running:  # the event loop closes all generators at once when it ends
        await pieces.aclose()
