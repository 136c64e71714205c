"""The files of an evaluation: answers, scores, and the configuration they came from."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from millstream.evaluation.config import DatasetConfig
from millstream.evaluation.evaluators.runtime import root_of
from millstream.evaluation.files import cannot_write, json_bytes, write_file
from millstream.evaluation.messages import transcript
from millstream.evaluation.results import ItemResult
from millstream.evaluation.scoring import ItemScore
from millstream.evaluation.summary import EvalSummary, MetricSummary
from millstream.profiler.results import EvaluationSummary, ItemSummary, ScoreSummary
from millstream.record.steps import end_step, invocation_node
from millstream.span import Span, SpanKind
from millstream.workflow.answers import answer_of, answer_text

WORKFLOW_OUTPUT: Final = "workflow_output.json"
METADATA: Final = "config_metadata.json"
EFFECTIVE: Final = "config_effective.yml"
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
    rows: Mapping[str, dict[str, Any]],
    spans: Mapping[str, list[Span]],
) -> None:
    """Write `workflow_output.json`: each row of the dataset with the answer, or why there is none.

    Beside the row's own columns it has the answer and the model and tool calls under the keys of the
    dataset's structure, and `rep`, `error`, `trace_id`, `start_ns` and `runtime_s`; the times are those of
    the recorded run, where there is one.

    Raises:
        StorageError: it cannot be written.
    """
    structure = config.structure
    output = []
    for result in results:
        row = dict(rows.get(result.id, {}))
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
        output.append(row)
    write_file(folder / WORKFLOW_OUTPUT, json_bytes(output, indent=2))


def write_scores(folder: Path, summary: MetricSummary, scores: Sequence[ItemScore]) -> None:
    """Write `<evaluator>_output.json`.

    Raises:
        StorageError: it cannot be written.
    """
    content = {
        "average_score": summary.average,
        "n": summary.n,
        "missing": summary.missing,
        "failed": summary.failed,
        "interval": msgspec.to_builtins(summary.interval),
        "eval_output_items": [
            {
                "id": one.id,
                "rep": one.rep,
                "score": one.score,
                "reasoning": answer_of(one.reasoning),
                "error": one.error,
            }
            for one in scores
        ],
    }
    write_file(score_file(folder, summary.name), json_bytes(content, indent=2))


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
    title: str, summary: EvalSummary, results: Sequence[ItemResult], scores: Mapping[str, Sequence[ItemScore]]
) -> EvaluationSummary:
    """What `report.html` shows of an evaluation."""
    return EvaluationSummary(
        title=title,
        scores=[
            ScoreSummary(
                name=metric.name,
                average=metric.average,
                n=metric.n,
                missing=metric.missing,
                failed=metric.failed,
                low=metric.interval.low if metric.interval else None,
                high=metric.interval.high if metric.interval else None,
            )
            for metric in summary.metrics
        ],
        items=[
            ItemSummary(
                id=result.id,
                rep=result.rep,
                trace_id=result.trace_id,
                question=transcript(result.question) or answer_text(result.question),
                expected=None if result.expected is None else answer_text(result.expected),
                answer=None if result.answer is None else answer_text(result.answer),
                error=None if result.error is None else str(result.error),
                scores={name: of_metric[number].score for name, of_metric in scores.items()},
            )
            for number, result in enumerate(results)
        ],
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
