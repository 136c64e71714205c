"""`standardized_data_all.csv`: one row an event, the reference's columns in its order.

Rows are made by column, some thousand at a time, in memory that does not grow with the spans.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from millstream import semconv
from millstream.profiler.bottlenecks import operation_name
from millstream.profiler.engine import Profile
from millstream.profiler.events import Block, blocks
from millstream.profiler.nova import NovaColumns, nova
from millstream.profiler.renderers.files import content_text, replacing
from millstream.record.steps import InvocationNode, category
from millstream.span import Span, SpanKind
from millstream.store.table import KIND_CODE, SpanTable

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
_ROWS_AT_ONCE = 4000
_SUFFIX = np.array(["_START", "_END"], object)
_NO_TOKENS, _NO_TEXTS = "0,0,0", ",,"
_has_to_be_quoted = re.compile('[",\r\n]').search
_LLM = KIND_CODE[SpanKind.LLM.value]
Texts = NDArray[np.object_]
Column = Iterable[str]
"""One text an event: a field, or several with the commas between them."""


def write(profile: Profile, path: Path) -> None:
    """Write the file; `csv_exclude_io_text` and `compute_llm_metrics` decide about its columns."""
    config = profile.config
    columns = [name for name in COLUMNS if not (config.csv_exclude_io_text and name in TEXT_COLUMNS)]
    columns += NOVA_COLUMNS if config.compute_llm_metrics else ()
    with replacing(path) as file:
        file.write(",".join(columns).encode() + b"\n")
        for block in blocks(profile.table):
            for rows in _rows(profile, block):
                file.write("\n".join([*rows, ""]).encode(errors="backslashreplace"))


def _rows(profile: Profile, block: Block) -> Iterator[Column]:
    """The rows of a block, some at a time."""
    table, config = profile.table, profile.config
    spans = _Spans.of(table, block)
    found = nova(table, block.events, block.scope[block.at]) if config.compute_llm_metrics else None
    for start in range(0, len(block.at), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        columns = list(_event(table, block, some))
        columns += [] if config.csv_exclude_io_text else [_contents(block, some)]
        columns.append(spans.rest[block.at[some]])
        columns += [] if found is None else _nova(found, spans.function[block.at[some]], some)
        yield map(",".join, zip(*columns, strict=True))


class _Spans(NamedTuple):
    """What START and END of a span have in common, one element a span.

    Attributes:
        rest: the fields from `llm_name` on.
        function: the function's name, as a field.
    """

    rest: Texts
    function: Texts

    @classmethod
    def of(cls, table: SpanTable, block: Block) -> Self:
        """Those of a block."""
        nodes = {scope: (_quoted(node.function_name), _function(node)) for scope, node in block.nodes.items()}
        functions = [nodes[scope] for scope in block.scope.tolist()]
        rest = [
            f"{_quoted(operation_name(table, row)) if span.kind is SpanKind.LLM else ''},"
            f"{_quoted(span.name) if span.kind is SpanKind.TOOL else ''},"
            f"{function},{_quoted(span.span_id)},{_quoted(_framework(span))}"
            for row, (span, (_, function)) in enumerate(zip(block.spans, functions, strict=True), block.first)
        ]
        return cls(np.array(rest, object), np.array([name for name, _ in functions], object))


def _event(table: SpanTable, block: Block, some: slice) -> Iterator[Column]:
    """Its type, time, request and tokens, which stand on the end of LLM calls; empty where unknown."""
    found = block.events
    row, is_end = found.row[some], found.is_end[some]
    kinds = np.array([category(block.spans[at]) for at in block.at[some].tolist()], object)
    yield kinds + _SUFFIX[is_end.astype(np.int64)]
    seconds, rest_ns = np.divmod(found.time_ns[some], NS_PER_S)
    yield map("%d.%09d".__mod__, zip(seconds.tolist(), rest_ns.tolist(), strict=True))
    yield map(str, table.trace[row].tolist())
    tokens = np.full(len(row), _NO_TOKENS, object)
    told = np.flatnonzero((table.kind[row] == _LLM) & is_end)
    counts = (table.input_tokens[row[told]].tolist(), table.output_tokens[row[told]].tolist())
    tokens[told] = [_tokens(*known) for known in zip(*counts, strict=True)]
    yield tokens


def _tokens(prompt: int, completion: int) -> str:
    """Prompt, completion and total tokens."""
    known = [tokens for tokens in (prompt, completion) if tokens >= 0]
    total = str(sum(known)) if known else ""
    return f"{prompt if prompt >= 0 else ''},{completion if completion >= 0 else ''},{total}"


def _contents(block: Block, some: slice) -> Column:
    """What went into LLM calls at their start, and what came out at their end."""
    for at, is_end in zip(block.at[some].tolist(), block.events.is_end[some].tolist(), strict=True):
        span = block.spans[at]
        if span.kind is not SpanKind.LLM:
            yield _NO_TEXTS
        elif is_end:
            yield f",{_quoted(content_text(span.output))},"
        else:
            yield f"{_quoted(content_text(span.input))},,"


def _framework(span: Span) -> str:
    framework = span.attributes.get(semconv.FRAMEWORK)
    return framework if isinstance(framework, str) else ""


def _function(node: InvocationNode) -> str:
    return ",".join(
        map(_quoted, (node.function_name, node.function_id, node.parent_name or "", node.parent_id or ""))
    )


def _nova(found: NovaColumns, function: Column, some: slice) -> Iterator[Column]:
    yield function
    yield map(str, found.requests_remaining[some].tolist())
    yield map(str, found.time_to_next_ms[some].tolist())
    yield map(str, found.time_to_event_end_ms[some].tolist())
    yield [str(tokens) if tokens >= 0 else "" for tokens in found.predicted_osl[some].tolist()]
    yield map(str, found.time_to_session_end_ms[some].tolist())


def _quoted(text: str) -> str:
    """A field as Python's `csv` writes it, and with its line endings quoted whatever they are."""
    if _has_to_be_quoted(text) is None:
        return text
    return '"' + text.replace('"', '""') + '"'
