"""The files of an evaluation: answers, scores, and the configuration they came from."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from millstream.evaluation.config import DatasetConfig
from millstream.evaluation.dataset import Item
from millstream.evaluation.evaluators.runtime import root_of
from millstream.evaluation.figures import Figure
from millstream.evaluation.files import cannot_write, write_file, write_list
from millstream.evaluation.lazy import Lazy
from millstream.evaluation.messages import transcript
from millstream.evaluation.results import ItemResult
from millstream.evaluation.scoring import ItemScore
from millstream.evaluation.summary import EvalSummary, MetricSummary, reason_of
from millstream.evaluation.usage import CallFigures, Usage, calls_text
from millstream.profiler.results import EvaluationSummary, ItemSummary, ScoreSummary
from millstream.record.steps import end_step, invocation_node
from millstream.span import Span, SpanKind
from millstream.workflow.answers import answer_of, answer_text

WORKFLOW_OUTPUT: Final = "workflow_output.json"
METADATA: Final = "config_metadata.json"
EFFECTIVE: Final = "config_effective.yml"
EARLIER: Final = "earlier_attempts"
"""Of a row that was asked again: those that do not count any more."""
PROFILE_FILES: Final = (
    "all_requests_profiler_traces.json",
    "standardized_data_all.csv",
    "inference_optimization.json",
    "workflow_profiling_metrics.json",
    "workflow_profiling_report.txt",
    "findings.json",
    "spans.parquet",
    "trace.json",
    "trace.speedscope.json",
    "gantt_chart.png",
    "report.html",
)
"""What the profile writes. Named here, since importing the profiler takes its time."""


def write_answers(
    folder: Path,
    config: DatasetConfig,
    results: Sequence[ItemResult],
    items: Sequence[Item],
    spans: Mapping[str, list[Span]],
    used: Usage,
) -> None:
    """Write `workflow_output.json`: each row of the dataset with the answer, or why there is none.

    Beside the row's own columns it has the answer and the model and tool calls under the keys of the
    dataset's structure, and `rep`, `error`, `trace_id`, `start_ns`, `runtime_s` and `usage`; the times are
    those of the recorded run, where there is one. `usage` is that of all attempts at the item.

    Raises:
        StorageError: it cannot be written.
    """
    structure = config.structure

    def filled(result: ItemResult) -> dict[str, Any]:
        row = dict(items[result.index].row)
        row[config.id_key] = result.id
        row[structure.generated_answer_key] = result.answer
        recorded = spans.get(result.trace_id or "", [])
        root = root_of(recorded)
        row[structure.trajectory_key] = _trajectory(recorded)
        row["rep"] = result.rep
        row["error"] = msgspec.to_builtins(result.error)
        row["trace_id"] = result.trace_id
        row["start_ns"] = root.start_ns if root else result.start_ns
        row["runtime_s"] = root.duration_s if root else result.runtime_s
        if result.earlier:
            row[EARLIER] = msgspec.to_builtins(result.earlier)
        row["usage"] = usage_json(used.of(result.traces), used.currency)
        del row["usage"]["latency_s"]  # `runtime_s` says it
        return row

    write_list(folder / WORKFLOW_OUTPUT, map(filled, results))


def usage_json(figures: CallFigures, currency: str) -> dict[str, Any]:
    """What model calls used, as it is written."""
    return {**msgspec.to_builtins(figures), "currency": currency}


def write_scores(folder: Path, summary: MetricSummary, scores: Sequence[ItemScore], used: Usage) -> None:
    """Write `<evaluator>_output.json`.

    Raises:
        StorageError: it cannot be written.
    """
    items = (
        {
            "id": one.id,
            "rep": one.rep,
            "score": one.score,
            "reasoning": answer_of(one.reasoning),
            "error": one.error,
            **({"trace_id": one.trace_id, "usage": _judge(one, used)} if one.trace_id else {}),
        }
        for one in scores
    )
    write_list(score_file(folder, summary.name), items, score_figures(summary), "eval_output_items")


def score_figures(summary: MetricSummary) -> dict[str, Any]:
    """All that `<evaluator>_output.json` holds but the items."""
    return {
        "average_score": summary.average,
        "n": summary.n,
        "missing": summary.missing,
        "failed": summary.failed,
        "interval": msgspec.to_builtins(summary.interval),
        "note": summary.note,
        "scores": {one.key: _figure(one) for one in summary.figures},
        "slices_note": summary.slices_note,
        "slices": [
            {
                "field": part.field,
                "value": part.value,
                "items": part.items,
                "failed": part.failed,
                **(
                    {"scores": {one.key: _figure(one) for one in part.figures}}
                    if summary.figures
                    else _figure(part.figures[0])
                ),
            }
            for part in summary.slices
        ],
    }


def _figure(figure: Figure) -> dict[str, Any]:
    content = {
        "average_score": figure.average,
        "n": figure.n,
        "missing": figure.missing,
        "interval": msgspec.to_builtins(figure.interval),
        "note": figure.note,
    }
    return content if figure.count is None else {**content, "count": figure.count}


def _judge(score: ItemScore, used: Usage) -> dict[str, Any]:
    return usage_json(used.of(score.traces), used.currency)


def score_file(folder: Path, evaluator: str) -> Path:
    """Where the scores of an evaluator are."""
    return folder / f"{evaluator}_output.json"


def remove_outputs(folder: Path, evaluators: Collection[str]) -> None:
    """Remove the answers, scores and profile of an earlier run, which would pass for those of the next.

    Args:
        folder: the output folder.
        evaluators: names of the evaluators of both runs.

    Raises:
        StorageError: one cannot be removed.
    """
    names = [WORKFLOW_OUTPUT, *PROFILE_FILES]
    for path in [*(folder / name for name in names), *(score_file(folder, name) for name in evaluators)]:
        try:
            if path.is_file():
                path.unlink()
        except OSError as error:
            raise cannot_write(path, error) from error


def write_effective(folder: Path, effective: Mapping[str, Any]) -> None:
    """Write `config_effective.yml`: the workflow file as it was understood, secrets masked.

    Raises:
        StorageError: it cannot be written.
    """
    text = yaml.safe_dump(dict(effective), sort_keys=False, allow_unicode=True, width=100)
    write_file(folder / EFFECTIVE, text.encode("utf-8", "backslashreplace"))


def for_report(
    title: str,
    summary: EvalSummary,
    results: Sequence[ItemResult],
    scores: Mapping[str, Sequence[ItemScore]],
    used: Usage,
) -> EvaluationSummary:
    """What `report.html` shows of an evaluation; the items that it shows are made when it does."""

    def item(place: int) -> ItemSummary:
        result = results[place]
        return ItemSummary(
            id=result.id,
            rep=result.rep,
            trace_id=result.trace_id,
            question=transcript(result.question) or answer_text(result.question),
            expected=None if result.expected is None else answer_text(result.expected),
            answer=None if result.answer is None else answer_text(result.answer),
            error=None if result.error is None else str(result.error),
            scores={name: of_metric[place].score for name, of_metric in scores.items()},
            reasons={
                name: reason for name, of_metric in scores.items() if (reason := reason_of(of_metric[place]))
            },
            runtime_s=result.runtime_s,
            calls=calls_text(used.of(result.traces), used.currency),
            judges=calls_text(
                used.of(trace_id for of_metric in scores.values() for trace_id in of_metric[place].traces),
                used.currency,
            ),
        )

    return EvaluationSummary(
        title=title,
        scores=[
            _shown(metric, figure, metric.failed)
            for metric in summary.metrics
            for figure in metric.all_figures
        ],
        items=Lazy(len(results), item),
        failed=len(summary.failures),
        worst_first=summary.worst_first,
        slices=[
            _shown(metric, figure, part.failed, f"{part.field} = {part.value}")
            for metric in summary.metrics
            for part in metric.slices
            for figure in part.figures
        ],
        slices_note=next((metric.slices_note for metric in summary.metrics), None),
        level=summary.level,
    )


def _shown(metric: MetricSummary, figure: Figure, failed: int, part: str = "") -> ScoreSummary:
    return ScoreSummary(
        name=f"{metric.name}.{figure.key}" if figure.key else metric.name,
        average=figure.average,
        n=figure.n,
        missing=figure.missing,
        failed=failed,
        low=figure.interval.low if figure.interval else None,
        high=figure.interval.high if figure.interval else None,
        note=figure.note,
        unit=metric.unit,
        category=figure.count is not None,
        lower_is_better=metric.lower_is_better,
        slice=part,
    )


def _trajectory(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """The END events of model and tool calls, in the order of their ends, in the reference's shape."""
    by_id = {span.span_id: span for span in spans}
    ended = [span for span in spans if span.end_ns is not None and span.kind in (SpanKind.LLM, SpanKind.TOOL)]
    ended.sort(key=lambda span: (span.end_ns, span.span_id))
    return [msgspec.to_builtins(end_step(span, invocation_node(_chain(span, by_id)))) for span in ended]


def _chain(span: Span, by_id: Mapping[str, Span]) -> list[tuple[SpanKind, str, str, str | None]]:
    chain, seen = [], set()
    above: Span | None = span
    while above is not None and above.span_id not in seen:
        seen.add(above.span_id)
        chain.append((above.kind, above.name, above.span_id, above.workload_id))
        above = by_id.get(above.parent_id or "")
    return chain
