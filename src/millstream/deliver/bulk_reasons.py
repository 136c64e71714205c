"""What a search server answers to a bulk, and why it did not take a document: in words, without its content.

Servers quote in their reasons what they could not read. Of a reason is told what a pattern here knows, and
else what stands before anything that may be a quotation. Names of fields are told as far as they are ours:
what users put in has names, too.
"""

import re
from typing import Final

import msgspec

from millstream.deliver.http import NOT_FOUND, shortened

BLOCKED: Final = "cluster_block_exception"
STRICT: Final = "strict_dynamic_mapping_exception"
FORBIDDEN: Final = frozenset({401, 403})
_REFUSED: Final = FORBIDDEN | {NOT_FOUND}
_TOP: Final = "_doc"
_PLACE: Final = re.compile(r"^(?:\[[^\]]*\] ?)+")
"""Line and column, or index and shard, before the sentence."""
_BARE: Final = "failed to parse"
"""Says nothing by itself: what follows it, or its cause, does."""
_CONTENT: Final = re.compile(r"(?<!\w)'|[\"\[{(:\n]|\d| but | Timeout")
"""Where a sentence may begin to quote a document, or what differs each time."""
_BLOCK: Final = re.compile(r"blocked by: \[[A-Z_]+/\d+/([^\];]+)")
_MAPPED: Final = re.compile(r"failed to parse field \[([^\]]*)\] of type \[(\w+)\]")
_OBJECT: Final = re.compile(r"object mapping for \[([^\]]*)\] tried to parse field .* as object")
_LONG_TERM: Final = re.compile(r"immense term in field=\"([^\"]*)\"")
_LIMIT: Final = re.compile(r"\blimit of (?:[a-z]+ )*\[\d+\]", re.IGNORECASE)
_UNKNOWN: Final = re.compile(r"introduction of \[([^\]]*)\] within \[([^\]]*)\]")


class _Cause(msgspec.Struct, frozen=True):
    reason: str | None = None


class _Error(msgspec.Struct, frozen=True):
    type: str = ""
    reason: str | None = None
    caused_by: _Cause = _Cause()


_NO_ERROR: Final = _Error()


class Outcome(msgspec.Struct):
    """What became of one document, or of a whole request."""

    status: int
    error: _Error = _NO_ERROR

    @property
    def is_block(self) -> bool:
        """Whether the index or the cluster is blocked: a full disk, mostly, which ends by itself."""
        return self.error.type == BLOCKED

    @property
    def is_refusal(self) -> bool:
        """Whether it is not the document, but the index or the user."""
        return not self.is_block and (self.status in _REFUSED or self.error.type == STRICT)

    @property
    def unknown_field(self) -> str:
        """The field that a strict mapping does not have, where the server says."""
        return _unknown_field(self.error.reason or "")

    @property
    def why(self) -> str:
        """Why, the same words for the same cause; the server's name of it, where that is all it says."""
        said, cause = self.error.reason or "", self.error.caused_by.reason or ""
        told = _known(said) or _known(cause)
        if self.is_block:
            return told or BLOCKED
        if not told:
            told = _words(said)
            if told in ("", _BARE):
                told = _words(cause) or told
        return shortened(f"{self.error.type}: {told}" if told else self.error.type)


_CREATED: Final = Outcome(201)


class _Item(msgspec.Struct):
    create: Outcome


class _Errors(msgspec.Struct):
    errors: bool


class _Answer(msgspec.Struct):
    items: list[_Item]


class _Refused(msgspec.Struct):
    error: _Error = _NO_ERROR


_decode_errors: Final = msgspec.json.Decoder(_Errors).decode
_decode_items: Final = msgspec.json.Decoder(_Answer).decode
_decode_refused: Final = msgspec.json.Decoder(_Refused).decode


def outcomes(body: bytes, count: int) -> list[Outcome]:
    """What became of each document of a bulk of `count`: all created, where the server names no error.

    Raises:
        msgspec.DecodeError: it is no answer to a bulk.
    """
    if not _decode_errors(body).errors:
        return [_CREATED] * count
    return [item.create for item in _decode_items(body).items]


def outcome_of(status: int, body: bytes) -> Outcome:
    """What became of a request that was refused as a whole."""
    try:
        return Outcome(status, _decode_refused(body).error)
    except (msgspec.DecodeError, UnicodeDecodeError):  # not the server's words: those of a proxy, say
        return Outcome(status)


def _known(said: str) -> str:
    if found := _BLOCK.search(said):
        return shortened(found[1])
    if found := _MAPPED.search(said):
        return f"field {_field(found[1])!r} is mapped as {found[2]}"
    if found := _OBJECT.search(said):
        return f"field {_field(found[1])!r} is mapped as object"
    if found := _LONG_TERM.search(said):
        return f"field {_field(found[1])!r} holds more than a term may"
    if field := _unknown_field(said):
        return f"no field {field!r}"
    if found := _LIMIT.search(said):
        return f"over its {found[0][0].lower()}{found[0][1:]}"
    return ""


def _unknown_field(said: str) -> str:
    found = _UNKNOWN.search(said)
    if found is None:
        return ""
    name, within = found.groups()
    return _field(name if within == _TOP else f"{within}.{name}")


def _field(name: str) -> str:
    """A field as far as its name is ours: `attributes.*` of `attributes.tenant`."""
    top, dot, _ = name.partition(".")
    return f"{top[:100]}.*" if dot else top[:100]


def _words(said: str) -> str:
    said = _PLACE.sub("", said).removeprefix(f"{_BARE}: ")
    return shortened(_CONTENT.split(said, maxsplit=1)[0]).rstrip(" ,;")
