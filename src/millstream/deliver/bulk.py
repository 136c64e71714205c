"""Documents into one index of Elasticsearch or OpenSearch, many a request, each once.

Every document is created under an id of its own: one that is sent again finds itself there, which is success.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from millstream.deliver.http import NOT_FOUND, TOO_LARGE, TOO_MANY, Answer, HttpClient, shortened
from millstream.deliver.index_template import Product, prepare
from millstream.deliver.sink import Rejected, Result, Retry
from millstream.errors import RefusedError, UnreachableError

_NDJSON: Final = {"content-type": "application/x-ndjson"}
# The server is silent about what went well, and waits less long for a shard than we for its answer.
_QUERY: Final = "filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason&timeout=10s"
_MULTIPLE_CHOICES: Final = 300
_FORBIDDEN: Final = frozenset({401, 403})
_REFUSED: Final = _FORBIDDEN | {NOT_FOUND}
_TO_BE_RETRIED: Final = _REFUSED | {TOO_MANY}
_CONFLICT: Final = 409
_SERVER_FAULT: Final = 500
_STRICT: Final = "strict_dynamic_mapping_exception"
_BLOCKED: Final = "cluster_block_exception"
_GROWTH: Final = 50
_SIDE_BY_SIDE: Final = 4
_WORTHWHILE: Final = 100
"""Documents that a request is made for, where there are more."""
_UNLIMITED: Final = 1 << 40
_ACTION_SIZE: Final = 80
_POSITION: Final = re.compile(r"^\[\d+:\d+\] ")
_FIELD: Final = re.compile(r"(?:parse field \[|in field=\"|introduction of \[)([^\]\"]{1,100})")
_CONTENT: Final = re.compile(r"['\"\[{:]")
"""Where a server's sentence may begin to quote a document."""
_log: Final = logging.getLogger("millstream")


class Document(NamedTuple):
    """What is stored.

    Attributes:
        id: at most 512 bytes, without quotes and control characters.
        body: parts of one JSON object on one line.
    """

    id: str
    body: Sequence[bytes]


class _Error(msgspec.Struct, frozen=True):
    type: str = ""
    reason: str | None = None


_NO_ERROR: Final = _Error()


class _Outcome(msgspec.Struct):
    status: int
    error: _Error = _NO_ERROR

    @property
    def type(self) -> str:
        return self.error.type

    @property
    def reason(self) -> str:
        return self.error.reason or ""


class _Item(msgspec.Struct):
    create: _Outcome


class _Errors(msgspec.Struct):
    errors: bool


class _Answer(msgspec.Struct):
    items: list[_Item]


_decode_errors: Final = msgspec.json.Decoder(_Errors).decode
_decode_items: Final = msgspec.json.Decoder(_Answer).decode


class BulkIndex:
    """One index, an alias or a data stream; see `HttpClient` for what goes wrong.

    How many documents are on their way at one time adapts: halved when the server is too busy, and grown by a
    constant when it took as many. They go in up to four requests at a time, which a server works on side by
    side.

    Args:
        client: to the server.
        index: a name that `checked_index` gave.
        mapping: of the index, where it is made here; is told what the server is.
        largest: documents on their way at one time, at most.
        strict_hint: what to do where the index has a strict mapping for other documents.
    """

    def __init__(
        self,
        client: HttpClient,
        index: str,
        mapping: Callable[[Product], Mapping[str, Any]],
        *,
        largest: int = 1000,
        strict_hint: str = "name another `index`, or mend its mapping",
    ) -> None:
        self._client = client
        self._index = index
        self._mapping = mapping
        self._strict_hint = strict_hint
        self._path = f"/{quote(index, safe='')}/_bulk?{_QUERY}"
        self._largest = largest
        self.limit = largest
        """Documents on their way at one time, now."""
        self._most_bytes = _UNLIMITED
        self._is_busy = False
        self._ready = False
        self._complained = False

    def send(self, documents: Sequence[Document]) -> list[Result]:
        """Store documents.

        Returns:
            One result a document; `None` also where it was there already.

        Raises:
            UnreachableError: none was stored, trying again can help.
            RefusedError: none was stored, and a person has to mend something.
        """
        results: list[Result] = []
        while len(results) < len(documents):
            try:
                if not self._ready:
                    self._prepare()
                results += self._send_some(documents[len(results) :])
            except (UnreachableError, RefusedError) as error:
                self._ready = False  # a server may come back without our template
                if not results:
                    raise
                results += [_retry(error)] * (len(documents) - len(results))
        return results

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _prepare(self) -> None:
        complaint = prepare(self._client, self._index, self._mapping)
        self._ready = True
        if complaint and not self._complained:
            self._complained = True
            _log.warning(
                "millstream: %s makes neither an index template nor index %r for us (%s)",
                self._client.subject,
                self._index,
                complaint,
            )

    def _send_some(self, documents: Sequence[Document]) -> list[Result]:
        """Results of as many as may be on their way at one time; raises where none of them was stored."""
        parts = self._parts(documents)
        answers = self._client.request_all(
            "POST", self._path, [_body(part) for part in parts], _NDJSON, passed=(TOO_LARGE, TOO_MANY)
        )
        self._is_busy = False
        results: list[Result] = []
        errors: list[UnreachableError | RefusedError] = []
        for part, answer in zip(parts, answers, strict=True):
            try:
                results += self._results(part, answer)
            except (UnreachableError, RefusedError) as error:
                errors.append(error)
                results += [_retry(error)] * len(part)
        if self._is_busy:
            self.limit = max(len(results) // 2, 1)
        elif not errors and len(results) == self.limit:
            self.limit = min(self.limit + _GROWTH, self._largest)
        if len(errors) == len(parts):
            raise errors[0]
        return results

    def _parts(self, documents: Sequence[Document]) -> list[Sequence[Document]]:
        """Documents of requests that are sent side by side, in order."""
        left = min(len(documents), self.limit)
        most = max(-(-left // _SIDE_BY_SIDE), _WORTHWHILE)
        parts: list[Sequence[Document]] = []
        begin = 0
        while begin < left and len(parts) < _SIDE_BY_SIDE:
            end, size = begin, 0
            while end < min(begin + most, left):
                size += _size(documents[end])
                if size > self._most_bytes and end > begin:
                    break
                end += 1
            parts.append(documents[begin:end])
            begin = end
        return parts

    def _results(
        self, documents: Sequence[Document], answer: Answer | UnreachableError | RefusedError
    ) -> list[Result]:
        if isinstance(answer, Exception):
            raise answer
        if answer.status == TOO_LARGE:
            return self._split(documents)
        if answer.status == TOO_MANY:
            self._is_busy = True
            raise UnreachableError(
                f"{self._client.subject} is too busy now (429)", answer.retry_after_s, says_later=True
            )
        outcomes = self._outcomes(answer.body, len(documents))
        if any(outcome.status == TOO_MANY for outcome in outcomes):
            self._is_busy = True
        if outcomes and all(_refused(outcome) for outcome in outcomes):
            raise RefusedError(self._refusal(outcomes[0]))
        return [_result(outcome) for outcome in outcomes] or [None] * len(documents)

    def _split(self, documents: Sequence[Document]) -> list[Result]:
        """The server takes less in one request."""
        size = sum(map(_size, documents))
        if len(documents) == 1:
            return [Rejected(f"the server takes no request as large as this ({size:,} bytes)")]
        self._most_bytes = min(self._most_bytes, max(size // 2, 1))
        results: list[Result] = []
        while len(results) < len(documents):
            results += self._send_some(documents[len(results) :])
        return results

    def _outcomes(self, body: bytes, count: int) -> list[_Outcome]:
        """What became of each; nothing where all is well."""
        try:
            if not _decode_errors(body).errors:
                return []
            outcomes = [item.create for item in _decode_items(body).items]
        except msgspec.DecodeError as error:
            raise UnreachableError(f"{self._client.subject} answers what is no answer to a bulk") from error
        if len(outcomes) != count:
            raise UnreachableError(f"{self._client.subject} answers for {len(outcomes)} of {count} documents")
        return outcomes

    def _refusal(self, outcome: _Outcome) -> str:
        where = f"index {self._index!r} of {self._client.subject}"
        if outcome.status in _FORBIDDEN:
            return f"{where} may not be written to by this user: give it the right `create_doc`"
        if outcome.status == NOT_FOUND:
            return f"{where} is not there, and may not be made: create it, or allow `auto_create_index`"
        field = _FIELD.search(outcome.reason)
        return (
            f"{where} was made for other documents: its mapping is strict"
            f"{f' and has no field {field[1]!r}' if field else ''}; {self._strict_hint}"
        )


def _retry(error: UnreachableError | RefusedError) -> Retry:
    return Retry(str(error), error.retry_after_s if isinstance(error, UnreachableError) else None)


def _size(document: Document) -> int:
    return _ACTION_SIZE + sum(map(len, document.body))


def _body(documents: Sequence[Document]) -> bytes:
    parts: list[bytes] = []
    for document in documents:
        parts.append(b'{"create":{"_id":"%b"}}\n' % document.id.encode())
        parts += document.body
        parts.append(b"\n")
    return b"".join(parts)


def _result(outcome: _Outcome) -> Result:
    status = outcome.status
    if status < _MULTIPLE_CHOICES or status == _CONFLICT:
        return None
    if status >= _SERVER_FAULT or status in _TO_BE_RETRIED:
        return Retry(f"{status} {outcome.type}")
    return Rejected(_reason(outcome))


def _refused(outcome: _Outcome) -> bool:
    """Whether it is not the document, but the index or the user."""
    if outcome.type == _BLOCKED:  # a full disk, mostly: it ends by itself
        return False
    return outcome.status in _REFUSED or outcome.type == _STRICT


def _reason(outcome: _Outcome) -> str:
    """Why, without the document's content, in the same words for the same cause."""
    if field := _FIELD.search(outcome.reason):
        return f"{outcome.type}: field {field[1]!r}"
    words = _CONTENT.split(_POSITION.sub("", outcome.reason), maxsplit=1)[0].strip()
    return shortened(f"{outcome.type}: {words}" if words else outcome.type)
