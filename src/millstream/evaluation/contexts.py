"""What the spans of an item tell of it: the documents that were retrieved, and the tools that were called."""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.span import Span, SpanKind, Status

_TEXT_KEYS: Final = ("content", "page_content", "text")
_LIST_KEYS: Final = ("documents", "contents", "content")
_MAX_LITERAL_CHARS: Final = 100_000


class ToolCall(msgspec.Struct, frozen=True):
    """One call of a tool.

    Attributes:
        name: of the tool.
        arguments: by name; any other JSON value where the tool was not given names; unset where content was
            not captured.
        output: what it gave back; unset where it gave nothing or content was not captured.
        error: why it failed or did not end; `None` where it worked.
    """

    name: str
    arguments: Any
    output: Any = msgspec.UNSET
    error: str | None = None


def tool_calls(spans: Sequence[Span], *, nested: bool = False) -> list[ToolCall]:
    """The calls of tools, in the order of their starts; one run of a tool is one call, however often seen.

    Args:
        spans: of one item.
        nested: also those that another tool made while it ran.
    """
    return [
        ToolCall(
            str(span.attributes.get(semconv.TOOL_NAME) or span.name),
            as_arguments(span.input),
            span.output,
            _failure(span),
        )
        for span in _of_kind(spans, SpanKind.TOOL, nested=nested)
    ]


def retrieved_contexts(spans: Sequence[Span]) -> list[str]:
    """The texts that an answer could rest on, each once, in the order in which they were found.

    They are the documents of the retrievers. Where these found none, they are what the tools gave back. A
    retriever inside a retriever and a tool inside a tool do not count, nor does a tool that failed.

    Args:
        spans: of one item.
    """
    found = [text for span in _of_kind(spans, SpanKind.RETRIEVER) for text in _documents(_value(span.output))]
    if not any(map(str.strip, found)):
        found = [
            _as_text(_value(span.output))
            for span in _of_kind(spans, SpanKind.TOOL)
            if span.output is not msgspec.UNSET and _failure(span) is None
        ]
    return [text for text in dict.fromkeys(found) if text.strip()]


def as_arguments(value: Any) -> Any:
    """What a tool was given, by name where that can be told.

    Args:
        value: an object, or a text that is one in JSON or, as LangChain writes it, in Python.
    """
    value = _value(value)
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return {} if value is None else value
    for parse in (json.loads, ast.literal_eval):
        if parse is ast.literal_eval and len(value) > _MAX_LITERAL_CHARS:
            break
        try:
            told = parse(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(told, dict) and all(isinstance(name, str) for name in told):
            return told
    return value


def _of_kind(spans: Sequence[Span], kind: SpanKind, *, nested: bool = False) -> list[Span]:
    """Those of a kind by their starts; without `nested`, those that are in no other one of that kind."""
    found = sorted((span for span in spans if span.kind is kind), key=lambda span: span.start_ns)
    if nested:
        return found
    by_id = {span.span_id: span for span in spans}
    return [span for span in found if not any(above.kind is kind for above in _above(span, by_id))]


def _above(span: Span, by_id: Mapping[str, Span]) -> Iterator[Span]:
    seen = {span.span_id}
    above = by_id.get(span.parent_id or "")
    while above is not None and above.span_id not in seen:
        yield above
        seen.add(above.span_id)
        above = by_id.get(above.parent_id or "")


def _failure(span: Span) -> str | None:
    if span.error is not None:
        return f"{span.error.type}: {span.error.message}" if span.error.message else span.error.type
    if span.end_ns is None and span.status is None:
        return "it did not end"
    return None if span.status in (None, Status.OK) else str(span.status.value)


def _documents(output: Any) -> list[str]:
    if isinstance(output, Mapping):
        output = next((output[key] for key in _LIST_KEYS if isinstance(output.get(key), list)), output)
    return [_as_text(document) for document in (output if isinstance(output, list) else [output])]


def _as_text(value: Any) -> str:
    """A text, the text of a document, a message or parts of one; any other value as JSON."""
    if value is None or value is msgspec.UNSET:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        for key in _TEXT_KEYS:
            if isinstance(value.get(key), str):
                return str(value[key])
        for key in ("document", "content"):
            if isinstance(value.get(key), Mapping | list):
                return _as_text(value[key])
    if isinstance(value, list) and value and all(_is_part(part) for part in value):
        return "\n".join(_as_text(part) for part in value)
    return json.dumps(value, ensure_ascii=False)


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("type") == "text" and isinstance(value.get("text"), str)


def _value(value: Any) -> Any:
    """The JSON value behind what a span keeps encoded."""
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
