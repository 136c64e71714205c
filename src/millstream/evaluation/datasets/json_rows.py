"""JSON and JSON lines to rows, one at a time. Values stay as they were written; nothing is guessed."""

import json
import math
from collections.abc import Iterator
from typing import Any, Final, Never, TextIO

from millstream.errors import InputError
from millstream.evaluation.datasets.rows import MAX_TEXT, Row, Source, kind_of
from millstream.evaluation.datasets.text import opened_text

_BLOCK: Final = 1 << 18
_SPACE: Final = " \t\r\n"


def read_json(source: Source) -> Iterator[Row]:
    """The rows of a list of objects.

    Raises:
        InputError: it is none; names the line.
    """
    with opened_text(source, newline="") as text:
        window = _Window(text)
        try:
            for number, values in enumerate(_members(source.name, window), 1):
                yield _object(source.name, f"item {number}", values)
        except _JsonError as error:
            hint = " It looks like JSON lines: set _type: jsonl." if window.is_object else ""
            raise InputError(f"{source.name} is not JSON: {error}.{hint}") from None


def read_jsonl(source: Source) -> Iterator[Row]:
    """The rows of a file with an object a line; empty lines are passed over.

    Raises:
        InputError: a line is none; names it.
    """
    with opened_text(source, newline="\n") as text:
        lines = iter(lambda: text.readline(MAX_TEXT + 1), "")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"line {number}"
            if len(line) > MAX_TEXT:
                raise InputError(f"{source.name}, {where} is longer than {MAX_TEXT:,} characters.")
            try:
                values = _only_value(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{source.name}, {where} is not JSON: {error.msg} (column {error.pos + 1})."
                ) from None
            except ValueError as error:
                raise InputError(f"{source.name}, {where} is not JSON: {_reason(error)}.") from None
            yield _object(source.name, where, values)


def _only_value(line: str) -> Any:
    value, end = _decode(line, len(line) - len(line.lstrip(_SPACE)))
    rest = line[end:].lstrip(_SPACE)
    if rest:
        raise json.JSONDecodeError("Extra data", line, len(line) - len(rest))
    return value


class _JsonError(Exception):
    """What is wrong with a text, with its place."""


class _Window:
    """The part of a text that is being read; what is before it is let go.

    Args:
        text: at its beginning.
    """

    def __init__(self, text: TextIO) -> None:
        self.is_object = False
        """Whether the text begins with one whole object."""
        self._text = text
        self._chars = ""
        self._at = 0
        self._line, self._column = 1, 1  # of the first character here

    def next(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._at < len(self._chars):
                if self._chars[self._at] not in _SPACE:
                    return self._chars[self._at]
                self._at += 1
            if not self._more():
                return ""

    def skip(self) -> None:
        """Pass over that character."""
        self._at += 1

    def value(self) -> Any:
        """The value that begins here."""
        while True:
            problem: ValueError | None = None
            value, end = None, self._at
            try:
                value, end = _decode(self._chars, self._at)
            except ValueError as error:  # perhaps only half of it is here
                problem = error
            if problem is None and end < len(self._chars):
                break
            if len(self._chars) - self._at <= MAX_TEXT and self._more():
                continue
            if problem is not None:
                raise self.error(problem)
            break
        self._at = end
        return value

    def error(self, problem: ValueError | str) -> _JsonError:
        """What is wrong, and where."""
        if isinstance(problem, ValueError) and not isinstance(problem, json.JSONDecodeError):
            return _JsonError(_reason(problem))
        message, at = (problem, self._at) if isinstance(problem, str) else (problem.msg, problem.pos)
        line, column = self._place(at)
        return _JsonError(f"{message} ({f'line {line}, ' if line > 1 else ''}column {column})")

    def _more(self) -> bool:
        fresh = self._text.read(max(_BLOCK, len(self._chars) - self._at))
        if not fresh:
            return False
        self._line, self._column = self._place(self._at)
        self._chars = self._chars[self._at :] + fresh
        self._at = 0
        return True

    def _place(self, at: int) -> tuple[int, int]:
        lines = self._chars.count("\n", 0, at)
        if not lines:
            return self._line, self._column + at
        return self._line + lines, at - self._chars.rfind("\n", 0, at)


def _members(name: str, window: _Window) -> Iterator[Any]:
    """The members of the list that a text is."""
    if window.next() != "[":
        content = window.value()
        window.is_object = isinstance(content, dict)
        if window.next():
            raise window.error("Extra data")
        raise InputError(f"{name} holds {kind_of(content)}; a JSON dataset is a list of objects.")
    window.skip()
    if window.next() != "]":
        yield window.value()
        while window.next() == ",":
            window.skip()
            window.next()
            yield window.value()
    if window.next() != "]":
        raise window.error("Expecting ',' delimiter")
    window.skip()
    if window.next():
        raise window.error("Extra data")


def _object(name: str, where: str, values: Any) -> Row:
    if not isinstance(values, dict):
        raise InputError(f"{name}, {where} is {kind_of(values)}; each row must be an object: {{...}}.")
    return Row(where, values)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice!r} twice")
    return values


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON value; use null")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number


_DECODER: Final = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_once
)


def _decode(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _reason(error: ValueError) -> str:
    text = str(error)
    return "it has a whole number of too many digits" if "integer string conversion" in text else text
