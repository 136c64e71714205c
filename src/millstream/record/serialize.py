"""Any Python value to JSON, without ever raising: arguments and results of traced calls.

The common case is one call of msgspec's encoder. What it cannot encode, or what is too large, takes the
careful way, which cuts with a mark and never follows a cycle.
"""

import math
import re
import reprlib
from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

import msgspec

MAX_BYTES: Final = 1 << 20
"""A value whose JSON is longer is cut."""
_MAX_TEXT: Final = 100_000
_MAX_ITEMS: Final = 1_000
_MAX_DEPTH: Final = 50
_MAX_REPR: Final = 1_000
_CUT: Final = "… [cut: {} {} in all]"

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")  # differs from run to run
_SIZED: Final = frozenset({str, bytes, bytearray, list, tuple, dict, set, frozenset})


def to_json(value: Any) -> bytes:
    """`value` as one JSON value, ready to be placed in a line of the journal."""
    if type(value) not in _SIZED or len(value) <= _MAX_TEXT:
        try:
            encoded = _encoder.encode(value)
        except Exception:  # noqa: BLE001, S110  # a user's object may raise anything; the careful way follows
            pass
        else:
            if len(encoded) <= MAX_BYTES:
                return encoded
    encoded = _encoder.encode(_Careful(_MAX_ITEMS).convert(value, 0))
    if len(encoded) > MAX_BYTES:
        encoded = _encoder.encode(_Careful(20).convert(value, 0))
    if len(encoded) > MAX_BYTES:
        text = encoded[:_MAX_TEXT].decode(errors="replace")
        encoded = _encoder.encode(text + _CUT.format(len(encoded), "bytes"))
    return encoded


def describe(value: Any) -> str:
    """A short text for an object that has no JSON form; one that fails to describe itself is named."""
    kind: Any = type(value)
    if isinstance(value, type) or callable(value):
        return f"<{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', kind.__qualname__)}>"
    if kind.__repr__ is object.__repr__:
        return f"<{kind.__module__}.{kind.__qualname__}>"
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  # a user's __repr__ may raise anything
        return f"<{kind.__module__}.{kind.__qualname__}: repr raised {type(error).__name__}>"
    text = _ADDRESS.sub("", text)
    return text if len(text) <= _MAX_REPR else text[:_MAX_REPR] + _CUT.format(len(text), "characters")


def _foreign(value: Any) -> Any:
    """What stands for an object that msgspec does not know: the encoder's hook."""
    for plain in (str, int, float):
        if isinstance(value, plain) and not hasattr(value, "dtype"):  # a subclass
            return plain(value)
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # NumPy scalars and arrays
        size = getattr(value, "size", 1)
        if isinstance(size, int) and size <= _MAX_ITEMS:
            return value.tolist()
        return f"<array of {value.dtype}, shape {tuple(value.shape)}>"
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, AbstractSet | deque):
        return list(value)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    return describe(value)


_encoder: Final = msgspec.json.Encoder(enc_hook=_foreign)


class _Careful:
    """Builds plain values piece by piece; `max_items` a container, `_MAX_DEPTH` levels, no cycles."""

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._open: set[int] = set()

    def convert(self, value: Any, depth: int) -> Any:
        try:
            return self._convert(value, depth)
        except Exception as error:  # noqa: BLE001  # a user's object may raise anything
            return f"<{type(value).__module__}.{type(value).__qualname__}: raised {type(error).__name__}>"

    def _convert(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if -(2**63) <= value < 2**64 else str(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else None
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, bytes | bytearray | memoryview):
            size = memoryview(value).nbytes
            return value if size <= _MAX_TEXT else f"<{size} bytes>"
        if depth >= _MAX_DEPTH:
            return "… [cut: too deep]"
        if id(value) in self._open:
            return "<cycle>"
        self._open.add(id(value))
        try:
            return self._container(value, depth)
        finally:
            self._open.discard(id(value))

    def _text(self, value: str) -> str:
        text = str(value).encode(errors="replace").decode()
        return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + _CUT.format(len(text), "characters")

    def _container(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            result = {}
            for number, (key, item) in enumerate(value.items()):
                if number >= self._max_items:
                    result["…"] = _CUT.format(len(value), "items")
                    break
                name = key if isinstance(key, str) else reprlib.repr(key)
                result[self._text(name)] = self.convert(item, depth + 1)
            return result
        if isinstance(value, list | tuple | AbstractSet | deque):
            items: list[Any] = []
            for number, item in enumerate(value):
                if number >= self._max_items:
                    items.append(_CUT.format(len(value), "items"))
                    break
                items.append(self.convert(item, depth + 1))
            return items
        fields = getattr(type(value), "__struct_fields__", None) or getattr(
            type(value), "__dataclass_fields__", None
        )
        if fields:
            return {name: self.convert(getattr(value, name, None), depth + 1) for name in fields}
        try:
            plain = msgspec.to_builtins(value)  # dates, decimals, UUIDs, enums
        except Exception:  # noqa: BLE001  # not a type that msgspec knows
            plain = _foreign(value)
        return self._text(plain) if isinstance(plain, str) else self.convert(plain, depth + 1)
