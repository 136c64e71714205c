"""One YAML file as a mapping, with overrides: reading, not yet understanding."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from millstream.deliver.options import described
from millstream.errors import ConfigError, nearest
from millstream.workflow.validation import join_path


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: the file is missing, unreadable, empty, not UTF-8, not YAML (with the line), holds a key
            twice, or is not a mapping.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"there is no file {path}; check the path (the working directory is {Path.cwd()})"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; give the YAML file in it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    value = parse_yaml(text, str(path))
    if value is None:
        raise ConfigError(f"{path} is empty; a workflow file has the sections llms, functions, workflow, …")
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds {described(value)}, not a mapping of sections (llms:, workflow:, …)")
    return value


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text; duplicate keys are refused.

    Args:
        text: the YAML.
        where: what it is called in an error.

    Raises:
        ConfigError: it is not YAML; with line and column.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506  # a SafeLoader that refuses duplicate keys
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{where}{place} is not valid YAML: {why}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError: a date that no calendar has
        raise ConfigError(f"{where} is not valid YAML: {error}") from None


def override(tree: dict[str, Any], overrides: Sequence[tuple[str, str]]) -> None:
    """Set values in a tree, in place.

    Args:
        tree: what `read_yaml` gave.
        overrides: pairs of a dot path through keys and list indexes, and a value as YAML. The last key may be
            new; what is above it must be there.

    Raises:
        ConfigError: a path leads nowhere; names the nearest key.
    """
    for path, text in overrides:
        try:
            value = parse_yaml(text, f"the value of --override {path}")
        except ConfigError as error:
            quoted = "'" + text.replace("'", "''") + "'"
            raise ConfigError(
                f'{error}; a text with signs of YAML needs quotes of YAML too: "{quoted}"'
            ) from None
        _set(tree, path, value, text)


def _set(tree: dict[str, Any], path: str, value: Any, text: str) -> None:
    rest = path.split(".")
    if "" in rest:
        raise ConfigError(
            f"--override {path!r}: write keys with dots between them, such as llms.main.temperature"
        )
    here: Any = tree
    done: list[str] = []
    while True:
        if isinstance(here, dict):
            key, taken = _longest_key(here, rest)
        elif isinstance(here, list):
            key, taken = _index(here, rest[0], path, done), 1
        else:
            raise ConfigError(
                f"--override {path}: {join_path(*done)} is a single value and has no {rest[0]!r}"
            )
        if taken == len(rest):
            here[key] = value
            return
        if isinstance(here, dict) and key not in here:
            raise ConfigError(f"--override {path}: {_no_key(here, done, rest, text)}")
        done += rest[:taken]
        rest = rest[taken:]
        here = here[key]


def _no_key(here: dict[Any, Any], done: Sequence[str], rest: Sequence[str], text: str) -> str:
    """What to do about a key that is not there: correct it, or, inside a component, add it as a whole."""
    place, key = join_path(*done) or "the file", rest[0]
    hint = nearest(key, map(str, here))
    if "_type" in here and "did you mean" not in hint:
        mapping = text
        for name in reversed(rest[1:]):
            mapping = f"{{{name}: {mapping}}}"
        has = ", ".join(map(str, here))
        path = join_path(*done, key)
        return (
            f"{place} has no key {key!r}; to add it give the mapping: --override {path} '{mapping}'"
            f" ({place} has {has})"
        )
    return f"{place} has no key {key!r}{hint}"


def _longest_key(mapping: dict[Any, Any], rest: Sequence[str]) -> tuple[Any, int]:
    """The key that the path goes on with; keys may have dots of their own (`gpt-4.1`)."""
    named = {str(key): key for key in mapping}
    for taken in range(len(rest), 0, -1):
        text = ".".join(rest[:taken])
        if text in named:
            return named[text], taken
    return rest[0], 1


def _index(items: list[Any], part: str, path: str, done: Sequence[str]) -> int:
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    raise ConfigError(
        f"--override {path}: {join_path(*done)} is a list with indexes 0 to {len(items) - 1}, not {part!r}"
    )


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.1 without arbitrary objects, where a key may be given once."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:  # before merge keys are resolved: those may be overridden
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return node
