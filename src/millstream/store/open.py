"""`open_store`: one way to read spans, whatever they were recorded to."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from millstream.errors import InputError
from millstream.span import Span
from millstream.store.compacted import FOLDER
from millstream.store.journal_store import JournalStore
from millstream.store.readers.recognise import recognise

_GIVE: Final = "Give the folder that was recorded into"


class Store(Protocol):
    """Recorded spans.

    Attributes:
        format: what was recognised: `journal`, `jsonl`, `parquet`, `nat_traces` or `otlp_json`.
        rejected: counts, by reason, of what could not be read in the last `spans()`, or not whole.
        merged: counts, by kind, of spans that were one call with another, in the last `spans()`.
    """

    format: str
    rejected: Counter[str]
    merged: Counter[str]

    @property
    def trace_order(self) -> Sequence[str]:
        """Trace ids by request number, once `spans()` has given all; empty where requests have no numbers."""
        ...

    def spans(self, trace_ids: Collection[str] | None = None, since_ns: int | None = None) -> Iterator[Span]:
        """Every span once, in bounded memory.

        Those of a journal come roughly in the order in which they ended, after those that it was compacted
        from, which come trace by trace; those of a file as they lie there.

        Spans copied from OpenTelemetry are in our vocabulary, and a call that several instrumentations
        recorded is one span.

        Args:
            trace_ids: only spans of these traces.
            since_ns: Unix nanoseconds; files that were finished before it are not opened.

        Raises:
            InputError: `trace_ids` is one text, not a collection of them.
        """
        ...


def open_store(source: str | os.PathLike[str]) -> Store:
    """Recorded spans to read.

    Args:
        source: a folder that was recorded into (`MILLSTREAM_HOME`), or a file: spans as `millstream journal
            export` writes them (JSON lines, Parquet), `all_requests_profiler_traces.json` of ours or of the
            NeMo Agent Toolkit, OTLP as JSON. Its content says what it is, not its name; JSON may be
            compressed by gzip.

    Raises:
        InputError: there is nothing of the kind.
        MissingExtraError: it is Parquet, and that extra is not installed.
    """
    path = Path(source)
    if path.is_dir():
        home = path.parent if path.name == "journal" and not (path / "journal").is_dir() else path
        if not any((home / name).is_dir() for name in ("journal", FOLDER)):
            raise InputError(
                f"{path} holds no recordings: it has no journal folder. {_GIVE}, by default .millstream"
            )
        return JournalStore(home)
    if not path.exists():
        raise InputError(f"{path} does not exist. {_GIVE}, by default .millstream, or a file of spans")
    return recognise(path)
