"""Dataset files to rows: JSON, JSON lines and CSV. Values stay as they were written; nothing is guessed."""

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Never

from millstream.errors import InputError


class Row(NamedTuple):
    """One row of a file: where it stands there (for messages), and its values by column."""

    where: str
    values: dict[str, Any]


def read_rows(path: Path, data: bytes, file_type: str) -> list[Row]:
    """The rows of a dataset file.

    Args:
        path: named in messages; not read.
        data: the content of the file: UTF-8, with or without a byte order mark.
        file_type: a key of `READERS`.

    Raises:
        InputError: the content is not what `file_type` says; names the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    return list(READERS[file_type](path, text))


def _read_json(path: Path, text: str) -> Iterator[Row]:
    try:
        content = _decode(text)
    except ValueError as error:
        hint = (
            " It looks like JSON lines: set _type: jsonl."
            if _is_object(text.lstrip().partition("\n")[0])
            else ""
        )
        raise InputError(f"{path} is not JSON: {_reason(error)}.{hint}") from None
    if not isinstance(content, list):
        raise InputError(f"{path} holds {_kind(content)}; a JSON dataset is a list of objects.")
    for number, values in enumerate(content, 1):
        yield _object(path, f"item {number}", values)


def _read_jsonl(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = _decode(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number} is not JSON: {_reason(error)}.") from None
        yield _object(path, f"line {number}", values)


def _read_csv(path: Path, text: str) -> Iterator[Row]:
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield from _csv_rows(path, text)
    finally:
        csv.field_size_limit(limit)


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    try:
        for fields in reader:
            if not fields:  # a blank line
                continue
            if not columns:
                columns = _columns(path, fields)
            elif len(fields) != len(columns):
                raise InputError(
                    f"{path}, line {reader.line_num} has {len(fields)} fields, the header {len(columns)}. A "
                    'field with commas, quotes or line breaks must be in quotes ("), its own quotes doubled.'
                )
            else:
                yield Row(f"line {reader.line_num}", dict(zip(columns, fields, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} is not CSV: {error}.") from None


def _columns(path: Path, header: list[str]) -> list[str]:
    columns = [name or f"column {number}" for number, name in enumerate(header, 1)]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise InputError(f"{path} has more than one column named {', '.join(twice)}. Give each its own name.")
    return columns


READERS: Final[dict[str, Callable[[Path, str], Iterator[Row]]]] = {
    "json": _read_json,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
}
"""The `_type`s of a dataset."""

SUFFIXES: Final = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
"""The `_type` that a file name means where none is given."""


def _object(path: Path, where: str, values: Any) -> Row:
    if not isinstance(values, dict):
        raise InputError(f"{path}, {where} is {_kind(values)}; each row must be an object: {{...}}.")
    return Row(where, values)


def _decode(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON value; use null")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits} is too large")
    return number


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return (
            f"{error.msg} (line {error.lineno}, column {error.colno})"
            if error.lineno > 1
            else (f"{error.msg} (column {error.colno})")
        )
    return str(error)


def _is_object(text: str) -> bool:
    try:
        return isinstance(_decode(text), dict)
    except ValueError:
        return False


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names[type(value)]
