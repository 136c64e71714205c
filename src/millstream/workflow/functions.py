"""Calling a registered function: arguments from what a person or model gave, its span, its result as JSON."""

import asyncio
import contextvars
import functools
import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from importlib import import_module
from threading import Thread
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model

from millstream.errors import ConfigError, InputError, WorkflowError
from millstream.record.opening import start_span
from millstream.span import SpanKind
from millstream.workflow.components import FunctionInfo
from millstream.workflow.time_limit import TimeLimit

_imported: dict[str, Any] = {}


class Function:
    """A function of a workflow file, built. Each call is a FUNCTION span named by its key.

    Attributes:
        name: its key under `functions`.
        description: what it does.
        arguments_model: pydantic model of its arguments.
        schema: what models are told of its arguments: that, or the JSON schema that the component gave.

    Args:
        name: its key.
        info: what the component offers.
        limit: of each call.
    """

    def __init__(self, name: str, info: FunctionInfo, limit: TimeLimit | None = None) -> None:
        self.name = name
        self._limit = limit or TimeLimit(name, name, None)
        self.description = info.description
        self._fn = info.fn
        self._recorded = info.recorded
        self._signature = _signature(info.fn, name)
        self._model_parameter = _model_parameter(info, self._signature)
        self.arguments_model = _arguments_model(info, name, self._signature, self._model_parameter)
        self._json_schema = info.input_schema if isinstance(info.input_schema, Mapping) else None
        self.schema = self.arguments_model if self._json_schema is None else dict(self._json_schema)

    @property
    def is_async(self) -> bool:
        """Whether it can only be called from async code."""
        call = _routine(self._fn)
        return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it as the plain function, recorded."""
        if not self._recorded:
            return await self._limit.of(call_any(self._fn, *args, **kwargs))
        bound = self._signature.bind(*args, **kwargs)
        with start_span(
            self.name, kind=SpanKind.FUNCTION, input=dict(bound.arguments), workload_id=self.name
        ) as span:
            result = await self._limit.of(call_any(self._fn, *args, **kwargs))
            span.set_output(result)
            return result

    async def ainvoke(self, message: Any) -> Any:
        """Call it with one value: a text, a model, or a mapping of its arguments, recorded.

        Raises:
            InputError: the value does not fit its arguments.
        """
        args, kwargs = self.arguments_of(message)
        return await self(*args, **kwargs)

    async def call_with(self, arguments: Mapping[str, Any]) -> Any:
        """Call it with arguments by name, as a tool call has them, recorded."""
        args, kwargs = self._spread(arguments)
        return await self(*args, **kwargs)

    def call_with_sync(self, arguments: Mapping[str, Any]) -> Any:
        """The same from sync code, for a sync function."""
        args, kwargs = self._spread(arguments)
        bound = self._signature.bind(*args, **kwargs)
        with start_span(
            self.name, kind=SpanKind.FUNCTION, input=dict(bound.arguments), workload_id=self.name
        ) as span:
            result = self._limit.of_sync(self._fn, *args, **kwargs)
            span.set_output(result)
            return result

    async def call_unrecorded(self, message: Any) -> Any:
        """As `ainvoke`, without a span of its own: for the workflow, whose span is the root."""
        args, kwargs = self.arguments_of(message)
        return await self._limit.of(call_any(self._fn, *args, **kwargs))

    async def pieces_unrecorded(self, message: Any) -> AsyncGenerator[Any, None]:
        """As `call_unrecorded`, piece by piece where the function gives pieces."""
        args, kwargs = self.arguments_of(message)
        async for piece in self._limit.of_pieces(pieces_of(self._fn, *args, **kwargs)):
            yield piece

    def arguments_of(self, message: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What one message is as arguments: a mapping of its arguments by name, else its only argument."""
        if self._json_schema is not None:
            return (), self._by_schema(message, self._json_schema)
        fields = self.arguments_model.model_fields
        required = [name for name, field in fields.items() if field.is_required()]
        by_name = (
            isinstance(message, Mapping) and set(message) <= set(fields) and set(required) <= set(message)
        )
        if isinstance(message, BaseModel) and self._model_parameter is not None:
            return (message,), {}
        if self._model_parameter is None and not (by_name and fields):
            if not fields:
                return self._into_variable(message)
            if len(required) > 1:
                raise self._needs(required, message)
            first = (required or list(fields))[0]
            return self._placed({first: message})
        values = (
            message if isinstance(message, Mapping) else {(required or list(fields) or ["input"])[0]: message}
        )
        return self._spread(self._validated(values))

    def _by_schema(self, message: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The same for a function of which only a JSON schema is known; it has no arguments by position."""
        names, required = list(schema.get("properties") or ()), list(schema.get("required") or ())
        if isinstance(message, Mapping) and set(message) <= set(names) and set(required) <= set(message):
            return dict(message)
        if len(required) > 1:
            raise self._needs(required, message)
        return dict.fromkeys((required or names)[:1], message)

    def _needs(self, required: list[str], message: Any) -> InputError:
        return InputError(
            f"{self.name} needs {', '.join(required)}; give a mapping with these keys, not one"
            f" {type(message).__name__}"
        )

    def checked_arguments_of(self, message: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """As `arguments_of`, and of the types that the function's annotations name.

        Raises:
            InputError: the value does not fit its arguments, or they are of other types.
        """
        args, kwargs = self.arguments_of(message)
        if self._model_parameter is not None or not self.arguments_model.model_fields:
            return args, kwargs
        return self._placed(self._validated(self._signature.bind(*args, **kwargs).arguments))

    def _validated(self, values: Mapping[str, Any]) -> dict[str, Any]:
        try:
            checked = self.arguments_model.model_validate(dict(values))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise InputError(f"the input of {self.name} does not fit: {where}: {problem['msg']}") from None
        return {name: getattr(checked, name) for name in checked.model_fields_set}

    def _placed(self, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments as the signature wants them: Python's own functions take some by position only."""
        named = dict(arguments)
        first = [
            named.pop(name)
            for name, parameter in self._signature.parameters.items()
            if parameter.kind is parameter.POSITIONAL_ONLY and name in named
        ]
        return tuple(first), named

    def _into_variable(self, message: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """For a function without named arguments: `*args` takes the message, `**kwargs` a mapping."""
        kinds = {parameter.kind for parameter in self._signature.parameters.values()}
        if inspect.Parameter.VAR_POSITIONAL in kinds:
            return (message,), {}
        if inspect.Parameter.VAR_KEYWORD in kinds and isinstance(message, Mapping):
            return (), {str(key): value for key, value in message.items()}
        return (), {}

    def _spread(self, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._model_parameter is None:
            return self._placed(arguments)
        return (self.arguments_model.model_validate(dict(arguments)),), {}


async def call_any(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a sync or async function, or run a generator to its end.

    Sync functions run in a thread of their own, so that one that hangs can be given up. The pieces of a
    generator are joined when all are text, else a list.
    """
    call = _routine(fn)
    try:
        if inspect.iscoroutinefunction(call):
            return await fn(*args, **kwargs)
        if inspect.isasyncgenfunction(call):
            return await _all_of(fn(*args, **kwargs))
        result = await in_thread(fn, *args, **kwargs)
        if inspect.isawaitable(result):
            return await result
        return await _all_of(result) if inspect.isasyncgen(result) else result
    except SystemExit as stop:  # it would end the event loop, and all other calls with it
        raise WorkflowError(
            f"{getattr(fn, '__name__', 'the function')} called sys.exit({stop.code!r})"
        ) from stop


async def pieces_of(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
    """Call any function, and give the pieces of a generator as they come, else its result."""
    call = _routine(fn)
    if inspect.isasyncgenfunction(call):
        async for piece in fn(*args, **kwargs):
            yield piece
    elif inspect.isgeneratorfunction(call):
        pieces, end = fn(*args, **kwargs), object()
        while (piece := await in_thread(next, pieces, end)) is not end:
            yield piece
    else:
        yield await call_any(fn, *args, **kwargs)


async def in_thread(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run a sync function in a daemon thread with this context; a cancelled caller leaves it behind.

    Unlike the event loop's pool, it cannot run out of threads when some hang, and does not keep the process.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def work() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = context.run(_run, fn, args, kwargs)
        except StopIteration as stop:  # a future cannot carry it
            error = RuntimeError(f"the function raised StopIteration: {stop}")
        except BaseException as raised:  # noqa: BLE001  # the caller raises it
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    Thread(target=work, name=f"millstream {getattr(fn, '__name__', 'call')}", daemon=True).start()
    return await future


async def imported(name: str) -> Any:
    """A module whose import takes long; in a thread, so that the event loop goes on and hears of signals."""
    if name not in _imported:
        _imported[name] = await in_thread(import_module, name)
    return _imported[name]


def _run(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = fn(*args, **kwargs)
    return _joined(list(result)) if isinstance(result, Iterator) and inspect.isgenerator(result) else result


def _routine(fn: Callable[..., Any]) -> Any:
    """The function that runs when `fn` is called: of an object, its `__call__`."""
    if isinstance(fn, functools.partial):
        return _routine(fn.func)
    return fn if inspect.isroutine(fn) else getattr(fn, "__call__", fn)  # noqa: B004


async def _all_of(pieces: AsyncIterator[Any]) -> Any:
    return _joined([piece async for piece in pieces])


def _joined(pieces: list[Any]) -> Any:
    return "".join(pieces) if pieces and all(isinstance(piece, str) for piece in pieces) else pieces


def _signature(fn: Callable[..., Any], name: str) -> inspect.Signature:
    try:
        return inspect.signature(fn)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{name}: the arguments of {fn!r} cannot be read; wrap it in a Python function"
        ) from None


def _named(signature: inspect.Signature) -> list[inspect.Parameter]:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [parameter for parameter in signature.parameters.values() if parameter.kind not in variable]


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(_routine(fn), include_extras=True)
    except (NameError, TypeError):  # an annotation that only a type checker can read
        return {}


def _model_parameter(info: FunctionInfo, signature: inspect.Signature) -> str | None:
    """The parameter that takes all arguments as one pydantic model, if the function has it."""
    parameters = _named(signature)
    if len(parameters) != 1:
        return None
    only = parameters[0].name
    annotation = _hints(info.fn).get(only)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return only
    if isinstance(info.input_schema, type) and only not in info.input_schema.model_fields:
        return only
    return None


def _arguments_model(
    info: FunctionInfo, name: str, signature: inspect.Signature, model_parameter: str | None
) -> type[BaseModel]:
    if isinstance(info.input_schema, type):
        return info.input_schema
    hints = _hints(info.fn)
    if model_parameter is not None:
        model: type[BaseModel] = hints[model_parameter]
        return model
    fields: dict[str, Any] = {}
    for parameter in _named(signature):
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (_described(hints.get(parameter.name, Any)), default)
    options = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())
    try:
        return create_model(f"{name}_arguments", __config__=options, **fields)
    except (NameError, TypeError, PydanticUserError) as error:
        raise ConfigError(f"{name}: its arguments cannot be described to a model: {error}") from error


def _described(annotation: Any) -> Any:
    """`Annotated[str, "what it is"]` tells a model what an argument is, as in LangChain."""
    if get_origin(annotation) is not Annotated:
        return annotation
    kind, *notes = get_args(annotation)
    texts = [note for note in notes if isinstance(note, str)]
    return Annotated[kind, Field(description=texts[0])] if texts else annotation
