"""The one place that knows OTLP's protobuf: spans and requests into bytes, answers out of them.

A request is put together from spans that were encoded one by one, so that no call into C, which would keep
other threads of Python from running, handles more than one span.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, cast

import msgspec
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from millstream import semconv
from millstream.deliver import otlp_attributes
from millstream.deliver.otlp_resource import VERSION
from millstream.span import Span, SpanKind, SpanLink, Status

METHOD: Final = "/{}/Export".format(trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name)
"""Of gRPC."""

_KINDS: Final = {
    name: getattr(trace_pb2.Span, f"SPAN_KIND_{name}")
    for name in ("INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
}
_CALLS: Final = frozenset({SpanKind.LLM, SpanKind.EMBEDDING, SpanKind.RETRIEVER, SpanKind.RERANKER})
"""What the conventions make CLIENT."""
_SCALARS: Final = {
    str: "string_value",
    bytes: "string_value",
    bool: "bool_value",
    float: "double_value",
}
_SAMPLED: Final = 1
_EXCEPTION: Final = "exception"
_DIED: Final = "the process died while this span was open"
_SMALLEST, _LARGEST = -(1 << 63), (1 << 63) - 1
_LONG: Final = 32 << 10
"""Bytes of a text that is put behind an encoded span, instead of being copied from message to message."""
_DEPTH: Final = 16
"""Below this, values become JSON: readers of protobuf give up at 100 messages in each other."""
_ATTRIBUTES: Final = trace_pb2.Span.DESCRIPTOR.fields_by_name["attributes"].number


class Encoded(msgspec.Struct, frozen=True):
    """A span as it goes into a request.

    Attributes:
        place: in its batch.
        id: of the span, 16 hex digits.
        scope: what recorded it, encoded.
        span: encoded.
    """

    place: int
    id: str
    scope: bytes
    span: bytes

    @property
    def size(self) -> int:
        """Bytes in a request."""
        return len(self.span) + 8


class Reply(msgspec.Struct, frozen=True):
    """What a receiver says of a request that it took.

    Attributes:
        rejected: how many of its spans the receiver will not keep.
        reason: in its words; empty if it says none.
    """

    rejected: int = 0
    reason: str = ""


class Refusal(msgspec.Struct, frozen=True):
    """A request that was not taken because of what is in it.

    Attributes:
        reason: the receiver's words.
        too_large: whether a part of it may be taken.
    """

    reason: str
    too_large: bool


def encode(place: int, span: Span, *, once: bool = False) -> Encoded:
    """A finished span, in the vocabularies of `otlp_attributes`.

    Args:
        place: in its batch.
        span: one without an end ends where it was last heard of.
        once: leave out what tells the content a second time.

    Raises:
        ValueError: an id is not hexadecimal, or a text is not Unicode.
    """
    message = trace_pb2.Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=b"" if span.parent_id is None else bytes.fromhex(span.parent_id),
        flags=_SAMPLED,
        name=span.name,
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=_end_ns(span),
    )
    attributes = otlp_attributes.told(span, once=once)
    _put_kind(message, span, attributes)
    _put_status(message, span)
    for event in span.events:
        target = message.events.add(name=event.name, time_unix_nano=event.time_ns)
        _put_all(target.attributes, event.attributes)
    if span.error is not None and all(event.name != _EXCEPTION for event in span.events):
        target = message.events.add(name=_EXCEPTION, time_unix_nano=_end_ns(span))
        _put_all(
            target.attributes,
            {"exception.type": span.error.type, "exception.message": span.error.message},
        )
    for link in span.links:
        _put_link(message, link)
    long = _take_long(attributes)
    _put_all(message.attributes, attributes)
    encoded = b"".join([message.SerializeToString(), *long])
    return Encoded(place, span.span_id, _scope(span), encoded)


def resource(attributes: Mapping[str, Any]) -> bytes:
    """What makes the spans, encoded."""
    message = Resource()
    _put_all(message.attributes, attributes)
    return bytes(message.SerializeToString())


def request(resource: bytes, spans: Sequence[Encoded]) -> bytes:
    """An `ExportTraceServiceRequest` of encoded spans."""
    scopes: list[bytes] = []
    for scope, group in groupby(spans, attrgetter("scope")):
        inner = [*_field(1, scope)]
        for each in group:
            inner += _field(2, each.span)
        scopes += _field(2, *inner)
    return b"".join(_field(1, *_field(1, resource), *scopes))


def reply(body: bytes) -> Reply:
    """What an `ExportTraceServiceResponse` says; one that cannot be read says nothing."""
    answer = trace_service_pb2.ExportTraceServiceResponse()
    try:
        answer.ParseFromString(body)
    except DecodeError:
        return Reply()
    partial = answer.partial_success
    return Reply(max(partial.rejected_spans, 0), partial.error_message)


def fault(body: bytes) -> tuple[str, float | None]:
    """What a `google.rpc.Status` says: its message, and the seconds it asks to wait."""
    status = RpcStatus()
    try:
        status.ParseFromString(body)
        for detail in status.details:
            info = RetryInfo()
            if detail.Unpack(info):
                return status.message, info.retry_delay.seconds + info.retry_delay.nanos / 1e9
    except DecodeError:
        return "", None
    return status.message, None


def _end_ns(span: Span) -> int:
    if span.end_ns is not None:
        return span.end_ns
    return max([span.start_ns, *(event.time_ns for event in span.events)])


def _put_kind(message: Any, span: Span, attributes: dict[str, Any]) -> None:
    for name in (semconv.SPAN_KIND, semconv.OTEL_SPAN_KIND):
        if (kind := span.attributes.get(name)) in _KINDS:
            attributes.pop(name, None)
            message.kind = _KINDS[kind]
            return
    message.kind = _KINDS["CLIENT" if span.kind in _CALLS else "INTERNAL"]


def _put_status(message: Any, span: Span) -> None:
    if span.status is Status.OK:
        message.status.code = trace_pb2.Status.STATUS_CODE_OK
    elif span.status is Status.ERROR:
        message.status.code = trace_pb2.Status.STATUS_CODE_ERROR
        if span.error is not None:
            message.status.message = f"{span.error.type}: {span.error.message}".removesuffix(": ")
    elif span.status is Status.INTERRUPTED:
        message.status.code = trace_pb2.Status.STATUS_CODE_ERROR
        message.status.message = _DIED


def _put_link(message: Any, link: SpanLink) -> None:
    target = message.links.add(trace_id=bytes.fromhex(link.trace_id), span_id=bytes.fromhex(link.span_id))
    _put_all(target.attributes, link.attributes)


def _scope(span: Span) -> bytes:
    name = span.attributes.get(semconv.OTEL_SCOPE_NAME)
    version = span.attributes.get(semconv.OTEL_SCOPE_VERSION)
    if name is None:
        name, version = "millstream", VERSION
    return bytes(InstrumentationScope(name=str(name), version=str(version or "")).SerializeToString())


def _take_long(attributes: dict[str, Any]) -> list[bytes]:
    """Take the long texts out of a span's attributes; gives them ready to be put behind the encoded span."""
    taken: list[bytes] = []
    for key, value in list(attributes.items()):
        text = value.encode() if type(value) is str and len(value) >= _LONG else value
        if type(text) is bytes and len(text) >= _LONG:
            del attributes[key]
            pair = [*_field(1, key.encode()), *_field(2, *_field(1, text))]
            taken += _field(_ATTRIBUTES, *pair)
    return taken


def _put_all(target: Any, attributes: Mapping[str, Any]) -> None:
    for key, value in attributes.items():
        _put(target.add(key=key).value, value)


def _put(target: AnyValue, value: Any, depth: int = 0) -> None:
    """Put a JSON value, or a text in UTF-8; an empty one stands for null."""
    field = _SCALARS.get(type(value))
    if field is not None:
        setattr(target, field, value)
    elif isinstance(value, int) and _SMALLEST <= value <= _LARGEST:
        target.int_value = value
    elif isinstance(value, list | tuple | Mapping) and depth < _DEPTH:
        _put_many(target, value, depth + 1)
    elif value is not None:
        target.string_value = cast("str", otlp_attributes.as_text(value))


def _put_many(target: AnyValue, values: Any, depth: int) -> None:
    if isinstance(values, Mapping):
        target.kvlist_value.SetInParent()
        for key, value in values.items():
            _put(target.kvlist_value.values.add(key=str(key)).value, value, depth)
    else:
        target.array_value.SetInParent()
        for value in values:
            _put(target.array_value.values.add(), value, depth)


def _field(number: int, *payload: bytes) -> list[bytes]:
    """A field of a message, in pieces: its number and type, its length, what it holds."""
    return [_varint(number << 3 | 2) + _varint(sum(map(len, payload))), *payload]


def _varint(value: int) -> bytes:
    octets = bytearray()
    while value > 0x7F:  # noqa: PLR2004  # seven bits an octet
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
