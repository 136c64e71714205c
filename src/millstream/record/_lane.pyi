from contextvars import Token
from mmap import mmap
from typing import Any, Literal

from millstream.context import SpanContext
from millstream.record.live import LiveSpan

class Lane:
    dropped: int
    def __init__(self, *parts: Any) -> None: ...
    def open(
        self,
        name: str,
        kind: Any,
        label: str,
        workload_id: str | None,
        content: Any,
        parent: SpanContext | None = ...,
        /,
    ) -> LiveSpan | None: ...
    def drop_root(
        self, name: str, marker: LiveSpan, /
    ) -> Token[SpanContext | None] | Literal[False] | None: ...
    def finish(self, span: LiveSpan, output: Any, /) -> int | None: ...

class Window:
    def __init__(self, room: mmap, /) -> None: ...
    def write(self, line: bytes, /) -> None: ...
    def seal(self) -> None: ...
