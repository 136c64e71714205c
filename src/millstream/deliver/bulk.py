"""Documents into one index of Elasticsearch or OpenSearch, many a request, each once.

Every document is created under an id of its own: one that is sent again finds itself there, which is success.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from millstream.deliver.bulk_reasons import FORBIDDEN, Outcome, outcome_of, outcomes
from millstream.deliver.http import NOT_FOUND, TOO_LARGE, TOO_MANY, Answer, HttpClient
from millstream.deliver.index_template import Product, prepare
from millstream.deliver.sink import Rejected, Result, Retry
from millstream.errors import RefusedError, UnreachableError

_NDJSON: Final = {"content-type": "application/x-ndjson"}
# The server is silent about what went well, and waits less long for a shard than we for its answer.
_QUERY: Final = (
    "filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason,"
    "items.*.error.caused_by.reason&timeout=10s"
)
_MULTIPLE_CHOICES: Final = 300
_FORBIDDEN: Final = 403
_PASSED: Final = (_FORBIDDEN, TOO_LARGE, TOO_MANY)
_LATER: Final = frozenset({401, _FORBIDDEN, NOT_FOUND, TOO_MANY})
_CONFLICT: Final = 409
_SERVER_FAULT: Final = 500
_GROWTH: Final = 50
_SIDE_BY_SIDE: Final = 4
_WORTHWHILE: Final = 100
"""Documents that a request is made for, where there are more."""
_UNLIMITED: Final = 1 << 40
_ACTION_SIZE: Final = 80
_log: Final = logging.getLogger("millstream")


class Document(NamedTuple):
    """What is stored.

    Attributes:
        id: at most 512 bytes, without quotes and control characters.
        body: parts of one JSON object on one line.
    """

    id: str
    body: Sequence[bytes]


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
        self._complaint = ""
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
                self._complain()
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
        self._complaint = prepare(self._client, self._index, self._mapping)
        self._ready = True

    def _complain(self) -> None:
        """Say once what the server would not do, where it takes documents all the same; else that is said."""
        if self._complaint and not self._complained:
            self._complained = True
            _log.warning(
                "millstream: %s makes neither an index template nor index %r for us (%s)",
                self._client.subject,
                self._index,
                self._complaint,
            )

    def _send_some(self, documents: Sequence[Document]) -> list[Result]:
        """Results of as many as may be on their way at one time; raises where none of them was stored."""
        parts = self._parts(documents)
        answers = self._client.request_all(
            "POST",
            self._path,
            [_body(part) for part in parts],
            _NDJSON,
            passed=_PASSED,
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
        if answer.status in (TOO_MANY, _FORBIDDEN):
            raise self._refused_whole(answer)
        found = self._outcomes(answer.body, len(documents))
        if any(outcome.status == TOO_MANY and not outcome.is_block for outcome in found):
            self._is_busy = True
        if all(outcome.is_refusal for outcome in found):
            raise RefusedError(self._refusal(found[0]))
        return [self._result(outcome) for outcome in found]

    def _refused_whole(self, answer: Answer) -> UnreachableError | RefusedError:
        """In the words that are used of a document, where it is for the same."""
        outcome = outcome_of(answer.status, answer.body)
        if outcome.is_block:
            return UnreachableError(self._later(outcome), answer.retry_after_s, says_later=True)
        if answer.status == _FORBIDDEN:
            return (
                RefusedError(self._refusal(outcome)) if outcome.error.type else self._client.refusal(answer)
            )
        self._is_busy = True
        said = f": {outcome.why}" if outcome.why else ""
        return UnreachableError(
            f"{self._client.subject} is too busy now ({TOO_MANY}{said})",
            answer.retry_after_s,
            says_later=True,
        )

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

    def _outcomes(self, body: bytes, count: int) -> list[Outcome]:
        try:
            found = outcomes(body, count)
        except msgspec.DecodeError as error:
            raise UnreachableError(f"{self._client.subject} answers what is no answer to a bulk") from error
        if len(found) != count:
            raise UnreachableError(f"{self._client.subject} answers for {len(found)} of {count} documents")
        return found

    def _result(self, outcome: Outcome) -> Result:
        if outcome.status < _MULTIPLE_CHOICES or outcome.status == _CONFLICT:
            return None
        if outcome.is_refusal and outcome.status in _LATER:
            return Retry(self._refusal(outcome))
        if outcome.status >= _SERVER_FAULT or outcome.status in _LATER:
            return Retry(self._later(outcome))
        return Rejected(self._why(outcome))

    def _why(self, outcome: Outcome) -> str:
        return self._client.without_secrets(outcome.why)

    def _later(self, outcome: Outcome) -> str:
        does = "is blocked now" if outcome.is_block else "takes nothing now"
        return f"{self._where} {does} ({outcome.status}: {self._why(outcome)})"

    @property
    def _where(self) -> str:
        return f"index {self._index!r} of {self._client.subject}"

    def _refusal(self, outcome: Outcome) -> str:
        where = self._where
        if outcome.status in FORBIDDEN:
            return f"{where} may not be written to by this user: give it the right `create_doc`"
        if outcome.status == NOT_FOUND:
            return f"{where} is not there, and may not be made: create it, or allow `auto_create_index`"
        field = outcome.unknown_field
        return (
            f"{where} was made for other documents: its mapping is strict"
            f"{f' and has no field {field!r}' if field else ''}; {self._strict_hint}"
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
