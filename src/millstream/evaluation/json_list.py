"""One JSON list in a file, read value by value: a long one needs the memory of its longest value."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

_BLOCK: Final = 1 << 16
_SPACE: Final = re.compile(r"[ \t\n\r]*")


def read_list(path: Path) -> Iterator[Any]:
    """The values of the list.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, or no list.
    """
    with path.open(encoding="utf-8-sig") as file:
        text = _Text(file)
        text.pass_one_of("[")
        if text.next_sign() == "]":
            return
        while True:
            yield text.value()
            if text.pass_one_of(",]") == "]":
                return


class _Text:
    """The text from where it has been read to; more of the file is read when it is needed."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._decode = json.JSONDecoder().raw_decode
        self._text = ""
        self._place = 0

    def next_sign(self) -> str:
        """What comes next beside white space; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._place)
            self._place = space.end() if space else self._place
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._more():
                return ""

    def pass_one_of(self, signs: str) -> str:
        """Go on behind the next sign, which must be one of these."""
        found = self.next_sign()
        if not found or found not in signs:
            raise ValueError(f"there is {found or 'nothing'!r} where a list has {' or '.join(signs)}")
        self._place += 1
        return found

    def value(self) -> Any:
        """The value that comes next."""
        self.next_sign()
        while True:
            try:
                value, end = self._decode(self._text, self._place)
            except ValueError:
                if not self._more():
                    raise
                continue
            if end == len(self._text) and self._more():  # the rest of a number may follow
                continue
            self._place = end
            return value

    def _more(self) -> bool:
        """Read on: twice as much as is waiting, so that a long value is not tried too often."""
        waiting = self._text[self._place :]
        read = self._file.read(max(_BLOCK, len(waiting)))
        self._text, self._place = waiting + read, 0
        return bool(read)
