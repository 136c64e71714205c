"""Prompts in files: `system_prompt: {file: prompts/agent.md}` is the text of that file.

It holds for the keys `prompt`, `system_prompt` and `…_prompt` of every component, so that a component gets
text and need not know where it is from. What is written down of the configuration names the file and its
hash; a file that is named with a hash must have it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from millstream.deliver.options import described
from millstream.errors import ConfigError
from millstream.workflow.validation import Problems, join_path
from millstream.workflow.wording import is_prompt, unknown_keys_of_prompt

_PLACES: Final = (("functions",), ("eval", "evaluators"))


def with_prompts(
    tree: dict[str, Any], shown: dict[str, Any], directory: Path, problems: Problems
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections of a workflow file with the prompts of files in them.

    Args:
        tree: the sections; every component has its `_type`.
        shown: the same as they are to be written down.
        directory: what files are relative to.
        problems: takes what is wrong with a file.

    Returns:
        The sections with texts, and as they are to be written down with names and hashes.
    """
    for path in _PLACES:
        names = _at(tree, path)
        for name in names if isinstance(names, Mapping) else ():
            tree, shown = _component(tree, shown, (*path, str(name)), directory, problems)
    return _component(tree, shown, ("workflow",), directory, problems)


def _component(
    tree: dict[str, Any], shown: dict[str, Any], path: tuple[str, ...], directory: Path, problems: Problems
) -> tuple[dict[str, Any], dict[str, Any]]:
    entry = _at(tree, path)
    for key, value in entry.items() if isinstance(entry, Mapping) else ():
        if not is_prompt(str(key)) or not isinstance(value, Mapping) or "file" not in value:
            continue
        with problems.collect():
            text, sha256 = _read(value, directory, join_path(*path, str(key)))
            tree = _put(tree, (*path, key), text)
            file = _at(shown, (*path, key, "file"))
            shown = _put(shown, (*path, key), {"file": file, "sha256": sha256})
    return tree, shown


def _read(value: Mapping[str, Any], directory: Path, where: str) -> tuple[str, str]:
    """The text of a file, without white space at its end, and its hash."""
    unknown = unknown_keys_of_prompt(value, where)
    if unknown:
        raise ConfigError("\n".join(unknown))
    name, expected = value["file"], value.get("sha256")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{where}.file: the path of a file is needed here, not {described(name)}")
    path = directory / name
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}.file: {path} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{where}.file: {path} cannot be read: {reason}; it is relative to the workflow file"
        ) from None
    sha256 = hashlib.sha256(data).hexdigest()
    if expected is not None and expected != sha256:
        raise ConfigError(
            f"{where}.file: {path} has another content than sha256 says ({sha256[:12]}… now); put the file"
            " back, or remove sha256"
        )
    if not text.strip():
        raise ConfigError(f"{where}.file: {path} is empty")
    return text.rstrip(), sha256


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _put(tree: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of the tree with another value in one place; the original stays as it is."""
    first, *rest = path
    return {**tree, first: _put(tree[first], tuple(rest), value) if rest else value}
