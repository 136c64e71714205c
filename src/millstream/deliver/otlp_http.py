"""OTLP over HTTP, as protobuf."""

import gzip
from typing import Final

import msgspec

from millstream.deliver.http import (
    BAD_REQUEST,
    NOT_FOUND,
    TOO_LARGE,
    Answer,
    HttpClient,
    reason_of,
)
from millstream.deliver.otlp_encoding import Refusal, Reply, fault, reply
from millstream.deliver.otlp_target import TRACES_PATH, Target
from millstream.errors import RefusedError, UnreachableError

_PROTOBUF: Final = "application/x-protobuf"
_OF_CA: Final = ": name its CA in `ca_certs`"
"""What `HttpClient` advises; the option has another name here."""
_NOT_OK: Final = range(300, 600)
_AT_FAULT: Final = (BAD_REQUEST, TOO_LARGE, 422)
_LATER: Final = (408, 429, 500, 502, 503, 504)
_LAST_KNOWN: Final = 505
_CREDENTIALS: Final = (401, 403, 407)
_NOT_THERE: Final = (*range(300, 400), NOT_FOUND, 405)
_FAST: Final = 1
"""Of zlib: four times as fast as its default, for a seventh more bytes."""


class HttpTransport:
    """Sends requests to one receiver; uses no network when it is made.

    Raises:
        MissingExtraError: the extra is not installed.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._client = HttpClient(
            target.url,
            name=target.name,
            extra="otlp",
            headers=target.headers,
            ca_certs=target.tls.ca_file,
            verify_certs=not target.tls.insecure,
            client_cert=target.tls.cert_file,
            client_key=target.tls.key_file,
            timeout_s=target.timeout_s,
        )
        self._headers = {"content-type": _PROTOBUF}
        if target.gzip:
            self._headers["content-encoding"] = "gzip"

    def export(self, request: bytes) -> Reply | Refusal:
        """Send an encoded request.

        Raises:
            UnreachableError: it was not taken, and may be later.
            RefusedError: nothing is taken until somebody mends something.
        """
        if self._target.gzip:
            request = gzip.compress(request, _FAST)
        try:
            answer = self._client.request("POST", TRACES_PATH, request, self._headers, passed=_NOT_OK)
        except RefusedError as error:
            told, of_ca, _ = str(error).partition(_OF_CA)
            if not of_ca:
                raise
            raise RefusedError(f"{told}: name its CA in `tls.ca_file`") from error
        if answer.status not in _NOT_OK:
            if "html" in answer.headers.get("content-type", ""):  # a page for people, whatever was sent
                raise RefusedError(f"{self._target.subject} is no receiver of OTLP: correct `endpoint`")
            return _reply(answer)
        reason = self._target.words(_reason(answer))
        if answer.status in _AT_FAULT:
            reason = reason or f"refused without a reason ({answer.status})"
            return Refusal(reason, too_large=answer.status == TOO_LARGE)
        raise self._error(answer, f"{answer.status}: {reason}" if reason else str(answer.status))

    def _error(self, answer: Answer, said: str) -> UnreachableError | RefusedError:
        subject = self._target.subject
        if answer.status in _LATER or answer.status > _LAST_KNOWN:
            return UnreachableError(
                f"{subject} takes nothing now ({said})", answer.retry_after_s, says_later=True
            )
        if answer.status in _CREDENTIALS:
            return RefusedError(self._target.not_accepted(said))
        if answer.status in _NOT_THERE:
            return RefusedError(f"{subject} has nothing at {TRACES_PATH} ({said}): correct `endpoint`")
        return RefusedError(f"{subject} refuses what is sent ({said})")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _reply(answer: Answer) -> Reply:
    if "json" not in answer.headers.get("content-type", ""):
        return reply(answer.body)
    try:
        told = msgspec.json.decode(answer.body, type=_Response, strict=False)
    except msgspec.DecodeError:
        return Reply()
    return Reply(max(told.partial_success.rejected_spans, 0), told.partial_success.error_message)


class _Partial(msgspec.Struct, rename="camel"):
    rejected_spans: int = 0
    error_message: str = ""


class _Response(msgspec.Struct, rename="camel"):
    """What some receivers answer, although they were asked in protobuf."""

    partial_success: _Partial = msgspec.field(default_factory=_Partial)


def _reason(answer: Answer) -> str:
    if answer.headers.get("content-type") == _PROTOBUF:
        return fault(answer.body)[0]
    return reason_of(answer)
