"""pydantic's errors as sentences about the user's file: where, what is wrong, what was probably meant."""

import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ValidationError

from millstream.deliver.options import described
from millstream.errors import ConfigError, InputError, MillstreamError, nearest, titled
from millstream.workflow.secrets import is_secret_key
from millstream.workflow.wording import in_words, is_prompt, united, unknown_keys_of_prompt

ModelT = TypeVar("ModelT", bound=BaseModel)


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
        raise ConfigError(
            f"{where or 'the file'}: a mapping of keys is needed here, not {described(mapping)}"
        )
    try:
        return model.model_validate(dict(mapping))
    except ValidationError as error:
        lines = [
            line for problem in error.errors(include_url=False) for line in _told(model, dict(problem), where)
        ]
        raise ConfigError("\n".join(united(lines))) from None


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
        raise ConfigError(titled(title, lines) if title else "\n".join(lines))


@contextmanager
def in_file(path: Path, *kinds: type[MillstreamError]) -> Iterator[None]:
    """Tell errors of which workflow file they are.

    Args:
        path: the file.
        *kinds: of the errors; `ConfigError` where none is given.
    """
    kinds = kinds or (ConfigError,)
    try:
        yield
    except kinds as error:
        error.file = path
        raise


def _told(model: type[BaseModel], problem: dict[str, Any], where: str) -> list[str]:
    """What is wrong, in sentences."""
    location: tuple[str | int, ...] = problem["loc"]
    kind, value = problem["type"], problem.get("input")
    holder, parts = _walk(model, location[:-1] if kind in ("extra_forbidden", "missing") else location)
    path = join_path(where, *parts)
    if kind == "extra_forbidden":
        return [_unknown(str(location[-1]), holder, path)]
    if kind == "missing":
        return [f"{path or 'the file'}: the key {str(location[-1])!r} is missing"]
    if kind == "string_type" and isinstance(value, Mapping) and parts and is_prompt(str(parts[-1])):
        unknown = unknown_keys_of_prompt(value, path)
        if unknown:
            return unknown
    secret = any(is_secret_key(str(part)) for part in parts)
    return [f"{path or 'the file'}: {in_words(problem, secret=secret)}"]


def _unknown(key: str, holder: Any, path: str) -> str:
    """A key that is not known, or known as another name of one that is given too."""
    names = _names(holder)
    if key in names:
        return f"{path or 'the file'}: {key} is another name of {names[key]}; give one of them"
    return f"{join_path(path, key)}: unknown key{nearest(key, names)}"


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
        origin = get_origin(option)
        if origin is not None and tag.startswith(f"{getattr(origin, '__name__', '')}["):  # dict[str,int]
            return option
        if tag in (getattr(option, "__name__", None), str(option)):
            return option
        if _is_model(option):
            for field in option.model_fields.values():
                if get_origin(field.annotation) is not None and tag in map(str, get_args(field.annotation)):
                    return option
    return None


def _has(annotation: Any, part: str | int) -> bool:
    annotation = _plain(annotation)
    if _is_model(annotation):
        return str(part) in _names(annotation) or str(part) in annotation.model_fields
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


def _names(model: Any) -> dict[str, str]:
    """The keys of a model, and other names of them: each with the key that it is."""
    if not _is_model(model):
        return {}
    names: dict[str, str] = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        choices = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else []
        names.update(dict.fromkeys([key, *(each for each in choices if isinstance(each, str))], key))
    return names
