"""A framework's methods, wrapped where its callbacks tell too little.

Inside a wrapped method a span may be made current without leaking to the caller: when the method returns, or
hands out a piece of its stream, the caller's current span is put back. And a run that an exception ends
without a callback (a cancellation, `SystemExit`) is ended here.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final
from uuid import UUID

import msgspec

from millstream import context
from millstream.span import SpanKind

EndRun = Callable[[UUID, BaseException], None]
"""Ends a run's span, if no callback has."""
SpanOf = Callable[[tuple[Any, ...], dict[str, Any]], context.SpanContext | None]
"""The span that a call is part of, by its arguments."""
_DONE: Final = object()


class Call(msgspec.Struct, eq=False):
    """One call of a wrapped method, and a block inside it; a stream enters it once for each piece.

    Attributes:
        kind: of the runs that the method makes.
        end_run: ends those that an exception leaves.
        span: current inside, where it is not `None`.
        streams: whether the method is a generator.
        runs: those that have begun.
    """

    kind: SpanKind
    end_run: EndRun
    span: context.SpanContext | None = None
    streams: bool = False
    runs: list[UUID] = []
    _outer_span: context.SpanContext | None = None
    _outer_call: "Call | None" = None

    def __enter__(self) -> None:
        outer = self._outer_span = context.current.get()
        self._outer_call = current_call.get()
        if self.span is not None and self.span is not outer:
            context.current.set(self.span)
        current_call.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            for run_id in self.runs:
                self.end_run(run_id, error)
        self.span = context.current.get()
        # Set, not reset by token: an asynchronous generator may be closed by another task.
        if self.span is not self._outer_span:
            context.current.set(self._outer_span)
        current_call.set(self._outer_call)


current_call: Final[ContextVar[Call | None]] = ContextVar("millstream_integration_call", default=None)
"""The innermost wrapped method that this code runs in."""


def wrap(
    method: Callable[..., Any], kind: SpanKind, end_run: EndRun, span_of: SpanOf | None = None
) -> Callable[..., Any]:
    """A method that does the same inside a `Call` of `kind`; it may be asynchronous, and a generator.

    Inside, the span that `span_of` gives is current. Where one of `kind` is already, that is it.
    """
    if inspect.isasyncgenfunction(method):
        return _wrap_asynchronous_stream(method, kind, end_run, span_of)
    if inspect.isgeneratorfunction(method):
        return _wrap_stream(method, kind, end_run, span_of)
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            if span_of is None:
                span = None
            elif getattr(context.current.get(), "kind", None) is kind:
                return await method(*args, **kwargs)
            else:
                span = span_of(args, kwargs)
            with Call(kind, end_run, span):
                return await method(*args, **kwargs)

        return asynchronous

    @functools.wraps(method)
    def plain(*args: Any, **kwargs: Any) -> Any:
        if span_of is None:
            span = None
        elif getattr(context.current.get(), "kind", None) is kind:
            return method(*args, **kwargs)
        else:
            span = span_of(args, kwargs)
        with Call(kind, end_run, span):
            return method(*args, **kwargs)

    return plain


def _wrap_stream(
    method: Callable[..., Any], kind: SpanKind, end_run: EndRun, span_of: SpanOf | None
) -> Callable[..., Any]:
    @functools.wraps(method)
    def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
        pieces = method(*args, **kwargs)
        inside = Call(kind, end_run, None if span_of is None else span_of(args, kwargs), streams=True)
        try:
            while True:
                with inside:
                    piece = next(pieces, _DONE)
                if piece is _DONE:
                    return
                yield piece
        finally:
            with inside:
                pieces.close()

    return stream


def _wrap_asynchronous_stream(
    method: Callable[..., Any], kind: SpanKind, end_run: EndRun, span_of: SpanOf | None
) -> Callable[..., Any]:
    @functools.wraps(method)
    async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        pieces = method(*args, **kwargs)
        inside = Call(kind, end_run, None if span_of is None else span_of(args, kwargs), streams=True)
        try:
            while True:
                with inside:
                    piece = await anext(pieces, _DONE)
                if piece is _DONE:
                    return
                yield piece
        finally:
            if not pieces.ag_running:  # the event loop closes all generators at once when it ends
                with inside:
                    await pieces.aclose()

    return stream


class Patches:
    """Methods that have been replaced on their classes, and the way back."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, str], tuple[Any, Any]] = {}

    def put(self, owner: Any, name: str, replace: Callable[[Any], Any]) -> None:
        """Replace a method, if the class has it and it is not replaced already."""
        original = vars(owner).get(name)
        if original is not None and (owner, name) not in self._made:
            replacement = replace(original)
            setattr(owner, name, replacement)
            self._made[owner, name] = (original, replacement)

    def undo(self) -> None:
        """Put the originals back, but where somebody has wrapped ours: there ours stays and does no harm."""
        for (owner, name), (original, replacement) in list(self._made.items()):
            if vars(owner).get(name) is replacement:
                setattr(owner, name, original)
                del self._made[owner, name]
