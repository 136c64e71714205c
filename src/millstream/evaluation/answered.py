"""Answers that are there already, for `--skip_workflow`: scored again without asking anybody."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from millstream.errors import InputError
from millstream.evaluation.config import DatasetConfig
from millstream.evaluation.dataset import Item
from millstream.evaluation.outputs import WORKFLOW_OUTPUT
from millstream.evaluation.results import RESULTS_FILE, ItemError, ItemResult, read_results
from millstream.evaluation.scoring import NOT_ANSWERED


def earlier_answers(folder: Path, config: DatasetConfig, items: Sequence[Item]) -> list[ItemResult]:
    """The answers in `workflow_output.json`, else in `results.jsonl`, else those that the dataset brings.

    `results.jsonl` alone is there where a run was stopped.

    Args:
        folder: where an earlier run wrote.
        config: names the columns.
        items: the dataset.

    Returns:
        In the order of the items and repetitions; an item without an answer has the error `NotAnswered`.

    Raises:
        InputError: there are no answers at all, or the file is not what an evaluation writes.
    """
    path = folder / WORKFLOW_OUTPUT
    if path.exists():
        by_id = _rows_by_id(path, config)
        results = [_from_row(item, row, config) for item in items for row in by_id.get(item.id, [None])]
    elif saved := _saved(folder, items):
        results = saved
    else:
        results = [_result(item, 1, answer=item.generated) for item in items]
    if all(result.error is not None and result.error.type == NOT_ANSWERED for result in results):
        column = config.structure.generated_answer_key
        raise InputError(
            f"--skip_workflow found no answers: {path} has none for these items and the dataset has none in "
            f"column {column!r}. Run without --skip_workflow first."
        )
    return results


def _saved(folder: Path, items: Sequence[Item]) -> list[ItemResult]:
    """What a run that was stopped has got; empty where there is nothing."""
    found = read_results(folder / RESULTS_FILE)
    reps = range(1, max((rep for _, rep in found), default=0) + 1)
    results = []
    for item, rep in ((item, rep) for item in items for rep in reps):
        result = found.get((item.id, rep))
        if result is None or result.question != item.question:
            results.append(_result(item, rep, answer=None))
        else:
            results.append(msgspec.structs.replace(result, index=item.index, expected=item.expected))
    return results


def _rows_by_id(path: Path, config: DatasetConfig) -> dict[str, list[dict[str, Any] | None]]:
    try:
        rows = json.loads(path.read_bytes())
        by_id: dict[str, list[dict[str, Any] | None]] = {}
        for row in rows:
            by_id.setdefault(str(row[config.id_key]), []).append(row)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is not the answers of an evaluation: {type(error).__name__}: {error}"
        ) from error
    return by_id


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
    )


def _result(
    item: Item,
    rep: int,
    *,
    answer: Any,
    error: ItemError | None = None,
    trace_id: str | None = None,
    start_ns: int | None = None,
    runtime_s: float | None = None,
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
    )
