"""Scores the results of a run: what is not in `scores.jsonl` yet is asked for, one item after the other."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from millstream import sources
from millstream.evaluation.evaluators.base import EvalItem
from millstream.evaluation.fingerprint import answer_fingerprint, evaluator_fingerprint
from millstream.evaluation.heap import heap_at_rest
from millstream.evaluation.prepare import Prepared
from millstream.evaluation.progress import Progress
from millstream.evaluation.reachability import Judges
from millstream.evaluation.results import ItemResult
from millstream.evaluation.scorer import Call, Scorer
from millstream.evaluation.scores import Scores
from millstream.evaluation.scoring import ItemScore, is_missing, without_lonely_zeros
from millstream.span import Span
from millstream.store.readers.nat_steps import spans_of, told_trace_id
from millstream.workflow.config import WorkflowConfig


class ScoreRun:
    """All scores of some results; the models of the evaluators are open.

    Args:
        config: the workflow file.
        prepared: its evaluators and dataset.
        folder: the output folder.
        results: what is to be scored.
        spans: by trace id.
        progress: told of each score.
    """

    def __init__(
        self,
        config: WorkflowConfig,
        prepared: Prepared,
        folder: Path,
        *,
        results: Sequence[ItemResult],
        spans: Mapping[str, list[Span]],
        progress: Progress,
    ) -> None:
        self._prepared = prepared
        self._results = results
        self._spans = spans
        self._progress = progress
        self._scorer: Scorer | None = None
        options = prepared.config.evaluators
        names = {
            metric.name: evaluator_fingerprint(options[metric.name], config.raw_effective, config.directory)
            for metric in prepared.metrics
        }
        self.scores = Scores(folder, names, len(results))
        self.made = 0
        """Scores that are there, those of an earlier run included."""
        self.total = len(results) * len(names)

    @property
    def hanging(self) -> bool:
        """Whether something of an evaluator that was given up may still run."""
        return self._scorer is not None and self._scorer.hanging

    async def run(self) -> dict[str, Sequence[ItemScore]]:
        """Ask the evaluators.

        Returns:
            By evaluator, in the order of the results.

        Raises:
            UnreachableError: the server of an evaluator is down.
            StorageError: a score cannot be saved.
        """
        general, metrics = self._prepared.config.general, self._prepared.metrics
        self._scorer = Scorer(
            max_concurrency=general.max_concurrency,
            timeout_s=general.scoring_timeout_s,
            judges=Judges(general.max_concurrency),
            save=self._save,
        )
        self._progress.scoring(self.total)
        with heap_at_rest():
            await self._scorer.run(self._calls())
        return {metric.name: without_lonely_zeros(metric, self.scores.of(metric.name)) for metric in metrics}

    def _save(self, call: Call, score: ItemScore) -> None:
        self.scores.add(call.metric.name, call.place, call.answer, score)
        self.made += 1
        self._progress.scored(missing=is_missing(score), kept=False)

    def _calls(self) -> Iterator[Call | None]:
        items = self._prepared.dataset.items
        for place, result in enumerate(self._results):
            row = items[result.index].row
            answer = answer_fingerprint(result, row)
            spans = None
            for metric in self._prepared.metrics:
                if self.scores.has(metric.name, place, answer):
                    self.made += 1
                    self._progress.scored(missing=False, kept=True)
                    yield None
                    continue
                if spans is None:
                    spans = self._spans_of(result, row)
                item = self._item(result, row, spans)
                yield Call(metric, place, answer, item, result.error, result.trace_id is not None)

    def _spans_of(self, result: ItemResult, row: dict[str, Any]) -> list[Span]:
        """What was recorded; of an answer that came with the dataset, the steps that came with it."""
        if result.trace_id is not None:
            return self._spans.get(result.trace_id, [])
        steps = row.get(self._prepared.config.dataset.structure.trajectory_key)
        if not isinstance(steps, list):
            return []
        return list(spans_of(steps, told_trace_id(steps) or sources.new_trace_id(), Counter()))

    def _item(self, result: ItemResult, row: dict[str, Any], spans: list[Span]) -> EvalItem:
        row = copy.deepcopy(row)
        key = self._prepared.config.dataset.structure.expected_trajectory_key
        return EvalItem(
            id=result.id,
            rep=result.rep,
            question=copy.deepcopy(result.question),
            expected=copy.deepcopy(result.expected),
            output=copy.deepcopy(result.answer),
            spans=list(spans),
            row=row,
            expected_trajectory=copy.deepcopy(row.get(key)),
        )
