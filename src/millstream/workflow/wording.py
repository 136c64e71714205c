"""pydantic's problems in the words of a workflow file, which are those of options of exporters, too."""

import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, Final

from pydantic import BaseModel

from millstream.deliver.options import described
from millstream.errors import nearest

_NEEDS: Final = {
    **dict.fromkeys(
        ("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"),
        "a mapping of keys",
    ),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type", "iterable_type"), "a list"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(
        ("datetime_type", "datetime_parsing", "datetime_from_date_parsing"),
        "a time such as 2026-11-28T08:00:00Z",
    ),
    "finite_number": "a finite number",
    "string_type": "text",
    "path_type": "a path",
}
_LIMITS: Final = {
    "greater_than": ("a number > {}", "gt"),
    "greater_than_equal": ("a number >= {}", "ge"),
    "less_than": ("a number < {}", "lt"),
    "less_than_equal": ("a number <= {}", "le"),
}
_LENGTHS: Final = {
    "string_too_short": ("text of at least {} characters", "min_length"),
    "string_too_long": ("text of at most {} characters", "max_length"),
    "string_pattern_mismatch": ("text that matches {}", "pattern"),
    "too_short": ("at least {}", "min_length"),
    "too_long": ("at most {}", "max_length"),
}
_KEYS_OF_PROMPT: Final = ("file", "sha256")
_TELLING: Final = 3
"""Characters of a text that are not in a message by chance."""
_NEEDED: Final = " is needed here"
_CHOICE: Final = re.compile(r"'([^']*)'")
_OF_PYTHON: Final = re.compile(r" or (?:an )?instance of \w+")


def in_words(problem: Mapping[str, Any], *, secret: bool) -> str:
    """What is wrong with a value.

    Args:
        problem: one of the `errors()` of pydantic.
        secret: whether the value may not be shown.
    """
    kind, value = problem["type"], problem.get("input")
    need = _need(kind, problem.get("ctx", {}))
    if need is not None:
        size = problem.get("ctx", {}).get("actual_length")
        given = "" if secret else f", not {described(value) if size is None else size}"
        unquoted = kind == "string_type" and isinstance(value, int | float | date)
        return f"{need} is needed here{given}{'; put it in quotes' if unquoted else ''}"
    choices = _CHOICE.findall(str(problem.get("ctx", {}).get("expected", "")))
    if choices and not secret:
        return f"{described(value)} is none of its values{nearest(str(value), choices)}"
    message = _OF_PYTHON.sub("", str(problem["msg"]))
    if kind in ("value_error", "assertion_error"):
        message = message.split(", ", 1)[-1]
    message = message.replace("Input should be", "it must be")
    message = message[:1].lower() + message[1:]
    plain = "input" in problem and not isinstance(value, Mapping | list | BaseModel)
    told = secret or not plain or described(value) in message or _is_named(value, message)
    return message if told else f"{message}, but it is {described(value)}"


def _is_named(value: Any, message: str) -> bool:
    return isinstance(value, str) and len(value) >= _TELLING and value in message


def is_prompt(key: str) -> bool:
    """Whether a key of a component is a prompt, which may be in a file."""
    return key == "prompt" or key.endswith("_prompt")


def unknown_keys_of_prompt(value: Mapping[Any, Any], where: str) -> list[str]:
    """A sentence for every key of a prompt's mapping that means nothing there."""
    return [
        f"{where}.{key}: unknown key{nearest(str(key), _KEYS_OF_PROMPT)}; a prompt is a text, or"
        " {file: PATH} of one"
        for key in value
        if key not in _KEYS_OF_PROMPT
    ]


def united(lines: Iterable[str]) -> list[str]:
    """Problems with what may be one of several kinds, of which pydantic tells each, as one."""
    needs: dict[str, str] = {}
    others: dict[str, None] = {}
    for line in lines:
        path, needed, rest = line.partition(": ")
        need, here, given = rest.partition(_NEEDED)
        if needed and here:
            before = needs.get(path)
            needs[path] = rest if before is None else f"{before.partition(_NEEDED)[0]} or {need}{here}{given}"
        others[path if needed and here else line] = None
    return [f"{line}: {needs[line]}" if line in needs else line for line in others]


def _need(kind: str, context: Mapping[str, Any]) -> str | None:
    if kind in _NEEDS:
        return _NEEDS[kind]
    if kind in _LIMITS:
        text, name = _LIMITS[kind]
        limit = context[name]
        return text.format(f"{limit:g}" if isinstance(limit, int | float) else limit)
    if kind in _LENGTHS:
        text, name = _LENGTHS[kind]
        if "field_type" in context:
            of_keys = context["field_type"] == "Dictionary"
            what, one = ("a mapping of keys", "key") if of_keys else ("a list", "entry")
            more = one if context[name] == 1 else {"key": "keys", "entry": "entries"}[one]
            return f"{what} with {text.format(context[name])} {more}"
        only_empty = kind == "string_too_short" and context[name] == 1
        return "text" if only_empty else text.format(context[name])
    return None
