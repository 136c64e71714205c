"""START and END events of one request to spans.

- A step's UUID pairs its events. The start is the time of START; without one it is END's
  `span_event_timestamp`, unless that is the end's own time, as some handlers write it: then how long the step
  took is not known, and its span stays open.
- The parent is the step that `parent_id` names, else the function of `function_ancestry`.
- The toolkit tells no outcome: a step with an END and without an error is ok. Nor does it tell unknown tokens
  from none: 0 of all, and 0 cached or reasoning tokens, are unknown. In our files what is unknown is null.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from millstream import semconv
from millstream.span import Span, SpanError, SpanKind, Status, Usage
from millstream.store.readers.nat_calls import Call, Calls, Event, is_ours, mapping, span_id_of
from millstream.store.readers.nat_content import content, is_trace_metadata, tools

_KINDS: Final = {
    "LLM": SpanKind.LLM,
    "TOOL": SpanKind.TOOL,
    "WORKFLOW": SpanKind.WORKFLOW,
    "TASK": SpanKind.TASK,
    "FUNCTION": SpanKind.FUNCTION,
    "SPAN": SpanKind.FUNCTION,
    "CUSTOM": SpanKind.CHAIN,
    "TTC": SpanKind.CHAIN,
}
_OPERATIONS: Final = {
    "invoke_agent": SpanKind.AGENT,
    "embeddings": SpanKind.EMBEDDING,
    "retrieval": SpanKind.RETRIEVER,
    "rerank": SpanKind.RERANKER,
}
"""What a CUSTOM step of ours is, if it tells."""
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_NOWHERE: Final = frozenset({"root", "remote", ""})
_USAGE: Final = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "cache_read_tokens": "cached_tokens",
    "reasoning_tokens": "reasoning_tokens",
}
_NOTHING: Final[tuple[Any, ...]] = (None, [])
"""What an END tells of metadata that only the START has."""
_DETAILS: Final = ("cache_read_tokens", "reasoning_tokens")
_UNKNOWN_DURATION: Final = "END without START or start time, its span kept open"
_STATUSES: Final = {status.value: status for status in Status}


def spans_of(steps: list[Any], trace_id: str, rejected: Counter[str]) -> Iterator[Span]:
    """The spans of a request, by start.

    Args:
        steps: as they are in the file.
        trace_id: of the request.
        rejected: counts, by reason, of steps that could not be used, or not whole; added to.
    """
    calls = Calls(steps, rejected)
    for call in sorted(calls.all, key=lambda one: one.starts_ns):
        yield _span(call, trace_id, calls, rejected)


def told_trace_id(steps: list[Any]) -> str | None:
    """The trace that a workflow of the request says it is in."""
    for step in steps:
        payload = mapping(mapping(step).get("payload"))
        if payload.get("event_type") == "WORKFLOW_START":
            told = mapping(mapping(payload.get("metadata")).get("provided_metadata"))
            trace_id = told.get("workflow_trace_id")
            if isinstance(trace_id, str) and _TRACE_ID.fullmatch(trace_id) and int(trace_id, 16):
                return trace_id
    return None


def _span(call: Call, trace_id: str, calls: Calls, rejected: Counter[str]) -> Span:
    first, end = call.first, call.end
    start_ns, end_ns = call.starts_ns, None if end is None else end.time_ns
    if call.start is None and call.told_start_ns is None:
        rejected[_UNKNOWN_DURATION] += 1
        end_ns = None
    metadata = _metadata(call)
    status, error = _outcome(metadata, ended=end is not None)
    name = str(first.payload.get("name") or (end and end.payload.get("name")) or first.category)
    attributes = _attributes(call, metadata, name)
    kind = _KINDS[first.category]
    if first.category == "CUSTOM":
        kind = _OPERATIONS.get(str(attributes.get(semconv.OPERATION_NAME)), kind)
    given, made = content(first.payload, None if end is None else end.payload, is_ours=is_ours(first.uuid))
    return Span(
        trace_id,
        call.span_id,
        _parent(call, calls),
        name,
        kind,
        start_ns,
        end_ns,
        status,
        error,
        given,
        made,
        _usage(call, rejected),
        _workload(first, name),
        attributes,
    )


def _parent(call: Call, calls: Calls) -> str | None:
    first = call.first
    ancestry = first.ancestry
    for uuid in (first.parent, ancestry.get("function_id"), ancestry.get("parent_id")):
        if isinstance(uuid, str) and uuid != first.uuid:
            found = calls.of(uuid, call.starts_ns)
            if found is not None:
                return found.span_id
    named = isinstance(first.parent, str) and first.parent not in _NOWHERE | {first.uuid}
    return span_id_of(first.parent) if named else None


def _usage(call: Call, rejected: Counter[str]) -> Usage | None:
    told = None if call.end is None else mapping(call.end.payload.get("usage_info")).get("token_usage")
    if not isinstance(told, dict):
        return None
    counts: dict[str, int | None] = {}
    for ours, theirs in _USAGE.items():
        value = told.get(theirs)
        counts[ours] = _count(value)
        if value is not None and counts[ours] is None:
            rejected["number of tokens that is none"] += 1
    if not is_ours(call.first.uuid):
        for name in _DETAILS if counts["input_tokens"] or counts["output_tokens"] else counts:
            counts[name] = counts[name] or None
    return None if all(count is None for count in counts.values()) else Usage(**counts)


def _metadata(call: Call) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for event in (call.start, call.end):
        if event is not None:
            told = mapping(event.payload.get("metadata")).items()
            found.update({key: value for key, value in told if value not in _NOTHING or key not in found})
    return found


def _outcome(metadata: dict[str, Any], *, ended: bool) -> tuple[Status | None, SpanError | None]:
    """The status and the error, which are taken out of the metadata."""
    status, error = _STATUSES.get(str(metadata.get("status"))), metadata.get("error")
    found = None
    if isinstance(error, dict) and error.keys() == {"type", "message"}:
        found = SpanError(str(error["type"]), str(error["message"]))
    elif isinstance(error, str) and error:
        found = SpanError("Error", error)
    if found is not None:
        del metadata["error"]
    if not ended:
        return None, found
    if status is not None:
        del metadata["status"]
    return status or (Status.OK if found is None else Status.ERROR), found


def _attributes(call: Call, metadata: dict[str, Any], name: str) -> dict[str, Any]:
    payload = call.first.payload
    attributes = metadata
    if is_trace_metadata(metadata):
        attributes = tools(metadata)
    if call.first.category == "LLM":
        attributes.setdefault(semconv.REQUEST_MODEL, name)
    if isinstance(framework := payload.get("framework"), str):
        attributes.setdefault(semconv.FRAMEWORK, framework)
    if payload.get("tags"):
        attributes.setdefault("nat.tags", payload["tags"])
    if call.chunks and call.first_chunk_ns is not None:
        attributes.setdefault(semconv.TIME_TO_FIRST_CHUNK_S, (call.first_chunk_ns - call.starts_ns) / 1e9)
        attributes.setdefault(semconv.CHUNK_COUNT, call.chunks)
    return attributes


def _workload(event: Event, name: str) -> str | None:
    """A function's own name; of all else the function's that it ran in."""
    if event.category == "FUNCTION":
        return name
    around = event.ancestry.get("function_name")
    if not isinstance(around, str) or around in _NOWHERE or event.ancestry.get("function_id") == "root":
        return None
    return None if event.category == "SPAN" and around == name else around


def _count(value: Any) -> int | None:
    whole = isinstance(value, float) and value.is_integer()
    if isinstance(value, bool) or not (isinstance(value, int) or whole) or value < 0:
        return None
    return int(value)
