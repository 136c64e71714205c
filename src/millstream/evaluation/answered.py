"""Answers that are there already, for `--skip_workflow`: scored again without asking anybody."""

import tempfile
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from millstream.errors import InputError
from millstream.evaluation.config import DatasetConfig
from millstream.evaluation.dataset import Item
from millstream.evaluation.files import json_bytes
from millstream.evaluation.json_list import read_list
from millstream.evaluation.lazy import Lazy
from millstream.evaluation.lines import NOWHERE, line_at
from millstream.evaluation.outputs import EARLIER, WORKFLOW_OUTPUT
from millstream.evaluation.results import (
    RESULTS_FILE,
    Attempt,
    ItemError,
    ItemResult,
    read_results,
    result_at,
)
from millstream.evaluation.scoring import NOT_ANSWERED


def earlier_answers(
    folder: Path, config: DatasetConfig, items: Sequence[Item], opened: ExitStack
) -> Sequence[ItemResult]:
    """The answers in `workflow_output.json`, else in `results.jsonl`, else those that the dataset brings.

    `results.jsonl` alone is there where a run was stopped.

    Args:
        folder: where an earlier run wrote.
        config: names the columns.
        items: the dataset.
        opened: takes the files that are read when a result is looked at.

    Returns:
        In the order of the items and repetitions; an item without an answer has the error `NotAnswered`.

    Raises:
        InputError: there are no answers at all, or the file is not what an evaluation writes.
    """
    path = folder / WORKFLOW_OUTPUT
    results: Sequence[ItemResult]
    if path.exists():
        results = _of_rows(path, config, items, opened)
    else:
        results = _saved(folder / RESULTS_FILE, items, opened) or Lazy(
            len(items), lambda place: _result(items[place], 1, answer=items[place].generated)
        )
    if all(result.error is not None and result.error.type == NOT_ANSWERED for result in results):
        column = config.structure.generated_answer_key
        raise InputError(
            f"--skip_workflow found no answers: {path} has none for these items and the dataset has none in "
            f"column {column!r}. Run without --skip_workflow first."
        )
    return results


def _saved(path: Path, items: Sequence[Item], opened: ExitStack) -> Sequence[ItemResult]:
    """What a run that was stopped has got; empty where there is nothing."""
    reps = max((result.rep for _, result in read_results(path)), default=0)
    if not reps:
        return []
    places = {item.id: item.index * reps for item in items}
    offsets = array("q", [NOWHERE]) * (len(items) * reps)
    for offset, result in read_results(path):
        if result.id in places:
            offsets[places[result.id] + result.rep - 1] = offset
    file = opened.enter_context(path.open("rb"))

    def made(place: int) -> ItemResult:
        item = items[place // reps]
        if offsets[place] != NOWHERE:
            result = result_at(file, offsets[place], item.index)
            if result.question == item.question:
                return msgspec.structs.replace(result, expected=item.expected)
        return _result(item, place % reps + 1, answer=None)

    return Lazy(len(offsets), made)


def _of_rows(
    path: Path, config: DatasetConfig, items: Sequence[Item], opened: ExitStack
) -> Sequence[ItemResult]:
    """The rows of `workflow_output.json` by item; copied, since the file will be written anew."""
    file = opened.enter_context(tempfile.TemporaryFile(dir=path.parent))  # noqa: SIM115  # it is
    places = {item.id: item.index for item in items}
    item_of, offsets = array("q"), array("q")
    try:
        for row in read_list(path):
            place = places.get(str(row[config.id_key]))
            if place is not None:
                item_of.append(place)
                offsets.append(file.tell())
                file.write(json_bytes(row) + b"\n")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is not the answers of an evaluation: {type(error).__name__}: {error}"
        ) from error
    for place in sorted({*range(len(items))}.difference(item_of)):
        item_of.append(place)
        offsets.append(NOWHERE)
    order = array("q", sorted(range(len(item_of)), key=item_of.__getitem__))

    def made(place: int) -> ItemResult:
        at = order[place]
        row = None if offsets[at] == NOWHERE else line_at(file, offsets[at])
        return _from_row(items[item_of[at]], row, config)

    return Lazy(len(order), made)


def _from_row(item: Item, row: dict[str, Any] | None, config: DatasetConfig) -> ItemResult:
    structure = config.structure
    if row is None:
        return _result(item, 1, answer=None)
    rep = row.get("rep") or 1
    if not structure.disable and row.get(structure.question_key, item.question) != item.question:
        return _result(item, rep, answer=None)
    error = None
    if row.get("error") is not None:
        error = msgspec.convert(row["error"], ItemError)
    return _result(
        item,
        rep,
        answer=row.get(structure.generated_answer_key),
        error=error,
        trace_id=row.get("trace_id"),
        start_ns=row.get("start_ns"),
        runtime_s=row.get("runtime_s"),
        earlier=_earlier(row),
    )


def _earlier(row: dict[str, Any]) -> list[Attempt]:
    """The attempts before this answer; a column of the dataset may have their name."""
    try:
        return msgspec.convert(row.get(EARLIER, []), list[Attempt])
    except msgspec.ValidationError:
        return []


def _result(
    item: Item,
    rep: int,
    *,
    answer: Any,
    error: ItemError | None = None,
    trace_id: str | None = None,
    start_ns: int | None = None,
    runtime_s: float | None = None,
    earlier: Sequence[Attempt] = (),
) -> ItemResult:
    if answer is None and error is None and trace_id is None:
        error = ItemError(NOT_ANSWERED, "there is no earlier answer to this question")
    return ItemResult(
        id=item.id,
        rep=rep,
        index=item.index,
        question=item.question,
        expected=item.expected,
        answer=answer,
        error=error,
        trace_id=trace_id,
        start_ns=start_ns,
        runtime_s=runtime_s,
        earlier=list(earlier),
    )
