"""Everything that can be checked before the first question is asked."""

from pathlib import Path

import msgspec

from millstream.errors import ConfigError, InputError, UnreachableError
from millstream.evaluation.config import EvalConfig, parse_eval
from millstream.evaluation.dataset import Dataset, load_dataset
from millstream.evaluation.evaluators.base import EvalItem
from millstream.evaluation.models import Models
from millstream.evaluation.registry import Metric, build_evaluators
from millstream.evaluation.slices import check_fields
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.validation import in_file


class Prepared(msgspec.Struct, frozen=True):
    """A checked evaluation: nothing in its configuration, evaluators or dataset is wrong.

    Attributes:
        notes: what a reader of the scores should know, one sentence each.
    """

    config: EvalConfig
    metrics: list[Metric]
    dataset: Dataset
    models: Models
    notes: list[str]


def prepare(config: WorkflowConfig, dataset: str | Path | None = None) -> Prepared:
    """Check the section `eval` of a workflow file, load its evaluators and read its dataset.

    Args:
        config: the workflow file.
        dataset: a dataset file or URL that takes the place of the configured one.

    Raises:
        ConfigError: a key, an option or an evaluator is wrong.
        InputError: the dataset is missing or malformed, or a file of this kind is none.
        UnreachableError: its server does not answer.
    """
    with in_file(config.path):
        parsed = parse_eval(config.eval, dataset)
        source, models = parsed.dataset, Models(config)
        metrics = build_evaluators(parsed, config.directory, models)
    of_file = (ConfigError,) if dataset is not None else (ConfigError, InputError, UnreachableError)
    with in_file(config.path, *of_file):
        loaded = load_dataset(source, config.directory)
        check_fields(parsed.general.slices, (item.row for item in loaded.items))
    without_answer = (
        [loaded.without_answer] if loaded.without_answer and any(map(_needs_answer, metrics)) else []
    )
    return Prepared(parsed, metrics, loaded, models, [*loaded.notes, *without_answer])


def _needs_answer(metric: Metric) -> bool:
    """Whether an evaluator cannot score an item for want of an expected answer."""
    if metric.needs_expected or metric.unscorable is None:
        return metric.needs_expected
    without = EvalItem(id="", rep=1, question="", expected=None, output="", spans=[], row={})
    try:
        return metric.unscorable(without) != metric.unscorable(msgspec.structs.replace(without, expected=""))
    except Exception:  # noqa: BLE001  # a plugin may be anybody's code; each item will tell
        return False
