"""JSON of any size cut into its objects, in bounded memory and without taking it apart.

Of `[{…}, {…}]`, of `{…} {…}` and of an object a line, each `{…}` comes on its own, as bytes; so one that is
bad does not hide the others. Memory grows with the longest of them.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

_PLAIN: Final = re.compile(rb'(?:[^\[\]{}"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Up to the next bracket, or to a string whose end is not there yet."""
_IN_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_KEY_OR_BRACKET: Final = re.compile(rb'"((?:[^"\\]|\\.)*+)"\s*+(:?)|[\[\]{}]', re.DOTALL)
_BETWEEN: Final = b" \t\r\n,[]\x00"
"""What may stand between two objects."""
_BEFORE: Final = re.compile(rb"[ \t\r\n,\[\]\x00]*+")
_SEPARATOR: Final = b" \t\r\n,"
_encode: Final = msgspec.json.Encoder().encode
_check: Final = msgspec.json.Decoder(msgspec.Raw).decode
_QUOTE: Final = b'"'


def objects(chunks: Iterable[bytes], key: str | None = None) -> Iterator[bytes]:
    """Each object that no other holds, and what stands between them and should not.

    What is not ended at the end comes as it is.

    Args:
        chunks: of the text, of any size.
        key: which the objects begin with, most of them: it makes finding them faster.
    """
    splitter = _Splitter(key)
    for chunk in chunks:
        yield from splitter.feed(chunk)
    yield from splitter.rest()


def first_keys(head: bytes) -> list[str]:
    """The keys of the first object, as far as its beginning tells them."""
    keys: list[str] = []
    depth = 0
    for found in _KEY_OR_BRACKET.finditer(head, max(head.find(b"{"), 0)):
        token = found[0]
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                break
        elif depth == 1 and found[2]:
            keys.append(_text(found[1]))
    return keys


def _text(string: bytes) -> str:
    """The text of a JSON string, without its quotes."""
    try:
        return msgspec.json.decode(b'"%b"' % string, type=str)
    except msgspec.DecodeError:
        return string.decode(errors="replace")


class _Splitter:
    def __init__(self, key: str | None) -> None:
        self._beginning = None if key is None else re.compile(rb"\{\s*+%b\s*+:" % re.escape(_encode(key)))
        self._text = bytearray()
        self._at = 0
        """As far as this the text was looked at."""
        self._begin = 0
        """Of the object, while there is one; else of what stands between."""
        self._depth = 0
        self._in_string = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        self._text += chunk
        while True:
            while self._depth == 0 and (whole := self._next()) is not None:
                yield whole
            if not self._to_bracket():
                break
            bracket = self._text[self._at]
            self._at += 1
            if self._depth == 0:
                if bracket == ord("{"):
                    yield from self._between(self._at - 1)
                    self._depth = 1
            elif bracket in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    yield bytes(self._text[self._begin : self._at])
                    self._begin = self._at
        if self._begin:
            del self._text[: self._begin]
            self._at -= self._begin
            self._begin = 0

    def _next(self) -> bytes | None:
        """The next object, if it ends where the one after it begins; else it is looked at sign by sign."""
        if self._beginning is None:
            return None
        begin = _end(_BEFORE, self._text, self._at)
        if self._beginning.match(self._text, begin) is None:
            return None
        after = self._beginning.search(self._text, begin + 1)
        if after is None:
            return None
        whole = bytes(self._text[begin : after.start()]).rstrip(_SEPARATOR)
        try:
            _check(whole)
        except msgspec.DecodeError:
            return None
        self._at = self._begin = begin + len(whole)
        return whole

    def rest(self) -> Iterator[bytes]:
        if self._depth:
            yield bytes(self._text)
        else:
            yield from self._between(len(self._text))

    def _between(self, end: int) -> Iterator[bytes]:
        if left := bytes(self._text[self._begin : end]).strip(_BETWEEN):
            yield left
        self._begin = end

    def _to_bracket(self) -> bool:
        """Go on to the next bracket; False where more text is needed for that."""
        text = self._text
        while True:
            if self._in_string:
                self._at = _end(_IN_STRING, text, self._at)
                if text[self._at : self._at + 1] != _QUOTE:
                    return False
                self._at += 1
                self._in_string = False
            self._at = _end(_PLAIN, text, self._at)
            if self._at == len(text):
                return False
            if text[self._at] != _QUOTE[0]:
                return True
            self._at += 1
            self._in_string = True


def _end(pattern: re.Pattern[bytes], text: bytearray, start: int) -> int:
    found = pattern.match(text, start)
    return start if found is None else found.end()
