from collections.abc import Callable
from typing import Any

from millstream.record.conversation import Part, Shape

def read(
    messages: list[Any], shapes: dict[type, Shape], other: Callable[[Any], bytes], /
) -> tuple[list[Part], int]: ...
def marks(parts: list[Part], /) -> list[int]: ...
