"""Which workflows a span is in: what spans record of them, and what travels between processes."""

import re
from typing import Any, Final, Self

import msgspec

MEMBER: Final = "millstream.workflow"
"""The member of the W3C baggage that carries a chain."""
_PARTS: Final = re.compile(r"([0-9a-f]{32})/(\d{1,12}(?:\.\d{1,9})?)((?:/[0-9a-f]{16}:[A-Za-z0-9_.~%-]*)+)")


class WorkflowMetadata(msgspec.Struct, frozen=True):
    """One workflow of a chain, as it stood when the chain was made. Times are Unix seconds.

    Attributes:
        workflow_id: the id of its span, 16 hex digits.
        status: `running`, `completed` or `failed`.
        tags: `error` of one that failed: the message.
    """

    workflow_name: str
    workflow_id: str
    parent_workflow_id: str | None = None
    start_time: float | None = None
    end_time: float | None = None
    status: str = "running"
    tags: dict[str, str] = {}


class Chain(msgspec.Struct, eq=False):
    """The workflows that a span is in, and what was added to the innermost; shared by all its spans.

    Attributes:
        workflows: the root first; never empty.
        custom_attributes: any values; they go where spans go, and do not travel in headers.
    """

    workflows: tuple[WorkflowMetadata, ...]
    custom_attributes: dict[str, Any] = {}

    @property
    def innermost(self) -> WorkflowMetadata:
        """The workflow itself; the others are around it."""
        return self.workflows[-1]

    def recorded(self) -> dict[str, Any]:
        """What each span in it records: `{"chain": [[name, id], …], "start_time": …}`, and `custom`."""
        place: dict[str, Any] = {
            "chain": [(workflow.workflow_name, workflow.workflow_id) for workflow in self.workflows],
            "start_time": self.innermost.start_time,
        }
        if self.custom_attributes:
            place["custom"] = self.custom_attributes
        return place

    def member(self, trace_id: str) -> str:
        """The member of a baggage that tells another process: `millstream.workflow=TRACE/START/ID:NAME/…`."""
        from urllib.parse import quote  # noqa: PLC0415  # only where a workflow's headers are made

        chain = "/".join(
            f"{workflow.workflow_id}:{quote(workflow.workflow_name, safe='')}" for workflow in self.workflows
        )
        start_time = f"{self.innermost.start_time or 0:.9f}".rstrip("0").rstrip(".")
        # Encoded twice: libraries that pass a baggage on decode values once and encode them again.
        return f"{MEMBER}={quote(f'{trace_id}/{start_time}/{chain}', safe='/:')}"

    @classmethod
    def of_member(cls, value: str, trace_id: str) -> Self | None:
        """The chain that another process told of.

        Args:
            value: the member's value, decoded as those of a baggage are.
            trace_id: of the span that came with it.

        Returns:
            `None` where it is of another trace, or cannot be read.
        """
        from urllib.parse import unquote  # noqa: PLC0415  # only where a workflow's headers are read

        match = _PARTS.fullmatch(value)
        if match is None or match[1] != trace_id:
            return None
        workflows: list[WorkflowMetadata] = []
        for part in match[3][1:].split("/"):
            workflow_id, _, name = part.partition(":")
            above = workflows[-1].workflow_id if workflows else None
            workflows.append(WorkflowMetadata(unquote(name), workflow_id, above))
        workflows[-1] = msgspec.structs.replace(workflows[-1], start_time=float(match[2]))
        return cls(tuple(workflows))
