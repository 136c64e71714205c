"""Rows that a Python function gives: the user's own, or a plugin's."""

import asyncio
import inspect
import traceback
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

from millstream.errors import InputError, MillstreamError
from millstream.evaluation.datasets.pump import pumped
from millstream.evaluation.datasets.rows import Row, json_row, kind_of


def rows_of_function(function: Callable[..., Any], keywords: Mapping[str, Any], name: str) -> Iterator[Row]:
    """The rows that a function returns, yields or awaits; see `rows.json_value` for their values.

    Args:
        function: sync or async, a generator, or a class whose objects give rows when iterated over.
        keywords: what it is called with.
        name: of the dataset, for messages.

    Raises:
        InputError: it raised (names the place), or gave something else than rows.
    """
    members = _members(function, keywords, name)
    number = 0
    while True:
        try:
            values = next(members, members)
        except MillstreamError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(
                f"{name} raised {type(error).__name__}: {error}{_place(error, function)}"
            ) from error
        if values is members:
            return
        number += 1
        yield json_row(name, f"row {number}", values)


def _members(function: Callable[..., Any], keywords: Mapping[str, Any], name: str) -> Iterator[Any]:
    made = function(**keywords)
    if inspect.isawaitable(made) or isinstance(made, AsyncIterable):
        yield from pumped(lambda: _awaited(made, name))
    else:
        yield from _iterable(made, name)


def _awaited(made: Any, name: str) -> Iterator[Any]:
    """What an async function or generator gives, in an event loop of its own."""

    async def result() -> Any:
        return await made

    async def following(iterator: AsyncIterator[Any]) -> tuple[bool, Any]:
        try:
            return True, await anext(iterator)
        except StopAsyncIteration:
            return False, None

    with asyncio.Runner() as runner:
        given = made if isinstance(made, AsyncIterable) else runner.run(result())
        if not isinstance(given, AsyncIterable):
            yield from _iterable(given, name)
            return
        iterator = aiter(given)
        while (step := runner.run(following(iterator)))[0]:
            yield step[1]


def _iterable(made: Any, name: str) -> Iterable[Any]:
    if isinstance(made, str | bytes | Mapping) or not isinstance(made, Iterable):
        raise InputError(
            f"{name} returned {kind_of(made)}; it must return rows: a list of mappings, or yield them."
        )
    return made


def _place(error: BaseException, function: Callable[..., Any]) -> str:
    """Where it went wrong: the last line in the function's own file, else the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    try:
        own = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # a callable object
        own = None
    places = [frame for frame in frames if frame.filename == own] or [
        frame for frame in frames if frame.filename != __file__
    ]
    return f" ({places[-1].filename}, line {places[-1].lineno})" if places else ""
