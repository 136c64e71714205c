"""Ours: what is recorded is in the journal on disk when the call returns, so there is nothing to flush."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import millstream
from benchmarks.recording.adapters import Adapter, Scene


async def open_adapter(scene: Scene, *, block: bool = False, **options: Any) -> Adapter:
    """Record into the scene's folder by `@track_function`, or by blocks without content."""
    millstream.recording(home=scene.folder, **options)
    return Adapter(trace=in_block if block else millstream.track_function)


def in_block(function: Callable[..., Any]) -> Callable[..., Any]:
    name = function.__name__
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any) -> Any:
            with millstream.start_span(name):
                return await function(*args)

        return call_async

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        with millstream.start_span(name):
            return function(*args)

    return call
