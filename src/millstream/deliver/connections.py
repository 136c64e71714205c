"""The one place that sends by urllib3: connections to one endpoint, and what went wrong in words."""

import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from http.client import HTTPException, RemoteDisconnected
from typing import Final

import msgspec
from urllib3 import exceptions as faults
from urllib3.connection import HTTPConnection
from urllib3.response import BaseHTTPResponse

from millstream.deliver.endpoint import Endpoint
from millstream.deliver.tls import Tls, WrongCertificateError, connections_to

_CONNECT_S: Final = 5.0
_LEAST_S: Final = 0.1
_PIECE: Final = 1 << 16
_LARGEST_ANSWER: Final = 64 << 20
"""Bytes; one to a bulk may tell of every document."""
_ERRORS: Final = 400
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_CUT_OFF: Final = ("UNEXPECTED_EOF", "EOF occurred", "UNEXPECTED_MESSAGE")


class _EndlessError(OSError):
    """An answer came, and went on and on."""


_Told = tuple[int, dict[str, str], bytes]


class _Exchange(msgspec.Struct):
    """A request that was sent and not yet answered, or the error that came instead."""

    body: bytes | None
    connection: HTTPConnection
    is_fresh: bool
    error: Exception | None = None


class Pool:
    """Connections to one endpoint, made when they are needed, kept while they are idle."""

    def __init__(self, endpoint: Endpoint, tls: Tls, *, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._idle: list[HTTPConnection] = []
        self._new = connections_to(endpoint, tls)

    def exchange(
        self,
        method: str,
        path: str,
        bodies: Sequence[bytes | None],
        headers: Mapping[str, str],
        timeout_s: float | None,
    ) -> list[_Told | OSError]:
        """Send a request for each body, on a connection each, and then wait for the answers.

        Returns:
            For each body the answer's status, headers and body, or why there is none.
        """
        timeout = self._timeout_s if timeout_s is None else timeout_s
        ask = partial(self._ask, method, path, headers, timeout)
        deadline = time.monotonic() + timeout
        sent: list[_Exchange] = []
        for body in bodies:
            sent.append(ask(body))
            if sent[-1].error is not None and sent[-1].is_fresh:  # nor would the others get through
                break
        answers: list[_Told | Exception] = []
        for one in sent:
            answer = self._hear(one, deadline)
            if isinstance(answer, Exception) and not one.is_fresh and _was_idle(answer):
                answer = self._hear(ask(one.body, fresh=True), time.monotonic() + timeout)
            answers.append(answer)
        answers += [answers[-1]] * (len(bodies) - len(sent))
        return [
            _in_words(answer, self._endpoint, timeout) if isinstance(answer, Exception) else answer
            for answer in answers
        ]

    def close(self) -> None:
        """Close the connections that are idle."""
        while self._idle:
            self._idle.pop().close()

    def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        timeout_s: float,
        body: bytes | None,
        *,
        fresh: bool = False,
    ) -> _Exchange:
        kept = None if fresh else self._take_idle()
        connection = kept or self._new()
        exchange = _Exchange(body, connection, is_fresh=kept is None)
        try:
            if kept is None:
                _connect(connection, min(_CONNECT_S, timeout_s))
            connection.timeout = timeout_s
            connection.sock.settimeout(timeout_s)
            with suppress(BrokenPipeError):  # it may have answered before it had heard all
                connection.request(method, path, body, headers, preload_content=False)
        except (faults.HTTPError, HTTPException, OSError) as error:
            exchange.error = error
        return exchange

    def _hear(self, exchange: _Exchange, deadline: float) -> _Told | Exception:
        connection = exchange.connection
        connection.timeout = max(deadline - time.monotonic(), _LEAST_S)
        try:
            if exchange.error is not None:
                raise exchange.error
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.headers.items()}
            told = answer.status, headers, _read(answer, deadline)
        except (faults.HTTPError, HTTPException, OSError) as error:
            connection.close()
            return error
        if answer.status < _ERRORS:
            self._idle.append(connection)
        else:  # it may not have heard all
            connection.close()
        return told

    def _take_idle(self) -> HTTPConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_connected:
                return connection
            connection.close()
        return None


def _read(answer: BaseHTTPResponse, deadline: float) -> bytes:
    """The body, decoded; each piece of it may take its time, all of them may not."""
    body = bytearray()
    while piece := answer.read1(_PIECE):
        body += piece
        if time.monotonic() > deadline:
            raise _EndlessError
        if len(body) > _LARGEST_ANSWER:
            raise _EndlessError(f"its answer is larger than {_LARGEST_ANSWER:,} bytes")
    return bytes(body)


def _connect(connection: HTTPConnection, timeout_s: float) -> None:
    connection.timeout = timeout_s
    try:
        connection.connect()
    except TimeoutError as error:  # in the middle of TLS
        raise faults.ConnectTimeoutError from error


def _in_words(error: Exception, endpoint: Endpoint, timeout_s: float) -> OSError:
    """What went wrong, for people; a `PermissionError` where it is a matter of trust."""
    cause = _cause(error)
    if isinstance(cause, _EndlessError):
        return ConnectionError(str(cause) or f"its answer did not end within {timeout_s:g} s")
    if isinstance(cause, ssl.SSLError):
        return _tls_in_words(cause)
    if isinstance(cause, WrongCertificateError):
        return PermissionError(str(cause))
    if isinstance(error, faults.NameResolutionError):
        return ConnectionError(f"no address is known for {endpoint.host!r}")
    if isinstance(error, faults.NewConnectionError):
        return ConnectionError(_of_system(error))
    if isinstance(error, faults.ConnectTimeoutError):
        return ConnectionError(f"no connection within {min(_CONNECT_S, timeout_s):g} s")
    if isinstance(error, faults.ReadTimeoutError | TimeoutError):
        return ConnectionError(f"nothing came within {timeout_s:g} s")
    if isinstance(cause, OSError) and not isinstance(cause, RemoteDisconnected):
        return ConnectionError(f"the connection broke ({cause.strerror or type(cause).__name__})")
    hint = " (if it speaks TLS, write https://)" if endpoint.scheme == "http" else ""
    return ConnectionError(f"the connection was closed without a whole answer{hint}")


def _tls_in_words(error: ssl.SSLError) -> OSError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return PermissionError(
            f"its certificate is not accepted ({error.verify_message}): "
            "name its CA in `ca_certs`, or its fingerprint in `ssl_assert_fingerprint`"
        )
    text = str(error)
    if any(mark in text for mark in _NO_TLS):
        return PermissionError("it does not speak TLS there: write http://")
    if any(mark in text for mark in _CUT_OFF):
        return ConnectionError("the connection broke while TLS began")
    return PermissionError(f"TLS failed ({error.reason or type(error).__name__})")


def _cause(error: BaseException) -> BaseException:
    """The error of the system or of TLS in one of urllib3."""
    if isinstance(error, faults.SSLError | faults.ProtocolError):
        for part in reversed(error.args):
            if isinstance(part, BaseException):
                return part
    return error


def _was_idle(error: BaseException) -> bool:
    """Whether the server may have closed a kept connection just before it was used."""
    return isinstance(_cause(error), RemoteDisconnected | ConnectionResetError | BrokenPipeError)


def _of_system(error: BaseException) -> str:
    cause = error.__cause__
    return (cause.strerror or str(cause)).lower() if isinstance(cause, OSError) else "no connection"
