"""A framework's methods as steps, wrapped on a class or on every subclass that has its own.

For frameworks whose base class leaves the work to a method that each subclass implements, and where no hook
of the framework reaches what that method gives back: a stream has to be followed, and its step has to be
current while the next piece is fetched.
"""

import functools
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Protocol

from millstream.record import faults
from millstream.record.integrations.calls import Patches
from millstream.record.integrations.families import Family, Replace
from millstream.record.integrations.observed import (
    Observed,
    observe_async_stream,
    observe_stream,
    quietly,
)

Begin = Callable[[Any, tuple[Any, ...], dict[str, Any]], Observed | None]
"""Starts the step of a call from the instance and the call's arguments; `None` where it is not recorded."""


class Listener(Protocol):
    """Takes in the pieces of a streamed answer and tells the answer to its step."""

    def see(self, piece: Any) -> None:
        """Take in a piece."""

    def finish(self) -> None:
        """Tell what came; may be called more than once."""


class Methods:
    """The methods of one framework that are steps, as long as it is recorded.

    `owner` is a class; with `below`, the methods are those of its subclasses, also of later ones.

    Attributes:
        on: whether any are replaced now.
    """

    def __init__(self) -> None:
        self._patches = Patches()
        self._below: list[Family] = []
        self.on = False

    def calls(
        self,
        owner: type,
        names: Iterable[str],
        begin: Begin,
        tell: Callable[[Observed, Any], object],
        *,
        pauses: frozenset[str] = frozenset(),
        below: bool = False,
    ) -> None:
        """Record methods that return their result, at once or awaited."""
        self.put(owner, names, recorded(self.while_on(begin), tell, pauses), below=below)

    def streams(
        self,
        owner: type,
        names: Iterable[str],
        begin: Begin,
        listen: Callable[[Observed], Listener],
        *,
        below: bool = False,
    ) -> None:
        """Record methods that return a stream, at once or awaited."""
        self.put(owner, names, recorded_stream(self.while_on(begin), listen), below=below)

    def generators(
        self,
        owner: type,
        names: Iterable[str],
        begin: Begin,
        listen: Callable[[Observed], Listener],
        *,
        below: bool = False,
    ) -> None:
        """Record methods that are asynchronous generators."""
        self.put(owner, names, recorded_generator(self.while_on(begin), listen), below=below)

    def put(self, owner: type, names: Iterable[str], replace: Replace, *, below: bool = False) -> None:
        """Replace methods, those of them that there are."""
        self.on = True
        if below:
            self._below.append(Family(owner, dict.fromkeys(names, replace)))
            self._below[-1].put()
            return
        for name in names:
            self._patches.put(owner, name, replace)

    def undo(self) -> None:
        """Put everything back; what somebody else has wrapped stays, and records nothing."""
        self.on = False
        while self._below:  # the last one first: each has its hook over the one before
            self._below.pop().undo()
        self._patches.undo()

    def while_on(self, begin: Begin) -> Begin:
        """As `begin`; nothing once the methods have been put back."""

        @functools.wraps(begin)
        def wrapper(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
            return begin(instance, args, kwargs) if self.on else None

        return wrapper


def argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    """An argument of a call that may have been given by position or by name; `None` where it was not."""
    return args[position] if len(args) > position else kwargs.get(name)


def recorded(
    begin: Begin, tell: Callable[[Observed, Any], object], pauses: frozenset[str] = frozenset()
) -> Replace:
    """Record the calls of a method, plain or awaited, and `tell` their results to their steps.

    Exceptions of the names in `pauses` are no failures.
    """

    def done(step: Observed, result: Any) -> Any:
        quietly(tell)(step, result)
        step.end()
        return result

    return _replacing(begin, done, pauses)


def recorded_stream(begin: Begin, listen: Callable[[Observed], Listener]) -> Replace:
    """Record the calls of a method that returns a stream, or one to be awaited, to the end of the stream."""

    def done(step: Observed, pieces: Any) -> Any:
        return pieces if step.inner else _followed(step, pieces, listen)

    return _replacing(begin, done)


def recorded_generator(begin: Begin, listen: Callable[[Observed], Listener]) -> Replace:
    """Record the calls of an asynchronous generator method; other methods stay as they are."""

    def replace(original: Any) -> Any:
        if not inspect.isasyncgenfunction(original):
            return original

        @functools.wraps(original)
        async def generator(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            pieces = original.__get__(self, type(self))(*args, **kwargs)
            step = started(begin, self, args, kwargs)
            stream = pieces
            if step is not None and not step.inner:
                listener = listen(step)
                stream = observe_async_stream(step, pieces, listener.see, listener.finish)
            try:
                async for piece in stream:
                    yield piece
            finally:
                for opened in (stream, pieces):
                    if not opened.ag_running:  # the event loop closes all generators at once when it ends
                        await opened.aclose()

        return generator

    return replace


def started(begin: Begin, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """The step of a call; nothing where it could not be started."""
    try:
        return begin(instance, args, kwargs)
    except Exception as fault:  # noqa: BLE001  # whatever a framework's new version does
        framework = begin.__module__.removeprefix(f"{__package__}.").partition(".")[0]
        faults.swallow(fault, f"a step of {framework} could not be started")
        return None


def _replacing(
    begin: Begin, done: Callable[[Observed, Any], Any], pauses: frozenset[str] = frozenset()
) -> Replace:
    def failed(step: Observed, error: BaseException) -> None:
        step.end(None if type(error).__name__ in pauses else error)

    async def awaited(step: Observed, result: Any) -> Any:
        try:
            with step.inside():
                result = await result
        except BaseException as error:
            failed(step, error)
            raise
        return done(step, result)

    def replace(original: Any) -> Any:
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def asynchronous(self: Any, *args: Any, **kwargs: Any) -> Any:
                result = original.__get__(self, type(self))(*args, **kwargs)
                step = started(begin, self, args, kwargs)
                return await (result if step is None else awaited(step, result))

            return asynchronous

        @functools.wraps(original)
        def plain(self: Any, *args: Any, **kwargs: Any) -> Any:
            call = original.__get__(self, type(self))
            step = started(begin, self, args, kwargs)
            if step is None:
                return call(*args, **kwargs)
            try:
                with step.inside():
                    result = call(*args, **kwargs)
            except BaseException as error:
                failed(step, error)
                raise
            return awaited(step, result) if inspect.iscoroutine(result) else done(step, result)

        return plain

    return replace


def _followed(step: Observed, pieces: Any, listen: Callable[[Observed], Listener]) -> Any:
    """The stream, followed to its end; one that is thrown away before its first piece ends its step, too."""
    if not hasattr(pieces, "__anext__") and not hasattr(pieces, "__next__"):  # no stream after all
        step.end()
        return pieces
    listener = listen(step)
    observe: Any = observe_async_stream if hasattr(pieces, "__anext__") else observe_stream
    stream = observe(step, pieces, listener.see, listener.finish)
    weakref.finalize(stream, _left, step, listener.finish).atexit = False
    return stream


def _left(step: Observed, finish: Callable[[], None]) -> None:
    if step.span.is_open:
        quietly(finish)()
        step.end()
