"""Functions whose body is replaced where they are, so that whoever kept one runs ours.

Other instrumentations keep the method that they find, in a wrapper on a class or on a client, and leave it
there when they are taken off. They look it up no more: what is put in its place on its class is not reached.
"""

import functools
import inspect
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, Final

from millstream.record.integrations.calls import Patches

Method = Callable[..., Any]
_WRAPPED: Final = "__wrapped__"


class Bodies:
    """Methods whose bodies have been replaced, and the way back."""

    def __init__(self) -> None:
        self._made: dict[Any, tuple[FunctionType, CodeType]] = {}
        self._compiled = Patches()

    def put(self, owner: type, name: str, replace: Callable[[Method], Method]) -> None:
        """Replace the body of a method, if it is not replaced already.

        Of a method that somebody has wrapped it is the innermost function's: it is what others may have
        kept. A function that has no body of Python, as a compiled one, is replaced on its class.
        """
        function = inspect.unwrap(vars(owner)[name], stop=self._made.__contains__)
        if function in self._made:
            return
        if not isinstance(function, FunctionType):
            self._compiled.put(owner, name, replace)
            return
        before = _copy(function)
        body = _async_body if inspect.iscoroutinefunction(function) else _body
        code = body.__code__.replace(co_freevars=function.__code__.co_freevars)
        self._made[function] = (before, code)
        function.__kwdefaults__ = {**(before.__kwdefaults__ or {}), "_replacement": replace(before)}
        function.__code__ = code
        functools.update_wrapper(function, before)

    def undo(self) -> None:
        """Put the originals back, but where somebody has replaced ours: there it stays and does no harm."""
        self._compiled.undo()
        for function, (before, code) in list(self._made.items()):
            if function.__code__ is code:
                function.__code__ = before.__code__
                function.__kwdefaults__ = before.__kwdefaults__
                vars(function).pop(_WRAPPED, None)
                del self._made[function]


def _copy(function: FunctionType) -> FunctionType:
    code, defaults, closure = function.__code__, function.__defaults__, function.__closure__
    copy = FunctionType(code, function.__globals__, function.__name__, defaults, closure)
    copy.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(copy, function)
    vars(copy).pop(_WRAPPED)
    return copy


def _body(*args: Any, _replacement: Method, **kwargs: Any) -> Any:
    return _replacement(*args, **kwargs)


async def _async_body(*args: Any, _replacement: Method, **kwargs: Any) -> Any:
    return await _replacement(*args, **kwargs)
