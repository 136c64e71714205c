"""How renderers write: whole files or none, strict JSON, content as text."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from millstream.profiler.results import Failure


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends, and is removed when it raises."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def json_bytes(value: Any, *, indent: int = 2) -> bytes:
    """Strict JSON (what is not finite is null); structs become objects, whole-number keys text."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    return msgspec.json.format(encoded, indent=indent) if indent else encoded


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document."""
    with replacing(path) as file:
        file.write(json_bytes(value) + b"\n")


def content(value: Any) -> Any:
    """The JSON value of a span's input or output; None when it was not captured."""
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    return None if value is msgspec.UNSET else value


def content_text(value: Any) -> str:
    """A span's input or output as text: text as it is, all else as JSON; "" when not captured."""
    value = content(value)
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()


def outcome(result: Any) -> Any:
    """A result for a JSON file; a failed analysis is `{"error": …}`."""
    return {"error": result.error} if isinstance(result, Failure) else result
