"""`standardized_data_all.csv`: one row an event, the reference's columns in its order."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from millstream import semconv
from millstream.profiler.bottlenecks import operation_name
from millstream.profiler.engine import Profile
from millstream.profiler.events import ancestries, events, scopes
from millstream.profiler.nova import NovaColumns, nova
from millstream.profiler.renderers.files import content_text, replacing
from millstream.record.steps import InvocationNode, category
from millstream.span import Span, SpanKind
from millstream.store.table import SpanTable

COLUMNS = (
    "event_type",
    "event_timestamp",
    "example_number",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "llm_text_input",
    "llm_text_output",
    "llm_new_token",
    "llm_name",
    "tool_name",
    "function_name",
    "function_id",
    "parent_function_name",
    "parent_function_id",
    "UUID",
    "framework",
)
TEXT_COLUMNS = ("llm_text_input", "llm_text_output", "llm_new_token")
NOVA_COLUMNS = (
    "NOVA-Event-ID",
    "NOVA-Requests-Remaining-In-Event",
    "NOVA-Time-To-Next-Event",
    "NOVA-Time-To-Event-End",
    "NOVA-Predicted-OSL",
    "NOVA-Time-To-Session-End",
)
NS_PER_S = 1_000_000_000
_ROWS_AT_ONCE = 2000


def write(profile: Profile, path: Path) -> None:
    """Write the file; `csv_exclude_io_text` and `compute_llm_metrics` decide about its columns."""
    config = profile.config
    columns = [name for name in COLUMNS if not (config.csv_exclude_io_text and name in TEXT_COLUMNS)]
    columns += NOVA_COLUMNS if config.compute_llm_metrics else ()
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    with replacing(path) as file:
        for number, row in enumerate(_rows(profile), start=1):
            writer.writerow(row)
            if number % _ROWS_AT_ONCE == 0:
                file.write(buffer.getvalue().encode(errors="backslashreplace"))
                buffer.seek(0)
                buffer.truncate()
        file.write(buffer.getvalue().encode(errors="backslashreplace"))


def _rows(profile: Profile) -> Iterator[dict[str, Any]]:
    table = profile.table
    found = events(table)
    scope = scopes(table)
    nodes = ancestries(table, scope)
    columns = nova(table, found, scope) if profile.config.compute_llm_metrics else None
    for at, (row, is_end, time_ns) in enumerate(
        zip(found.row.tolist(), found.is_end.tolist(), found.time_ns.tolist(), strict=True)
    ):
        node = nodes[int(scope[row])]
        fields = _event(table, row, time_ns, is_end=is_end)
        fields |= _function(node)
        if columns is not None:
            fields |= _nova(node, columns, at)
        yield fields


def _event(table: SpanTable, row: int, time_ns: int, *, is_end: bool) -> dict[str, Any]:
    span = table.spans[row]
    llm, tool = span.kind is SpanKind.LLM, span.kind is SpanKind.TOOL
    text = llm and (span.output if is_end else span.input)
    prompt, completion, total = _tokens(table, row) if llm and is_end else (0, 0, 0)
    return {
        "event_type": f"{category(span)}_{'END' if is_end else 'START'}",
        "event_timestamp": f"{time_ns // NS_PER_S}.{time_ns % NS_PER_S:09d}",
        "example_number": int(table.trace[row]),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "llm_text_input": content_text(text) if llm and not is_end else "",
        "llm_text_output": content_text(text) if llm and is_end else "",
        "llm_new_token": "",
        "llm_name": operation_name(table, row) if llm else "",
        "tool_name": span.name if tool else "",
        "UUID": span.span_id,
        "framework": _framework(span),
    }


def _tokens(table: SpanTable, row: int) -> tuple[int | str, int | str, int | str]:
    """Prompt, completion and total tokens of a finished LLM call; "" where unknown."""
    prompt, completion = int(table.input_tokens[row]), int(table.output_tokens[row])
    known = [tokens for tokens in (prompt, completion) if tokens >= 0]
    return prompt if prompt >= 0 else "", completion if completion >= 0 else "", sum(known) if known else ""


def _framework(span: Span) -> str:
    framework = span.attributes.get(semconv.FRAMEWORK)
    return framework if isinstance(framework, str) else ""


def _function(node: InvocationNode) -> dict[str, Any]:
    return {
        "function_name": node.function_name,
        "function_id": node.function_id,
        "parent_function_name": node.parent_name or "",
        "parent_function_id": node.parent_id or "",
    }


def _nova(node: InvocationNode, columns: NovaColumns, at: int) -> dict[str, Any]:
    expected = int(columns.predicted_osl[at])
    values = (
        node.function_name,
        int(columns.requests_remaining[at]),
        float(columns.time_to_next_ms[at]),
        float(columns.time_to_event_end_ms[at]),
        expected if expected >= 0 else "",
        float(columns.time_to_session_end_ms[at]),
    )
    return dict(zip(NOVA_COLUMNS, values, strict=True))
