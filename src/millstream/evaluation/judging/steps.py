"""The recorded steps of an item as a text that a judge can read, of bounded length."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.span import Span, SpanKind, Status
from millstream.workflow.answers import answer_text

BUDGET_CHARS: Final = 24_000
"""About 6,000 tokens, which leaves room in the context of a small model."""
_VALUE_CHARS: Final = 2_000
_KINDS: Final = frozenset({SpanKind.LLM, SpanKind.TOOL, SpanKind.RETRIEVER, SpanKind.FUNCTION})


class Steps(msgspec.Struct, frozen=True):
    """What a judge is shown.

    Attributes:
        text: the steps, numbered, in the order of their starts.
        n: how many there were.
        cut: what was left out of the text, in words; empty where nothing was.
    """

    text: str
    n: int
    cut: str


def steps_of(spans: Sequence[Span], budget_chars: int = BUDGET_CHARS) -> Steps:
    """The model calls, tools, retrievals and functions among spans.

    A function that a tool runs is the tool itself, and is not told twice. A long value keeps its beginning
    and its end; where all steps together are too long, those in the middle are left out.

    Args:
        spans: of one item.
        budget_chars: the most characters of the text.
    """
    chosen = _chosen(spans)
    lost_chars = 0
    told = []
    for number, span in enumerate(chosen, start=1):
        text, lost = _told(number, span)
        told.append(text)
        lost_chars += lost
    first, last = _kept(told, budget_chars)
    left_out = len(told) - first - last
    if left_out:
        told[first : len(told) - last] = [f"[{left_out} steps are left out here]"]
    cut = [f"{left_out} of {len(chosen)} steps"] if left_out else []
    cut += [f"{lost_chars} characters of long values"] if lost_chars else []
    return Steps("\n\n".join(told), len(chosen), " and ".join(cut))


def tools_of(spans: Iterable[Span]) -> str:
    """The tools that models were offered, a line each; empty where none was."""
    found: dict[str, str] = {}
    for span in spans:
        offered = span.attributes.get(semconv.TOOL_DEFINITIONS)
        for tool in offered if isinstance(offered, list) else []:
            function = tool.get("function", tool) if isinstance(tool, Mapping) else {}
            if isinstance(function, Mapping) and function.get("name"):
                description = " ".join(str(function.get("description") or "").split())
                found[str(function["name"])] = _shortened(description, 300)[0]
    return "\n".join(f"{name}: {description}" if description else name for name, description in found.items())


def _chosen(spans: Sequence[Span]) -> list[Span]:
    by_id = {span.span_id: span for span in spans}
    ordered = sorted(spans, key=lambda span: (span.start_ns, span.span_id))
    return [
        span
        for span in ordered
        if span.kind in _KINDS and not (span.kind is SpanKind.FUNCTION and _inside_a_tool(span, by_id))
    ]


def _inside_a_tool(span: Span, by_id: Mapping[str, Span]) -> bool:
    parent = by_id.get(span.parent_id or "")
    return parent is not None and parent.kind is SpanKind.TOOL and parent.name == span.name


def _told(number: int, span: Span) -> tuple[str, int]:
    """One step as lines, and how many characters of its values were left out."""
    lines, lost = [f"step {number}: {_what(span)}"], 0
    values = {"failed with": _failure(span), "gave": _value(span.output)}
    if span.kind is not SpanKind.LLM:  # what a model was sent is the question and the steps before
        values = {"was given": _value(span.input), **values}
    for name, value in values.items():
        if value:
            text, left_out = _shortened(value, _VALUE_CHARS)
            lines.append(f"  {name}: {text}")
            lost += left_out
    return "\n".join(lines), lost


def _what(span: Span) -> str:
    kind = {SpanKind.LLM: "the model", SpanKind.RETRIEVER: "the retriever", SpanKind.TOOL: "the tool"}
    return f"{kind.get(span.kind, 'the function')} {span.name}"


def _failure(span: Span) -> str:
    if span.error is not None:
        return f"{span.error.type}: {span.error.message}"
    return str(span.status.value) if span.status in (Status.CANCELLED, Status.INTERRUPTED) else ""


def _value(value: Any) -> str:
    """Of an answer of a model, the text and the calls alone."""
    if value is msgspec.UNSET or value is None:
        return ""
    if not (isinstance(value, Mapping) and value.get("role") == "assistant"):
        return answer_text(value)
    parts = [answer_text(value["content"])] if value.get("content") else []
    for call in value.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            parts.append(f"call of {function.get('name')} with {function.get('arguments')}")
        else:
            parts.append(f"call {json.dumps(call, ensure_ascii=False)}")
    return "; ".join(parts)


def _shortened(text: str, limit: int) -> tuple[str, int]:
    """Beginning and end of a long text, and how many characters between them are left out."""
    if len(text) <= limit:
        return text, 0
    head, tail = limit * 3 // 4, limit // 4
    lost = len(text) - head - tail
    return f"{text[:head]} [{lost} characters left out] {text[-tail:]}", lost


def _kept(told: Sequence[str], budget_chars: int) -> tuple[int, int]:
    """How many steps from the start and from the end fit into the budget; in turns, the last step first."""
    if sum(len(text) + 2 for text in told) <= budget_chars:
        return len(told), 0
    room, first, last = budget_chars - 60, 0, 0
    while first + last < len(told):
        from_end = last <= first
        text = told[-1 - last] if from_end else told[first]
        if len(text) + 2 > room:
            break
        room -= len(text) + 2
        last, first = (last + 1, first) if from_end else (last, first + 1)
    return first, last
