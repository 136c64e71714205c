"""The lines of a journal's segment as columns, read in one compiled pass; texts stay where they stand."""

from io import BytesIO
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from millstream import semconv
from millstream.span import SpanKind, Status
from millstream.store.arrays import Bools, Ints
from millstream.store.blobs import BLOB as BLOB_START
from millstream.store.segments import lines_of
from millstream.store.table import TOKENS

try:
    from millstream.store import _scan, _texts
except ImportError:  # built without a compiler
    _scan = _texts = None  # type: ignore[assignment]
COMPILED: Final = _scan is not None

# As in _scan.c.
ENDED, OPENED, DROPPED, OTHER, BLOB = range(5)
"""What a line is: a span that ended, the start of one, one that will not come, what Python is to look at."""
_NUMBERS: Final = (
    "at", "size", "what", "flags", "start_ns", "end_ns", "kind", "status", "trace", "span", "parent",
)  # fmt: skip
_TEXTS: Final = (
    "trace_id", "span_id", "parent_id", "name", "error_type", "error_message", "workload_id",
    "input", "output", "attributes",
)  # fmt: skip
_TOLD: Final = (
    semconv.REQUEST_MODEL,
    semconv.RESPONSE_MODEL,
    semconv.RESPONSE_ID,
    semconv.TIME_TO_FIRST_CHUNK_S,
    semconv.TOOL_DEFINITIONS,
    semconv.OTEL_SPAN_KIND,
)
_HAS_BLOBS: Final = 1
NONE: Final = -(2**63)
"""Where a number is not told."""
LEFT_TO_PYTHON: Final = -1
NO_PROMPT: Final = -2
"""Instead of a length."""
_KIND_WORDS: Final = tuple(kind.value.encode() for kind in SpanKind)
_STATUS_WORDS: Final = tuple(status.value.encode() for status in Status)
_NAME_WORDS: Final = tuple(name.encode() for name in _TOLD)

Places = tuple[Ints, NDArray[np.int32], Bools]
"""Where texts begin in the data, -1 where there is none; how many bytes they have; whether with escapes."""


def _read(data: bytes) -> tuple[bytes, bytes, bytes, int, int]:
    """As `_scan.scan`; without a compiler every line is left to Python."""
    if COMPILED:
        return _scan.scan(data, _KIND_WORDS, _STATUS_WORDS, _NAME_WORDS)
    found = list(lines_of(BytesIO(data)))
    numbers = np.full((len(_NUMBERS) + len(TOKENS), len(found)), -1, np.int64)
    numbers[0] = [at for at, _ in found]
    numbers[1] = [len(line) for _, line in found]
    numbers[2] = [BLOB if line.startswith(BLOB_START) else OTHER for _, line in found]
    numbers[3] = 0
    nowhere = np.full((len(_TEXTS) + len(_TOLD), len(found)), -1, np.int32).tobytes()
    return numbers.tobytes(), nowhere, nowhere, 0, 0


class Lines:
    """The lines of a stretch of a segment, blank ones left out.

    Args:
        data: whole lines.

    Attributes:
        numbers: by name, one element a line: `at` and `size` of the line, `what` it is, `start_ns` and the
            others as in `Span`, `NONE` where one is not told; `kind` and `status` as positions in their
            enumerations, `trace`, `span` and `parent` as numbers of their ids, -1 where there is none.
        counts: how many ids of a `trace` there are, and of a `span`, those of parents among them.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        numbers, at, size, *counts = _read(data)
        names, texts = (*_NUMBERS, *TOKENS), (*_TEXTS, *_TOLD)
        columns = np.frombuffer(numbers, np.int64).reshape(len(names), -1)
        self.numbers: dict[str, Ints] = dict(zip(names, columns, strict=True))
        self.counts: dict[str, int] = dict(zip(("trace", "span"), counts, strict=True))
        self._at = dict(zip(texts, np.frombuffer(at, np.int32).reshape(len(texts), -1), strict=True))
        self._size = dict(zip(texts, np.frombuffer(size, np.int32).reshape(len(texts), -1), strict=True))
        self._bit = {name: 1 << (1 + place) for place, name in enumerate(texts)}

    def __len__(self) -> int:
        return len(self.numbers["at"])

    def line(self, row: int) -> bytes:
        """One of them, without its newline."""
        at = int(self.numbers["at"][row])
        return self.data[at : at + int(self.numbers["size"][row])]

    def text(self, name: str, row: int) -> bytes | None:
        """The JSON of one field of one line."""
        inside, at = int(self._at[name][row]), int(self.numbers["at"][row])
        return None if inside < 0 else self.data[at + inside : at + inside + int(self._size[name][row])]

    def has(self, name: str, rows: Ints) -> Bools:
        """Which rows tell a text or an attribute, shape (rows,)."""
        return self._at[name][rows] >= 0

    @property
    def has_blobs(self) -> Bools:
        """Which refer to large values, shape (lines,)."""
        return (self.numbers["flags"] & _HAS_BLOBS) > 0

    def places(self, name: str, rows: Ints) -> Places:
        """Where the text of each row stands, or its attribute's JSON."""
        inside = self._at[name][rows]
        at = np.where(inside >= 0, self.numbers["at"][rows] + inside, -1)
        return at, self._size[name][rows], (self.numbers["flags"][rows] & self._bit[name]) > 0

    def told_texts(self, name: str, rows: Ints) -> Places:
        """The same of attributes that are text, without its quotes; others are as if not told."""
        at, size, escaped = self.places(name, rows)
        signs = np.frombuffer(self.data, np.uint8)
        quoted = at >= 0
        quoted[quoted] = signs[at[quoted]] == ord('"')
        return np.where(quoted, at + 1, -1), np.where(quoted, size - 2, 0).astype(np.int32), escaped


def gather(data: bytes, places: Places) -> tuple[bytes, Ints]:
    """Texts one after the other as UTF-8, and where each ends, shape (rows,)."""
    at, size, escaped = (np.ascontiguousarray(part) for part in places)
    if COMPILED:
        text, ended = _texts.gather(data, at, size, escaped.view(np.uint8))
        return text, np.frombuffer(ended, np.int64)
    found = [
        b"" if start < 0 else data[start : start + count]
        for start, count in zip(at.tolist(), size.tolist(), strict=True)
    ]
    for row in np.flatnonzero(escaped).tolist():
        found[row] = msgspec.json.decode(b'"%b"' % found[row], type=str).encode()
    return b"".join(found), np.cumsum([len(text) for text in found], dtype=np.int64)


def prompt_hashes(data: bytes, prompts: Places, tools: Places) -> tuple[NDArray[np.uint64], Ints]:
    """The chained hashes of prompts, one after the other, and how many each has.

    Args:
        data: what the places are in.
        prompts: the JSON of each call's input.
        tools: that of the tools it was offered.

    Returns:
        The hashes as `prompt_blocks.block_hashes` gives them; the lengths with `LEFT_TO_PYTHON` and
        `NO_PROMPT` among them.
    """
    at, size = np.ascontiguousarray(prompts[0]), np.ascontiguousarray(prompts[1])
    tools_at, tools_size = np.ascontiguousarray(tools[0]), np.ascontiguousarray(tools[1])
    if not COMPILED:
        length = np.where(prompts[0] < 0, NO_PROMPT, LEFT_TO_PYTHON)
        return np.zeros(0, np.uint64), length
    hashes, lengths = _texts.prompts(data, at, size, tools_at, tools_size)
    return np.frombuffer(hashes, np.uint64), np.frombuffer(lengths, np.int64)
