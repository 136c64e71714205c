"""How renderers write: whole files or none, strict JSON, content as text."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from millstream.profiler.results import Failure
from millstream.store import strict_json
from millstream.store.strict_json import json_text

LONGEST_SHOWN: Final = 4000
"""Characters of a name in a page."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends, and is removed when it raises."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        with suppress(OSError):  # a folder that cannot be written to has none of it
            partial.unlink(missing_ok=True)


def json_bytes(value: Any, *, indent: int = 2) -> bytes:
    """Strict JSON with its parts on lines of their own."""
    return pretty(strict_json.json_bytes(value), indent=indent)


def pretty(encoded: bytes, *, indent: int = 2) -> bytes:
    """JSON with its parts on lines of their own; as it is where the indent is 0."""
    return msgspec.json.format(encoded, indent=indent) if indent else encoded


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document."""
    with replacing(path) as file:
        file.write(json_bytes(value) + b"\n")


def known(value: Any) -> Any:
    """A span's input or output as it is kept; None when it was not captured."""
    return None if value is msgspec.UNSET else value


def content(value: Any) -> Any:
    """The JSON value of a span's input or output; None when it was not captured."""
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else known(value)


def content_text(value: Any) -> str:
    """A span's input or output as text: text as it is, all else as JSON; "" when not captured."""
    if isinstance(value, str):
        return value
    if isinstance(value, msgspec.Raw):
        return content_text(msgspec.json.decode(value))
    return "" if known(value) is None else json_text(value)


def shortened(text: str) -> str:
    """A name as a page shows it: names may be of any length."""
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"


def outcome(result: Any) -> Any:
    """A result for a JSON file; a failed analysis is `{"error": …}`."""
    return {"error": result.error} if isinstance(result, Failure) else result
