"""The headers of W3C Trace Context and W3C Baggage, and the carriers that they travel in.

Sources: https://www.w3.org/TR/trace-context/ and https://www.w3.org/TR/baggage/
"""

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from typing import Any, Final

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
BAGGAGE: Final = "baggage"
NAMES: Final = (TRACEPARENT, TRACESTATE, BAGGAGE)

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1
_PRINTABLE: Final = re.compile(r"[\t\x20-\x7e]+")
_MEMBER: Final = re.compile(
    r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+[ \t]*=[ \t]*"
    r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*([ \t]*;[\t\x20-\x7e]*)?"
)
"""A member of a baggage: a token, a value of baggage octets, properties."""
_MAX_MEMBERS: Final = 64
MAX_BYTES: Final = 8192


def parse_traceparent(value: str) -> tuple[str, str, bool] | None:
    """Trace id, span id and whether the trace is sampled; `None` when the header is not valid."""
    match = _TRACEPARENT.fullmatch(value.strip(" \t"))
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return trace_id, span_id, bool(int(flags, 16) & _SAMPLED)


def parse_tracestate(value: str) -> str | None:
    """The header as it is, unless it holds what no header may."""
    return value if _PRINTABLE.fullmatch(value) else None


def parse_baggage(value: str) -> tuple[str, ...]:
    """The members that are valid, as they are, up to the limits that everybody must pass on."""
    members: list[str] = []
    size = -1
    for text in value.split(","):
        member = text.strip(" \t")
        if not _MEMBER.fullmatch(member):
            continue
        size += len(member) + 1
        if size > MAX_BYTES or len(members) == _MAX_MEMBERS:
            break
        members.append(member)
    return tuple(members)


def baggage_values(members: Iterable[str]) -> dict[str, str]:
    """Names and values, decoded, without their properties."""
    from urllib.parse import unquote  # noqa: PLC0415  # few programs carry baggage

    values = {}
    for member in members:
        key, _, value = member.partition(";")[0].partition("=")
        values[unquote(key.strip(" \t"))] = unquote(value.strip(" \t"))
    return values


def read(carrier: Any) -> dict[str, str]:
    """Our headers in a carrier, by lower-case name.

    Args:
        carrier: a mapping (names in any case, text or bytes, values text, bytes or a list of them), or pairs
            of name and value, as the headers of an ASGI scope. What is none of these is passed over.
    """
    found: dict[str, list[str]] = {}
    for key, value in _pairs(carrier):
        name = _text(key).lower()
        if name in NAMES:
            found.setdefault(name, []).extend(_texts(value))
    headers = {name: ",".join(values) for name, values in found.items() if values}
    if len(found.get(TRACEPARENT, ())) > 1:  # nobody knows which
        del headers[TRACEPARENT]
    return headers


def write(carrier: Any, headers: Mapping[str, str]) -> None:
    """Put headers into a mapping, or into a list of pairs, in place of those of the same name."""
    if isinstance(carrier, MutableSequence):
        raw = not any(isinstance(key, str) for key, _ in carrier)
        carrier[:] = [pair for pair in carrier if _text(pair[0]).lower() not in headers]
        carrier.extend(
            (key.encode(), value.encode()) if raw else (key, value) for key, value in headers.items()
        )
        return
    mapping: MutableMapping[Any, Any] = carrier
    raw = False
    for key in list(mapping):
        raw = raw or isinstance(key, bytes)
        if key not in headers and _text(key).lower() in headers:
            del mapping[key]
    for key, value in headers.items():
        if raw:
            mapping[key.encode()] = value.encode()
        else:
            mapping[key] = value


def _pairs(carrier: Any) -> Iterator[tuple[Any, Any]]:
    items = carrier.items() if hasattr(carrier, "items") else carrier
    for item in items or ():
        if isinstance(item, tuple | list) and len(item) == 2:  # noqa: PLR2004  # a pair
            yield item[0], item[1]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [_text(one) for one in values if isinstance(one, str | bytes)]
