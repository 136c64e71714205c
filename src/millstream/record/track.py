"""`@track_function` and `@track_unregistered_function`: record the calls of any function.

Sync and async functions, generators, async generators, methods, static and class methods, and classes'
instances that can be called. A wrapper adds the record and nothing else: results, exceptions, signatures and
what `inspect` says of a function or coroutine function stay as they were.
"""

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import Any, Final, ParamSpec, TypeVar, cast, overload

import msgspec

from millstream.context import SpanContext, current
from millstream.record import faults, recorder
from millstream.record.live import LiveSpan, leave, unended
from millstream.record.not_recorded import NOT_RECORDED, NOT_SAMPLED
from millstream.record.opening import drop_root, label_of, open_span
from millstream.record.serialize import to_text
from millstream.span import SpanKind, Status

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
_UNSET: Final = msgspec.UNSET
_state: Final = recorder.state
_OK: Final = Status.OK
_FUNCTION: Final = SpanKind.FUNCTION
_get_current: Final = current.get
_set_current: Final = current.set
_reset_current: Final = current.reset


@overload
def track_function(func: F, /) -> F: ...
@overload
def track_function(*, metadata: Mapping[str, Any] | None = None) -> Callable[[F], F]: ...
def track_function(
    func: F | None = None, /, *, metadata: Mapping[str, Any] | None = None
) -> F | Callable[[F], F]:
    """Record each call of a function as a span named after it.

    Args:
        func: the function; none when used as `@track_function(metadata=…)`.
        metadata: attributes of every span.

    Raises:
        TypeError: `metadata` is not a mapping with text keys, or `func` cannot be called.
    """

    def decorate(function: F) -> F:
        return _track(function, name=None, metadata=metadata, opens_scope=False)

    return decorate if func is None else decorate(func)


@overload
def track_unregistered_function(func: F, /) -> F: ...
@overload
def track_unregistered_function(
    *, name: str | None = None, metadata: Mapping[str, Any] | None = None
) -> Callable[[F], F]: ...
def track_unregistered_function(
    func: F | None = None, /, *, name: str | None = None, metadata: Mapping[str, Any] | None = None
) -> F | Callable[[F], F]:
    """Record each call of a function and make it a workload scope: model calls inside carry its name.

    Args:
        func: the function; none when used with arguments.
        name: the span's name and the `workload_id`; default the function's name.
        metadata: attributes of every span.

    Raises:
        TypeError: `metadata` is not a mapping with text keys, or `func` cannot be called.
    """

    def decorate(function: F) -> F:
        return _track(function, name=name, metadata=metadata, opens_scope=True)

    return decorate if func is None else decorate(func)


def _track(function: F, *, name: str | None, metadata: Mapping[str, Any] | None, opens_scope: bool) -> F:
    if isinstance(function, staticmethod | classmethod):
        inner = _track(function.__func__, name=name, metadata=metadata, opens_scope=opens_scope)
        return cast("F", type(function)(inner))
    if isinstance(function, type):
        raise TypeError(f"{function.__name__} is a class: decorate its methods, one by one")
    if not callable(function):
        raise TypeError(f"a function is needed to decorate, not {type(function).__name__}")
    if metadata is not None and not (
        isinstance(metadata, Mapping) and all(isinstance(key, str) for key in metadata)
    ):
        raise TypeError("metadata must be a mapping with text keys, such as {'team': 'search'}")
    call = _Call(function, name, dict(metadata or {}), opens_scope=opens_scope)
    if _is(inspect.isasyncgenfunction, function):
        wrapper = _wrap_async_generator(function, call)
    elif _is(inspect.iscoroutinefunction, function):
        wrapper = _wrap_coroutine(function, call)
    elif _is(inspect.isgeneratorfunction, function):
        wrapper = _wrap_generator(function, call)
    else:
        wrapper = _wrap_function(function, call)
    functools.update_wrapper(wrapper, function)
    return cast("F", wrapper)


def _is(predicate: Callable[[Any], bool], function: Any) -> bool:
    """What `inspect` says of a function, or of the `__call__` of an object."""
    while isinstance(function, functools.partial):
        function = function.func
    return predicate(function) or predicate(getattr(type(function), "__call__", None))  # noqa: B004


class _Call:
    """What is known of a tracked function before it is called: how to start the span of a call."""

    __slots__ = ("_bind", "label", "metadata", "name", "workload_id")

    def __init__(
        self, function: Callable[..., Any], name: str | None, metadata: dict[str, Any], *, opens_scope: bool
    ) -> None:
        self.name = to_text(name or getattr(function, "__name__", None) or type(function).__name__)
        self.label = label_of(self.name, _FUNCTION)
        self.workload_id = self.name if opens_scope else None
        self.metadata = metadata
        self._bind = _binder(function)

    def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LiveSpan | None:
        """The span of one call, not yet current; `None` where nothing is recorded."""
        active = _state.recorder if _state.resolved else recorder.get()
        if active is None:
            return None
        try:
            span = open_span(
                active,
                self.name,
                _FUNCTION,
                self._bind(args, kwargs) if active.capture_content else _UNSET,
                _get_current(),
                self.workload_id,
                self.label,
            )
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "a span could not be started")
            return None
        if self.metadata:
            span.set_attributes(self.metadata)
        return span


def _wrap_function(function: Callable[P, R], call: _Call) -> Callable[P, R]:  # noqa: C901  # kept in one piece
    start, name, label, workload_id = call.start, call.name, call.label, call.workload_id
    bare = not call.metadata

    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:  # noqa: C901
        active = _state.recorder
        span = None
        if active is None:
            if _state.resolved:
                return function(*args, **kwargs)
        elif active.bounds is not None:
            lane = active.lane
            drop = drop_root(active, name, NOT_SAMPLED) if lane is None else lane.drop_root(name, NOT_SAMPLED)
            if drop is not None:
                if drop is False:
                    return function(*args, **kwargs)
                try:
                    return function(*args, **kwargs)
                finally:
                    _reset_current(drop)
        elif active.lane is not None and bare and not active.capture_content:
            span = active.lane.open(name, _FUNCTION, label, workload_id, None)
        if span is None:
            span = start(args, kwargs)
            if span is None or span is NOT_RECORDED:
                return function(*args, **kwargs)
        token = _set_current(span)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            _reset_current(token)
            try:
                span.end(error)
            except RecursionError:
                unended.append((span, error, _UNSET))
            raise
        _reset_current(token)
        try:
            span.end(None, _OK, result)
        except RecursionError:
            unended.append((span, None, result))
        return result

    return wrapper


def _wrap_coroutine(function: Callable[..., Any], call: _Call) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        active = _state.recorder
        if active is not None and active.bounds is not None:
            drop = drop_root(active, call.name, NOT_SAMPLED)
            if drop is False:
                return await function(*args, **kwargs)
            if drop is not None:
                try:
                    return await function(*args, **kwargs)
                finally:
                    with contextlib.suppress(ValueError):  # closed in another context than it ran in
                        _reset_current(drop)
        span = call.start(args, kwargs)
        if span is None or span is NOT_RECORDED:
            return await function(*args, **kwargs)
        span.token = current.set(span)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            leave(span)
            # A coroutine that is closed before it is done was cancelled.
            span.end(None, Status.CANCELLED) if isinstance(error, GeneratorExit) else span.end(error)
            raise
        leave(span)
        span.end(None, _OK, result)
        return result

    return wrapper


def _wrap_generator(function: Callable[..., Any], call: _Call) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        span = call.start(args, kwargs)
        if span is None:
            return function(*args, **kwargs)
        return _TrackedGenerator(_make(function, args, kwargs, span), span)

    return wrapper


def _wrap_async_generator(function: Callable[..., Any], call: _Call) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        span = call.start(args, kwargs)
        if span is None:
            return function(*args, **kwargs)
        return _TrackedAsyncGenerator(_make(function, args, kwargs, span), span)

    return wrapper


def _make(function: Callable[..., Any], args: Any, kwargs: Any, span: LiveSpan) -> Any:
    try:
        return function(*args, **kwargs)
    except BaseException as error:  # wrong arguments
        span.end(error)
        raise


class _Body:
    """Where the body of a generator is: its span, and the span that it has open across a `yield`.

    These are current only while the body runs, so what the consumer does between two values is not in them.
    """

    __slots__ = ("_inside", "_token", "running", "span")

    def __init__(self, span: LiveSpan) -> None:
        self.span = span
        self.running = False
        self._inside: SpanContext | None = span
        self._token: Any = None

    def enter(self) -> None:
        self.running = True
        self._token = current.set(self._inside)

    def leave(self) -> None:
        self.running = False
        inside = current.get()
        try:
            current.reset(self._token)
        except ValueError:  # the event loop closes an abandoned generator in a context of its own
            return
        self._inside = inside


class _TrackedGenerator(Generator[Any, Any, Any]):
    """A generator whose span lasts from the call to its end, and whose body runs inside that span."""

    def __init__(self, generator: Generator[Any, Any, Any], span: LiveSpan) -> None:
        self._generator = generator
        self._body = _Body(span)

    def send(self, value: Any) -> Any:
        return self._step(self._generator.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._generator.throw, *error)

    def close(self) -> None:
        body = self._body
        if body.running:  # Python says that it cannot be closed
            self._generator.close()
            return
        body.enter()
        try:
            self._generator.close()
        except BaseException as error:
            body.leave()
            body.span.end(error)
            raise
        body.leave()
        body.span.end()  # a consumer that stops early is no error

    def __del__(self) -> None:
        if self._body.span.is_open:
            self.close()

    def _step(self, step: Callable[..., Any], *values: Any) -> Any:
        body = self._body
        if body.running:  # in another thread: Python refuses, and the span goes on
            return step(*values)
        body.enter()
        try:
            chunk = step(*values)
        except StopIteration:
            body.leave()
            body.span.end()
            raise
        except BaseException as error:
            body.leave()
            body.span.end(error)
            raise
        body.leave()
        body.span.add_chunk(chunk)
        return chunk


class _TrackedAsyncGenerator(AsyncGenerator[Any, Any]):
    """An async generator whose span lasts from the call to its end, and whose body runs inside that span."""

    def __init__(self, generator: AsyncGenerator[Any, Any], span: LiveSpan) -> None:
        self._generator = generator
        self._body = _Body(span)

    async def asend(self, value: Any) -> Any:
        return await self._step(self._generator.asend(value))

    async def athrow(self, *error: Any) -> Any:
        return await self._step(self._generator.athrow(*error))

    async def aclose(self) -> None:
        body = self._body
        if body.running:  # in another task: Python says that it cannot be closed
            await self._generator.aclose()
            return
        body.enter()
        try:
            await self._generator.aclose()
        except BaseException as error:
            body.leave()
            body.span.end(error)
            raise
        body.leave()
        body.span.end()

    def __del__(self) -> None:
        # The event loop closes the generator itself; a consumer that stops early is no error.
        self._body.span.end()

    async def _step(self, step: Any) -> Any:
        body = self._body
        if body.running:  # in another task: Python refuses, and the span goes on
            return await step
        body.enter()
        try:
            chunk = await step
        except StopAsyncIteration:
            body.leave()
            body.span.end()
            raise
        except BaseException as error:
            body.leave()
            body.span.end(error)
            raise
        body.leave()
        body.span.add_chunk(chunk)
        return chunk


def _binder(function: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """A function from a call's arguments to an object of them by name, defaults included, `self` left out."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some built-in functions do not say
        return _unnamed
    parameters = signature.parameters.values()
    names = [parameter.name for parameter in parameters]
    receiver = bool(names) and names[0] in ("self", "cls") and "." in getattr(function, "__qualname__", "")
    if receiver:
        names = names[1:]
    plain = all(parameter.kind in _POSITIONAL for parameter in parameters)
    variadic = {parameter.name for parameter in parameters if parameter.kind in _VARIADIC}
    arguments = _struct(names) if plain else None
    count = len(names)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = args[1:] if receiver else args
        if arguments is not None and not kwargs and len(given) == count:
            return arguments(*given)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:  # the call itself will say what is wrong
            return _unnamed(args, kwargs)
        bound.apply_defaults()
        named = bound.arguments
        # Only our own tuple and dict are asked whether they are empty: an array would refuse to say.
        return {name: named[name] for name in names if name not in variadic or named[name]}

    return bind


def _struct(names: list[str]) -> Callable[..., Any] | None:
    """A struct of these fields: built and encoded in half the time of a dict. `None` where Python forbids."""
    if any(name.startswith("__") for name in names):
        return None
    try:
        return msgspec.defstruct("Arguments", names)
    except Exception:  # noqa: BLE001  # a dict does as well
        return None


_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _unnamed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"args": args, "kwargs": kwargs} if kwargs else {"args": args}
