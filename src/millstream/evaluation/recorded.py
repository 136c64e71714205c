"""What was recorded of the items: read back for scores and profile, and told where it was lost."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from millstream.errors import MillstreamError, StorageError
from millstream.evaluation.results import ItemResult
from millstream.evaluation.wording import counted
from millstream.record.recorder import require_stored
from millstream.span import Span
from millstream.store import open_store

_decode: Final = msgspec.json.Decoder(Span).decode
_encode: Final = msgspec.json.Encoder().encode


class RecordedSpans(Mapping[str, list[Span]]):
    """The spans of each trace, by start; read when they are looked at, out of a temporary file.

    The journal has them in the order in which they ended: they are put there by trace.
    """

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None)  # removed when it is closed or we die
        self._file.execute("CREATE TABLE spans (trace TEXT, start_ns INT, id TEXT, span BLOB)")

    def fill(self, spans: Iterable[Span]) -> None:
        """Take spans; once."""
        rows = ((span.trace_id, span.start_ns, span.span_id, _encode(span)) for span in spans)
        self._file.execute("BEGIN")
        try:
            self._file.executemany("INSERT INTO spans VALUES (?, ?, ?, ?)", rows)
        finally:
            self._file.execute("COMMIT")
            self._file.execute("CREATE INDEX by_trace ON spans (trace, start_ns, id)")

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def __getitem__(self, trace_id: str) -> list[Span]:
        found = self._file.execute(
            "SELECT span FROM spans WHERE trace = ? ORDER BY start_ns, id", (trace_id,)
        )
        spans = [_decode(span) for (span,) in found]
        if not spans:
            raise KeyError(trace_id)
        return spans

    def __iter__(self) -> Iterator[str]:
        for (trace_id,) in self._file.execute("SELECT DISTINCT trace FROM spans"):
            yield trace_id

    def __len__(self) -> int:
        count: int = self._file.execute("SELECT COUNT(DISTINCT trace) FROM spans").fetchone()[0]
        return count


def read_spans(home: Path, results: Sequence[ItemResult], into: RecordedSpans) -> str | None:
    """Read the spans of the results' traces; an item redone counts its last attempt only.

    Args:
        home: the folder of recordings.
        results: the items.
        into: takes the spans.

    Returns:
        What is missing, one sentence; `None` when nothing is.
    """
    traces, first_ns = set(), None
    for result in results:
        if result.trace_id is not None:
            traces.add(result.trace_id)
        if result.start_ns is not None:
            first_ns = min(result.start_ns, first_ns or result.start_ns)
    if not traces:
        return None
    try:
        into.fill(open_store(home).spans(trace_ids=traces, since_ns=first_ns))
    except (MillstreamError, OSError, sqlite3.Error) as error:
        return f"No spans could be read back: {error}."
    empty = len(traces) - len(into)
    has = "has" if empty == 1 else "have"
    return f"{empty} of {counted(len(traces), 'item')} {has} no recorded spans in {home}." if empty else None


def lost_spans(lost: Mapping[str, int]) -> list[str]:
    """What was not recorded: for the journal, where, why and what to do; else the reason alone."""
    if not lost:
        return []
    told = []
    try:
        require_stored()
    except StorageError as error:
        told.append(f"{error}.")
        lost = {why: n for why, n in lost.items() if "journal" not in why}
    told += [
        f"{counted(n, 'recorded step was', 'recorded steps were')} lost: {why}" for why, n in lost.items()
    ]
    return told
