"""How each SDK traces a function: one module an SDK, each with `open_adapter`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Scene:
    """What an adapter is given.

    Attributes:
        sink: address of a server that takes everything, without a slash at its end.
        folder: for files.
        kept: takes the spans in place of the server, in the form in which they wait to be sent; `None` where
            they are sent.
    """

    sink: str
    folder: Path
    kept: list[Any] | None = None


def _nothing_to_flush() -> None:
    pass


@dataclass(frozen=True)
class Adapter:
    """An SDK that is ready.

    Attributes:
        trace: makes a traced function of a sync or async one.
        flush: sends what waits; to be awaited where it says so.
        held: must live as long as the adapter.
    """

    trace: Callable[[Any], Any]
    flush: Callable[[], Awaitable[None] | None] = _nothing_to_flush
    held: object = None
