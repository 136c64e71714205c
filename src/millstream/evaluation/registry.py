"""Which evaluators there are, and how a configured one is made. Ours enter by the door that plugins use."""

import re
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

import msgspec

from millstream.deliver.plugins import load_entry_point
from millstream.errors import ConfigError, nearest
from millstream.evaluation.config import EvalConfig
from millstream.evaluation.evaluators.base import Binding, EvalItem, EvaluatorBase
from millstream.evaluation.models import Models
from millstream.workflow.validation import Problems, parse_model

GROUP: Final = "millstream.evaluators"
_OURS: Final = {
    "exact_match": "text:ExactMatch",
    "regex": "text:Regex",
    "json_match": "json_match:JsonMatch",
    "similarity": "similarity:Similarity",
    "tool_calls": "tool_calls:ToolCalls",
    "python": "python_target:PythonEvaluator",
    "ragas": "ragas:Ragas",
    "llm_judge": "llm_judge:LlmJudge",
    "trajectory": "trajectory:TrajectoryJudge",
    "avg_llm_latency": "runtime:AvgLlmLatency",
    "avg_workflow_runtime": "runtime:AvgWorkflowRuntime",
    "avg_num_llm_calls": "runtime:AvgNumLlmCalls",
    "avg_tokens_per_llm_end": "runtime:AvgTokensPerLlmEnd",
}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_RESERVED: Final = frozenset({"workflow"})
"""`workflow_output.json` is the file of the answers."""


class Metric(msgspec.Struct, frozen=True):
    """One configured evaluator.

    Attributes:
        name: its key in the workflow file, and of `<name>_output.json`.
        call: gives a number, a truth value, `{score, reasoning}` or an awaitable of one.
        needs_expected: without an expected answer the score is missing.
        score_failed: failed items are scored too; otherwise they score 0.
        lower_is_better: a gate fails above its bound, not under it.
        quick: is called in place, without a thread or a time limit.
        unit: of the score; empty for a share or a count.
        asks_models: it names a model or an embedder of the workflow file.
        unscorable: why no answer to this item could be scored; `None` where one could, or nobody knows.
    """

    name: str
    call: Callable[[EvalItem], Any]
    needs_expected: bool
    score_failed: bool
    lower_is_better: bool
    quick: bool = False
    unit: str = ""
    unscorable: Callable[[EvalItem], str | None] | None = None
    asks_models: bool = False


def evaluator_types() -> dict[str, EntryPoint]:
    """Every `_type` of an evaluator, with what makes it."""
    ours = [
        EntryPoint(name, f"millstream.evaluation.evaluators.{value}", GROUP) for name, value in _OURS.items()
    ]
    return {point.name: point for point in [*entry_points(group=GROUP), *ours]}


def build_evaluators(config: EvalConfig, directory: Path, models: Models) -> list[Metric]:
    """The configured evaluators, in the order of the workflow file.

    Args:
        config: the section `eval`.
        directory: what files of Python evaluators are relative to.
        models: those that evaluators may ask.

    Raises:
        ConfigError: an unknown `_type`, a wrong option, or a target that cannot be loaded.
    """
    points = evaluator_types()
    metrics: list[Metric] = []
    problems = Problems()
    for name, mapping in config.evaluators.items():
        with problems.collect():
            _check_name(name, config.evaluators)
            binding = Binding(directory, f"eval.evaluators.{name}", models, config.general.folder)
            metrics.append(_metric(name, mapping, points, binding))
    problems.raise_if_any()
    return metrics


def _check_name(name: str, names: Collection[str]) -> None:
    """It becomes that of a file, and with a dot and a key that of one of several values."""
    where = f"eval.evaluators.{name}"
    if not _NAME.fullmatch(name) or name.casefold() in _RESERVED:
        raise ConfigError(
            f"{where}: the name becomes that of the file {name}_output.json; use letters, digits, _ . and -, "
            f"at most 100{' (and not workflow, whose file is taken)' if name.casefold() in _RESERVED else ''}"
        )
    alike = next((other for other in names if other != name and other.casefold() == name.casefold()), None)
    if alike is not None:
        raise ConfigError(
            f"{where}: this and {alike!r} differ in upper and lower case only, and {name}_output.json would "
            "be one file on many disks; give one of them another name"
        )
    inner = next((other for other in names if name.startswith(f"{other}.")), None)
    if inner is not None:
        raise ConfigError(
            f"{where}: this is also what a value {name.removeprefix(f'{inner}.')!r} of {inner!r} is called; "
            f"put another character than the dot after {inner!r}"
        )


def _metric(
    name: str,
    mapping: Mapping[str, Any],
    points: Mapping[str, EntryPoint],
    binding: Binding,
) -> Metric:
    where, models = binding.where, binding.models
    options = dict(mapping)
    kind = options.pop("_type", None)
    if kind not in points:
        raise ConfigError(f"{where}._type: unknown evaluator {kind!r}{nearest(str(kind), points)}")
    made = _make(load_entry_point(points[kind]), options, where)
    named_before = models.named
    call = made.bind(binding) if isinstance(made, EvaluatorBase) else made
    if not callable(call):
        raise ConfigError(
            f"{where}: the plugin {kind!r} made a {type(call).__name__}, which cannot be called"
        )
    flags = ("needs_expected", "score_failed", "lower_is_better", "quick")
    return Metric(
        name,
        call,
        unit=str(getattr(made, "unit", "")),
        asks_models=models.named > named_before,
        unscorable=getattr(made, "unscorable", None),
        **{flag: bool(getattr(made, flag, False)) for flag in flags},
    )


def _make(factory: Callable[..., Any], options: dict[str, Any], where: str) -> Any:
    if isinstance(factory, type) and issubclass(factory, EvaluatorBase):
        return parse_model(factory, options, where)
    try:
        return factory(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error
