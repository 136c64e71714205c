"""The prompts of LLM calls as chained hashes: all that the analyses of caches need of their text.

A prompt is written out in one form that no two prompts share, and cut into blocks of 64 bytes; what is left
over at its end has no hash. The hash of a block is one of everything up to its end, so equal hashes are equal
prefixes. Hashes are the same on every machine and in every process.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from millstream import semconv
from millstream.span import Span, SpanKind
from millstream.store.arrays import Bools, Ints
from millstream.store.strict_json import json_text

try:
    from millstream.store import _prompts
except ImportError:  # built without a compiler
    _prompts = None  # type: ignore[assignment]
COMPILED: Final = _prompts is not None

Hashes = NDArray[np.uint64]

BLOCK_BYTES: Final = 64
_WORDS: Final = BLOCK_BYTES // 8
_AHEAD: Final = 4
_BYTES_AT_ONCE: Final = 250_000
_MULTIPLIER: Final = np.uint64(0xBF58476D1CE4E5B9)

# What a part of a prompt begins with. None of these can be in JSON; in other text they are escaped.
_MESSAGE: Final = "\x1e"
_TEXT: Final = "\x1f"
_JSON: Final = "\x1d"
_MORE: Final = "\x1c"
_ESCAPE: Final = "\x1b"
_ESCAPED: Final = {mark: _ESCAPE + chr(ord(mark) + 0x40) for mark in (_ESCAPE, _MORE, _JSON, _MESSAGE, _TEXT)}
_ESCAPES: Final = str.maketrans(_ESCAPED)
_START: Final = re.compile(rb"\x1c|\x1e[^\x1b-\x1f]*[\x1c\x1d\x1f]|\x1e")
_PLAIN: Final = frozenset({"role", "content"})


@dataclass(frozen=True, slots=True, eq=False)
class PromptBlocks:
    """The prompts of spans, one element a span.

    Attributes:
        hashes: of blocks; a prompt that another begins with may lie inside it.
        first: where each span's blocks start, shape (n,).
        length: blocks of each span, shape (n,).
        known: the span is an LLM call whose prompt was recorded; others have no blocks, shape (n,).
    """

    hashes: Hashes
    first: Ints
    length: Ints
    known: Bools


def prompt_blocks(spans: Iterable[Span]) -> PromptBlocks:
    """The prompts of spans, in their order."""
    found: list[Hashes] = []
    lengths: list[Ints] = []
    known: list[bool] = []
    waiting: list[bytes] = []
    size = 0
    for span in spans:
        prompt = rendered(span)
        known.append(prompt is not None)
        waiting.append(prompt or b"")
        size += len(waiting[-1])
        if size >= _BYTES_AT_ONCE:
            hashes, length = block_hashes(waiting)
            found.append(hashes)
            lengths.append(length)
            waiting, size = [], 0
    hashes, length = block_hashes(waiting)
    length = np.concatenate([*lengths, length])
    return PromptBlocks(
        hashes=np.concatenate([*found, hashes]),
        first=np.cumsum(length) - length,
        length=length,
        known=np.array(known, bool),
    )


def once(hashes: Hashes, length: Ints) -> tuple[Hashes, Ints]:
    """Prompts without those that one of the next few begins with, and where each is found then.

    In a conversation each prompt begins with the one before it, so that little is left of many blocks.

    Args:
        hashes: chained, so that prompts whose last blocks are alike are alike.
        length: of each prompt, which lie one behind the other.
    """
    if COMPILED:
        first = np.empty(len(length), np.int64)
        counts = np.ascontiguousarray(length, np.int64)
        return np.frombuffer(_prompts.once(np.ascontiguousarray(hashes), counts, first), np.uint64), first
    first = np.cumsum(length) - length
    prompts = np.flatnonzero(length)
    at, size = first[prompts], length[prompts]
    holder = np.arange(len(prompts))
    for ahead in range(1, min(_AHEAD, len(prompts) - 1) + 1):
        alone = np.flatnonzero(holder[:-ahead] == np.arange(len(prompts) - ahead))
        alone = alone[size[alone] <= size[alone + ahead]]
        last = size[alone] - 1
        begins = hashes[at[alone] + last] == hashes[at[alone + ahead] + last]
        holder[alone[begins]] = alone[begins] + ahead
    while not np.array_equal(further := holder[holder], holder):
        holder = further
    kept = np.flatnonzero(holder == np.arange(len(prompts)))
    begin, end = at[kept].tolist(), (at[kept] + size[kept]).tolist()
    left = [hashes[one:other] for one, other in zip(begin, end, strict=True)]
    at[kept] = np.cumsum(size[kept]) - size[kept]
    first = np.zeros(len(length), np.int64)
    first[prompts] = at[holder]
    return np.concatenate([hashes[:0], *left]), first


def block_hashes(prompts: Sequence[bytes]) -> tuple[Hashes, Ints]:
    """The chained hashes of the full blocks of texts, one text after the other, and how many each has."""
    length: Ints = np.array([len(prompt) // BLOCK_BYTES for prompt in prompts], np.int64)
    text = b"".join([prompt[: len(prompt) // BLOCK_BYTES * BLOCK_BYTES] for prompt in prompts])
    words = np.frombuffer(text, "<u8").astype(np.uint64, copy=False).reshape(-1, _WORDS)
    before = np.cumsum(length) - length
    position = np.arange(len(words)) - np.repeat(before, length)
    folded = words ^ (words >> np.uint64(32))
    folded *= _MULTIPLIER
    folded ^= folded >> np.uint64(29)
    blocks = folded @ _salts(_WORDS) + _salts(int(length.max(initial=0)))[position]
    blocks = _mixed(blocks)
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(blocks, dtype=np.uint64)))
    return _mixed(sums[1:] - np.repeat(sums[before], length)), length


def _salts(count: int) -> Hashes:
    """A different odd number for each position."""
    return _mixed(np.arange(1, count + 1, dtype=np.uint64)) | np.uint64(1)


def _mixed(values: Hashes) -> Hashes:
    """Each bit of a number spread over all others: splitmix64 (Steele et al., 2014), one to one."""
    mixed = values ^ (values >> np.uint64(30))
    mixed *= _MULTIPLIER
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


# The one form of a prompt


def rendered(span: Span) -> bytes | None:
    """The prompt of an LLM call: the tools it was offered, then its messages in order.

    Of what a message holds, its role and content come first and everything else (calls of tools, a call's id)
    behind them as JSON, in the order in which it was recorded: providers' caches depend on that, too.

    Returns:
        `None` where the span is no LLM call, or its content was not recorded.
    """
    if span.kind is not SpanKind.LLM:
        return None
    prompt = msgspec.json.decode(span.input) if isinstance(span.input, msgspec.Raw) else span.input
    if prompt is None or prompt is msgspec.UNSET:
        return None
    return rendered_prompt(prompt, span.attributes.get(semconv.TOOL_DEFINITIONS))


def rendered_prompt(prompt: Any, tools: Any) -> bytes:
    """The same of a call's input and the tools that it was offered, as JSON values."""
    parts = [] if tools is None else [_MORE + _json(tool) for tool in _listed(tools)]
    parts += [_message(message) for message in _listed(prompt)]
    return "".join(parts).encode(errors="surrogatepass")


def shown(prompt: bytes) -> str:
    """A prompt, or the start of one, for people: each tool and each message on a line of its own."""
    text = prompt.decode(errors="ignore")
    for mark, line in ((_MORE, "\n"), (_MESSAGE, "\n"), (_TEXT, ": "), (_JSON, ": ")):
        text = text.replace(mark, line)
    if _ESCAPE in text:
        for mark, escaped in reversed(_ESCAPED.items()):
            text = text.replace(escaped, mark)
    return text.removeprefix("\n")


def content_start(prompt: bytes) -> int:
    """Where the first tool's or message's content begins, after what all prompts begin with alike."""
    start = _START.match(prompt)
    return start.end() if start else 0


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _message(message: Any) -> str:
    if not isinstance(message, dict):
        return _MESSAGE + _json(message)
    role, content = message.get("role"), message.get("content")
    parts = [_MESSAGE, "" if role is None else _escaped(str(role))]
    if isinstance(content, str):
        parts += (_TEXT, _escaped(content))
    elif content is not None:
        parts += (_JSON, _json(content))
    if not _PLAIN.issuperset(message):
        more = {key: value for key, value in message.items() if key not in _PLAIN and value is not None}
        if more:
            parts += (_MORE, _json(more))
    return "".join(parts)


def _json(value: Any) -> str:
    """A value as JSON; text as it is."""
    return _escaped(value) if isinstance(value, str) else json_text(value)


def _escaped(text: str) -> str:
    for mark in _ESCAPED:
        if mark in text:
            return text.translate(_ESCAPES)
    return text
