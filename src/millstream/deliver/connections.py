"""The one place that knows urllib3: connections to one endpoint, their TLS, and what went wrong in words.

What fails is an `OSError` with a reason for people; a `PermissionError` where trust is what fails.
"""

import hashlib
import re
import ssl
from collections.abc import Mapping
from http.client import RemoteDisconnected
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import urllib3
from urllib3 import exceptions as faults
from urllib3.connection import HTTPSConnection

from millstream.deliver.endpoint import Endpoint
from millstream.errors import ConfigError

_CONNECT_S: Final = 5.0
_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_CUT_OFF: Final = ("UNEXPECTED_EOF", "EOF occurred", "UNEXPECTED_MESSAGE")


class Tls(msgspec.Struct, frozen=True):
    """Whom to trust, and what to show; fields as arguments of `HttpClient`."""

    ca_certs: str | None = None
    verify_certs: bool = True
    fingerprint: str | None = None
    client_cert: str | None = None
    client_key: str | None = None


class _WrongCertificateError(OSError):
    """The server's certificate is not the pinned one."""


class Pool:
    """Connections to one endpoint, made when they are needed."""

    def __init__(self, endpoint: Endpoint, tls: Tls, *, timeout_s: float, connections: int) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        options: dict[str, Any] = {"maxsize": connections, "retries": False}
        pinned = _fingerprint(tls.fingerprint)
        context = _context(tls, trust=pinned is None)
        self._pool: urllib3.HTTPConnectionPool
        if endpoint.scheme == "http":
            self._pool = urllib3.HTTPConnectionPool(endpoint.host, endpoint.port, **options)
        else:
            self._pool = urllib3.HTTPSConnectionPool(
                endpoint.host, endpoint.port, ssl_context=context, assert_hostname=_hostname(tls), **options
            )
            self._pool.ConnectionCls = _connection_class(tls, pinned)

    def request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float | None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer, whatever it is; raises `OSError`."""
        timeout = self._timeout_s if timeout_s is None else timeout_s
        limits = urllib3.Timeout(connect=min(_CONNECT_S, timeout), read=timeout)
        for again in (True, False):
            try:
                answer = self._pool.urlopen(
                    method, path, body, headers, timeout=limits, redirect=False, retries=False
                )
            except (faults.HTTPError, OSError) as error:
                if again and _was_idle(error):
                    continue
                self._raise(error, timeout)
            names = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, names, answer.data
        raise AssertionError  # the second try returns or raises

    def close(self) -> None:
        """Close the connections that are idle."""
        self._pool.close()

    def _raise(self, error: Exception, timeout_s: float) -> NoReturn:
        cause = _cause(error)
        if isinstance(error, faults.NameResolutionError):
            reason = f"no address is known for {self._endpoint.host!r}"
        elif isinstance(cause, ssl.SSLError):
            self._raise_tls(cause)
        elif isinstance(cause, _WrongCertificateError):
            raise PermissionError(str(cause)) from error
        elif isinstance(error, faults.NewConnectionError):
            reason = _of_system(error)
        elif isinstance(error, faults.ConnectTimeoutError):
            reason = f"no connection within {min(_CONNECT_S, timeout_s):g} s"
        elif isinstance(error, faults.ReadTimeoutError | TimeoutError):
            reason = f"nothing came within {timeout_s:g} s"
        elif isinstance(cause, OSError) and not isinstance(cause, RemoteDisconnected):
            reason = f"the connection broke ({cause.strerror or type(cause).__name__})"
        else:
            reason = "the connection was closed without a whole answer"
            if self._endpoint.scheme == "http":
                reason += " (if it speaks TLS, write https://)"
        raise ConnectionError(reason) from error

    def _raise_tls(self, error: ssl.SSLError) -> NoReturn:
        text = str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            raise PermissionError(
                f"its certificate is not accepted ({error.verify_message}): "
                "name its CA in `ca_certs`, or its fingerprint in `ssl_assert_fingerprint`"
            ) from error
        if any(mark in text for mark in _NO_TLS):
            raise PermissionError("it does not speak TLS there: write http://") from error
        if any(mark in text for mark in _CUT_OFF):
            raise ConnectionError("the connection broke while TLS began") from error
        raise PermissionError(f"TLS failed ({error.reason or type(error).__name__})") from error


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


def _hostname(tls: Tls) -> Any:
    return None if tls.verify_certs and tls.fingerprint is None else False


def _context(tls: Tls, *, trust: bool) -> ssl.SSLContext:
    """How TLS is spoken; raises ConfigError where a file is not what it should be."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH) if tls.ca_certs is None else _bare()
    if tls.ca_certs is not None:
        _load("ca_certs", tls.ca_certs, lambda: _trust(context, str(tls.ca_certs)))
    if tls.client_cert is not None:
        _load(
            "client_cert",
            tls.client_cert,
            lambda: context.load_cert_chain(str(tls.client_cert), tls.client_key),
        )
    elif tls.client_key is not None:
        raise ConfigError("`client_key` is given without `client_cert`")
    if not (trust and tls.verify_certs):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _bare() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _trust(context: ssl.SSLContext, path: str) -> None:
    if Path(path).is_dir():
        context.load_verify_locations(capath=path)
    else:
        context.load_verify_locations(cafile=path)


def _load(option: str, path: str, load: Any) -> None:
    try:
        load()
    except ssl.SSLError as error:
        raise ConfigError(f"`{option}`: {path} holds no usable certificate (PEM)") from error
    except OSError as error:
        raise ConfigError(f"`{option}`: {path} cannot be read: {error.strerror}") from error


def _fingerprint(text: str | None) -> str | None:
    if text is None:
        return None
    digits = text.replace(":", "").strip().lower()
    if not _SHA256_HEX.fullmatch(digits):
        raise ConfigError("`ssl_assert_fingerprint` is not a SHA-256 fingerprint: 64 hexadecimal digits")
    return digits


def _connection_class(tls: Tls, pinned: str | None) -> Any:
    """The class of connections that takes a pinned certificate, or any, for what the user chose it to be."""
    if pinned is None and tls.verify_certs:
        return HTTPSConnection

    class Chosen(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            if pinned is not None:
                _check_pin(self, tls, pinned)
            self.is_verified = True  # or urllib3 warns at each connection of what the user chose

    return Chosen


def _check_pin(connection: HTTPSConnection, tls: Tls, pinned: str) -> None:
    """See that the server's certificate is the pinned one, or is signed by the pinned one."""
    chain = _chain(connection.sock)
    if _sha256(chain[0]) == pinned:
        return
    signers = [der for der in chain[1:] if _sha256(der) == pinned]
    if not signers:
        connection.close()
        raise _WrongCertificateError(
            f"its certificate has the fingerprint {_sha256(chain[0])}, not that of `ssl_assert_fingerprint`"
        )
    # That a certificate was sent along proves nothing: the server's own must be signed by it.
    connection.close()
    context = _bare()
    context.load_verify_locations(cadata=signers[0])
    if tls.client_cert is not None:
        context.load_cert_chain(tls.client_cert, tls.client_key)
    connection.ssl_context = context
    connection.cert_reqs = ssl.CERT_REQUIRED
    connection.assert_hostname = None
    HTTPSConnection.connect(connection)


def _chain(sock: Any) -> list[bytes]:
    """The certificates that the server sent, its own first (DER)."""
    if hasattr(sock, "get_unverified_chain"):  # Python 3.13
        return list(sock.get_unverified_chain())
    import _ssl  # noqa: PLC0415

    return [one.public_bytes(_ssl.ENCODING_DER) for one in sock._sslobj.get_unverified_chain()]  # noqa: SLF001


def _sha256(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()
