"""Loose rows: spans as columns before it is known what is above and below them.

Beside the fields of a span stand those that only its text tells: the model, the time to the first chunk,
whether it was cached, the hashes of the prompt. `arrange` puts such rows in order and works out the rest.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from millstream import semconv
from millstream.span import Span, SpanKind, Status
from millstream.store.arrays import Bools, Floats, Ints
from millstream.store.arrow import column_of
from millstream.store.cached import cached_column
from millstream.store.parquet import FIELDS, WORKED_OUT, blocks_column, span_columns, texts
from millstream.store.prompt_blocks import Hashes, PromptBlocks, block_hashes, prompt_blocks, rendered_prompt
from millstream.store.scan import LEFT_TO_PYTHON, NO_PROMPT, NONE, Lines, Places, gather, prompt_hashes
from millstream.store.table import KIND_CODE, KINDS, STATUSES, first_chunk_s, is_cached, model_of

_ALSO: Final = ("model", "time_to_first_chunk_s", "cached", "prompt_blocks")
SCHEMA: Final = pa.schema([*FIELDS, *(field for field in WORKED_OUT if field.name in _ALSO)])
NO_ROWS: Final = pa.Table.from_batches([], SCHEMA)
_LLM: Final = KIND_CODE[SpanKind.LLM.value]
_TEXT: Final = pa.large_string()
_LARGE: Final = ("input", "output")
"""Fields that may be stored apart from the line."""
_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

LargeValues = Iterable[tuple[str, str | None, bytes]]
"""Of a line: the field they are, or are in; by which key; and their JSON."""


def of_spans(spans: Sequence[Span]) -> pa.Table:
    """Loose rows of spans."""
    first_chunks = np.array([first_chunk_s(span) for span in spans], np.float64)
    columns = [
        *span_columns(list(spans)),
        texts([model_of(span) for span in spans]),
        column_of(first_chunks, np.isnan(first_chunks)),
        column_of(np.array([is_cached(span) for span in spans], bool)),
        blocks_column(prompt_blocks(spans)),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def of_lines(
    lines: Lines, rows: Ints, large: Callable[[bytes], LargeValues], *, open_status: Status | None
) -> pa.Table:
    """Loose rows of spans as they stand in lines.

    Args:
        lines: of a segment.
        rows: those wanted, in the order wanted, shape (n,).
        large: gives the large values of a line.
        open_status: of spans without an end.
    """
    stored = _Stored(lines, rows, large)
    numbers = {name: column[rows] for name, column in lines.numbers.items()}
    kind, status = numbers["kind"], numbers["status"]
    if open_status is not None:
        at = STATUSES.index(open_status.value)
        status = np.where((numbers["end_ns"] == NONE) & (status < 0), at, status)
    is_llm = kind == _LLM
    attributes = stored.column("attributes")
    columns: dict[str, pa.Array] = {
        "kind": _words(KINDS, kind),
        "status": _words(STATUSES, status),
        "events": pa.nulls(len(rows), _TEXT),
        "links": pa.nulls(len(rows), _TEXT),
        "model": stored.models(is_llm),
        "time_to_first_chunk_s": stored.first_chunks(),
        "attributes": attributes,
        "cached": cached_column(attributes),
        "prompt_blocks": blocks_column(stored.prompts(is_llm)),
    }
    for field in SCHEMA:
        if field.name in columns:
            continue
        if field.type == pa.int64():
            columns[field.name] = column_of(numbers[field.name], numbers[field.name] == NONE)
        else:
            columns[field.name] = stored.column(field.name)
    return pa.Table.from_arrays([columns[field.name] for field in SCHEMA], schema=SCHEMA)


def gathered(data: bytes, places: Places) -> pa.Array:
    """Texts that stand in data; null where there is none."""
    text, ends = gather(data, places)
    offsets = np.concatenate((np.zeros(1, np.int64), ends))
    known = places[0] >= 0
    valid = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(_TEXT, len(known), [valid, pa.py_buffer(offsets), pa.py_buffer(text)])


class _Stored:
    """The texts of some lines, with their large values in place.

    Args:
        lines: of a segment.
        rows: those wanted, shape (n,).
        large: gives the large values of a line.
    """

    def __init__(self, lines: Lines, rows: Ints, large: Callable[[bytes], LargeValues]) -> None:
        self._lines = lines
        self._rows = rows
        more: list[bytes] = []
        end = len(lines.data)
        places = {name: lines.places(name, rows) for name in _LARGE}
        for place in np.flatnonzero(lines.has_blobs[rows]).tolist():
            fields = _filled(lines, int(rows[place]), large)
            for name, text in fields.items():
                at, size, _ = places[name]
                at[place], size[place] = end, len(text)
                more.append(text)
                end += len(text)
        self._places = places
        self.data = b"".join([lines.data, *more]) if more else lines.data

    def column(self, name: str) -> pa.Array:
        """The texts of a field."""
        return gathered(self.data, self._places.get(name) or self._lines.places(name, self._rows))

    def models(self, is_llm: Bools) -> pa.Array:
        """As `table.model_of`."""
        asked = self._lines.told_texts(semconv.REQUEST_MODEL, self._rows)
        answered = self._lines.told_texts(semconv.RESPONSE_MODEL, self._rows)
        named = self._lines.places("name", self._rows)
        chosen = _first_of(_first_of(asked, answered), named)
        return gathered(self.data, (np.where(is_llm, chosen[0], -1), chosen[1], chosen[2]))

    def first_chunks(self) -> pa.Array:
        """As `table.first_chunk_s`."""
        at, size, escaped = self._lines.places(semconv.TIME_TO_FIRST_CHUNK_S, self._rows)
        told = np.flatnonzero(at >= 0)
        seconds: Floats = np.full(len(self._rows), np.nan)
        if len(told):
            signs = np.frombuffer(self.data, np.uint8)[at[told]]
            told = told[((signs >= ord("0")) & (signs <= ord("9"))) | (signs == ord("-"))]
            found = gathered(self.data, (at[told], size[told], escaped[told])).cast(pa.float64())
            seconds[told] = np.frombuffer(found.buffers()[1], np.float64, len(found))
        return column_of(seconds, ~(np.isfinite(seconds) & (seconds >= 0)))

    def prompts(self, is_llm: Bools) -> PromptBlocks:
        """As `prompt_blocks`."""
        calls = np.flatnonzero(is_llm)
        prompts = _taken(self._places["input"], calls)
        tools = self._lines.places(semconv.TOOL_DEFINITIONS, self._rows[calls])
        hashes, length = prompt_hashes(self.data, prompts, tools)
        known = np.zeros(len(self._rows), bool)
        known[calls] = length != NO_PROMPT
        left = np.flatnonzero(length == LEFT_TO_PYTHON)
        length = np.maximum(length, 0)
        if len(left):
            rendered = [
                rendered_prompt(self._value(prompts, at), self._value(tools, at)) for at in left.tolist()
            ]
            more, length[left] = block_hashes(rendered)
            hashes = _merged(hashes, more, np.repeat(np.isin(np.arange(len(calls)), left), length))
        of_row = np.zeros(len(self._rows), np.int64)
        of_row[calls] = length
        return PromptBlocks(hashes, np.cumsum(of_row) - of_row, of_row, known)

    def _value(self, places: Places, at: int) -> Any:
        """The value of some JSON; `None` where there is none."""
        start, size = int(places[0][at]), int(places[1][at])
        return None if start < 0 else msgspec.json.decode(self.data[start : start + size])


def _filled(lines: Lines, row: int, large: Callable[[bytes], LargeValues]) -> dict[str, bytes]:
    """The fields of a line that have large values in them, whole."""
    found: dict[str, bytes] = {}
    for name, key, text in large(lines.line(row)):
        if key is None:
            found[name] = text
            continue
        before = found.get(name) or lines.text(name, row) or b"{}"
        found[name] = msgspec.json.encode({**_decode_object(before), key: msgspec.Raw(text)})
    return found


def _first_of(some: Places, others: Places) -> Places:
    """Each text of some that is there and not empty, else that of the others."""
    there = (some[0] >= 0) & (some[1] > 0)
    return (
        np.where(there, some[0], others[0]),
        np.where(there, some[1], others[1]),
        np.where(there, some[2], others[2]),
    )


def _taken(places: Places, rows: Ints) -> Places:
    return places[0][rows], places[1][rows], places[2][rows]


def _merged(some: Hashes, others: Hashes, is_other: Bools) -> Hashes:
    """Both, each in its order."""
    merged = np.empty(len(is_other), np.uint64)
    merged[~is_other], merged[is_other] = some, others
    return merged


def _words(words: Sequence[str], codes: Ints) -> pa.Array:
    return texts(list(words)).take(column_of(codes, codes < 0))
