"""OTLP over HTTP, as protobuf."""

import gzip
import ssl
from typing import Final

import msgspec

from millstream.deliver.http import (
    BAD_REQUEST,
    NOT_FOUND,
    TOO_LARGE,
    Answer,
    HttpClient,
    reason_of,
    shortened,
)
from millstream.deliver.otlp_encoding import Refusal, Reply, fault, reply
from millstream.deliver.otlp_target import TRACES_PATH, Target
from millstream.errors import RefusedError

_PROTOBUF: Final = "application/x-protobuf"
_CREDENTIALS: Final = (401, 403, 407)
_UNPROCESSABLE: Final = 422
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
            answer = self._client.request(
                "POST",
                TRACES_PATH,
                request,
                self._headers,
                passed=(BAD_REQUEST, _UNPROCESSABLE, TOO_LARGE, NOT_FOUND, *_CREDENTIALS),
            )
        except RefusedError as error:
            cause = error.__cause__ and error.__cause__.__cause__
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise RefusedError(
                    f"{self._target.subject} cannot be trusted: its certificate is not accepted"
                    f" ({cause.verify_message}); name its CA in `tls.ca_file`"
                ) from error
            raise
        if answer.status in (BAD_REQUEST, _UNPROCESSABLE, TOO_LARGE):
            reason = _reason(answer) or f"refused without a reason ({answer.status})"
            return Refusal(reason, too_large=answer.status == TOO_LARGE)
        if answer.status == NOT_FOUND:
            raise RefusedError(
                f"{self._target.subject} has nothing at {TRACES_PATH} ({_said(answer)}): correct `endpoint`"
            )
        if answer.status in _CREDENTIALS:
            raise RefusedError(self._target.not_accepted(_said(answer)))
        return _reply(answer)

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
        return shortened(fault(answer.body)[0])
    return reason_of(answer.body)


def _said(answer: Answer) -> str:
    reason = _reason(answer)
    return f"{answer.status}: {reason}" if reason else str(answer.status)
