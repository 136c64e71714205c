"""OTLP as JSON, as collectors write it to files: spans become ours as those copied from OpenTelemetry do.

Read are `{"resourceSpans": […]}` a line, after one another, or in an array; names also in snake or Pascal
case, ids in hex or base64, enums as numbers or names.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import msgspec

from millstream.span import Span, SpanKind
from millstream.store.merge import Merger, Openings
from millstream.store.readers import wanted
from millstream.store.readers.json_file import TORN, JsonFile, decoded
from millstream.store.readers.otlp_ours import restored, telling, told_kind
from millstream.store.readers.otlp_span import read_span, without_content
from millstream.store.readers.otlp_values import attributes, listed, under
from millstream.store.translate import translate

_SERVICE: Final = "service.name"
_UNKNOWN_SERVICE: Final = "unknown_service"
_NOT_SPANS: Final = {"resourceLogs": "logs, not spans", "resourceMetrics": "metrics, not spans"}


class OtlpJsonStore:
    """The spans of a file."""

    KEYS: Final = frozenset({"resourceSpans", "resource_spans", "ResourceSpans", *_NOT_SPANS})
    """One of these is in each of the file's objects."""
    format = "otlp_json"
    trace_order: Sequence[str] = ()

    def __init__(self, file: JsonFile) -> None:
        self.file = file
        self.rejected: Counter[str] = Counter()
        self.merged: Counter[str] = Counter()

    def spans(self, trace_ids: Collection[str] | None = None, since_ns: int | None = None) -> Iterator[Span]:  # noqa: ARG002  # one file has no parts to skip
        """As `Store.spans`.

        The file is read twice: memory grows with the ids of its model calls, tools and embeddings.
        """
        return self._spans(wanted(trace_ids))

    def _spans(self, trace_ids: Collection[str] | None) -> Iterator[Span]:
        self.rejected, self.merged = Counter(), Counter()
        merger = Merger(self.merged)
        begun = Openings(_openings(_groups(self.file, Counter())))
        for span in self._read(trace_ids):
            begun.tell(merger, span)
            yield from merger.ended(span)
        yield from merger.rest()

    def _read(self, trace_ids: Collection[str] | None) -> Iterator[Span]:
        """The spans one by one, in our vocabulary."""
        for resource, scope, told in _groups(self.file, self.rejected):
            try:
                span = read_span(told, scope)
            except ValueError as error:
                self.rejected[str(error)] += 1
                continue
            if trace_ids is None or span.trace_id in trace_ids:
                service = resource.get(_SERVICE)
                if isinstance(service, str) and not service.startswith(_UNKNOWN_SERVICE):
                    span.attributes.setdefault(_SERVICE, service)
                yield restored(span) if telling(span, resource) else translate(span)


def _groups(file: JsonFile, rejected: Counter[str]) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """The objects of the spans, each with the attributes of its resource and the object of its scope."""
    for text in file.objects(rejected):
        try:
            request = decoded(text)
        except ValueError:
            rejected[TORN] += 1
            continue
        groups = under(request, "resourceSpans")
        if not isinstance(groups, list):
            told = (what for key, what in _NOT_SPANS.items() if under(request, key) is not None)
            rejected[next(told, "not a request of OTLP")] += 1
            continue
        for group in groups:
            resource = attributes(under(group, "resource"))
            for one in listed(group, "scopeSpans") or listed(group, "instrumentationLibrarySpans"):
                scope = under(one, "scope") or under(one, "instrumentationLibrary")
                for told_span in listed(one, "spans"):
                    yield resource, scope, told_span


def _openings(groups: Iterator[tuple[dict[str, Any], Any, Any]]) -> Iterator[bytes]:
    """Of each span what `Openings` reads of a line."""
    for _, scope, told in groups:
        kind = told_kind(told)
        try:
            span = read_span(told if kind is None else without_content(told), scope)
        except ValueError:  # it is counted where spans are read
            continue
        yield _opening(span, kind or translate(span).kind)


def _opening(span: Span, kind: SpanKind) -> bytes:
    return msgspec.json.encode(
        {
            "trace_id": span.trace_id,
            "span_id": span.span_id,
            "parent_id": span.parent_id,
            "kind": kind,
            "start_ns": span.start_ns,
        }
    )
