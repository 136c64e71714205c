"""The line of a span that ends: what stands in it after processors and redaction, what is stored apart."""

from typing import TYPE_CHECKING, Any, Final

import msgspec

from millstream import semconv
from millstream.context import current
from millstream.record import assigned, faults, outcome
from millstream.record.blobs import LARGE, NO_ROOM
from millstream.record.conversation import Conversation
from millstream.record.sampling import Held
from millstream.record.serialize import to_json
from millstream.span import Span, SpanError, SpanEvent, Status, Usage

if TYPE_CHECKING:
    from millstream.record.live import LiveSpan
    from millstream.record.recorder import Recorder

_UNSET: Final = msgspec.UNSET
_encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(Span).decode
_INPUTS: Final = assigned.INPUTS
_OUTPUTS: Final = assigned.OUTPUTS
_WHOLE: Final = outcome.WHOLE
_counts: Final = msgspec.structs.astuple
_ATTRIBUTES: Final = frozenset({dict, type(None)})
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_INCOMPLETE: Final = "millstream.incomplete"
"""Marks a span of which not all could be written."""
_STRUCTURE: Final = frozenset(
    {semconv.OPERATION_NAME, semconv.PROVIDER_NAME, semconv.REQUEST_MODEL, semconv.RESPONSE_MODEL}
)
"""Attributes that are no content."""


class _Rest(msgspec.Struct, gc=False, omit_defaults=True):
    """The fields of a stored line that most spans do not have; absent, they have the defaults of `Span`."""

    error: SpanError | None = None
    usage: Usage | None = None
    attributes: dict[str, Any] | None = None
    events: list[SpanEvent] | None = None


def tail(span: "LiveSpan", failure: SpanError | None) -> str:  # noqa: C901  # every call, in one piece
    """What follows the times and the status in a span's line: `,"input":…` and so on, without secrets."""
    given, made = span.input, span.output
    if type(given) not in _INPUTS or type(made) not in _OUTPUTS:
        assigned.settle_content(span)
        given, made = span.input, span.output
    if type(given) is Conversation and (given.size < LARGE or type(span.sink) is Held):
        given = given.json(span.recorder.content_limit)
    if isinstance(given, Conversation):
        if made is None:
            content = _talk(span, given)
        elif len(made) < LARGE:
            content = f',"output":{made.decode()}{_talk(span, given)}'
        else:
            content = _large(span, given, made)
    elif (given is None or len(given) < LARGE) and (made is None or len(made) < LARGE):
        content = "" if given is None else f',"input":{given.decode()}'
        if made is not None:
            content = f'{content},"output":{made.decode()}'
    else:
        content = _large(span, given, made)
    if (
        span.attributes is not None
        or span.usage is not None
        or failure is not None
        or span.events is not None
    ):
        rest = _rest(span, failure)
        if len(rest) > 2:  # noqa: PLR2004  # not empty
            content = f"{content},{rest[1:-1]}"
    suspects = span.recorder.suspects
    if content and suspects is not None and suspects(content):
        return _redacted(content, span.recorder)
    return content


def _rest(span: "LiveSpan", failure: SpanError | None) -> str:
    usage, attributes, events = span.usage, span.attributes, span.events
    if (
        not (usage is None or (type(usage) is Usage and _WHOLE.issuperset(map(type, _counts(usage)))))
        or type(attributes) not in _ATTRIBUTES
        or events is not None
    ):
        assigned.settle_rest(span)
        usage, attributes, events = span.usage, span.attributes, span.events
    try:
        return _encode(_Rest(failure, usage, attributes, events)).decode()
    except Exception as error:  # values that no method of ours has set
        if isinstance(error, RecursionError) and assigned.is_plain(span):  # so deep is the stack
            raise
        assigned.settle_values(span)
        return _encode(_Rest(failure, span.usage, span.attributes, span.events)).decode()


def _redacted(content: str, active: "Recorder") -> str:
    """The same fields without secrets; without any content where that fails."""
    try:
        return "," + active.redact_fields(f"{{{content[1:]}}}".encode()).decode()[1:-1]
    except Exception as fault:  # noqa: BLE001  # what may be secret is never written
        faults.swallow(fault, "redaction failed; the content was not recorded")
        return f',"attributes":{{"{_INCOMPLETE}":true}}'


def _large(span: "LiveSpan", given: bytes | Conversation | None, made: bytes | None) -> str:
    """Inputs and outputs, the large ones as blobs by JSON pointer: `"blobs":{"/input/messages":"<id>"}`."""
    parts: list[str] = []
    large: dict[str, bytes | Conversation] = {}
    redaction = span.recorder.redaction
    for name, value in (("input", given), ("output", made)):
        if value is None:
            continue
        if isinstance(value, Conversation):
            large["/input"] = value
        elif len(value) < LARGE or type(span.sink) is Held:
            parts.append(f',"{name}":{value.decode()}')
        elif value.startswith(b"{") and name == "input":
            small: dict[str, msgspec.Raw] = {}
            for key, item in _fields(value).items():
                data = bytes(item)
                # A secret in its name, or known by it, stays beside it, to be redacted with the line.
                named = redaction is not None and (redaction.is_secret(key) or redaction.is_told_by(key))
                if len(data) >= LARGE and not named:
                    large[f"/input/{key.replace('~', '~0').replace('/', '~1')}"] = data
                else:
                    small[key] = item
            parts.append(f',"input":{_encode(small).decode()}')
        else:
            large[f"/{name}"] = value
    blobs = _put(span, large) if large else None
    if blobs:
        parts.append(f',"blobs":{_encode(blobs).decode()}')
    return "".join(parts)


def _put(span: "LiveSpan", large: "dict[str, bytes | Conversation]") -> dict[str, str]:
    """The ids of values, all in one segment."""
    active = span.recorder

    def put(value: bytes | Conversation) -> str | None:
        if isinstance(value, Conversation):
            return active.blobs.put_conversation(value, active.content_limit)
        return active.blobs.put(value)

    segment = active.journal.segment
    blobs = {pointer: put(value) for pointer, value in large.items()}
    if len(blobs) > 1 and active.journal.segment != segment:  # it began with one of them
        blobs = {pointer: put(value) for pointer, value in large.items()}
    there = {pointer: blob for pointer, blob in blobs.items() if blob is not None}
    if len(there) < len(blobs):
        _miss(span)
    return there


def _talk(span: "LiveSpan", talk: Conversation) -> str:
    """As `_large`, of messages alone, as of most model calls."""
    blob = span.recorder.blobs.put_conversation(talk, span.recorder.content_limit)
    if blob is None:
        _miss(span)
        return ""
    return f',"blobs":{{"/input":"{blob}"}}'


def _miss(span: "LiveSpan") -> None:
    """Say that a large value could not be kept: the disk is full, and the journal has said so."""
    faults.counts[NO_ROOM] += 1
    span.attributes = {**(span.attributes or {}), _INCOMPLETE: True}


def process(
    span: "LiveSpan", end_ns: int, status: Status, failure: SpanError | None
) -> tuple[Status, SpanError | None] | None:
    """Have the processors change a span that ends; `None` where one of them drops it.

    One that raises, SystemExit included, may be one that redacts: the span is then recorded without any
    content. A Ctrl-C passes. What processors call themselves is not recorded.
    """
    processors = span.recorder.processors
    if not processors:
        return status, failure
    from millstream.record.not_recorded import NOT_SAMPLED  # noqa: PLC0415  # which imports us

    token = current.set(NOT_SAMPLED)  # else what a processor calls would be processed, without end
    try:
        seen = decode(_encode(span.snapshot(end_ns, status, failure)))  # plain values, for users
        for processor in processors:
            kept = processor(seen)
            if kept is None:
                return None
            seen = kept
        _take_over(span, seen)
    except KeyboardInterrupt:
        raise
    except BaseException as fault:  # noqa: BLE001  # a user's processor may raise anything
        _take_content(span)
        faults.swallow(fault, "a processor raised; the content of its span was not recorded")
        return status, None if failure is None else SpanError(failure.type, "")
    finally:
        current.reset(token)
    return seen.status or status, seen.error


def _take_over(span: "LiveSpan", seen: Span) -> None:
    """What processors made of a span; its ids, parent and times stay."""
    limit = span.recorder.content_limit
    span.input = None if seen.input is _UNSET else to_json(seen.input, limit)
    span.output = None if seen.output is _UNSET else to_json(seen.output, limit)
    span.usage = seen.usage
    span.attributes = {key: msgspec.Raw(to_json(value)) for key, value in seen.attributes.items()} or None
    span.events = seen.events or None
    if (seen.name, seen.kind, seen.workload_id) != (span.name, span.kind, span.workload_id):
        before = decode(f"{span.head}}}")
        before.name, before.kind, before.workload_id = seen.name, seen.kind, seen.workload_id
        span.head = _encode(_Head.of(before)).decode()[:-1]


class _Head(msgspec.Struct, omit_defaults=True):
    """The fields of a span's first line, in their order."""

    trace_id: str
    parent_id: str | None
    span_id: str
    name: str
    kind: str
    start_ns: int
    workload_id: str | None = None

    @classmethod
    def of(cls, span: Span) -> "_Head":
        """Those of a span."""
        return cls(
            span.trace_id,
            span.parent_id,
            span.span_id,
            span.name,
            span.kind.value,
            span.start_ns,
            span.workload_id,
        )


def _take_content(span: "LiveSpan") -> None:
    """Leave structure, usage and times of a span."""
    span.input = span.output = span.events = None
    kept = {key: value for key, value in (span.attributes or {}).items() if key in _STRUCTURE}
    span.attributes = {**kept, _INCOMPLETE: True}


def dropped(span: "LiveSpan") -> bytes:
    """The line that tells readers that a span which began is not to be seen."""
    return f'{span.head},"dropped":true}}\n'.encode()


def bare(span: "LiveSpan", end_ns: int, status: Status, failure: SpanError | None) -> bytes:
    """The line of a span of which no more can be written than a reader needs."""
    kind = None if failure is None else SpanError(failure.type, "")
    rest = _encode(_Rest(kind, attributes={_INCOMPLETE: True}))
    times = f'"end_ns":{end_ns},"status":"{Status(status).value}"'
    return f"{span.head},{times},{rest.decode()[1:-1]}}}\n".encode()
