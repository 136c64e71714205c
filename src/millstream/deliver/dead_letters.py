"""Spans that a sink will never take as they are: kept in a file, with the reason."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from millstream.record.serialize import to_json
from millstream.span import Span

_READ_BACK: Final = 16 << 20
"""Bytes at the end of the file in which letters of a process that was killed are looked for."""
_CHUNK: Final = 128 << 10
_KEY: Final = re.compile(rb'"span":\{"trace_id":"([0-9a-f]{32})","span_id":"([0-9a-f]{16})"')
_encode: Final = msgspec.json.Encoder().encode


class DeadLetter(msgspec.Struct, frozen=True):
    """A line of the file.

    Attributes:
        sink: its name.
        reason: why it does not take the span.
        time: when it said so, ISO-8601 in UTC.
        span: as it was sent: after the processors.
    """

    sink: str
    reason: str
    time: str
    span: Span


decode: Final = msgspec.json.Decoder(DeadLetter).decode


def dead_letter_path(home: Path, name: str) -> Path:
    """Where the dead letters of a sink lie."""
    return home / "dead-letter" / f"{quote(name, safe=' ')}.jsonl"


class DeadLetters:
    """Adds to the dead letters of one sink. Who holds the cursor of the sink is alone here.

    Args:
        home: the folder of recordings.
        name: the sink's.
        between: called now and then in longer work.
    """

    def __init__(self, home: Path, name: str, between: Callable[[], object]) -> None:
        self.path = dead_letter_path(home, name)
        self._name = name
        self._between = between
        self._before: set[bytes] | None = None

    def add(self, rejected: Iterable[tuple[Span, str]]) -> None:
        """Write spans with their reasons; they are on disk when this returns.

        One that is there already, from a process that was killed before it could note that, is not repeated.

        Raises:
            OSError: they cannot be written; none was.
        """
        if self._before is None:
            self._before = self._keys_at_end()
        lines = [letter(self._name, span, reason) for span, reason in rejected]
        append(self.path, [line for line in lines if _key(line) not in self._before])

    def _keys_at_end(self) -> set[bytes]:
        keys = set()
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _READ_BACK))
            for line in file:
                keys.add(_key(line))
                self._between()
        return keys


def letter(name: str, span: Span, reason: str) -> bytes:
    """A line for the file, with its newline."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        content = _encode(span)
    except Exception:  # noqa: BLE001  # a processor put something into it that is no JSON
        content = _to_json(span)
    head = _encode({"sink": name, "reason": reason, "time": now})
    return b'%b,"span":%b}\n' % (head[:-1], content)


def append(path: Path, lines: list[bytes]) -> None:
    """Add whole lines, all or none, and see that they are on disk."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        try:
            if size and os.pread(fd, 1, size - 1) != b"\n":  # its writer was killed
                write(fd, b"\n")
            write(fd, b"".join(lines))
            os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, size)
            raise
    finally:
        os.close(fd)


def write(fd: int, data: bytes) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:_CHUNK]) :]


def _to_json(span: Span) -> bytes:
    fields: dict[str, Any] = {
        name: msgspec.Raw(to_json(value))
        for name in span.__struct_fields__
        if (value := getattr(span, name)) is not msgspec.UNSET
    }
    return _encode(fields)


def _key(line: bytes) -> bytes:
    found = _KEY.search(line)
    return found[1] + found[2] if found else line
