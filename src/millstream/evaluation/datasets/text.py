"""Dataset files that are text: UTF-8, with or without a byte order mark."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, TextIO

from millstream.errors import InputError
from millstream.evaluation.datasets.rows import Source

_BLOCK: Final = 1 << 20
_SIGNS: Final = (
    (b"PK\x03\x04", "It looks like an Excel file: set _type: xls."),
    (b"\xd0\xcf\x11\xe0", "It looks like an Excel file: set _type: xls."),
    (b"PAR1", "It looks like a Parquet file: set _type: parquet."),
    (b"\x1f\x8b", "It is packed with gzip; unpack it."),
    (b"\xff\xfe", "It looks like UTF-16; save it as UTF-8."),
    (b"\xfe\xff", "It looks like UTF-16; save it as UTF-8."),
)
"""How files of other kinds begin."""


@contextmanager
def opened_text(source: Source, newline: str) -> Iterator[TextIO]:
    """The text of a file.

    Args:
        source: the file.
        newline: as of `open`.

    Raises:
        InputError: it is not UTF-8 text, or holds NUL bytes.
    """
    _check(source.name, source.file)
    source.file.seek(0)
    text = io.TextIOWrapper(source.file, encoding="utf-8-sig", newline=newline)
    try:
        yield text
    finally:
        text.detach()


def looks_like(file: BinaryIO) -> str:
    """A sentence on what a file seems to be by its first bytes; empty where nothing is known."""
    file.seek(0)
    head = file.read(8)
    return next((hint for sign, hint in _SIGNS if head.startswith(sign)), "")


def _check(name: str, file: BinaryIO) -> None:
    hint = looks_like(file) or "Save it as UTF-8."
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    place = 0
    while True:
        block = file.read(_BLOCK)
        if b"\0" in block:
            raise InputError(f"{name} is not text: byte {place + block.index(0)} is NUL. {hint}")
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name} is not UTF-8 text (byte {place - pending + error.start}). {hint}"
            ) from None
        if not block:
            return
        place += len(block)
