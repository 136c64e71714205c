"""`all_requests_profiler_traces.json`: START and END events, in the reference's shape.

The events are those of `record.steps`, made by column and with each content encoded once: as objects they
take twice the time. Memory does not grow with the spans.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from millstream import semconv
from millstream.profiler.engine import Profile
from millstream.profiler.events import Block, blocks
from millstream.profiler.renderers.files import content, known, pretty, replacing
from millstream.record.steps import category, step_name, usage_info
from millstream.span import Span
from millstream.store.strict_json import json_bytes, json_lines
from millstream.store.table import Ints, SpanTable

_NS_PER_S: Final = 1e9
_STEP: Final = (
    b'{"parent_id":%b,"function_ancestry":%b,"payload":{"event_type":"%b","event_timestamp":%b,'
    b'"span_event_timestamp":%b,"framework":%b,"name":%b,"tags":null,"metadata":%b,'
    b'"data":{"input":%b,"output":%b,"chunk":null},"usage_info":%b,"UUID":%b}}'
)


def write(profile: Profile, path: Path) -> None:
    """Write the file, one request at a time."""
    with replacing(path) as file:
        file.write(b"[")
        for number, steps in _requests(profile.table):
            request = b'{"request_number":%d,"intermediate_steps":[%b]}' % (number, b",".join(steps))
            file.write((b",\n" if number else b"\n") + pretty(request))
        file.write(b"\n]\n")


def _requests(table: SpanTable) -> Iterator[tuple[int, list[bytes]]]:
    """The number and the events of each request."""
    first = 0
    for block in blocks(table):
        steps = list(_steps(table, block))
        trace = table.trace[block.events.row]
        beyond = int(trace[-1]) + 1
        bounds = np.searchsorted(trace, np.arange(first, beyond + 1)).tolist()
        yield from enumerate((steps[start:stop] for start, stop in pairwise(bounds)), first)
        first = beyond
    yield from ((number, []) for number in range(first, len(table.trace_ids)))


def _steps(table: SpanTable, block: Block) -> Iterator[bytes]:
    """The events of a block."""
    spans = block.spans
    nodes = {scope: json_bytes(node) for scope, node in block.nodes.items()}
    kinds = [category(span).encode() for span in spans]
    parents = json_lines([span.parent_id or "root" for span in spans])
    functions = [nodes[scope] for scope in block.scope.tolist()]
    started = _seconds(table.start_ns[block.first : block.first + len(spans)])
    frameworks = json_lines([_framework(span) for span in spans])
    names = json_lines([step_name(span) for span in spans])
    metadata = (
        json_lines([_metadata(span) for span in spans]),
        json_lines([_end_metadata(span) for span in spans]),
    )
    inputs = json_lines([known(span.input) for span in spans])
    outputs = json_lines([known(span.output) for span in spans])
    usages = json_lines([span.usage and usage_info(span.usage) for span in spans])
    ids = json_lines([span.span_id for span in spans])
    null = b"null"
    for at, is_end, time in zip(
        block.at.tolist(), block.events.is_end.tolist(), _seconds(block.events.time_ns), strict=True
    ):
        yield _STEP % (
            parents[at],
            functions[at],
            kinds[at] + (b"_END" if is_end else b"_START"),
            time,
            started[at] if is_end else null,
            frameworks[at],
            names[at],
            metadata[is_end][at],
            inputs[at],
            outputs[at] if is_end else null,
            usages[at] if is_end else null,
            ids[at],
        )


def _framework(span: Span) -> str | None:
    framework = content(span.attributes.get(semconv.FRAMEWORK))
    return framework if isinstance(framework, str) else None


def _metadata(span: Span) -> dict[str, Any]:
    """The attributes, with the error; one of that name gives way."""
    return span.attributes if span.error is None else {**span.attributes, "error": span.error}


def _end_metadata(span: Span) -> dict[str, Any]:
    """The same with the status."""
    found = _metadata(span)
    return found if span.status is None else {**found, "status": span.status}


def _seconds(time_ns: Ints) -> list[bytes]:
    return json_bytes((time_ns / _NS_PER_S).tolist())[1:-1].split(b",")
