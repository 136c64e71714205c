"""Metrics of ragas by their names; what they take comes from the item, its spans and its row."""

import importlib
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from millstream.errors import ConfigError, nearest
from millstream.evaluation.evaluators.base import Binding, EvalItem, EvaluatorBase, Score
from millstream.evaluation.models import Models
from millstream.evaluation.ragas_catalogue import MODELS, Metric, metric_named
from millstream.evaluation.ragas_inputs import UnscoredError, inputs_of, lacking
from millstream.workflow.functions import in_thread

_LEAF: Final = "millstream.evaluation.ragas_metrics"


class NestedOptions(BaseModel):
    """The options of a metric where it is a key: `metric: {AnswerAccuracy: {kwargs: …}}`.

    Attributes:
        skip: leave the metric out.
        kwargs: of its constructor.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    skip: bool = False
    kwargs: dict[str, Any] | None = None


class Ragas(EvaluatorBase):
    """A metric of the installed ragas.

    Attributes:
        metric: name of its class, such as `AnswerAccuracy`, or `{name: {skip, kwargs}}`.
        llm_name: the model that judges, a key under `llms`; not needed by metrics without a judge.
        embedder_name: a key under `embedders`, for metrics that embed texts.
        kwargs: further arguments of the metric's constructor.
        input_obj_field: of a question that is an object, the field that is the question.
    """

    metric: str | dict[str, NestedOptions]
    llm_name: str | None = None
    embedder_name: str | None = None
    kwargs: dict[str, Any] = {}
    input_obj_field: str | None = None

    def bind(self, binding: Binding) -> "BoundRagas":
        """See `EvaluatorBase`; ragas itself is imported with the first item."""
        name, kwargs = self._chosen(binding.where)
        metric = metric_named(name, f"{binding.where}.metric")
        self._check(metric, kwargs, binding)
        return BoundRagas(self, metric, kwargs, binding.models)

    def unscorable(self, item: EvalItem) -> str | None:
        """A row that lacks what the metric compares with."""
        name, _ = self._chosen("")
        return lacking(item, metric_named(name, ""))

    def _chosen(self, where: str) -> tuple[str, dict[str, Any]]:
        if isinstance(self.metric, str):
            return self.metric, self.kwargs
        wanted = {name: options for name, options in self.metric.items() if not options.skip}
        if len(wanted) != 1:
            raise ConfigError(
                f"{where}.metric: one metric an evaluator, and {', '.join(wanted) or 'none'} is wanted here;"
                " make an evaluator for each"
            )
        ((name, options),) = wanted.items()
        return name, {**(options.kwargs or {}), **self.kwargs}

    def _check(self, metric: Metric, kwargs: Mapping[str, Any], binding: Binding) -> None:
        where, options = binding.where, metric.options
        if self.llm_name is not None:
            binding.models.check_llm(self.llm_name, f"{where}.llm_name")
        elif "llm" in options:
            raise ConfigError(f"{where}.llm_name: {metric.name} asks a model; name one of `llms`")
        if self.embedder_name is not None:
            binding.models.check_embedder(self.embedder_name, f"{where}.embedder_name")
        elif "embeddings" in options:
            raise ConfigError(f"{where}.embedder_name: {metric.name} embeds texts; name one of `embedders`")
        unknown = [name for name in kwargs if name not in options or name in MODELS]
        if unknown and not metric.old:
            known = [name for name in options if name not in MODELS]
            raise ConfigError(
                f"{where}.kwargs: {metric.name} has no {unknown[0]!r}{nearest(unknown[0], known)}"
            )


class BoundRagas:
    """A metric with its models.

    Args:
        options: of the workflow file.
        metric: what it takes.
        kwargs: of its constructor.
        models: of the workflow file.
    """

    def __init__(self, options: Ragas, metric: Metric, kwargs: dict[str, Any], models: Models) -> None:
        self._options = options
        self._metric = metric
        self._kwargs = kwargs
        self._models = models

    async def __call__(self, item: EvalItem) -> Score:
        """Score one item; the reasoning has what the judges said."""
        options, models = self._options, self._models
        try:
            inputs = inputs_of(item, self._metric, options.input_obj_field)
            metrics = await in_thread(importlib.import_module, _LEAF)  # for seconds, the first time
            model = None if options.llm_name is None else await models.llm(options.llm_name)
            embedder = None if options.embedder_name is None else await models.embedder(options.embedder_name)
            value, told = await metrics.score(self._metric, inputs, self._kwargs, model, embedder)
        except UnscoredError as error:
            return Score(None, str(error))
        contexts = inputs.get("retrieved_contexts")
        return Score(value, told if contexts is None else {**told, "retrieved_contexts": contexts})
