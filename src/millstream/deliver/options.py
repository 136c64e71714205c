"""Options from a workflow file for what a plugin brings: checked against its signature, then passed to it."""

import contextlib
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from millstream.errors import ConfigError, nearest

_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping of keys",
    "null": "nothing",
    "Path": "a path",
}
"""What msgspec calls things, in the words of a workflow file."""
_SHOWN: Final = 80
"""Characters of a value that are shown."""
_TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NAMES: Final = re.compile(r"`([^`]*)`")
_EXPECTED: Final = re.compile(r"Expected (?P<need>.+?)(?:, got `(?P<got>\w+)`)?(?: - at `\$(?P<at>.*)`)?")


@contextlib.contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    """Put what is wrong to the problems, one a line, and go on."""
    try:
        yield
    except ConfigError as error:
        problems += str(error).splitlines()


def raise_all(problems: list[str]) -> None:
    """Raise one `ConfigError` with everything that was collected, each problem once, if there is any."""
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def component(value: Any, where: str) -> dict[str, Any]:
    """One component as `_type` and its keys, whether written so or as `type` and a nested `config`.

    Args:
        value: what the workflow file holds.
        where: its path there, for errors.

    Raises:
        ConfigError: it is no mapping, says no type, or says a key twice.
    """
    if not isinstance(value, Mapping):
        named = isinstance(value, str) and _TYPE.fullmatch(value)
        hint = f"; did you mean {{_type: {value}}}?" if named else ""
        raise ConfigError(f"{where}: a mapping with a _type is needed here, not {described(value)}{hint}")
    keys = dict(value)
    kind = keys.pop("_type", None)
    if kind is None:
        kind = keys.pop("type", None)
        if kind is not None and "config" in keys:
            nested = keys.pop("config")
            if not isinstance(nested, Mapping | None):
                raise ConfigError(
                    f"{where}.config: a mapping of keys is needed here, not {described(nested)}"
                )
            nested = nested or {}  # a key with nothing below it
            twice = sorted(map(str, nested.keys() & keys.keys()))
            if twice:
                raise ConfigError(
                    f"{where}: {', '.join(twice)} is given both in config and beside it; keep one"
                )
            keys = {**nested, **keys}
    if kind is not None and not isinstance(kind, str):
        raise ConfigError(f"{where}._type: text is needed here, not {described(kind)}")
    if not kind:
        raise ConfigError(f"{where}: the key '_type' is missing; it says which component this is")
    return {"_type": kind, **keys}


def described(value: Any) -> str:
    """A value in an error: itself, or what it is where it is no single one."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping of keys"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = f"the date {value}" if isinstance(value, date) else repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


class Accepted:
    """The options that a class or factory takes: its keywords and, by its `aliases`, other names for them.

    Attributes:
        names: every name that is understood.
        keys: the keywords, with their types and defaults, for people: `{name, type, required, default,
            aliases}`.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        parameters: list[inspect.Parameter] = []
        self._free = True
        with contextlib.suppress(TypeError, ValueError):  # of what is written in C nothing may be known
            parameters = list(inspect.signature(make).parameters.values())
            self._free = any(one.kind is one.VAR_KEYWORD for one in parameters)
        hints = _hints(make)
        self._types = {
            one.name: hints.get(one.name, Any)
            for one in parameters
            if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)
        }
        self._defaults = {one.name: one.default for one in parameters}
        self._aliases: Mapping[str, str] = getattr(make, "aliases", {})
        self.names = [*self._types, *self._aliases]

    @property
    def keys(self) -> list[dict[str, Any]]:
        """See the class."""
        return [
            {
                "name": name,
                "type": kind,
                "required": self._required(name),
                "default": self._default(name),
                "aliases": [alias for alias, meant in self._aliases.items() if meant == name],
            }
            for name, kind in self._types.items()
        ]

    def takes(self, key: str) -> bool:
        """Whether there is an option of this name."""
        return self._free or key in self.names

    def read(self, options: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
        """The options as keywords, converted to what their annotations say, and what is wrong with them.

        Args:
            options: of which those that are taken are read.
            where: path of their mapping in the workflow file.
        """
        found: dict[str, Any] = {}
        problems: list[str] = []
        for key, value in options.items():
            if not self.takes(key):
                continue
            name = self._aliases.get(key, key)
            if name in found:
                problems.append(f"{where}.{key}: it is another name of {name}, which is given too; keep one")
                continue
            try:
                found[name] = _convert(value, self._types.get(name, Any))
            except msgspec.ValidationError as error:
                found[name] = None
                problems += sentences(error, value, self._types[name], f"{where}.{key}")
        missing = [name for name in self._types if self._required(name) and name not in found]
        problems += [f"{where}: the key {name!r} is missing" for name in missing]
        return found, problems

    def _required(self, name: str) -> bool:
        return self._defaults[name] is inspect.Parameter.empty

    def _default(self, name: str) -> Any:
        return None if self._required(name) else self._defaults[name]


def unknown_keys(options: Mapping[str, Any], where: str, *accepted: Accepted) -> list[str]:
    """A problem for each option that none of those takes who share the mapping.

    Args:
        options: without `_type`.
        where: path of their mapping in the workflow file.
        *accepted: what each takes; an option that several take goes to all of them.
    """
    known = [name for one in accepted for name in one.names]
    return [
        f"{where}.{key}: unknown key{nearest(str(key), known)}"
        for key in options
        if not any(one.takes(str(key)) for one in accepted)
    ]


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    target = inspect.getattr_static(make, "__init__") if isinstance(make, type) else make
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception:  # noqa: BLE001  # a plugin's annotations may name anything; then nothing is known of types
        return {}


def _convert(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False, dec_hook=_path)
    except TypeError:  # no type of msgspec: the plugin looks at it itself
        return value


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    raise msgspec.ValidationError(f"Expected `{kind.__name__}`, got `{_kind(value)}`")


def sentences(error: msgspec.ValidationError, value: Any, kind: Any, where: str) -> list[str]:
    """What is wrong with a value; of a mapping with each that is in it, by its key, which msgspec omits."""
    if not (isinstance(value, Mapping) and str(error).endswith("at `$[...]`")):
        return [_sentence(error, value, kind, where)]
    lines: list[str] = []
    for key, inner in value.items():
        try:
            _convert({key: inner}, kind)
        except msgspec.ValidationError as one:
            lines.append(_sentence(one, inner, kind, f"{where}.{key}"))
    return lines


def _sentence(error: msgspec.ValidationError, value: Any, kind: Any, where: str) -> str:
    """What msgspec says, in our words. A value is shown where it can be no secret: no text is asked for."""
    choices = _choices(kind)
    if choices and isinstance(value, str):
        return f"{where}: {value!r} is none of its values{nearest(value, choices)}"
    match = _EXPECTED.fullmatch(str(error))
    if match is None:
        return f"{where}: {str(error)[:1].lower()}{str(error)[1:]}"
    need = _NAMES.sub(_in_words, match["need"])
    got = _WORDS.get(match["got"] or "", match["got"])
    if "text" not in need and isinstance(value, str | int | float):
        got = described(value)
    text = f", not {got}" if got else ""
    hint = "; put it in quotes" if need == "text" and match["got"] in ("int", "float", "bool") else ""
    inside = re.sub(r"\[(\d+)\]", r".\1", match["at"] or "").replace("[...]", "")
    return f"{where}{inside}: {need} is needed here{text}{hint}"


def _in_words(names: re.Match[str]) -> str:
    """Types that msgspec names, such as `int | null`; that an option may be absent goes without saying."""
    return " or ".join(_WORDS.get(name, name) for name in names[1].split(" | ") if name != "null")


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    return [choice for inner in get_args(kind) for choice in _choices(inner)]


def _kind(value: Any) -> str:
    """The type of a YAML value as msgspec calls it."""
    if value is None:
        return "null"
    name = type(value).__name__
    return {"dict": "object", "list": "array"}.get(name, name)
