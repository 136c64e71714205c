"""Secrets and personal data out of what is recorded, before anything is written.

What is looked at is JSON. A cheap test comes first, for almost nothing holds a secret: only where the name or
the mark of one is seen is the value taken apart, mended and put together again.
"""

import functools
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.errors import ConfigError
from millstream.span import Span, SpanError, SpanEvent, SpanLink

REDACTED: Final = "[redacted]"
_MAX_DEPTH: Final = 100
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode

_FORMS_OF_KEYS: Final = (
    r"\bbearer\s+[\w.~+/=-]{8,}",
    r"\bbasic\s+[a-z0-9+/]{12,}={0,2}",
    r"\bsk-[\w-]{16,}",
    r"\baiza[\w-]{30,}",
    r"\bakia[a-z0-9]{16}\b",
    r"\bgh[pousr]_\w{30,}",
    r"\bgithub_pat_\w{20,}",
    r"\bglpat-[\w-]{16,}",
    r"\bhf_[a-z0-9]{20,}",
    r"\bgsk_\w{20,}",
    r"\bnvapi-[\w-]{20,}",
    r"\bxox[abeoprs]-[\w-]{10,}",
)
"""The forms of API keys and credentials, in lower case; `_MARKS` has the mark of each."""
_FORM: Final = "|".join(_FORMS_OF_KEYS)
_NAME: Final = r"(?:.*[-_. ])?(?:authorization|(?:set[-_])?cookies?|(?:.*[-_. ])?api[-_ ]?keys?)"
"""The whole name of a header or field whose value is a secret."""
_IN_TEXT: Final = (
    r"""((?:authorization|[\w-]*api[-_ ]?key)\\*["']?\s*[:=]\s*\\*["']?)"""
    r"""((?:(?:bearer|basic|token|digest)\s+)?[^\s"'\\,;&]+)"""
    r"""|((?:set-)?cookie\\*["']?\s*[:=]\s*\\*["']?)([^\s"'\\=;]+=[^\n"'\\]*)"""
)
"""A name and its value in running text, such as a header or a query."""
_CARD: Final = r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)"
_EMAIL: Final = r"[\w.+-]+@[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?\.[a-z]{2,}"
_PHONE: Final = r"(?<![\w.+-])(?:(?:\+|\(\d)[\d ()./-]{6,20}\d|\d{3}[ .-]\d{3}[ .-]\d{4})(?![\w-])"


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """One of the patterns above, when it is first needed: compiling all would be felt at import."""
    return re.compile(pattern, re.IGNORECASE)


class _Content(msgspec.Struct, omit_defaults=True):
    """What of a span is looked at."""

    error: SpanError | None = None
    input: Any = msgspec.UNSET
    output: Any = msgspec.UNSET
    attributes: dict[str, Any] = {}
    events: list[SpanEvent] = []
    links: list[SpanLink] = []


class Redaction:
    """Replaces secrets in everything that a span keeps: input, output, attributes, events, error message.

    Always: values of fields and headers called authorization, cookie or API key, bearer and basic
    credentials, and API keys of known forms. Also a processor: `Redaction(emails=True)(span)` gives the span.
    Keys are looked at as values are, but those of `semconv`. The name of a span is not.

    Args:
        patterns: regular expressions; what they find is replaced.
        fields: names of fields, of any depth, whose values are replaced, numbers, too; case does not matter.
        replacement: what is put in place.
        cards: card numbers, 13 to 19 digits whose check digit by Luhn is right.
        emails: e-mail addresses.
        phones: telephone numbers with a country code or in North American form.

    Raises:
        ConfigError: a pattern is no regular expression.
    """

    def __init__(
        self,
        *,
        patterns: Sequence[str] = (),
        fields: Collection[str] = (),
        replacement: str = REDACTED,
        cards: bool = False,
        emails: bool = False,
        phones: bool = False,
    ) -> None:
        if isinstance(patterns, str) or isinstance(fields, str):
            raise ConfigError("redaction takes lists of patterns and of fields, not one text")
        if not all(isinstance(field, str) for field in fields):
            raise ConfigError(f"redaction: fields are names, not {list(fields)!r}")
        self._fields = frozenset(field.lower() for field in fields)
        self._replacement = replacement
        self._own: list[re.Pattern[str]] = []
        for pattern in patterns:
            try:
                self._own.append(re.compile(pattern))
            except (re.error, TypeError) as error:
                raise ConfigError(f"redaction: {pattern!r} is no regular expression: {error}") from error
        self._known = [(_IN_TEXT, self._after_name), (_FORM, self._whole)]
        self._known += [(_CARD, self._card)] * cards + [(_EMAIL, self._whole)] * emails
        self._known += [(_PHONE, self._whole)] * phones
        looks_at_all = patterns or fields or cards or emails or phones
        self.suspects: Callable[[str], bool] = _always if looks_at_all else may_hold_secret
        """Whether JSON text is to be looked at: it has the mark of a secret, or everything is."""

    def json(self, data: bytes) -> bytes:
        """One JSON value without secrets; the same object where there is none."""
        if not self.suspects(data.decode()):
            return data
        value = _decode(data)
        mended = self._mend(value, 0)
        return data if mended is value else _encode(mended)

    def fields(self, data: bytes) -> bytes:
        """The fields of a span, as an object of JSON, without secrets; the same object where there is none.

        What they are called, and other fields than content, stay: readers need them.
        """
        if not self.suspects(data.decode()):
            return data
        fields: dict[str, Any] = _decode(data)
        mended = {name: self._mend_content(name, value) for name, value in fields.items()}
        return data if all(mended[name] is value for name, value in fields.items()) else _encode(mended)

    def __call__(self, span: Span) -> Span:
        """The span without secrets."""
        data = _encode(_Content(*(getattr(span, name) for name in _Content.__struct_fields__)))
        if (mended := self.fields(data)) is not data:
            content = msgspec.json.decode(mended, type=_Content)
            for name in _Content.__struct_fields__:
                setattr(span, name, getattr(content, name))
        return span

    def text(self, text: str) -> str:
        """A text without secrets."""
        for pattern, replace in self._known:
            text = _compiled(pattern).sub(replace, text)
        for own in self._own:
            text = own.sub(self._whole, text)
        return text

    def _whole(self, _match: re.Match[str]) -> str:
        return self._replacement

    def _after_name(self, match: re.Match[str]) -> str:
        return (match[1] or match[3]) + self._replacement

    def _card(self, match: re.Match[str]) -> str:
        return self._replacement if _passes_luhn(match[0]) else match[0]

    def _mend_content(self, name: str, value: Any) -> Any:
        """What a field of a span holds, without secrets; the same object where there is none."""
        if name in ("input", "output"):
            return self._mend(value, 0)
        if name == "attributes":
            return self._mend_object(value, 0, _semconv())
        if name in ("events", "links"):
            mended = [self._mend_parts(item) for item in value]
            return value if all(a is b for a, b in zip(mended, value, strict=True)) else mended
        return self._mend_parts(value) if name == "error" and value else value

    def _mend_parts(self, value: dict[str, Any]) -> dict[str, Any]:
        """An event, a link or an error."""
        mended = dict(value)
        for name in ("name", "message"):
            if name in value:
                mended[name] = self._mend_text(value[name], 0)
        if "attributes" in value:
            mended["attributes"] = self._mend_object(value["attributes"], 0, _semconv())
        return value if all(mended[name] is item for name, item in value.items()) else mended

    def _mend(self, value: Any, depth: int) -> Any:
        """The value without secrets; the same object where there is none."""
        if isinstance(value, str):
            return self._mend_text(value, depth)
        if depth > _MAX_DEPTH:
            return self._replacement
        if isinstance(value, dict):
            return self._mend_object(value, depth)
        if isinstance(value, list):
            items = [self._mend(item, depth + 1) for item in value]
            if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], _SCALARS):  # noqa: PLR2004  # a header
                items[1] = self._mend_field(value[0], items[1], depth)
            return value if all(a is b for a, b in zip(items, value, strict=True)) else items
        return value

    def _mend_object(
        self, value: dict[str, Any], depth: int, known: Collection[str] = frozenset()
    ) -> dict[str, Any]:
        mended: dict[str, Any] = {}
        for key, item in value.items():
            name = key if key in known or not self.is_told_by(key) else self._mend_key(key, value, mended)
            mended[name] = self._mend_field(key, item, depth + 1)
        return value if all(mended.get(key, self) is item for key, item in value.items()) else mended

    def _mend_key(self, key: str, *taken: Collection[str]) -> str:
        """A key without secrets; with a number where it would be that of another value."""
        name = mended = self.text(key)
        number = len(taken[-1])
        while any(mended in keys for keys in taken):
            number += 1
            mended = f"{name} {number}"
        return mended

    def _mend_field(self, name: str, value: Any, depth: int) -> Any:
        if isinstance(value, str | list | dict):
            if value and self.is_secret(name):
                return self._replacement
        elif (
            value is not None and name.lower() in self._fields
        ):  # of other secrets, it says whether there is one
            return self._replacement
        return self._mend(value, depth)

    def is_told_by(self, key: str) -> bool:
        """Whether a key itself holds a secret."""
        return self.suspects(key) and self.text(key) != key

    def is_secret(self, name: str) -> bool:
        """Whether the value of a field or header of this name is a secret, whatever it is."""
        return name.lower() in self._fields or _compiled(_NAME).fullmatch(name) is not None

    def _mend_text(self, text: str, depth: int) -> str:
        if text[:1] in ("{", "[") and depth <= _MAX_DEPTH:  # a tool's arguments are JSON in a text
            try:
                value = _decode(text)
            except msgspec.DecodeError:
                pass
            else:
                mended = self._mend(value, depth + 1)
                return text if mended is value else _encode(mended).decode()
        mended = self.text(text)
        return text if mended == text else mended


_SCALARS: Final = (str, int, float)


@functools.cache
def _semconv() -> frozenset[str]:
    """The names of attributes that are no content."""
    return frozenset(value for name, value in vars(semconv).items() if name.isupper())


def _always(_text: str) -> bool:
    return True


def may_hold_secret(text: str) -> bool:
    """Whether JSON text holds the mark of what is always redacted."""
    return _has_mark(text) and _compiled(_SUSPECT).search(text) is not None


def _has_mark_slowly(text: str) -> bool:
    """Whether a text may hold one of `_MARKS`."""
    text = text.lower()
    return any(letter in text and search(text) for letter, search in _marks())


try:
    from millstream.record import _marks as _compiled_marks
except ImportError:  # built without a compiler
    _has_mark: Callable[[str], bool] = _has_mark_slowly
else:
    _has_mark = _compiled_marks.has_mark


@functools.cache
def _marks() -> list[tuple[str, Callable[[str], object]]]:
    """What finds each of `_MARKS`, and the letter that it begins with, which is found sooner."""
    return [(pattern[0], re.compile(pattern).search) for pattern in _MARKS]


_MARKS: Final = (
    r"z(?:(?<=authoriz)ation|(?<=aiz)a)",
    r"-(?:(?<=sk-)|(?<=nvapi-)|(?<=glpat-)|(?<=xox[abeoprs]-))",
    r"b(?:earer|asic\s)",
    r"k(?:(?<=apik)ey|(?<=api[-_ ]k)ey|(?<=cook)ie|(?<=ak)ia)",
    r"_(?<=[fkoprstu]_)(?:(?<=gh[pousr]_)|(?<=github_pat_)|(?<=hf_)|(?<=gsk_))",
)
"""The marks of secrets in lower case. Each begins with one rare letter and looks back from there, so that
finding it costs little more than finding the letter."""
_SUSPECT: Final = "authorization|cookie|api[-_ ]?key|" + _FORM


def _passes_luhn(number: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    digits = [int(digit) for digit in number if digit.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
