"""Large values stored once: a span refers to them, and a list of messages that grew to the list it grew from.

A blob is a line of the segment that refers to it: `{"blob":"<id>","value":…}`, or, for a list that goes on
where another ended, `{"blob":"<id>","after":"<id>","items":[…]}`. Its id is a hash of its content. What is
kept in memory is a bounded table of hashes, nothing of the values; it begins anew with each segment, so that
a segment can be read, and removed, without the others.
"""

from collections.abc import Callable
from typing import Final

from millstream.record.conversation import Conversation
from millstream.record.journal import Journal

LARGE: Final = 1024
"""Bytes of JSON from which on a value is stored as a blob."""
NO_ROOM: Final = "there was no room for large inputs and outputs"
"""Under this, spans are counted of which a large value could not be stored."""
_STEM: Final = 128
"""Bytes at the beginning by which a list is taken for one that may have grown."""
_TAIL: Final = 24
_MAX_STEMS: Final = 1024
_MAX_LISTS: Final = 32
_MAX_WHOLES: Final = 8192


class _Seen:
    """What was written to one segment."""

    __slots__ = ("conversations", "lists", "segment", "wholes")

    def __init__(self, segment: str) -> None:
        self.segment = segment
        self.conversations: dict[tuple[int, int], str] = {}
        self.wholes: dict[tuple[int, int], str] = {}
        self.lists: dict[bytes, list[tuple[int, bytes, int, str]]] = {}


class Blobs:
    """The blobs of one journal's current segment.

    Args:
        journal: where they are written.
        redact: takes secrets out of JSON; a value that was seen before is not looked at again.
    """

    def __init__(self, journal: Journal, redact: Callable[[bytes], bytes]) -> None:
        self._journal = journal
        self._redact = redact
        self._seen = _Seen("")

    def put(self, value: bytes) -> str | None:
        """The id of a value, which is written if it is not in this segment yet; `None` where it cannot be.

        Two threads with the same new value may both write it; readers take either.

        Args:
            value: JSON.
        """
        seen = self._of_segment()
        key = (len(value), hash(value))
        known = seen.wholes.get(key)
        if known is not None:
            return known
        after, start = self._beginning(value, seen.lists.get(value[:_STEM], []))
        if after:
            blob, there = self._write(b'"items":', b"[" + value[start:], after)
        else:
            blob, there = self._write(b'"items":' if value.startswith(b"[") else b'"value":', value, "")
        if there != seen.segment:  # which began with this very line, perhaps
            seen = self._of_segment()
            if after:
                blob, there = self._write(b'"items":', value, "")
        if there and there == seen.segment:
            _remember(seen, value, key, blob)
        return None if there is None else blob

    def put_conversation(self, talk: Conversation, limit: int) -> str | None:
        """As `put`; only messages that are new are encoded.

        Args:
            talk: at least one message.
            limit: bytes of JSON above which it is cut.
        """
        seen = self._of_segment()
        marks = talk.marks()
        count, after = len(marks), None
        while count and after is None:
            after = seen.conversations.get((count, marks[count - 1]))
            count -= after is None
        if count == len(marks):
            return after
        value = talk.json(limit, count)
        if not value.startswith(b"["):  # it could not be encoded; a text says why
            return self.put(value)
        blob, there = self._write(b'"items":', value, after or "")
        if there != seen.segment:  # which began with this very line, perhaps
            seen = self._of_segment()
            if after:
                blob, there = self._write(b'"items":', talk.json(limit), "")
        if there and there == seen.segment:
            if len(seen.conversations) >= _MAX_WHOLES:
                seen.conversations.clear()
            seen.conversations[len(marks), marks[-1]] = blob
        return None if there is None else blob

    def _of_segment(self) -> _Seen:
        seen, segment = self._seen, self._journal.segment
        if seen.segment != segment:
            seen = self._seen = _Seen(segment)
        return seen

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

    def _write(self, key: bytes, value: bytes, after: str) -> tuple[str, str | None]:
        """The id of the blob, and the segment that it was written to, as `Journal.append` tells it."""
        from hashlib import blake2b  # noqa: PLC0415  # many programs have no large values

        value = self._redact(value)
        blob = blake2b(after.encode() + value, digest_size=16).hexdigest()
        link = f'"after":"{after}",' if after else ""
        line = b'{"blob":"%b",%b%b%b}\n' % (blob.encode(), link.encode(), key, value)
        return blob, self._journal.append(line)


def _remember(seen: _Seen, value: bytes, key: tuple[int, int], blob: str) -> None:
    if len(seen.wholes) >= _MAX_WHOLES:
        seen.wholes.clear()
    seen.wholes[key] = blob
    if not value.startswith(b"["):
        return
    stem = value[:_STEM]
    if stem not in seen.lists and len(seen.lists) >= _MAX_STEMS:
        seen.lists.clear()
    known = seen.lists.setdefault(stem, [])
    del known[: len(known) - _MAX_LISTS + 1]
    length = len(value) - 1
    known.append((length, value[length - _TAIL : length], hash(value[:length]), blob))
