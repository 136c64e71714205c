"""Any Python value to JSON, without ever raising: arguments and results of traced calls.

The common case is one call of msgspec's encoder. What it cannot encode, or what is too large, takes the
careful way, which cuts with a mark and never follows a cycle. The encoder is given no hook: it must not run
Python code while it walks a list, because that code, or another thread meanwhile, may change the list.
"""

import copy
import dataclasses
import itertools
import math
import re
import reprlib
from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any, Final

import msgspec

MAX_BYTES: Final = 1 << 20
"""A value whose JSON is longer is cut."""
_MAX_TEXT: Final = 100_000
_MAX_ITEMS: Final = 1_000
_MAX_DEPTH: Final = 50
_MAX_REPR: Final = 1_000
_CUT: Final = "… [cut: {} {} in all]"
_IS_CUT: Final = re.compile(r"… \[cut: (?:(\d{1,18}) (?:bytes|characters|items) in all|too deep)\]\Z")

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")  # differs from run to run
_SIZED: Final = frozenset({str, bytes, bytearray, list, tuple, dict, set, frozenset})
_encode: Final = msgspec.json.Encoder().encode
_ATOMS: Final = frozenset({type(None), bool, msgspec.Raw})
_BINARY: Final = (bytes, bytearray, memoryview)
_SEQUENCES: Final = (list, tuple, set, frozenset, deque)
_LIMITS: Final = ((_MAX_TEXT, MAX_BYTES), (_MAX_ITEMS, _MAX_TEXT), (20, _MAX_TEXT))
"""Items a container and characters a text, tried in turn; the first cuts nothing."""


def to_json(value: Any, limit: int = MAX_BYTES) -> bytes:
    """`value` as one JSON value, ready to be placed in a line of the journal.

    Args:
        value: anything.
        limit: bytes of JSON above which it is cut.
    """
    if type(value) in _SIZED and len(value) > _MAX_TEXT:
        return _carefully(value, _LIMITS[1:], limit)
    try:
        encoded = _encode(value)
    except Exception:  # noqa: BLE001  # not all of it is known to msgspec
        return _carefully(value, _LIMITS, limit)
    return encoded if len(encoded) <= limit else _carefully(value, _LIMITS[1:], limit)


def _carefully(value: Any, limits: tuple[tuple[int, int], ...], limit: int) -> bytes:
    encoded = b""
    for max_items, max_text in limits:
        try:
            encoded = _encode(_Careful(max_items, max_text).convert(value, 0))
        except _TooLargeError:
            continue
        except Exception as error:  # noqa: BLE001  # so deep in the stack that nothing can be read
            return _encode(f"<{type(value).__qualname__}: {type(error).__name__}>")
        if len(encoded) <= limit:
            return encoded
    text = encoded[: min(_MAX_TEXT, limit)].decode(errors="replace")
    return _encode(text + _CUT.format(len(encoded), "bytes"))


def cut_at(text: str) -> int | None:
    """Where the note of its length begins in a text that was cut; one that only tells of it, was not."""
    mark = _IS_CUT.search(text)
    is_true = mark is not None and (mark[1] is None or int(mark[1]) > mark.start())
    return mark.start() if mark is not None and is_true else None


def to_text(value: Any) -> str:
    """`value` as text that can be stored: what is no character of Unicode becomes a question mark."""
    return value if type(value) is str and value.isascii() else str(value).encode(errors="replace").decode()


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
    """What stands for an object that msgspec does not know. Types decide: a mock has every attribute."""
    kind = type(value)
    if hasattr(kind, "dtype") and hasattr(kind, "tolist"):  # NumPy scalars and arrays
        size = getattr(value, "size", 1)
        if isinstance(size, int) and size <= _MAX_ITEMS:
            return value.tolist()
        return f"<array of {value.dtype}, shape {tuple(value.shape)}>"
    if issubclass(kind, BaseException):
        return f"{kind.__name__}: {value}"
    return describe(value)


class _TooLargeError(Exception):
    """More than may be kept whole."""


class _Careful:
    """Builds plain values piece by piece: no cycles, `_MAX_DEPTH` levels, `max_items` a container.

    With the first of `_LIMITS` what msgspec knows stays as msgspec writes it, and what would have to be cut
    raises `_TooLargeError`.
    """

    def __init__(self, max_items: int, max_text: int) -> None:
        self._max_items = max_items
        self._max_text = max_text
        self._whole = max_text == MAX_BYTES
        self._room = MAX_BYTES
        self._open: set[int] = set()

    def convert(self, value: Any, depth: int) -> Any:
        if type(value) in _ATOMS:
            return value
        try:
            if self._whole and depth:  # the outermost value was tried before
                try:
                    encoded = _encode(value)
                except Exception:  # noqa: BLE001, S110  # it is not known to msgspec all through
                    pass
                else:
                    return self._fitting(msgspec.Raw(encoded), len(encoded))
            return self._convert(value, depth)
        except _TooLargeError:
            raise
        except Exception as error:  # noqa: BLE001  # a user's object may raise anything
            return f"<{type(value).__module__}.{type(value).__qualname__}: raised {type(error).__name__}>"

    def _fitting(self, value: Any, size: int) -> Any:
        self._room -= size
        if self._whole and self._room < 0:
            raise _TooLargeError
        return value

    def _convert(self, value: Any, depth: int) -> Any:
        kind = type(value)  # isinstance would believe what a mock or a proxy says of its class
        if issubclass(kind, Enum):
            return self.convert(value.value, depth + 1)
        if issubclass(kind, int):
            return int(value) if -(2**63) <= value < 2**64 else str(value)
        if issubclass(kind, float):
            return float(value) if math.isfinite(value) else None
        if issubclass(kind, str):
            return self._text(value)
        if issubclass(kind, _BINARY):
            size = memoryview(value).nbytes
            return self._fitting(value, size) if size <= self._max_text else f"<{size} bytes>"
        if issubclass(kind, type):
            return describe(value)
        if depth >= _MAX_DEPTH:
            return "… [cut: too deep]"
        if id(value) in self._open:
            return "<cycle>"
        self._open.add(id(value))
        try:
            return self._container(value, kind, depth + 1)
        finally:
            self._open.discard(id(value))

    def _text(self, value: str) -> str:
        text = to_text(value)
        self._fitting(None, len(text))
        if len(text) <= self._max_text:
            return text
        return text[: self._max_text] + _CUT.format(len(text), "characters")

    def _container(self, value: Any, kind: type, depth: int) -> Any:
        if issubclass(kind, dict):
            return self._mapping(value, depth)
        if issubclass(kind, _SEQUENCES):
            return self._sequence(value, depth)
        if issubclass(kind, msgspec.Struct):
            twin = copy.copy(value)  # keeps what the type says of names, tags and defaults
            for name in kind.__struct_fields__:
                msgspec.structs.force_setattr(twin, name, self.convert(getattr(value, name, None), depth))
            return twin
        names = _field_names(kind)
        if names is not None:
            fields = ((name, getattr(value, name, msgspec.UNSET)) for name in names)
            return {name: self.convert(item, depth) for name, item in fields if item is not msgspec.UNSET}
        if hasattr(kind, "model_dump"):  # pydantic
            return self.convert(value.model_dump(mode="json"), depth)
        if issubclass(kind, Mapping):
            return self._mapping(value, depth)
        if issubclass(kind, AbstractSet):
            return self._sequence(value, depth)
        try:
            plain = msgspec.to_builtins(value)  # dates, decimals, UUIDs
        except Exception:  # noqa: BLE001  # not a type that msgspec knows
            plain = _foreign(value)
        return self._text(plain) if isinstance(plain, str) else self.convert(plain, depth)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for number, (key, item) in enumerate(self._some(value.items())):
            if number >= self._max_items:
                result["…"] = self._cut(value)
                break
            result[self._text(_key(key))] = self.convert(item, depth)
        return result

    def _sequence(self, value: Any, depth: int) -> list[Any]:
        items: list[Any] = []
        for number, item in enumerate(self._some(value)):
            if number >= self._max_items:
                items.append(self._cut(value))
                break
            items.append(self.convert(item, depth))
        return items

    def _some(self, items: Iterable[Any]) -> list[Any]:
        """As they are now: a `__repr__` or another thread may change them meanwhile."""
        return list(itertools.islice(items, self._max_items + 1))

    def _cut(self, value: Any) -> str:
        if self._whole:
            raise _TooLargeError
        return _CUT.format(len(value), "items")


def _field_names(kind: Any) -> list[str] | None:
    if hasattr(kind, "__dataclass_fields__"):
        return [field.name for field in dataclasses.fields(kind)]
    if hasattr(kind, "__attrs_attrs__"):
        return [field.name for field in kind.__attrs_attrs__]
    return None


def _key(key: Any) -> str:
    """The name that msgspec gives a key; of one that it does not know, a short description."""
    if isinstance(key, str) and not isinstance(key, Enum):
        return key
    try:
        names: dict[str, None] = msgspec.json.decode(_encode({key: None}))
    except Exception:  # noqa: BLE001  # not a kind of key that JSON has
        return reprlib.repr(key)
    (name,) = names
    return name
