"""A dataset to the items of an evaluation: id, question, expected answer, and the row they came from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import msgspec

from millstream.errors import InputError, nearest
from millstream.evaluation.config import DatasetConfig, FilterConfig, StructureConfig
from millstream.evaluation.datasets.registry import CELLS_OF_TEXT, reading
from millstream.evaluation.datasets.rows import Row
from millstream.evaluation.messages import messages_in, objects_in
from millstream.evaluation.stored import Stored
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
    """The items of one dataset.

    Attributes:
        path: the file, or what else it came from; without passwords.
        sha256: of the file's bytes, in hex; of the rows where a function gave them.
        items: in the dataset's order. They lie in a file: each look reads one anew.
        notes: what a reader of the scores should know, one sentence each.
        without_answer: a sentence on the items without an expected answer, for those whose evaluators need
            one; empty where there are none.
    """

    path: str
    sha256: str
    items: Sequence[Item]
    notes: list[str]
    without_answer: str


def load_dataset(config: DatasetConfig, directory: Path = Path()) -> Dataset:
    """Read, filter and check a dataset. Its rows are in memory one at a time.

    Args:
        config: what to read.
        directory: what files of Python functions are relative to.

    Raises:
        InputError: the dataset is missing, malformed or empty, a column is missing, or an id is missing or
            occurs twice.
        ConfigError: the function of a custom dataset cannot be loaded.
        MissingExtraError: what reads it is not installed.
        UnreachableError: the server that has it does not answer.
        StorageError: the rows cannot be put aside.
    """
    with reading(config.file_type, config.file_path, config.options, directory) as found:
        loading = _Loading(config, found.name)
        for row in found.rows:
            loading.take(row)
        loading.check()
        return Dataset(found.name, found.sha256(), loading.items, loading.notes(), loading.without_answer())


class _Loading:
    """What is learned about a dataset while its rows go by."""

    def __init__(self, config: DatasetConfig, name: str) -> None:
        self.items: Stored[Item] = Stored(lambda index, values: _item(config, index, values))
        self._config = config
        self._name = name
        self._rows = 0
        self._columns: dict[str, None] = {}
        self._ids: set[str] = set()
        self._twice: dict[str, None] = {}
        self._first_without_id: str | None = None
        self._without_answer = self._without_question = 0

    def take(self, row: Row) -> None:
        """Keep a row that the filter leaves."""
        self._rows += 1
        self._columns.update(dict.fromkeys(row.values))
        if not _keep(self._config.filter, row.values):
            return
        values = _with_lists(self._config, row.values)
        problem = _why_no_id(values.get(self._config.id_key))
        if problem:
            self._first_without_id = self._first_without_id or f"{row.where} {problem}"
            return
        item = _item(self._config, len(self.items), values)
        if item.id in self._ids:
            self._twice[item.id] = None
        self._ids.add(item.id)
        self._without_answer += item.expected is None
        self._without_question += not has_question(item)
        self.items.append(values)

    def check(self) -> None:
        """Say what is wrong with the whole."""
        if not self._rows:
            raise InputError(f"{self._name} has no rows.")
        _check_columns(self._config, self._name, self._columns)
        if self._first_without_id:
            raise InputError(f"{self._name}, {self._first_without_id} (column {self._config.id_key!r}).")
        if not len(self.items):
            raise InputError(
                f"The filter of eval.general.dataset leaves none of the {self._rows} rows of {self._name}."
            )
        if self._twice:
            named = ", ".join(repr(name) for name in list(self._twice)[:_MAX_NAMED])
            more = len(self._twice) - _MAX_NAMED
            raise InputError(
                f"{self._name} has ids more than once in column {self._config.id_key!r}: {named}"
                f"{f' and {more} more' if more > 0 else ''}. "
                "Give each row its own id, or set eval.general.dataset.id_key to a column that has one."
            )

    def notes(self) -> list[str]:
        """What a reader of the scores should know."""
        structure, items = self._config.structure, counted(len(self.items), "item")
        if structure.disable and structure.answer_key not in self._columns:
            return []
        notes = []
        if structure.disable:
            notes.append(
                f"The question is the whole row, its expected answer ({structure.answer_key!r}) too."
            )
        if self._without_question:
            verbs = ("has", "it fails") if self._without_question == 1 else ("have", "they fail")
            notes.append(
                f"{self._without_question} of {items} {verbs[0]} no question "
                f"({structure.question_key!r}): {verbs[1]}."
            )
        return notes

    def without_answer(self) -> str:
        """See `Dataset`."""
        structure, n = self._config.structure, self._without_answer
        if n == 0 or (structure.disable and structure.answer_key not in self._columns):
            return ""
        has = "has" if n == 1 else "have"
        return (
            f"{n} of {counted(len(self.items), 'item')} {has} no expected answer ({structure.answer_key!r})."
        )


def _check_columns(config: DatasetConfig, name: str, columns: Iterable[str]) -> None:
    structure = config.structure
    needed = {"eval.general.dataset.id_key": config.id_key}
    if not structure.disable:
        needed["eval.general.dataset.structure.question_key"] = structure.question_key
    if "answer_key" in structure.model_fields_set:  # the default need not be there
        needed["eval.general.dataset.structure.answer_key"] = structure.answer_key
    if structure.expected_trajectory_key != StructureConfig().expected_trajectory_key:
        needed["eval.general.dataset.structure.expected_trajectory_key"] = structure.expected_trajectory_key
    for rule in ("allowlist", "denylist"):
        for column in getattr(config.filter, rule).field:
            needed[f"eval.general.dataset.filter.{rule}.field"] = column
            _need(name, columns, needed)
    _need(name, columns, needed)


def _need(name: str, columns: Iterable[str], needed: Mapping[str, str]) -> None:
    known = list(columns)
    for key, column in needed.items():
        if column in known:
            continue
        only = known[0] if len(known) == 1 else ""
        sign = next((sign for sign in (";", "\t") if sign in only), None)
        if sign:
            raise InputError(f"{name} looks separated by {sign!r}; a csv dataset is separated by commas")
        raise InputError(f"{name} has no column {column!r}, which {key} asks for{nearest(column, known)}")


def _keep(config: FilterConfig, values: Mapping[str, Any]) -> bool:
    allowed = all(_matches(values.get(column), texts) for column, texts in config.allowlist.field.items())
    return allowed and not any(
        _matches(values.get(column), texts) for column, texts in config.denylist.field.items()
    )


def _matches(value: Any, patterns: Iterable[str]) -> bool:
    text = "" if value is None else answer_text(value)
    return any(text == pattern or fnmatchcase(text, pattern) for pattern in patterns)


def _with_lists(config: DatasetConfig, values: dict[str, Any]) -> dict[str, Any]:
    """The row with the messages of its question and its steps, where a cell holds them as JSON text."""
    structure = config.structure
    if structure.disable or config.file_type not in CELLS_OF_TEXT:
        return values
    read = {
        structure.question_key: messages_in,
        structure.trajectory_key: objects_in,
        structure.expected_trajectory_key: objects_in,
    }
    return {key: read[key](value) if key in read else value for key, value in values.items()}


def _item(config: DatasetConfig, index: int, values: dict[str, Any]) -> Item:
    structure = config.structure
    question = (
        json.dumps(values, ensure_ascii=False) if structure.disable else values.get(structure.question_key)
    )
    return Item(
        id=str(values[config.id_key]),
        index=index,
        question="" if question is None else question,
        expected=_known(config, values.get(structure.answer_key)),
        generated=_known(config, values.get(structure.generated_answer_key)),
        row=values,
    )


def _why_no_id(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return "has no id"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return "has an id that is neither text nor number"
    return None


def _known(config: DatasetConfig, value: Any) -> Any:
    """An empty field of a CSV file is no value; an empty text in JSON is one."""
    return None if value == "" and config.file_type == "csv" else value


def has_question(item: Item) -> bool:
    """Whether there is anything to ask."""
    return not (isinstance(item.question, str) and not item.question.strip())
