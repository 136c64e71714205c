"""The answers that people have labelled, as items that a judge is called with, and what it said before."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from millstream.errors import InputError
from millstream.evaluation.calibration.labels import Label
from millstream.evaluation.config import EvalConfig
from millstream.evaluation.dataset import Item, load_dataset
from millstream.evaluation.evaluators.base import EvalItem
from millstream.evaluation.outputs import EFFECTIVE, METADATA, WORKFLOW_OUTPUT, score_file
from millstream.evaluation.run_folder import EarlierAnswer, read_answers
from millstream.record import journal_home
from millstream.span import Span
from millstream.store import open_store
from millstream.workflow.config import WorkflowConfig


class Labelled(msgspec.Struct, frozen=True):
    """One labelled answer.

    Attributes:
        human: people's score, from 0 to 1.
        item: what the judge is called with; `None` where there is no answer.
        missing: why there is none.
    """

    human: float
    item: EvalItem | None
    missing: str | None = None


def labelled_answers(labels: Sequence[Label], config: EvalConfig) -> list[Labelled]:
    """The labels that have a score, with their answers.

    An answer is that of the label; without a column `answer`, that of the run in the output folder. What the
    label does not say of question and expected answer, the run or the dataset does.

    Raises:
        InputError: neither the labels nor an earlier run have answers, or the dataset is wrong.
    """
    scored = [label for label in labels if label.share is not None]
    if not scored:
        raise InputError("None of the labels has a score: fill in the column score.")
    if any("answer" in label.values for label in labels):
        of_dataset = _dataset(config, scored)
        return [_of_label(label, of_dataset.get(label.id)) for label in scored]
    folder = config.general.folder
    if not (folder / WORKFLOW_OUTPUT).exists():
        raise InputError(
            f"There are no answers to judge: the labels have no column 'answer', and {folder} holds no "
            f"{WORKFLOW_OUTPUT}. Add the column, or run millstream eval first."
        )
    answers = read_answers(folder)
    _check_ids(scored, [one for one, _ in answers], f"the run in {folder}")
    wanted = {key: answers[key] for label in scored if (key := (label.id, label.rep)) in answers}
    spans = _spans(folder, wanted.values())
    return [_of_run(label, wanted.get((label.id, label.rep)), config, spans) for label in scored]


def earlier_scores(
    config: WorkflowConfig, parsed: EvalConfig, name: str
) -> dict[tuple[str, int], Any] | None:
    """What the judge said in the run of the output folder: {score, reasoning, error} by id and repetition.

    `None` where it was not there, or was another: its options or its model have changed since, or its rubric
    is in a file, which may have.
    """
    folder = parsed.general.folder
    path, effective = score_file(folder, name), folder / EFFECTIVE
    if not path.exists() or not effective.exists():
        return None
    try:
        before = yaml.safe_load(effective.read_bytes())
        then = before["eval"]["evaluators"][name]
        items = msgspec.json.decode(path.read_bytes())["eval_output_items"]
        scores = {(str(one["id"]), one.get("rep") or 1): one for one in items}
        llm = str(then.get("llm_name"))
        same = _model(before["llms"][llm]) == _model(config.raw_effective["llms"][llm])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return None
    unchanged = same and then == parsed.evaluators[name] and "rubric_file" not in then
    return scores if unchanged else None


def _model(llm: Mapping[str, Any]) -> dict[str, Any]:
    """What decides what a model says; not where it is served."""
    return {key: value for key, value in llm.items() if key not in ("api_key", "base_url", "headers")}


def _dataset(config: EvalConfig, labels: Sequence[Label]) -> dict[str, Item]:
    """The items of these labels, where the labels do not say all of them."""
    columns = labels[0].values.keys() if labels else set()
    if config.general.dataset is None or columns >= {"question", "expected"}:
        return {}
    wanted = {label.id for label in labels}
    dataset = load_dataset(config.dataset)
    if "question" not in columns:
        _check_ids(labels, (item.id for item in dataset.items), f"the dataset {dataset.path}")
    return {item.id: item for item in dataset.items if item.id in wanted}


def _check_ids(labels: Sequence[Label], known: Iterable[str], where: str) -> None:
    """See that there is one thing at least that people and the judge have seen."""
    wanted, first = {label.id for label in labels}, None
    for one in known:
        first = one if first is None else first
        if one in wanted:
            return
    raise InputError(
        f"No id of the labels is one of {where}: the first of the labels is {labels[0].id!r}, the first "
        f"there {first!r}. Write the ids of {where} into the column id."
    )


def _of_label(label: Label, of_dataset: Item | None) -> Labelled:
    human = label.share or 0.0
    values = label.row
    if "answer" not in values:
        return Labelled(human, None, "the label has no answer")
    if of_dataset and values.get("question", of_dataset.question) != of_dataset.question:
        of_dataset = None  # another question that has the same id
    if "question" not in values and of_dataset is None:
        return Labelled(human, None, "neither the label nor the dataset has a question for this id")
    row = {**(of_dataset.row if of_dataset else {}), **values}
    question = values.get("question", of_dataset.question if of_dataset else "")
    expected = values.get("expected", of_dataset.expected if of_dataset else None)
    return Labelled(human, EvalItem(label.id, label.rep, question, expected, values["answer"], [], row))


def _of_run(
    label: Label, answer: EarlierAnswer | None, config: EvalConfig, spans: Mapping[str, list[Span]]
) -> Labelled:
    human, folder = label.share or 0.0, config.general.folder
    if answer is None:
        return Labelled(human, None, f"the run in {folder} has no such item")
    if answer.error is not None or answer.answer is None:
        return Labelled(human, None, f"the run in {folder} has no answer: {answer.error}")
    item = EvalItem(
        id=label.id,
        rep=label.rep,
        question=label.row.get("question", answer.question),
        expected=label.row.get("expected", answer.expected),
        output=answer.answer,
        spans=spans.get(answer.trace_id or "", []),
        row={**answer.row, **label.row},
        expected_trajectory=answer.row.get(config.dataset.structure.expected_trajectory_key)
        if config.general.dataset
        else None,
    )
    return Labelled(human, item)


def _spans(folder: Path, answers: Any) -> dict[str, list[Span]]:
    """What was recorded of these answers, where that is still there."""
    found: dict[str, list[Span]] = {one.trace_id: [] for one in answers if one.trace_id}
    if not found:
        return found
    try:
        home = msgspec.json.decode((folder / METADATA).read_bytes()).get("journal_home")
    except (OSError, ValueError, AttributeError):
        home = None
    place = Path(home) if home else journal_home()
    if not place.exists():
        return found
    for span in open_store(place).spans(trace_ids=found.keys()):
        found[span.trace_id].append(span)
    for of_trace in found.values():
        of_trace.sort(key=lambda span: (span.start_ns, span.span_id))
    return found
