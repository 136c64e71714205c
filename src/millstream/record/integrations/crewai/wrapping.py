"""A method of CrewAI as a step: the same for those that are asynchronous."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from millstream.record import faults
from millstream.record.integrations.observed import Observed, quietly

NAME: Final = "crewai"
Start = Callable[[Any, Mapping[str, Any]], Observed | None]
"""Starts the step of a call, given the object and the arguments by name; `None`: it is no step."""
Tell = Callable[[Observed, Any], None]
"""Records what a call returned."""


def as_step(original: Callable[..., Any], start: Start, tell: Tell) -> Callable[..., Any]:
    """A method that does the same inside a step."""
    signature = inspect.signature(original)

    def begin(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
        try:
            arguments = dict(signature.bind(self, *args, **kwargs).arguments)
        except TypeError:  # not what the method takes: it says so itself
            return None
        try:
            return start(self, arguments)
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "a span could not be started")
            return None

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def asynchronous(self: Any, *args: Any, **kwargs: Any) -> Any:
            step = begin(self, args, kwargs)
            if step is None:
                return await original(self, *args, **kwargs)
            with step:
                result = await original(self, *args, **kwargs)
                quietly(tell)(step, result)
                return result

        return asynchronous

    @functools.wraps(original)
    def plain(self: Any, *args: Any, **kwargs: Any) -> Any:
        step = begin(self, args, kwargs)
        if step is None:
            return original(self, *args, **kwargs)
        with step:
            result = original(self, *args, **kwargs)
            quietly(tell)(step, result)
            return result

    return plain
