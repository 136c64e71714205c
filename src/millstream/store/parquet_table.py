"""A `SpanTable` of a Parquet file: its numbers are read, its spans and texts when they are looked at."""

import math
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from millstream.errors import InputError
from millstream.store.arrays import UNKNOWN, Ints
from millstream.store.arrow import bits, column, filled, numbers, plain
from millstream.store.parquet import METADATA, SCHEMA, VERSION, WORDS, About
from millstream.store.parquet_spans import StoredSpans, StoredTexts
from millstream.store.table import KIND_CODE, STATUS_CODE, SpanTable, possible_tokens
from millstream.store.table_checks import holds_together


def read_table(path: Path) -> SpanTable | None:
    """The table of a file, its numbers alone; the spans themselves are read when they are looked at.

    Returns:
        The table; `None` for a file of spans that was not written by `write_table`, or changed afterwards:
        what was worked out has to be worked out again.

    Raises:
        InputError: it is no Parquet file, or it is damaged.
    """
    try:
        about = _about(pq.read_schema(path))
        if about is None:
            return None
        file = pq.ParquetFile(path, read_dictionary=[word for word in WORDS if word != "trace_id"])
        names, name = _codes(file, "name")
        models, model = _codes(file, "model")
        errors, error = _codes(file, "error_type")
        trace = numbers(file, "trace")
        table = SpanTable(
            spans=StoredSpans(path),
            span_ids=StoredTexts(len(trace), partial(_span_ids, path)),
            trace_ids=StoredTexts(about.traces, partial(_trace_ids, path, trace, about.traces)),
            names=names,
            models=models,
            error_types=errors,
            trace=trace,
            parent=numbers(file, "parent"),
            depth=numbers(file, "depth"),
            kind=_known_codes(file, "kind", KIND_CODE),
            name=name,
            model=model,
            status=_known_codes(file, "status", STATUS_CODE),
            error_type=error,
            input_hash=numbers(file, "input_hash"),
            start_ns=numbers(file, "table_start_ns"),
            end_ns=numbers(file, "table_end_ns"),
            input_tokens=_tokens(file, "input_tokens"),
            output_tokens=_tokens(file, "output_tokens"),
            cache_read_tokens=_tokens(file, "cache_read_tokens"),
            reasoning_tokens=_tokens(file, "reasoning_tokens"),
            time_to_first_chunk_s=plain(column(file, "time_to_first_chunk_s"), math.nan),
            declared_root=bits(column(file, "declared_root"), 1),
            oddities=about.oddities,
        )
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error
    return table if holds_together(table) else None


def _about(schema: pa.Schema) -> About | None:
    told = (schema.metadata or {}).get(METADATA)
    known = {field.name: field.type for field in schema}
    if told is None or any(known.get(field.name) != field.type for field in SCHEMA):
        return None
    try:
        about = msgspec.json.decode(told, type=About)
    except msgspec.MsgspecError:
        return None
    return about if about.version == VERSION and about.traces >= 0 else None


def _tokens(file: pq.ParquetFile, name: str) -> Ints:
    return possible_tokens(numbers(file, name))


def _codes(file: pq.ParquetFile, name: str) -> tuple[list[str], Ints]:
    """The distinct words of a column in sorted order, and the position of each row's."""
    found = column(file, name)
    words = found.dictionary.to_pylist()
    distinct = sorted(set(words))
    place = {word: at for at, word in enumerate(distinct)}
    return distinct, _recoded(found, [place[word] for word in words])


def _known_codes(file: pq.ParquetFile, name: str, codes: dict[str, int]) -> Ints:
    found = column(file, name)
    return _recoded(found, [codes.get(word, UNKNOWN - 1) for word in found.dictionary.to_pylist()])


def _recoded(words: pa.DictionaryArray, codes: list[int]) -> Ints:
    """The code of each row's word, -1 where there is none."""
    table: Ints = np.array([*codes, UNKNOWN], np.int64)
    return table[filled(words.indices)]


def _span_ids(path: Path) -> list[str]:
    found: list[str] = pq.read_table(path, columns=["span_id"]).column(0).to_pylist()
    return found


def _trace_ids(path: Path, trace: Ints, count: int) -> list[str]:
    """The id of each trace, by its number; empty where it has no span."""
    ids = pq.read_table(path, columns=["trace_id"]).column(0)
    first = np.flatnonzero(np.diff(trace, prepend=UNKNOWN))
    found = dict(zip(trace[first].tolist(), ids.take(pa.array(first)).to_pylist(), strict=True))
    return [found.get(number, "") for number in range(count)]
