"""Is a server that everything needs down? Then one message is better than a failure for every item."""

import socket
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from millstream.errors import UnreachableError
from millstream.evaluation.results import ItemResult
from millstream.workflow.explain import as_millstream_error, explain

T = TypeVar("T")
FIRST_ITEMS: Final = 3
_NO_CONNECTION: Final = frozenset(
    {"ConnectError", "ConnectTimeout", "ConnectionError", "ClientConnectorError"}
)
"""Exceptions of clients that are no `ConnectionError` of Python's: httpx, requests, aiohttp."""


class Reachability:
    """Holds the first results back for as long as every one of them failed for want of a server.

    An item that answers, or fails for another reason, sets free what was held. When `max(3, max_concurrency)`
    items (or all, if they are fewer) have failed so, the run is over; the held items count as not asked.

    Args:
        pending: how many items will be asked.
        max_concurrency: how many at the same time.
    """

    def __init__(self, pending: int, max_concurrency: int) -> None:
        self._needed = min(pending, max(FIRST_ITEMS, max_concurrency))
        self._held: list[ItemResult] = []
        self._decided = False

    def judge(self, result: ItemResult, error: BaseException | None) -> list[ItemResult]:
        """Take a finished item.

        Args:
            result: the item.
            error: what it failed with.

        Returns:
            The results to save now.

        Raises:
            UnreachableError: all of the first items failed for want of a server.
        """
        if self._decided or error is None or not is_unreachable(error):
            self._decided = True
            free, self._held = [*self._held, result], []
            return free
        self._held.append(result)
        if len(self._held) < self._needed:
            return []
        n = len(self._held)
        who = "The only item" if n == 1 else f"All of the first {n} items"
        raise UnreachableError(
            f"{who} failed: {explain(error).rstrip('.')}. Then run the same command again."
        )


class Judges(Generic[T]):
    """Holds scores back for as long as their evaluator fails for want of a server, call after call.

    A call that answers, or fails for another reason, sets free what was held of its evaluator: as missing
    scores. `max(3, max_concurrency)` such failures in a row end the run; what is held counts as not asked.

    Args:
        max_concurrency: how many evaluators run at the same time.
    """

    def __init__(self, max_concurrency: int) -> None:
        self._needed = max(FIRST_ITEMS, max_concurrency)
        self._held: dict[str, list[T]] = {}
        self._last: dict[str, BaseException] = {}
        self._answered: set[str] = set()

    def judge(self, evaluator: str, score: T, error: BaseException | None) -> list[T]:
        """Take a score.

        Args:
            evaluator: whose it is.
            score: to be saved; missing where there is an error.
            error: what the evaluator failed with.

        Returns:
            What to save now.

        Raises:
            UnreachableError: the server of this evaluator is down.
        """
        if error is None or not is_unreachable(error):
            self._answered.add(evaluator)
            return [*self._held.pop(evaluator, []), score]
        held = self._held.setdefault(evaluator, [])
        held.append(score)
        self._last[evaluator] = error
        if len(held) >= self._needed:
            raise self._down(evaluator)
        return []

    def rest(self) -> list[T]:
        """What is still held, when there is nothing more to ask; for `judge`'s errors as well."""
        for evaluator in self._held:
            if evaluator not in self._answered:
                raise self._down(evaluator)
        return [score for held in self._held.values() for score in held]

    def _down(self, evaluator: str) -> UnreachableError:
        return UnreachableError(
            f"The evaluator {evaluator} cannot score: {explain(self._last[evaluator]).rstrip('.')}. "
            "What is scored is kept; then the same command with --resume goes on."
        )


def is_unreachable(error: BaseException) -> bool:
    """Whether an item failed because a server is not there or refuses the credentials."""
    if isinstance(error, Exception) and isinstance(as_millstream_error(error), UnreachableError):
        return True
    return any(
        isinstance(one, ConnectionError | socket.gaierror)
        or any(kind.__name__ in _NO_CONNECTION for kind in type(one).__mro__)
        for one in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, what caused it, and the members of groups; `urllib` keeps its cause in `reason`."""
    seen: set[int] = set()
    left: list[object] = [error]
    while left:
        one = left.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [one.__cause__, getattr(one, "reason", None)]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
