"""`all_requests_profiler_traces.json`: START and END events, in the reference's shape."""

from pathlib import Path

import msgspec

from millstream.profiler.engine import Profile
from millstream.profiler.events import ancestries, events, scopes
from millstream.profiler.renderers.files import json_bytes, replacing
from millstream.record.steps import IntermediateStep, end_step, start_step


def write(profile: Profile, path: Path) -> None:
    """Write the file, one request at a time."""
    table = profile.table
    found = events(table)
    scope = scopes(table)
    node = ancestries(table, scope)
    bounds = table.trace[found.row].searchsorted(range(len(table.trace_ids) + 1)).tolist()
    with replacing(path) as file:
        file.write(b"[")
        for number in range(len(table.trace_ids)):
            steps = []
            chosen = slice(bounds[number], bounds[number + 1])
            for row, is_end in zip(found.row[chosen].tolist(), found.is_end[chosen].tolist(), strict=True):
                make = end_step if is_end else start_step
                steps.append(_at(make(table.spans[row], node[int(scope[row])]), profile, row, is_end=is_end))
            request = {"request_number": number, "intermediate_steps": steps}
            file.write((b"," if number else b"") + b"\n" + json_bytes(request))
        file.write(b"\n]\n")


def _at(step: IntermediateStep, profile: Profile, row: int, *, is_end: bool) -> IntermediateStep:
    """The step with the table's end where the span's own lies before its start."""
    if not is_end or profile.table.spans[row].end_ns == profile.table.end_ns[row]:
        return step
    end_s = float(profile.table.end_ns[row] / 1e9)
    return msgspec.structs.replace(step, payload=msgspec.structs.replace(step.payload, event_timestamp=end_s))
