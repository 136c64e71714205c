"""A row of a dataset, where it stands, and how values that are not JSON become so."""

import base64
import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO, Final, NamedTuple
from uuid import UUID

from millstream.errors import InputError

MAX_TEXT: Final = 100_000_000
"""Characters of one field or one line: more is taken for a quote or a bracket that is never closed."""
_NO_VALUE: Final = frozenset({"NAType", "NaTType"})
"""The types of pandas' missing values."""


class Row(NamedTuple):
    """One row of a dataset: where it stands there (for messages), and its values by column."""

    where: str
    values: dict[str, Any]


class Source(NamedTuple):
    """A dataset file, open.

    Attributes:
        name: as it may be shown: without passwords.
        file: at its beginning; can be read again from there.
    """

    name: str
    file: BinaryIO


def json_row(name: str, where: str, values: Any) -> Row:
    """A row whose values are JSON; see `json_value`.

    Raises:
        InputError: it is no mapping, or a value has no form in JSON; names the row and the column.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{name}, {where} is {kind_of(values)}; each row must be an object: {{...}}.")
    found = {}
    for column, value in values.items():
        try:
            found[str(column)] = json_value(value)
        except ValueError as error:
            raise InputError(f"{name}, {where}, column {str(column)!r}: {error}.") from None
        except RecursionError:
            raise InputError(f"{name}, {where}, column {str(column)!r} is nested too deeply.") from None
    if len(found) < len(values):
        raise InputError(f"{name}, {where} has two columns of the same name.")
    return Row(where, found)


def json_value(value: Any) -> Any:
    """A value as JSON has it.

    Dates and times become ISO 8601 text, decimals text with all their digits, durations seconds, UUIDs text,
    bytes their UTF-8 text or else Base64, NaN and pandas' missing values `None`.

    Raises:
        ValueError: there is no such form; the text goes on after a column's name and a colon.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        found = {str(key): json_value(one) for key, one in value.items()}
        if len(found) < len(value):
            raise ValueError("it has two keys of the same name")
        return found
    if isinstance(value, list | tuple):
        return [json_value(one) for one in value]
    return _foreign(value)


def _number(value: float) -> float | None:
    if math.isinf(value):
        raise ValueError("it is an infinite number, which JSON does not have")
    return None if math.isnan(value) else value


def _foreign(value: Any) -> Any:
    if type(value).__name__ in _NO_VALUE:
        return None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else _number(float(value))
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):  # of NumPy
        return json_value(value.tolist())
    raise ValueError(f"it is of the type {type(value).__name__}, which JSON has no form for")


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
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
    return names.get(type(value), f"a {type(value).__name__}")
