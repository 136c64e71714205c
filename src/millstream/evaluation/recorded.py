"""What was recorded of the items: read back for scores and profile, and told where it was lost."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from millstream.errors import MillstreamError, StorageError
from millstream.evaluation.results import ItemResult
from millstream.evaluation.wording import counted
from millstream.record.recorder import require_stored
from millstream.span import Span
from millstream.store import open_store


def read_spans(home: Path, results: Sequence[ItemResult]) -> tuple[dict[str, list[Span]], str | None]:
    """The spans of the results' traces, by trace and start; an item redone counts its last attempt only."""
    by_trace: dict[str, list[Span]] = {
        result.trace_id: [] for result in results if result.trace_id is not None
    }
    starts = [result.start_ns for result in results if result.start_ns is not None]
    if not by_trace:
        return by_trace, None
    try:
        for span in open_store(home).spans(trace_ids=by_trace.keys(), since_ns=min(starts, default=None)):
            by_trace[span.trace_id].append(span)
    except (MillstreamError, OSError) as error:
        return by_trace, f"No spans could be read back: {error}."
    for of_trace in by_trace.values():
        of_trace.sort(key=lambda span: (span.start_ns, span.span_id))
    empty = sum(not of_trace for of_trace in by_trace.values())
    has = "has" if empty == 1 else "have"
    note = (
        f"{empty} of {counted(len(by_trace), 'item')} {has} no recorded spans in {home}." if empty else None
    )
    return by_trace, note


def lost_spans(lost: Mapping[str, int]) -> list[str]:
    """What was not recorded: for the journal, where, why and what to do; else the reason alone."""
    if not lost:
        return []
    told = []
    try:
        require_stored()
    except StorageError as error:
        told.append(f"{error}.")
        lost = {why: n for why, n in lost.items() if "journal" not in why}
    told += [
        f"{counted(n, 'recorded step was', 'recorded steps were')} lost: {why}" for why, n in lost.items()
    ]
    return told
