"""A `SpanTable` of a Parquet file: its numbers are read, its spans and texts when they are looked at."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from millstream.errors import InputError
from millstream.store.arrays import UNKNOWN, Code, Ints, Place
from millstream.store.arrow import bits, column_of, one, plain
from millstream.store.parquet import ADDED, METADATA, SCHEMA, VERSION, About
from millstream.store.parquet_spans import StoredSpans, StoredTexts
from millstream.store.table import KIND_CODE, STATUS_CODE, TOKENS, SpanTable, possible_tokens
from millstream.store.table_checks import holds_together

_NUMBERS: Final[Mapping[str, Any]] = {
    "trace": Place,
    "parent": Place,
    "depth": Place,
    "input_hash": np.int64,
    "table_start_ns": np.int64,
    "table_end_ns": np.int64,
    **dict.fromkeys(TOKENS, np.int64),
    "time_to_first_chunk_s": np.float64,
}
_CODED: Final = {"name": Place, "model": Place, "error_type": Place, "kind": Code, "status": Code}
_KNOWN: Final = {"kind": KIND_CODE, "status": STATUS_CODE}
"""Words that have numbers of ours."""
_FLAGS: Final = ("declared_root", "cached")
_COLUMNS: Final = (*_NUMBERS, *_CODED, *_FLAGS)


def read_table(path: Path) -> SpanTable | None:
    """The table of a file, its numbers alone; the spans themselves are read when they are looked at.

    Returns:
        As `table_of`.

    Raises:
        InputError: it is no Parquet file, or it is damaged.
    """
    try:
        return table_of(StoredSpans(path))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error


def table_of(spans: StoredSpans) -> SpanTable | None:
    """The table of a file that is open.

    Returns:
        The table; `None` for a file of spans that was not written by `write_table`, or changed afterwards:
        what was worked out has to be worked out again.

    Raises:
        OSError: it is damaged.
        pa.ArrowException: likewise.
    """
    about = about_of(spans)
    if about is None:
        return None
    found, words = _columns(spans)
    if any(len(words[name]) > len(known) for name, known in _KNOWN.items()):
        return None
    names, models, errors = (_sorted(words[name], found[name]) for name in ("name", "model", "error_type"))
    table = SpanTable(
        spans=spans,
        span_ids=StoredTexts(len(spans), partial(_span_ids, spans)),
        trace_ids=StoredTexts(about.traces, partial(_trace_ids, spans, found["trace"], about.traces)),
        names=names,
        models=models,
        error_types=errors,
        trace=found["trace"],
        parent=found["parent"],
        depth=found["depth"],
        kind=found["kind"],
        name=found["name"],
        model=found["model"],
        status=found["status"],
        error_type=found["error_type"],
        input_hash=found["input_hash"],
        start_ns=found["table_start_ns"],
        end_ns=found["table_end_ns"],
        **{name: possible_tokens(found[name]) for name in TOKENS},
        time_to_first_chunk_s=found["time_to_first_chunk_s"],
        cached=found["cached"],
        declared_root=found["declared_root"],
        oddities=about.oddities,
    )
    return table if holds_together(table) else None


def about_of(spans: StoredSpans) -> About | None:
    """What a file says of its table, where it holds one that we can read."""
    schema = spans.schema
    told = (schema.metadata or {}).get(METADATA)
    known = {name: SCHEMA.field(name).type for name in ADDED} | {field.name: field.type for field in schema}
    if told is None or any(known.get(field.name) != field.type for field in SCHEMA):
        return None
    try:
        about = msgspec.json.decode(told, type=About)
    except msgspec.MsgspecError:
        return None
    return about if about.version == VERSION and about.traces >= 0 else None


def _columns(spans: StoredSpans) -> tuple[dict[str, "np.ndarray[Any, Any]"], dict[str, dict[str, int]]]:
    """All columns, -1 or NaN where there is no value; words as numbers, which are theirs in the second."""
    file = spans.file(read_dictionary=list(_CODED))
    there = [name for name in _COLUMNS if name in spans.schema.names]
    kinds = {**_NUMBERS, **_CODED, **dict.fromkeys(_FLAGS, np.bool_)}
    found = {name: np.empty(len(spans), kind) for name, kind in kinds.items()}
    words: dict[str, dict[str, int]] = {name: dict(_KNOWN.get(name, {})) for name in _CODED}
    before = 0
    for group in range(file.num_row_groups):  # all at once would take twice the memory
        some = file.read_row_group(group, columns=there)
        for name in there:
            at = before
            for chunk in some.column(name).chunks:
                found[name][at : at + len(chunk)] = _values(name, chunk, words)
                at += len(chunk)
        before += len(some)
    for name in ADDED:
        if name not in there:
            found[name] = bits(one(spans.columns([name]), name), 1)
    return found, words


def _values(name: str, chunk: pa.Array, words: dict[str, dict[str, int]]) -> "np.ndarray[Any, Any]":
    if name in _FLAGS:
        return bits(chunk, 1)
    if name not in words:
        return plain(chunk, math.nan if _NUMBERS[name] is np.float64 else UNKNOWN)
    number = words[name]
    codes = [number.setdefault(word, len(number)) for word in chunk.dictionary.to_pylist()]
    coded: Ints = np.array([*codes, UNKNOWN], Place)[plain(chunk.indices, UNKNOWN)]
    return coded


def _sorted(number: dict[str, int], codes: Ints) -> list[str]:
    """The words of a column in sorted order; their numbers in the column become the positions there."""
    distinct = sorted(number)
    if list(number) != distinct:
        place = {word: at for at, word in enumerate(distinct)}
        codes[:] = np.array([*(place[word] for word in number), UNKNOWN], codes.dtype)[codes]
    return distinct


def _span_ids(spans: StoredSpans) -> list[str]:
    found: list[str] = spans.columns(["span_id"]).column(0).to_pylist()
    return found


def _trace_ids(spans: StoredSpans, trace: Ints, count: int) -> list[str]:
    """The id of each trace, by its number; empty where it has no span."""
    ids = spans.columns(["trace_id"]).column(0)
    first = np.flatnonzero(np.diff(trace, prepend=UNKNOWN))
    found = dict(zip(trace[first].tolist(), ids.take(column_of(first)).to_pylist(), strict=True))
    return [found.get(number, "") for number in range(count)]
