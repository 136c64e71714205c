"""What the examples share: the stand-in model server, and the tree of workflows that was recorded."""

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import millstream
from millstream import CrossWorkflowProcessor, Span, SpanKind, WorkflowRelationshipProcessor
from millstream.record import journal_home

HERE = Path(__file__).parent
CONFIG = HERE / "observability_config.yml"
STAND_IN = [
    *(sys.executable, "-m", "millstream", "simulate", "llm"),
    *("--config", str(HERE / "models.yml"), "--exit-with-parent"),
]


@contextmanager
def model_server() -> Iterator[None]:
    """Have `OPENAI_BASE_URL` name a model server: yours if it is set, else the stand-in for this block."""
    if os.environ.get("OPENAI_BASE_URL"):
        yield
        return
    with subprocess.Popen(STAND_IN, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603  # our own command
        try:
            os.environ["OPENAI_BASE_URL"] = server.stdout.readline().strip() if server.stdout else ""
            yield
        finally:
            del os.environ["OPENAI_BASE_URL"]
            server.terminate()


def recorded(trace_ids: Iterable[str]) -> list[Span]:
    """The spans of these traces, with what the two processors put on them, in order of start."""
    processors = (CrossWorkflowProcessor(), WorkflowRelationshipProcessor())
    spans = sorted(
        millstream.open_store(journal_home()).spans(set(trace_ids)), key=lambda span: span.start_ns
    )
    for span in spans:
        for processor in processors:
            processor(span)
    return spans


def draw_tree(trace_ids: Iterable[str]) -> None:
    """Print the workflows of these traces: name, depth, status, duration, and what was called in each."""
    spans = recorded(trace_ids)
    by_id = {span.span_id: span for span in spans}
    below: dict[str | None, list[Span]] = defaultdict(list)
    inside: dict[str, list[str]] = defaultdict(list)
    for span in spans:
        if span.kind is not SpanKind.WORKFLOW:
            if span.kind in (SpanKind.LLM, SpanKind.TOOL):
                inside[span.attributes.get("observability.workflow_id", "")].append(span.kind.value)
            continue
        above = by_id.get(span.parent_id or "")
        while above is not None and above.kind is not SpanKind.WORKFLOW:
            above = by_id.get(above.parent_id or "")
        below[above.span_id if above else None].append(span)

    def line(span: Span, before: str, last: str) -> None:
        told = span.attributes
        calls = inside[span.span_id]
        counts = ", ".join(f"{calls.count(kind)} {kind}" for kind in ("LLM", "TOOL") if kind in calls)
        print(
            f"{before + last + span.name:44} depth {told['observability.workflow_depth']}"
            f"  {told['observability.workflow_status']:9} {span.duration_s or 0:7.3f} s  {counts}".rstrip()
        )
        children = below[span.span_id]
        before += {"": "", "├── ": "│   ", "└── ": "    "}[last]
        for child in children:
            line(child, before, "└── " if child is children[-1] else "├── ")

    for root in below[None]:
        line(root, "", "")
