"""Spans as documents of Elasticsearch or OpenSearch; `_type: elasticsearch` in a workflow file.

A document is the span as `journal export` prints it, with `timestamp` (and `@timestamp`), `duration_s` and,
of a model call, `model`. What cannot be indexed is kept in it and not indexed; see `index_template`.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec

from millstream import semconv
from millstream.deliver.bulk import BulkIndex, Document
from millstream.deliver.giving_way import GivingWay
from millstream.deliver.http import HttpClient
from millstream.deliver.index_template import SEARCH_SERVER, checked_index, span_mapping
from millstream.deliver.options import collected, raise_all
from millstream.deliver.sink import Rejected, Result, Retry
from millstream.errors import RefusedError, UnreachableError
from millstream.span import Span

_encode: Final = msgspec.json.Encoder().encode
_ATOMS: Final = frozenset({int, float, bool, type(None)})
_LONGEST_TEXT: Final = 2_000
"""Characters; a term of an index is at most 32,766 bytes."""
_LONGEST_KEY: Final = 500
_MOST_ITEMS: Final = 50
_OPEN: Final = ("input", "output", "attributes", "events", "links")
"""Fields that hold what users put into them."""


class ElasticsearchSink:
    """Stores each span once, under its trace and span id.

    Args:
        endpoint: URL of the server; may hold `user:password@`.
        index: index, alias or data stream.
        username: with `password`.
        api_key: as the server shows it, in base 64 or as `id:key`.
        headers: sent with each request.
        ca_certs: a file or folder of certificates (PEM) to trust.
        verify_certs: whether the server must prove who it is.
        ssl_assert_fingerprint: SHA-256 of the server's certificate or of its CA's; then nothing else counts.
        client_cert: a file (PEM) with a certificate to show.
        client_key: a file (PEM) with its key.
        timeout: seconds to wait for an answer.

    Raises:
        ConfigError: an option is wrong; the server is not asked.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        index: str,
        username: str | None = None,
        password: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca_certs: str | None = None,
        verify_certs: bool = True,
        ssl_assert_fingerprint: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
        timeout: Annotated[float, msgspec.Meta(gt=0)] = 30.0,
    ) -> None:
        problems: list[str] = []
        with collected(problems):
            checked_index(index)
        with collected(problems):
            client = HttpClient(
                endpoint,
                name=SEARCH_SERVER,
                extra="elasticsearch",
                username=username,
                password=password,
                api_key=api_key,
                headers=headers,
                ca_certs=ca_certs,
                verify_certs=verify_certs,
                ssl_assert_fingerprint=ssl_assert_fingerprint,
                client_cert=client_cert,
                client_key=client_key,
                timeout_s=timeout,
            )
        raise_all(problems)
        self._summary = f"index {index!r} at {client.url}"
        self._bulk = BulkIndex(client, index, span_mapping)

    def summary(self) -> str:
        """Where spans go, for people."""
        return self._summary

    def send(self, batch: Sequence[Span]) -> list[Result]:
        """Store finished spans; see `Sink`."""
        documents: list[Document] = []
        give_way = GivingWay()
        for span in batch:
            documents.append(to_document(span))
            give_way()
        results = self._bulk.send(documents)
        again = [place for place, result in enumerate(results) if isinstance(result, Rejected)]
        if again:
            # Perhaps it was for what users put in: a conflict in an index of others, lists of lists too deep.
            for place, result in zip(again, self._send_plain([batch[place] for place in again]), strict=True):
                if not isinstance(result, Rejected):
                    results[place] = result
        return results

    def _send_plain(self, spans: Sequence[Span]) -> list[Result]:
        """The same for documents without structure. Others of their batch were taken: it never raises."""
        try:
            return self._bulk.send([to_plain_document(span) for span in spans])
        except UnreachableError as error:
            return [Retry(str(error), error.retry_after_s)] * len(spans)
        except RefusedError as error:  # a strict mapping that has no room for the text
            return [Rejected(str(error))] * len(spans)

    def close(self) -> None:
        """Close the connections."""
        self._bulk.close()


def to_document(span: Span) -> Document:
    """The document of a finished span."""
    head = _head(span)
    if other := _unsearchable(span.attributes):
        span = msgspec.structs.replace(
            span, attributes={key: value for key, value in span.attributes.items() if key not in other}
        )
        head += b'"other_attributes":%b,' % _encode(other)
    return Document(f"{span.trace_id}-{span.span_id}", (head, _encode(span)[1:]))


def to_plain_document(span: Span) -> Document:
    """The same with all that users put into it as JSON in a text, which nobody can take for anything else."""
    fields = msgspec.json.decode(_encode(span), type=dict[str, msgspec.Raw])
    unparsed = {name: fields.pop(name) for name in _OPEN if name in fields}
    fields["unparsed"] = msgspec.Raw(_encode(_encode(unparsed).decode()))
    return Document(f"{span.trace_id}-{span.span_id}", (_head(span), _encode(fields)[1:]))


def _head(span: Span) -> bytes:
    """The fields that a document has beside a span's own."""
    seconds, ns = divmod(span.start_ns, 1_000_000_000)
    timestamp = f"{_to_the_second(seconds)}.{ns // 1000:06d}Z"
    model = span.attributes.get(semconv.RESPONSE_MODEL) or span.attributes.get(semconv.REQUEST_MODEL)
    named = f'"model":{_encode(model).decode()},' if isinstance(model, str) else ""
    took = "" if span.end_ns is None else f'"duration_s":{(span.end_ns - span.start_ns) / 1e9!r},'
    return f'{{"@timestamp":"{timestamp}","timestamp":"{timestamp}",{took}{named}'.encode()


@lru_cache(maxsize=4096)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _unsearchable(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The attributes that no index of terms can hold, or not without harm to the server."""
    for key, value in attributes.items():
        if not _searchable(key, value):
            return {key: value for key, value in attributes.items() if not _searchable(key, value)}
    return None


def _searchable(key: str, value: Any) -> bool:
    if len(key) > _LONGEST_KEY or "\0" in key:
        return False
    if type(value) is list and len(value) <= _MOST_ITEMS:
        return all(_short(item) for item in value)
    return _short(value)


def _short(value: Any) -> bool:
    kind = type(value)
    return len(value) <= _LONGEST_TEXT if kind is str else kind in _ATOMS
