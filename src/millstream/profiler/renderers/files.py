"""How renderers write: whole files or none, strict JSON, content as text."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

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
    """Strict JSON (what is not finite is null); structs become objects, whole-number keys text.

    Half of a character that UTF-8 has no bytes for, which Python's texts may hold, is written as its escape.
    """
    try:
        encoded = _encoder.encode(value)
    except UnicodeEncodeError:
        encoded = _encoder.encode(_writable(value))
    return pretty(encoded, indent=indent) if indent else encoded


def json_lines(values: Sequence[Any]) -> list[bytes]:
    """Strict JSON of each value."""
    try:
        return _encoder.encode_lines(values).split(b"\n")[:-1]
    except UnicodeEncodeError:
        return [json_bytes(value, indent=0) for value in values]


def pretty(encoded: bytes, *, indent: int = 2) -> bytes:
    """JSON with its parts on lines of their own."""
    return msgspec.json.format(encoded, indent=indent)


def _writable(value: Any) -> Any:
    """The same value with texts that UTF-8 can hold."""
    if isinstance(value, str):
        return _without_halves(value)
    if isinstance(value, dict):
        return {_writable(key): _writable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(one) for one in value]
    return _writable(msgspec.structs.asdict(value)) if isinstance(value, msgspec.Struct) else value


def _without_halves(value: Any) -> str:
    return str(value).encode(errors="backslashreplace").decode()


_encoder: Final = msgspec.json.Encoder(enc_hook=_without_halves)


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
    value = content(value)
    if value is None:
        return ""
    return value if isinstance(value, str) else json_bytes(value, indent=0).decode()


def outcome(result: Any) -> Any:
    """A result for a JSON file; a failed analysis is `{"error": …}`."""
    return {"error": result.error} if isinstance(result, Failure) else result
