"""Strict JSON of whatever a span holds: what is not finite is null, what JSON has no form for is text.

Half of a character, which Python's texts may hold and UTF-8 has no bytes for, is written as its escape.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

_HALF: Final = "backslashreplace"


def json_bytes(value: Any, *, order: Literal["deterministic"] | None = None) -> bytes:
    """One value; structs become objects, keys that are numbers text.

    Args:
        value: builtin objects, structs, `msgspec.Raw`.
        order: of keys: as they are, or the same for equal values.
    """
    encode = _encoders[order].encode
    try:
        return encode(value)
    except UnicodeEncodeError:
        return encode(_writable(value))


def json_text(value: Any) -> str:
    """One value as text."""
    return json_bytes(value).decode()


def json_lines(values: Sequence[Any]) -> list[bytes]:
    """Each of many values."""
    try:
        return _encoders[None].encode_lines(values).split(b"\n")[:-1]
    except UnicodeEncodeError:
        return [json_bytes(value) for value in values]


def _writable(value: Any) -> Any:
    """The same value with texts that UTF-8 can hold."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_writable(key): _writable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(one) for one in value]
    return _writable(msgspec.structs.asdict(value)) if isinstance(value, msgspec.Struct) else value


def _text(value: Any) -> str:
    return str(value).encode(errors=_HALF).decode()


_Order = Literal["deterministic"] | None
_ORDERS: Final[tuple[_Order, ...]] = (None, "deterministic")
_encoders: Final = {order: msgspec.json.Encoder(enc_hook=_text, order=order) for order in _ORDERS}
