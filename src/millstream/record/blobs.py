"""Large values stored once: a span refers to them, and a list of messages that grew to the list it grew from.

A blob is a line of the segment that refers to it: `{"blob":"<id>","value":…}`, or, for a list that goes on
where another ended, `{"blob":"<id>","after":"<id>","items":[…]}`. Its id is a hash of its content. What is
kept in memory is a bounded table of hashes, nothing of the values; it begins anew with each segment, so that
a segment can be read, and removed, without the others.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from millstream.record.journal import Journal

LARGE: Final = 1024
"""Bytes of JSON from which on a value is stored as a blob."""
_STEM: Final = 128
"""Bytes at the beginning by which a list is taken for one that may have grown."""
_TAIL: Final = 24
_MAX_STEMS: Final = 1024
_MAX_LISTS: Final = 32
_MAX_WHOLES: Final = 8192


class Blobs:
    """The blobs of one journal's current segment.

    Args:
        journal: where they are written.
        redact: takes secrets out of JSON; a value that was seen before is not looked at again.
    """

    def __init__(self, journal: Journal, redact: Callable[[bytes], bytes]) -> None:
        self._journal = journal
        self._redact = redact
        self._segment = ""
        self._wholes: dict[tuple[int, int], str] = {}
        self._lists: dict[bytes, list[tuple[int, bytes, int, str]]] = {}

    def put(self, value: bytes) -> str:
        """The id of a value, which is written if it is not in this segment yet.

        Two threads with the same new value may both write it; readers take either.

        Args:
            value: JSON.
        """
        self._follow_segment()
        key = (len(value), hash(value))
        known = self._wholes.get(key)
        if known is not None:
            return known
        blob = self._put_list(value) if value.startswith(b"[") else self._write(b'"value":', value, "")
        self._follow_segment()  # it may have begun with this very line
        if len(self._wholes) >= _MAX_WHOLES:
            self._wholes.clear()
        self._wholes[key] = blob
        return blob

    def _follow_segment(self) -> None:
        if self._journal.segment != self._segment:
            self._segment = self._journal.segment
            self._wholes, self._lists = {}, {}

    def _put_list(self, value: bytes) -> str:
        """Store a list; where its beginning is there already, only the rest."""
        stem = value[:_STEM]
        after, start = self._beginning(value, self._lists.get(stem, []))
        blob = self._write(b'"items":', b"[" + value[start:] if after else value, after)
        self._follow_segment()
        if stem not in self._lists and len(self._lists) >= _MAX_STEMS:
            self._lists.clear()
        known = self._lists.setdefault(stem, [])
        del known[: len(known) - _MAX_LISTS + 1]
        length = len(value) - 1
        known.append((length, value[length - _TAIL : length], hash(value[:length]), blob))
        return blob

    @staticmethod
    def _beginning(value: bytes, known: list[tuple[int, bytes, int, str]]) -> tuple[str, int]:
        """The latest list that `value` goes on from, and where its rest begins; else nothing and 0."""
        for length, tail, hashed, blob in reversed(known):
            if (
                value[length : length + 1] == b","
                and value[length - _TAIL : length] == tail
                and hash(value[:length]) == hashed
            ):
                return blob, length + 1
        return "", 0

    def _write(self, key: bytes, value: bytes, after: str) -> str:
        value = self._redact(value)
        blob = blake2b(after.encode() + value, digest_size=16).hexdigest()
        link = f'"after":"{after}",' if after else ""
        self._journal.append(b'{"blob":"%b",%b%b%b}\n' % (blob.encode(), link.encode(), key, value))
        return blob
