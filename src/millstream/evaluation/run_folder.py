"""The output folder of an evaluation, ours or the reference's, as a run that can be compared."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from millstream.errors import InputError
from millstream.evaluation.config import StructureConfig
from millstream.evaluation.outputs import EARLIER, EFFECTIVE, METADATA, WORKFLOW_OUTPUT
from millstream.evaluation.results import RESULTS_FILE
from millstream.evaluation.run_scores import run_scores
from millstream.evaluation.scoring import NOT_ANSWERED
from millstream.evaluation.trajectories import (
    TRACES,
    Trajectory,
    cost_of,
    events,
    matched,
    read_traces,
    trajectory,
)
from millstream.evaluation.wording import counted
from millstream.profiler.compare import COST, LATENCY, Run, RunItem
from millstream.profiler.cost import PriceTable

_SUFFIX: Final = "_output.json"
_REPETITION: Final = re.compile(r"_rep\d+$")
_OURS: Final = frozenset({"rep", "error", "trace_id", "start_ns", "runtime_s", EARLIER, "usage"})
"""The columns that we add to a row."""
_MEASURES: Final = "avg_"
"""How the types of evaluators begin that measure the run and not the answer."""


class _Settings(NamedTuple):
    """What a run says of itself beside its answers."""

    id_key: str
    structure: StructureConfig
    types: dict[str, str]
    """The `_type` of each evaluator."""
    evaluators: list[str]
    """Their names in order; empty where that is unknown."""
    repeated: bool
    """Whether ids end in `_rep` and a number."""


def read_run(folder: Path, prices: PriceTable) -> Run:
    """What an evaluation wrote, item by item.

    Args:
        folder: its output folder; the files that the reference writes are enough.
        prices: of models.

    Raises:
        InputError: there is no such folder, or it does not hold the answers of an evaluation.
    """
    answers = _answers(folder)
    rows = [row if isinstance(row, dict) else {} for row in answers]
    settings = _settings(folder)
    outputs = _evaluator_outputs(folder)
    ours = all("runtime_s" in row for row in rows)
    ids = _ids(folder, rows, settings, outputs)
    notes: list[str] = []
    runs = _trajectories(folder, rows, settings, ours=ours, notes=notes)
    failed = [
        _failed(row) if ours else _unanswered(row, settings, recorded=run.recorded)
        for row, run in zip(rows, runs, strict=True)
    ]
    values = [_measured(row, run, prices) for row, run in zip(rows, runs, strict=True)]
    names = sorted(outputs, key=lambda name: (*_place(name, settings.evaluators), name))
    shares = [name for name in names if not settings.types.get(name, name).startswith(_MEASURES)]
    scored = run_scores(
        {name: outputs[name] for name in names}, ids, rows, failed, ours=ours, shares=set(shares)
    )
    return Run(
        items=[
            RunItem(
                id=_REPETITION.sub("", one) if settings.repeated and not ours else one,
                input=_input(row, settings, ours=ours),
                failed=is_failed,
                values=of_item | of_evaluators,
                categories=of_categories,
            )
            for one, row, of_item, of_evaluators, of_categories, is_failed in zip(
                ids, rows, values, scored.values, scored.categories, failed, strict=True
            )
        ],
        evaluators=scored.metrics,
        shares=scored.shares,
        notes=notes,
    )


class EarlierAnswer(NamedTuple):
    """What a run answered to one item, in one repetition."""

    row: dict[str, Any]
    """The row as it was written."""
    question: Any
    """`None` where the run does not say."""
    expected: Any
    answer: Any
    error: str | None
    """Why it has no answer."""
    trace_id: str | None


def read_answers(folder: Path) -> dict[tuple[str, int], EarlierAnswer]:
    """The answers in the output folder of an evaluation, by item id and repetition.

    Raises:
        InputError: there is no such folder, or it does not hold the answers of an evaluation.
    """
    rows = [row if isinstance(row, dict) else {} for row in _answers(folder)]
    settings = _settings(folder)
    structure = settings.structure
    found = {}
    for one, row in zip(_ids(folder, rows, settings, _evaluator_outputs(folder)), rows, strict=True):
        rep, error = row.get("rep"), row.get("error")
        found[one, rep if isinstance(rep, int) else 1] = EarlierAnswer(
            row=row,
            question=None if structure.disable else row.get(structure.question_key),
            expected=None if structure.disable else row.get(structure.answer_key),
            answer=row.get(structure.generated_answer_key),
            error=_error_text(error) if error is not None else None,
            trace_id=row.get("trace_id"),
        )
    return found


def _error_text(error: Any) -> str:
    if isinstance(error, dict):
        return f"{error.get('type', 'Error')}: {error.get('message', '')}"
    return str(error)


def _answers(folder: Path) -> list[Any]:
    path = folder / WORKFLOW_OUTPUT
    what = "Give the output folder of an evaluation (eval.general.output_dir)"
    if not folder.exists():
        raise InputError(f"{folder} does not exist. {what}.")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file. {what}.")
    if not path.exists():
        if (folder / RESULTS_FILE).exists():
            raise InputError(
                f"the evaluation in {folder} has not come to its end: it has no {WORKFLOW_OUTPUT}. "
                "Finish it with millstream eval --resume."
            )
        raise InputError(f"{folder} holds no {WORKFLOW_OUTPUT}. {what}.")
    answers = _json(path)
    if not isinstance(answers, list):
        raise InputError(f"{path} is not the answers of an evaluation: it is not a list. {what}.")
    if not answers:
        raise InputError(f"{path} holds no items.")
    return answers


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}.") from error


def _settings(folder: Path) -> _Settings:
    path = folder / EFFECTIVE
    try:
        content = yaml.safe_load(path.read_bytes()) if path.exists() else None
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    metadata = _json(folder / METADATA) if (folder / METADATA).exists() else {}
    metadata = metadata if isinstance(metadata, dict) else {}
    section = _section(content, "eval")
    dataset = _section(section, "general", "dataset")
    columns = _section(dataset, "structure")
    types = {
        name: str(options.get("_type") or options.get("type") or name)
        for name, options in _section(section, "evaluators").items()
        if isinstance(options, dict)
    }
    evaluators = metadata.get("evaluators")
    reps = metadata.get("reps")
    return _Settings(
        id_key=str(dataset.get("id_key") or "id"),
        structure=StructureConfig(
            **{
                name: columns[name]
                for name in StructureConfig.model_fields
                if isinstance(columns.get(name), str | bool)
            }
        ),
        types=types,
        evaluators=evaluators if isinstance(evaluators, list) else list(types),
        repeated=(isinstance(reps, int) and reps > 1) or bool(metadata.get("adjust_dataset_size")),
    )


def _section(tree: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def _evaluator_outputs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The items of every `<evaluator>_output.json`, by evaluator."""
    found = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        if path.name == WORKFLOW_OUTPUT:
            continue
        items = _section(content := _json(path)) and content.get("eval_output_items")
        if isinstance(items, list):
            found[path.name.removesuffix(_SUFFIX)] = [item for item in items if isinstance(item, dict)]
    return found


def _place(name: str, order: list[str]) -> tuple[int]:
    return (order.index(name) if name in order else len(order),)


def _ids(
    folder: Path,
    rows: list[dict[str, Any]],
    settings: _Settings,
    outputs: Mapping[str, list[dict[str, Any]]],
) -> list[str]:
    """The id of each row. Bare answers have no ids; the scores, in the same order, have them."""
    if all(row.get(settings.id_key) is not None for row in rows):
        return [str(row[settings.id_key]) for row in rows]
    for items in outputs.values():
        if len(items) == len(rows) and all(item.get("id") is not None for item in items):
            return [str(item["id"]) for item in items]
    raise InputError(
        f"{folder / WORKFLOW_OUTPUT} has rows without a column {settings.id_key!r}, so that its items cannot "
        f"be told apart. {EFFECTIVE} beside it names the column: eval.general.dataset.id_key."
    )


def _trajectories(
    folder: Path, rows: list[dict[str, Any]], settings: _Settings, *, ours: bool, notes: list[str]
) -> list[Trajectory]:
    """Our rows have all that is needed; the reference's lack the times, which are in its traces."""
    found = [events(row.get(settings.structure.trajectory_key)) for row in rows]
    if not ours:
        requests = read_traces(folder / TRACES)
        if not requests:
            notes.append(f"{folder} has no {TRACES}: its latency is unknown.")
        found = matched(found, requests)
    unreadable = sum(one.unreadable for one in found)
    if unreadable:
        notes.append(f"{counted(unreadable, 'event')} of {folder} could not be read.")
    runs = [trajectory(one.read) for one in found]
    calls = [call for run in runs for call in run.calls]
    cached = sum(call.cached for call in calls)
    if cached:
        notes.append(
            f"{cached:,} of {counted(len(calls), 'model call')} of {folder} came from the cache: they"
            " cost nothing, and the latency of their items is not that of the model."
        )
    return runs


def _failed(row: Mapping[str, Any]) -> bool:
    """Whether one of our rows failed; what nobody asked did not."""
    error = row.get("error")
    return error is not None and not (isinstance(error, dict) and error.get("type") == NOT_ANSWERED)


def _unanswered(row: Mapping[str, Any], settings: _Settings, *, recorded: bool) -> bool:
    """Whether a row of the reference failed: its answer is then empty, and its trace thrown away."""
    answer = row.get(settings.structure.generated_answer_key, row)
    return answer is None or (answer == "" and not recorded)


def _measured(row: Mapping[str, Any], run: Trajectory, prices: PriceTable) -> dict[str, float | None]:
    latency_s = row.get("runtime_s", run.run_time_s)
    return {
        LATENCY: _number(latency_s),
        "input_tokens": _known_sum(call.usage.input_tokens for call in run.calls),
        "output_tokens": _known_sum(call.usage.output_tokens for call in run.calls),
        COST: cost_of(run.calls, prices),
    }


def _known_sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _input(row: Mapping[str, Any], settings: _Settings, *, ours: bool) -> str | None:
    """What was asked, as JSON; `None` where the row does not say."""
    structure = settings.structure
    asked: Any
    if structure.disable:
        if not ours:
            return None
        added = {*_OURS, structure.generated_answer_key, structure.trajectory_key}
        asked = {name: value for name, value in row.items() if name not in added}
    elif structure.question_key in row:
        asked = row[structure.question_key]
    else:
        return None
    return json.dumps(asked, sort_keys=True, ensure_ascii=False)
