"""`trace.json`: Chrome's trace event format, for Perfetto and chrome://tracing.

A request is a process; its threads are lanes, one for each call that runs beside others, because spans of
one thread must nest.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from millstream.profiler.engine import Profile
from millstream.profiler.renderers.files import json_bytes, replacing
from millstream.profiler.renderers.lanes import lanes
from millstream.span import Span
from millstream.store.strict_json import json_lines
from millstream.store.table import SpanTable

_NS_PER_US = 1000
_AT_ONCE: Final = 1000


def write(profile: Profile, path: Path) -> None:
    """Write the file. Times are microseconds since the first span; `otherData.start_ns` is that moment."""
    start_ns = int(profile.table.start_ns.min()) if len(profile.table) else 0
    with replacing(path) as file:
        head = json_bytes({"start_ns": str(start_ns)}, indent=0)
        file.write(b'{"displayTimeUnit":"ms","otherData":' + head + b',"traceEvents":[')
        events = _events(profile.table, start_ns)
        before = b"\n"
        while some := json_lines(list(islice(events, _AT_ONCE))):
            file.write(before + b",\n".join(some))
            before = b",\n"
        file.write(b"\n]}\n")


def _events(table: SpanTable, start_ns: int) -> Iterator[dict[str, Any]]:
    bounds = table.bounds().tolist()
    for request, trace_id in enumerate(table.trace_ids):
        name = f"request {request} ({trace_id})"
        yield {"ph": "M", "pid": request, "tid": 0, "name": "process_name", "args": {"name": name}}
        rows = slice(bounds[request], bounds[request + 1])
        times_ns = (table.start_ns[rows].tolist(), table.end_ns[rows].tolist())
        found = zip(table.spans[rows], lanes(table, rows, table.end_ns), *times_ns, strict=True)
        for span, lane, begun, ended in found:
            event = {
                "ph": "X" if ended >= 0 else "B",
                "pid": request,
                "tid": lane,
                "cat": span.kind.value,
                "name": span.name,
                "ts": (begun - start_ns) / _NS_PER_US,
                "args": _args(span),
            }
            if ended >= 0:
                event["dur"] = (ended - begun) / _NS_PER_US
            yield event


def _args(span: Span) -> dict[str, Any]:
    args: dict[str, Any] = {"span_id": span.span_id, "status": span.status and span.status.value}
    if span.error is not None:
        args["error"] = f"{span.error.type}: {span.error.message}"
    if span.usage is not None:
        args["usage"] = span.usage
    return args
