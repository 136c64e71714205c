"""Spans to a file of JSON lines: a span a line, or the START and END events that other tools read."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

import msgspec

from millstream.deliver.file_path import MEND, PASSES, why_not_writable
from millstream.deliver.giving_way import GivingWay
from millstream.deliver.json_lines import JsonLines
from millstream.deliver.sink import Result
from millstream.errors import ConfigError, RefusedError, UnreachableError
from millstream.record.steps import ROOT, InvocationNode, end_step, invocation_node, start_step
from millstream.span import Span

_READ_BACK: Final = 64 << 20
"""Bytes at the end of the file in which spans of a process that was killed are looked for."""
_BEGINNINGS: Final = (b'{"trace_id":"', b'{"parent_id":"')
_SPAN: Final = re.compile(rb'\{"trace_id":"([0-9a-f]{32})","span_id":"([0-9a-f]{16})"')
_EVENT: Final = re.compile(rb'"payload":\{"event_type":"[A-Z]+_(START|END)".*"UUID":"([0-9a-f]{16})"')
_encode: Final = msgspec.json.Encoder().encode


class FileSink:
    """Appends spans to a file; each span once, also when its process is killed and sends it again.

    Several processes may write to one file. It is made readable by its owner only.

    Args:
        path: the file.
        mode: `overwrite` begins with an empty file.
        format: `spans`: a span a line, as `millstream journal export` prints it. `events`: its START and END,
            both when it has ended, as `IntermediateStep`; a step whose function has not ended yet knows it by
            name only.
        enable_rolling: rename the file, by the time, before it grows beyond `max_file_size`.
        max_file_size: bytes.
        max_files: renamed files to keep; older ones are removed.

    Raises:
        ConfigError: `path` is a folder or a device, or no file can be written there.
    """

    aliases: ClassVar[Mapping[str, str]] = {"output_path": "path", "file_path": "path"}

    def __init__(
        self,
        *,
        path: Path,
        mode: Literal["append", "overwrite"] = "append",
        format: Literal["spans", "events"] = "spans",  # noqa: A002  # the option's name
        enable_rolling: bool = False,
        max_file_size: Annotated[int, msgspec.Meta(ge=1)] = 10 << 20,
        max_files: Annotated[int, msgspec.Meta(ge=1)] = 5,
    ) -> None:
        _check(path)
        self.path = path
        self._lines = self._events if format == "events" else self._spans
        self._key = _event_key if format == "events" else _span_key
        self._file = JsonLines(
            path,
            overwrite=mode == "overwrite",
            max_bytes=max_file_size if enable_rolling else None,
            max_rolled=max_files,
            beginnings=_BEGINNINGS,
        )
        self._give_way = GivingWay()
        self._written: set[bytes] | None = None
        """What the file held when it was opened: a process that was killed may send it again."""

    def summary(self) -> str:
        """Where to."""
        return str(self.path)

    def send(self, batch: Sequence[Span]) -> Sequence[Result]:
        """Append the spans that are not there yet: all, or none.

        Raises:
            UnreachableError: the disk is full, or another process holds the file.
            RefusedError: the file may not be written.
        """
        try:
            with self._file.alone():
                written = self._written
                if written is None:
                    written = self._written = self._read_back()
                self._file.append(self._lines(batch, written))
        except OSError as error:
            self.close()  # what is there is read again before anything is tried again
            reason = f"{self.path} cannot be written: {error.strerror or error}"
            if error.errno in PASSES:
                help_ = PASSES[error.errno]
                raise UnreachableError(f"{reason}; {help_}" if help_ else reason) from error
            raise RefusedError(f"{reason}; {MEND}") from error
        except BaseException:
            self.close()
            raise
        return [None] * len(batch)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        self._written = None

    def _read_back(self) -> set[bytes]:
        found = set()
        for line in self._file.last_lines(_READ_BACK):
            if key := self._key(line):
                found.add(key)
            self._give_way()
        return found

    def _spans(self, batch: Sequence[Span], written: set[bytes]) -> Iterator[bytes]:
        for span in batch:
            if f"{span.trace_id}{span.span_id}".encode() not in written:
                yield _encode(span) + b"\n"
            self._give_way()

    def _events(self, batch: Sequence[Span], written: set[bytes]) -> Iterator[bytes]:
        spans = {span.span_id: span for span in batch}
        for span in batch:
            ancestry = _ancestry(span, spans)
            if f"START{span.span_id}".encode() not in written:
                yield _encode(start_step(span, ancestry)) + b"\n"
            if span.end_ns is not None and f"END{span.span_id}".encode() not in written:
                yield _encode(end_step(span, ancestry)) + b"\n"
            self._give_way()


def _check(path: Path) -> None:
    """See that a file could be there; it may be made later, and by somebody else."""
    if problem := why_not_writable(path):
        raise ConfigError(f"path: {problem}")
    if path.exists() and not path.is_file():
        raise ConfigError(f"path: {path} is a device or a pipe; give a file")


def _span_key(line: bytes) -> bytes:
    found = _SPAN.match(line)
    return found[1] + found[2] if found else b""


def _event_key(line: bytes) -> bytes:
    found = _EVENT.search(line)
    return found[1] + found[2] if found else b""


def _ancestry(span: Span, others: Mapping[str, Span]) -> InvocationNode:
    """The function that a span ran in, as far as its ancestors are among the others."""
    chain: list[Span] = []
    above: Span | None = span
    while above is not None and len(chain) < len(others):
        chain.append(above)
        above = others.get(above.parent_id or "")
    node = invocation_node((one.kind, one.name, one.span_id, one.workload_id) for one in chain)
    unknown = chain[-1].parent_id
    if unknown is None:
        return node
    if node is ROOT:
        return ROOT if span.workload_id is None else InvocationNode(unknown, span.workload_id, None, None)
    if node.parent_id == ROOT.function_id:
        return InvocationNode(node.function_id, node.function_name, None, None)
    return node
