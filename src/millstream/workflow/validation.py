"""pydantic's errors as sentences about the user's file: where, what is wrong, what was probably meant."""

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from millstream.deliver.options import in_words
from millstream.errors import ConfigError, InputError, nearest
from millstream.workflow.secrets import is_secret_key

ModelT = TypeVar("ModelT", bound=BaseModel)
_QUOTED: Final = re.compile(r"'([^']*)'")


def parse_model(model: type[ModelT], mapping: Any, where: str = "") -> ModelT:
    """Validate one part of a workflow file.

    Args:
        model: the pydantic model of that part; with `extra="forbid"`, unknown keys are named.
        mapping: what the file holds there.
        where: dot path of the part, such as `eval.general`.

    Raises:
        ConfigError: one line for each problem: its path, what is wrong, and for an unknown key the nearest
            known one and the list.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where or 'the file'}: a mapping of keys is needed here, not {in_words(mapping)}")
    try:
        return model.model_validate(dict(mapping))
    except ValidationError as error:
        lines = [_sentence(model, dict(problem), where) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def join_path(*parts: str | int) -> str:
    """The dot path of parts, without empty ones."""
    return ".".join(str(part) for part in parts if part != "")


class Problems:
    """Collects configuration errors, so that a user sees all of them at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep an error in the file, or in a file that it names, and go on."""
        try:
            yield
        except (ConfigError, InputError) as error:
            self.lines.extend(str(error).splitlines())

    def raise_if_any(self, title: str = "") -> None:
        """Raise one `ConfigError` with everything collected.

        Args:
            title: what it is about, such as the path of the file.
        """
        lines = list(dict.fromkeys(self.lines))
        if not lines:
            return
        if not title:
            raise ConfigError("\n".join(lines))
        if len(lines) == 1:
            raise ConfigError(f"{title}: {lines[0]}")
        raise ConfigError(f"{title} has {len(lines)} problems:\n" + "\n".join(f"  {line}" for line in lines))


def _sentence(model: type[BaseModel], problem: dict[str, Any], where: str) -> str:
    location: tuple[str | int, ...] = problem["loc"]
    kind = problem["type"]
    holder, parts = _walk(model, location[:-1] if kind in ("extra_forbidden", "missing") else location)
    if kind == "extra_forbidden":
        key = str(location[-1])
        path = join_path(where, *parts, key)
        return f"{path}: unknown key{nearest(key, _keys(holder))}"
    if kind == "missing":
        path = join_path(where, *parts)
        return f"{path or 'the file'}: the key {str(location[-1])!r} is missing"
    path = join_path(where, *parts)
    is_secret = any(is_secret_key(str(part)) for part in parts)
    return f"{path or 'the file'}: {_message(problem, is_secret=is_secret)}"


_NEEDED: Final = {
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "mapping_type": "a mapping of keys",
    "list_type": "a list",
    "tuple_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "path_type": "a path",
}
"""What is needed, by pydantic's names of problems."""
_BOUNDS: Final = {
    "greater_than_equal": ("of at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("of at most", "le"),
    "less_than": ("below", "lt"),
}


def _message(problem: dict[str, Any], *, is_secret: bool) -> str:
    """What is wrong, in the words of a workflow file; of a secret without its value."""
    kind, given, told = problem["type"], problem.get("input"), problem.get("ctx", {})
    but = "" if is_secret else f", not {in_words(given)}"
    if kind in _NEEDED:
        needs_quotes = kind == "string_type" and isinstance(given, bool | int | float)
        return f"{_NEEDED[kind]} is needed here{but}{'; put it in quotes' if needs_quotes else ''}"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"a number {words} {told[name]:g} is needed here{but}"
    if kind == "literal_error" and not is_secret:
        choices = _QUOTED.findall(told["expected"])
        return f"{in_words(given)} is none of its values{nearest(str(given), choices)}"
    if kind in ("string_too_short", "too_short") and told["min_length"] == 1:
        return "it is empty"
    message = str(problem["msg"])
    if kind in ("value_error", "assertion_error"):
        return message.split(", ", 1)[-1]
    message = message[:1].lower() + message[1:].replace("nput should", "t should", 1)
    return f"{message}{but}"


def _walk(model: Any, location: Sequence[str | int]) -> tuple[Any, list[str | int]]:
    """The annotation at pydantic's location, and the location without the tags of unions it adds."""
    here: Any = model
    parts: list[str | int] = []
    for index, part in enumerate(location):
        here = _plain(here)
        if get_origin(here) in (Union, types.UnionType):
            member = _member(here, str(part))
            if member is not None:
                here = member
                continue
            here = next((option for option in get_args(here) if _has(option, part)), None)
        if not (here is None or _has(here, part)):
            return here, [*parts, *location[index:]]
        parts.append(part)
        here = _child(here, part)
    here = _plain(here)
    if get_origin(here) in (Union, types.UnionType):
        here = next((_plain(option) for option in get_args(here) if _is_model(_plain(option))), None)
    return here, parts


def _plain(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        options = [option for option in get_args(annotation) if option is not type(None)]
        if len(options) == 1:
            return _plain(options[0])
    return annotation


def _member(union: Any, tag: str) -> Any:
    """The member of a union that pydantic's location calls `tag`: a class name or a discriminator's value."""
    for option in map(_plain, get_args(union)):
        if getattr(option, "__name__", None) == tag:
            return option
        if _is_model(option):
            for field in option.model_fields.values():
                if get_origin(field.annotation) is not None and tag in map(str, get_args(field.annotation)):
                    return option
    return None


def _has(annotation: Any, part: str | int) -> bool:
    annotation = _plain(annotation)
    if _is_model(annotation):
        return str(part) in _keys(annotation) or str(part) in annotation.model_fields
    return get_origin(annotation) in (dict, list, Mapping, tuple) or annotation in (dict, list, Any)


def _child(annotation: Any, part: str | int) -> Any:
    annotation = _plain(annotation)
    if _is_model(annotation):
        for name, field in annotation.model_fields.items():
            if part in (name, field.alias):
                return field.annotation
        return None
    arguments = get_args(annotation)
    return arguments[-1] if arguments else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _keys(model: Any) -> list[str]:
    if not _is_model(model):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]
