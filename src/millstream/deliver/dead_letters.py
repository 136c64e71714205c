"""Spans that a sink does not take as they are: kept in a file with the reason, and sent again on request."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote

import msgspec

from millstream.deliver import sink_call
from millstream.deliver.batch import Kept, kept
from millstream.deliver.cursor import Counts, Cursor
from millstream.deliver.sink import Rejected, Result, Retry, Sink
from millstream.errors import MillstreamError, RefusedError, StorageError, UnreachableError
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

    def add(self, rejected: Iterable[tuple[Kept, str]]) -> None:
        """Write spans with their reasons; they are on disk when this returns.

        One that is there already, from a process that was killed before it could note that, is not repeated.

        Raises:
            OSError: they cannot be written; none was.
        """
        if self._before is None:
            self._before = self._keys_at_end()
        lines = [to_line(self._name, span, reason) for span, reason in rejected]
        append(self.path, [line for line in lines if _key(line) not in self._before])

    def _keys_at_end(self) -> set[bytes]:
        keys = set()
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _READ_BACK))
            for line in file:
                keys.add(_key(line))
                self._between()
        return keys


def to_line(name: str, span: Kept, reason: str) -> bytes:
    """A line for the file, with its newline."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    content = kept(span) if isinstance(span, Span) else span
    if isinstance(content, Span):
        content = _to_json(content)
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


class Retried(msgspec.Struct):
    """What became of dead letters that were sent again.

    Attributes:
        sent: taken, and removed from the file.
        rejected: again, by reason.
        skipped: nothing for the sink, and removed from the file.
        left: not tried, or not taken at this moment.
        unreadable: lines that are no dead letters; they stay in the file.
        why: what ended it before all were tried, if the sink did: UnreachableError or RefusedError.
    """

    sent: int = 0
    rejected: dict[str, int] = {}
    skipped: int = 0
    left: int = 0
    unreadable: int = 0
    why: MillstreamError | None = None


def count_letters(home: Path, name: str) -> int:
    """How many lines lie in the dead letters of a sink.

    Raises:
        StorageError: the file cannot be read.
    """
    count, last = 0, b"\n"
    try:
        with dead_letter_path(home, name).open("rb") as file:
            while chunk := file.read(_CHUNK):
                count += chunk.count(b"\n")
                last = chunk[-1:]
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StorageError(f"{error.filename} cannot be read: {error.strerror}") from error
    return count + (last != b"\n")


def retry_rejected(
    home: Path,
    name: str,
    sink: Sink,
    batch_size: int = 500,
    batch_bytes: int = 1 << 20,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> Retried:
    """Send the dead letters of a sink again; those that it takes are removed from the file.

    They are sent as they are in the file: no processors are run.

    Args:
        home: the folder of recordings.
        name: the sink's.
        sink: where to.
        batch_size: letters sent at once, at most.
        batch_bytes: of their lines, at most; one that is larger is sent alone.
        stopped: asked before each batch; once it says so, the letters that were not tried stay.

    Raises:
        Busy: another process delivers to this sink.
        StorageError: the file cannot be read or written.
    """
    cursor = Cursor.open(home, name)
    path = dead_letter_path(home, name)
    try:
        return _Again(name, sink, cursor.counts, stopped).send(path, batch_size, batch_bytes)
    except OSError as error:
        raise StorageError(f"{error.filename or path} cannot be read or written: {error.strerror}") from error
    finally:
        cursor.close()


def _next_lines(source: BinaryIO, most: int, most_bytes: int) -> list[bytes]:
    """The next lines, at most so many and so large together; one that is larger comes alone."""
    lines: list[bytes] = []
    size = 0
    while len(lines) < most and (line := source.readline()):
        if lines and size + len(line) > most_bytes:
            source.seek(-len(line), os.SEEK_CUR)
            break
        lines.append(line)
        size += len(line)
    return lines


class _Again:
    """Sends the letters of one file again."""

    def __init__(self, name: str, sink: Sink, counts: Counts, stopped: Callable[[], bool]) -> None:
        self._name = name
        self._sink = sink
        self._counts = counts
        self._stopped = stopped
        self._retried = Retried()
        self._tried: set[bytes] = set()

    def send(self, path: Path, batch_size: int, batch_bytes: int) -> Retried:
        """All of them; the file is replaced in one piece, so that a kill costs a repetition and no letter."""
        new = path.with_name(f"{path.name}.new")
        try:
            source = path.open("rb")
        except FileNotFoundError:
            return self._retried
        with source:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                while not self._ended and (batch := _next_lines(source, batch_size, batch_bytes)):
                    try:
                        write(fd, b"".join(self._keep(batch)))
                    except (UnreachableError, RefusedError) as error:
                        self._retried.why = error
                        self._leave(fd, batch)
                for line in source:
                    self._leave(fd, [line])
                os.fsync(fd)
                empty = os.fstat(fd).st_size == 0
            finally:
                os.close(fd)
        new.replace(path)
        if empty:
            path.unlink()
        return self._retried

    @property
    def _ended(self) -> bool:
        return self._retried.why is not None or self._stopped()

    def _leave(self, fd: int, lines: Iterable[bytes]) -> None:
        for line in lines:
            self._retried.left += 1
            write(fd, line)

    def _keep(self, lines: Sequence[bytes]) -> list[bytes]:
        """Send letters; the lines that stay."""
        stay: list[bytes] = []
        letters: list[tuple[bytes, DeadLetter]] = []
        unreadable: list[bytes] = []
        for line in (line.rstrip(b"\n") + b"\n" for line in lines):
            try:
                letters.append((line, decode(line)))
            except (ValueError, RecursionError):  # it was torn, or is somebody else's
                unreadable.append(line)
        letters = [one for one in letters if self._is_first(one[0])]
        for (line, letter), result in zip(
            letters, self._results([one.span for _, one in letters]), strict=True
        ):
            if isinstance(result, Retry):
                self._retried.left += 1
                stay.append(line)
                continue
            self._count(letter, result)
            if isinstance(result, Rejected):
                stay.append(to_line(self._name, letter.span, result.reason))
        self._retried.unreadable += len(unreadable)
        return stay + unreadable

    def _is_first(self, line: bytes) -> bool:
        key = _key(line)
        is_first = key not in self._tried
        self._tried.add(key)
        return is_first

    def _results(self, spans: Sequence[Span]) -> list[Result]:
        """Of a span that the sink raises on it is the exception's words."""
        if not spans:
            return []
        try:
            return sink_call.send(self._sink, spans)
        except (UnreachableError, RefusedError):
            raise
        except Exception as error:  # noqa: BLE001  # a span may be more than a sink can do anything with
            if len(spans) == 1:
                return [Rejected(f"{type(error).__name__}: {error}")]
            middle = len(spans) // 2
            return self._results(spans[:middle]) + self._results(spans[middle:])

    def _count(self, letter: DeadLetter, result: Result) -> None:
        before = self._counts.rejected
        if before.get(letter.reason, 0) > 0:
            before[letter.reason] -= 1
            if not before[letter.reason]:
                del before[letter.reason]
        if isinstance(result, Rejected):
            for rejected in (before, self._retried.rejected):
                rejected[result.reason] = rejected.get(result.reason, 0) + 1
        elif result is None:
            self._counts.sent += 1
            self._retried.sent += 1
        else:
            self._counts.skipped += 1
            self._retried.skipped += 1
            if result.reason:
                self._counts.skipped_reasons[result.reason] += 1
