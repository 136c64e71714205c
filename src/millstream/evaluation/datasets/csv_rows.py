"""CSV to rows: commas, a header. Every value is text, as it was written."""

import csv
from collections.abc import Iterator
from typing import TextIO

from millstream.errors import InputError
from millstream.evaluation.datasets.rows import MAX_TEXT, Row, Source
from millstream.evaluation.datasets.text import opened_text


def read_csv(source: Source) -> Iterator[Row]:
    """The rows below the header; blank lines are passed over.

    Raises:
        InputError: it is not CSV, or a row has too few or too many fields; names the line.
    """
    limit = csv.field_size_limit(MAX_TEXT)
    try:
        with opened_text(source, newline="") as text:
            yield from _rows(source.name, text)
    finally:
        csv.field_size_limit(limit)


def _rows(name: str, text: TextIO) -> Iterator[Row]:
    reader = csv.reader(text, strict=True)
    columns: list[str] = []
    line = 1
    try:
        for fields in reader:
            if not fields:  # a blank line
                pass
            elif not columns:
                columns = _columns(name, fields)
            elif len(fields) != len(columns):
                raise InputError(
                    f"{name}, line {line} has {len(fields)} fields, the header {len(columns)}. A field with "
                    'commas, quotes or line breaks must be in quotes ("), its own quotes doubled.'
                )
            else:
                yield Row(f"line {line}", dict(zip(columns, fields, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{name}, line {line} is not CSV: {_reason(error)}.") from None


def _columns(name: str, header: list[str]) -> list[str]:
    columns = [title or f"column {number}" for number, title in enumerate(header, 1)]
    twice = sorted({title for title in columns if columns.count(title) > 1})
    if twice:
        raise InputError(f"{name} has more than one column named {', '.join(twice)}. Give each its own name.")
    return columns


def _reason(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end" in text or "field larger" in text:
        return "a quote that opens there is never closed"
    return text
