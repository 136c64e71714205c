"""A whole journal as a `SpanTable`: the files it was compacted into, and the segments that are left.

Numbers are read at once. Spans are made when they are looked at: those of files from there, those of segments
that are left from rows in memory.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from millstream.span import Span, Status
from millstream.store import loose
from millstream.store.arrange import Arrangement, arrangement, impossible_tokens
from millstream.store.arrays import UNKNOWN, Code, Ints, Place
from millstream.store.arrow import bits, column_of, one, plain
from millstream.store.compacted import Compacted
from millstream.store.following import stable
from millstream.store.journal_rows import JournalRows
from millstream.store.lazy_spans import LazySpans
from millstream.store.moment import Left, moment, undisturbed
from millstream.store.parquet import FIELD_NAMES
from millstream.store.parquet_spans import RowSpans, StoredSpans, spans_of
from millstream.store.parquet_table import about_of, table_of
from millstream.store.prompt_blocks import PromptBlocks
from millstream.store.retried import input_hash, siblings_of_failed
from millstream.store.segments import State
from millstream.store.table import KIND_CODE, STATUS_CODE, TOKENS, SpanTable, possible_tokens

_IDS: Final = ("trace_id", "span_id", "parent_id", "start_ns", "end_ns")
_TOLD: Final = ("name", "kind", "status", "error_type", "model", "time_to_first_chunk_s", "cached", *TOKENS)
_READ: Final = [*_IDS, *_TOLD]


class JournalTable(NamedTuple):
    """A journal's spans, and what could not be read of it, by reason."""

    table: SpanTable
    rejected: Counter[str]


class OpenJournal(NamedTuple):
    """A journal at one moment: its files, the loose rows of the rest, and what could not be read."""

    files: Compacted
    left: pa.Table
    rejected: Counter[str]


def open_journal(home: Path) -> OpenJournal:
    """What a journal holds now.

    Args:
        home: the folder of recordings.

    Raises:
        InputError: it may not be read.
    """
    return undisturbed(home, lambda: _opened(home))


def journal_table(home: Path) -> JournalTable:
    """All spans of a journal; as `open_journal`."""
    return undisturbed(home, lambda: _whole_table(home))


def _opened(home: Path) -> OpenJournal:
    rejected: Counter[str] = Counter()
    known, left = moment(home)
    for file in known.files:
        rejected.update(file.covered.rejected)
    rejected.update(known.complaints)
    rows = pa.concat_tables([loose.NO_ROWS, *_left(left, rejected)])
    return OpenJournal(known, rows.combine_chunks(), rejected)


def _whole_table(home: Path) -> JournalTable:
    known, left, rejected = _opened(home)
    files = [*map(StoredSpans, known.paths)]
    table = table_of(files[0]) if len(files) == 1 and not len(left) else None
    if table is None:
        told = [about.oddities for about in map(about_of, files) if about is not None]
        table = _table([*files, RowSpans(left)], sum(one.duplicate_span_ids for one in told))
    return JournalTable(table, rejected)


def _left(left: Mapping[str, Left], rejected: Counter[str]) -> Iterator[pa.Table]:
    """Loose rows of what is in no file."""
    merged: Counter[str] = Counter()
    for carried, segments, lives in left.values():
        rows = JournalRows(rejected, merged, carried)
        for segment in segments:
            if segment.state is State.LIVE:
                yield rows.take(segment.path, stable(segment.path))
            else:
                yield from rows.read(segment.path)
        yield rows.finish(None if lives else Status.INTERRUPTED)


def _table(parts: Sequence[StoredSpans | RowSpans], duplicates: int) -> SpanTable:
    """One table of several sources; of each file's own duplicates, all but one are not in it any more."""
    rows = pa.concat_tables([part.columns(_READ) for part in parts]).combine_chunks()
    columns = {name: one(rows, name) for name in _READ}
    found = arrangement(*(columns[name] for name in _IDS))
    order = found.order
    names, name = _coded(columns["name"], order)
    models, model = _coded(columns["model"], order)
    errors, error = _coded(columns["error_type"], order)
    spans = _JoinedSpans(parts, order)
    kind = _known(columns["kind"], KIND_CODE)[order]
    status = _known(columns["status"], STATUS_CODE)[order]
    trace, parent = found.trace.astype(Place), found.parent.astype(Place)
    trace_ids = columns["trace_id"].take(column_of(_first_of_traces(order, trace, found.traces)))
    return SpanTable(
        spans=spans,
        span_ids=columns["span_id"].take(column_of(order)).to_pylist(),
        trace_ids=trace_ids.to_pylist(),
        names=names,
        models=models,
        error_types=errors,
        trace=trace,
        parent=parent,
        depth=found.depth.astype(Place),
        kind=kind,
        name=name,
        model=model,
        status=status,
        error_type=error,
        input_hash=_input_hashes(spans, found, kind, name, status),
        start_ns=found.start_ns,
        end_ns=found.end_ns,
        **{name: possible_tokens(plain(columns[name], UNKNOWN)[order]) for name in TOKENS},
        time_to_first_chunk_s=plain(columns["time_to_first_chunk_s"], math.nan)[order],
        cached=bits(columns["cached"], 1)[order],
        declared_root=found.declared_root,
        oddities=msgspec.structs.replace(
            found.oddities,
            duplicate_span_ids=found.oddities.duplicate_span_ids + duplicates,
            impossible_tokens=impossible_tokens(columns),
        ),
    )


def _coded(column: pa.Array, order: Ints) -> tuple[list[str], Ints]:
    """The distinct words of a column in sorted order, and each row's position there, -1 where it has none."""
    if len(order) < len(column):  # a word of a row that is not kept is none of the table's
        column, order = column.take(column_of(order)), np.arange(len(order))
    encoded = column.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    distinct = sorted(words)
    place = {word: at for at, word in enumerate(distinct)}
    codes = np.array([*(place[word] for word in words), UNKNOWN], Place)
    return distinct, codes[plain(encoded.indices, UNKNOWN)[order]]


def _known(column: pa.Array, known: dict[str, int]) -> Ints:
    encoded = column.dictionary_encode()
    codes = np.array([*(known[word] for word in encoded.dictionary.to_pylist()), UNKNOWN], Code)
    found: Ints = codes[plain(encoded.indices, UNKNOWN)]
    return found


def _first_of_traces(order: Ints, trace: Ints, traces: int) -> Ints:
    """A row of each trace, as it was given, shape (traces,)."""
    return order[np.searchsorted(trace, np.arange(traces))]


def _input_hashes(spans: Sequence[Span], found: Arrangement, kind: Ints, name: Ints, status: Ints) -> Ints:
    hashes = np.full(len(spans), UNKNOWN, np.int64)
    failed = (status == STATUS_CODE[Status.ERROR.value]) & (found.end_ns >= 0)
    compared = siblings_of_failed(found.trace, found.parent, kind, name, failed)[0]
    hashes[compared] = [input_hash(spans[row].input) for row in compared.tolist()]
    return hashes


class _JoinedSpans(LazySpans):
    """The spans of several sources, in the order of a table.

    Args:
        parts: the sources.
        order: for each row of the table which it is of all of theirs.
    """

    def __init__(self, parts: Sequence[StoredSpans | RowSpans], order: Ints) -> None:
        self._parts = parts
        self._order = order
        self._bounds = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
        super().__init__(len(order))

    def between(self, start: int, stop: int) -> list[Span]:
        """The spans of rows that follow each other."""
        return list(spans_of(self.stored(np.arange(start, stop), FIELD_NAMES)))

    def stored(self, rows: Ints, names: list[str]) -> pa.Table:
        """Some of the rows: of each source those that are there, put into the order of the table."""
        wanted = self._order[rows]
        order = np.argsort(wanted, kind="stable")
        edges = np.searchsorted(wanted, self._bounds, sorter=order)
        found = [
            part.stored(wanted[order[first:beyond]] - start, names)
            for part, start, first, beyond in zip(
                self._parts, self._bounds[:-1], edges[:-1], edges[1:], strict=True
            )
        ]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return pa.concat_tables(found).take(column_of(place))

    def prompt_blocks(self) -> PromptBlocks:
        """The prompts of all spans, as they were hashed."""
        found = [part.prompt_blocks() for part in self._parts]
        hashes = np.concatenate([one.hashes for one in found])
        before = (np.cumsum([len(one.hashes) for one in found]) - [len(one.hashes) for one in found]).tolist()
        first = [one.first + start for one, start in zip(found, before, strict=True)]
        return PromptBlocks(
            hashes,
            np.concatenate(first)[self._order],
            np.concatenate([one.length for one in found])[self._order],
            np.concatenate([one.known for one in found])[self._order],
        )
