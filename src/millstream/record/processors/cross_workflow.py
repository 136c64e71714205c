"""`observability.*` on every span of a workflow with a context: which workflow it is, and how it went."""

from typing import Any

from millstream.record.processors.workflows import Place, place_of
from millstream.span import Span, Status


class CrossWorkflowProcessor:
    """Puts `observability.*` on the spans of workflows; all that it needs is in the span.

    The workflow's own span has its outcome: `workflow_status` is `completed` or `failed`, with end and
    duration. A span inside ended while its workflow was `running`, and says so; `workflow_id` leads to the
    outcome. Times are Unix seconds, durations seconds.
    """

    def __call__(self, span: Span) -> Span:
        """The span with the attributes; one that is in no workflow as it is."""
        place = place_of(span)
        if place is not None:
            span.attributes = {**span.attributes, **_attributes(span, place)}
        return span


def _attributes(span: Span, place: Place) -> dict[str, Any]:
    name, workflow_id = place.chain[-1]
    told: dict[str, Any] = {
        "trace_id": span.trace_id,
        "root_span_id": place.chain[0][1],
        "current_span_id": workflow_id,
        "workflow_name": name,
        "workflow_id": workflow_id,
        "workflow_depth": len(place.chain) - 1,
        "workflow_status": "running",
    }
    if span.span_id == workflow_id:
        told["workflow_start_time"] = span.start_ns / 1e9
        if span.status is not None:
            told["workflow_status"] = "completed" if span.status is Status.OK else "failed"
        if span.end_ns is not None:
            told["workflow_end_time"] = span.end_ns / 1e9
            told["workflow_duration"] = span.duration_s
    elif place.start_time is not None:
        told["workflow_start_time"] = place.start_time
    told |= {f"custom.{key}": value for key, value in place.custom.items()}
    return {f"observability.{key}": value for key, value in told.items()}
