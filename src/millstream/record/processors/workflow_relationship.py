"""`relationship.*` on every span of a workflow with a context: what the workflow is in, and how deep."""

from typing import Any

from millstream.record.processors.workflows import place_of
from millstream.span import Span


class WorkflowRelationshipProcessor:
    """Puts `relationship.*` on the spans of workflows; all that it needs is in the span."""

    def __call__(self, span: Span) -> Span:
        """The span with the attributes; one that is in no workflow as it is."""
        place = place_of(span)
        if place is None:
            return span
        names = [name for name, _ in place.chain]
        relationship: dict[str, Any] = {
            "relationship.type": "child_workflow" if len(names) > 1 else "root_workflow",
            "relationship.hierarchy_path": " -> ".join(names),
            "relationship.nesting_level": len(names) - 1,
        }
        if len(names) > 1:
            relationship["relationship.parent_workflow_name"] = names[-2]
        span.attributes = {**span.attributes, **relationship}
        return span
