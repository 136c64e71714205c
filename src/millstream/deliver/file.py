"""Spans to a file of JSON lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from millstream.deliver.sink import Result
from millstream.span import Span


class FileSink:
    """Not written yet."""

    aliases: ClassVar = {"output_path": "path", "file_path": "path"}

    def __init__(self, *, path: Path) -> None:
        self.path = path

    def send(self, batch: Sequence[Span]) -> Sequence[Result]:
        """Append the spans."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the file."""
