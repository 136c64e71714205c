"""`${NAME}` and `${NAME:-default}` in the strings of a workflow file."""

import re
from collections.abc import Mapping
from typing import Any

from millstream.errors import ConfigError
from millstream.workflow.secrets import is_secret_variable
from millstream.workflow.validation import join_path

_REFERENCE = re.compile(r"\$?\$\{([^}]*)\}")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


def expand(tree: Any, environ: Mapping[str, str]) -> tuple[Any, Any]:
    """Put the values of environment variables into every string of a tree.

    `${NAME:-default}` takes the default when the variable is unset or empty; `$${NAME}` is the text
    `${NAME}`.

    Args:
        tree: mappings, lists and scalars.
        environ: the variables.

    Returns:
        The expanded tree, and the same to show to people: variables whose names speak of a secret stay
        references without their defaults. What is left expands to the same values again.

    Raises:
        ConfigError: names every variable that is not set, and where it is used.
    """
    expander = _Expander(environ)
    result = expander.tree(tree, "")
    if expander.problems:
        raise ConfigError("\n".join(expander.problems))
    return result


class _Expander:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def tree(self, value: Any, path: str) -> tuple[Any, Any]:
        if isinstance(value, str):
            return self._text(value, path) if "${" in value else (value, value)
        if isinstance(value, dict):
            both = {key: self.tree(item, join_path(path, str(key))) for key, item in value.items()}
            return {key: pair[0] for key, pair in both.items()}, {key: pair[1] for key, pair in both.items()}
        if isinstance(value, list):
            pairs = [self.tree(item, join_path(path, index)) for index, item in enumerate(value)]
            return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return value, value

    def _text(self, text: str, path: str) -> tuple[str, str]:
        values: list[str] = []
        shown: list[str] = []
        end = 0
        for match in _REFERENCE.finditer(text):
            between = text[end : match.start()]
            value, public = self._reference(match, path)
            values += [between, value]
            shown += [between, public]
            end = match.end()
        return "".join([*values, text[end:]]), "".join([*shown, text[end:]])

    def _reference(self, match: re.Match[str], path: str) -> tuple[str, str]:
        whole = match.group()
        if whole.startswith("$$"):
            return whole[1:], whole
        parsed = _NAME.fullmatch(match.group(1))
        if parsed is None:
            self.problems.append(
                f"{path}: {whole} is not a variable; write ${{NAME}} or ${{NAME:-default}}, or $${{ for the"
                " text ${"
            )
            return whole, whole
        name, default = parsed.groups()
        value = self._environ.get(name)
        if default is not None:
            value = value or default
        if value is None:
            self.problems.append(
                f"{path}: the environment variable {name} is not set; set it, or give a default:"
                f" ${{{name}:-…}}"
            )
            return whole, whole
        if is_secret_variable(name):
            return value, f"${{{name}}}" if default is None else f"${{{name}:-}}"
        return value, value.replace("${", "$${")
