"""A dataset file to the items of an evaluation: id, question, expected answer, and the row they came from."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import msgspec

from millstream.errors import InputError, nearest
from millstream.evaluation.config import DatasetConfig, FilterConfig
from millstream.evaluation.readers import Row, read_rows
from millstream.evaluation.wording import counted
from millstream.workflow.answers import answer_text

_MAX_NAMED: Final = 5


class Item(msgspec.Struct, frozen=True):
    """One question of a dataset.

    Attributes:
        id: the value of the id column, as text.
        index: its place among the items that the filter left, from 0.
        question: what the workflow is asked; empty text where the row has none.
        expected: the right answer; `None` where the row has none.
        generated: an answer that the dataset brings along, for `--skip_workflow`; `None` where it has none.
        row: the whole row.
    """

    id: str
    index: int
    question: Any
    expected: Any
    generated: Any
    row: dict[str, Any]


class Dataset(msgspec.Struct, frozen=True):
    """The items of one file.

    Attributes:
        path: the file.
        sha256: of its bytes, in hex.
        items: in the file's order.
        notes: what a reader of the scores should know, one sentence each.
    """

    path: Path
    sha256: str
    items: list[Item]
    notes: list[str]


def load_dataset(config: DatasetConfig) -> Dataset:
    """Read, filter and check a dataset.

    Raises:
        InputError: the file is missing, malformed or empty, a column is missing, or an id is missing or
            occurs twice.
    """
    path = config.file_path
    data = _read(path)
    rows = read_rows(path, data, config.file_type)
    if not rows:
        raise InputError(f"{path} has no rows.")
    _check_columns(config, rows)
    kept = [row for row in rows if _keep(config.filter, row.values)]
    if not kept:
        raise InputError(f"The filter of eval.general.dataset leaves none of the {len(rows)} rows of {path}.")
    items = [_item(config, index, row) for index, row in enumerate(kept)]
    _check_ids(config, items)
    return Dataset(path, hashlib.sha256(data).hexdigest(), items, _notes(config, items))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"The dataset {path} does not exist (looked from {Path.cwd()}).") from None
    except OSError as error:
        raise InputError(f"The dataset {path} cannot be read: {error.strerror}.") from None


def _check_columns(config: DatasetConfig, rows: Sequence[Row]) -> None:
    columns = dict.fromkeys(name for row in rows for name in row.values)
    structure = config.structure
    needed = {"eval.general.dataset.id_key": config.id_key}
    if not structure.disable:
        needed["eval.general.dataset.structure.question_key"] = structure.question_key
        for key in ("answer_key", "generated_answer_key"):
            if key in structure.model_fields_set:  # the defaults need not be there
                needed[f"eval.general.dataset.structure.{key}"] = getattr(structure, key)
    for name in ("allowlist", "denylist"):
        for column in getattr(config.filter, name).field:
            needed[f"eval.general.dataset.filter.{name}.field"] = column
            _need(config.file_path, columns, needed)
    _need(config.file_path, columns, needed)


def _need(path: Path, columns: Iterable[str], needed: Mapping[str, str]) -> None:
    known = list(columns)
    for key, column in needed.items():
        if column in known:
            continue
        only = known[0] if len(known) == 1 else ""
        sign = next((sign for sign in (";", "\t") if sign in only), None)
        if sign:
            raise InputError(f"{path} looks separated by {sign!r}; a csv dataset is separated by commas")
        raise InputError(f"{path} has no column {column!r}, which {key} asks for{nearest(column, known)}")


def _keep(config: FilterConfig, values: Mapping[str, Any]) -> bool:
    allowed = all(_matches(values.get(column), texts) for column, texts in config.allowlist.field.items())
    return allowed and not any(
        _matches(values.get(column), texts) for column, texts in config.denylist.field.items()
    )


def _matches(value: Any, patterns: Iterable[str]) -> bool:
    text = "" if value is None else answer_text(value)
    return any(text == pattern or fnmatchcase(text, pattern) for pattern in patterns)


def _item(config: DatasetConfig, index: int, row: Row) -> Item:
    structure, values = config.structure, row.values
    item_id = _id(config, row)
    if structure.disable:
        return Item(item_id, index, json.dumps(values, ensure_ascii=False), None, None, values)
    question = values.get(structure.question_key)
    return Item(
        id=item_id,
        index=index,
        question="" if question is None else question,
        expected=_known(config, values.get(structure.answer_key)),
        generated=_known(config, values.get(structure.generated_answer_key)),
        row=values,
    )


def _id(config: DatasetConfig, row: Row) -> str:
    value = row.values.get(config.id_key)
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    problem = (
        "has no id"
        if value is None or isinstance(value, str)
        else "has an id that is neither text nor number"
    )
    raise InputError(f"{config.file_path}, {row.where} {problem} (column {config.id_key!r}).")


def _known(config: DatasetConfig, value: Any) -> Any:
    """An empty field of a CSV file is no value; an empty text in JSON is one."""
    return None if value == "" and config.file_type == "csv" else value


def _check_ids(config: DatasetConfig, items: Iterable[Item]) -> None:
    twice = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        named = ", ".join(repr(name) for name in twice[:_MAX_NAMED])
        more = f" and {len(twice) - _MAX_NAMED} more" if len(twice) > _MAX_NAMED else ""
        raise InputError(
            f"{config.file_path} has ids more than once in column {config.id_key!r}: {named}{more}. "
            "Give each row its own id, or set eval.general.dataset.id_key to a column that has one."
        )


def _notes(config: DatasetConfig, items: Sequence[Item]) -> list[str]:
    if config.structure.disable:
        return []
    notes = []
    without = sum(item.expected is None for item in items)
    if without:
        has = "has" if without == 1 else "have"
        notes.append(
            f"{without} of {counted(len(items), 'item')} {has} no expected answer "
            f"({config.structure.answer_key!r})."
        )
    empty = sum(not has_question(item) for item in items)
    if empty:
        verbs = ("has", "it fails") if empty == 1 else ("have", "they fail")
        notes.append(
            f"{empty} of {counted(len(items), 'item')} {verbs[0]} no question "
            f"({config.structure.question_key!r}): {verbs[1]}."
        )
    return notes


def has_question(item: Item) -> bool:
    """Whether there is anything to ask."""
    return not (isinstance(item.question, str) and not item.question.strip())
