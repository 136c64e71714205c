"""TLS to one endpoint: whom to trust, and a certificate or a CA that is pinned."""

import contextlib
import hashlib
import re
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from urllib3.connection import HTTPConnection, HTTPSConnection

from millstream.deliver.endpoint import Endpoint
from millstream.deliver.options import collected, raise_all
from millstream.errors import ConfigError

_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")


class Tls(msgspec.Struct, frozen=True):
    """Whom to trust, and what to show; fields as arguments of `HttpClient`."""

    ca_certs: str | None = None
    verify_certs: bool = True
    fingerprint: str | None = None
    client_cert: str | None = None
    client_key: str | None = None


class WrongCertificateError(OSError):
    """The server's certificate is not the pinned one."""


def connections_to(endpoint: Endpoint, tls: Tls) -> Callable[[], HTTPConnection]:
    """What makes connections; raises ConfigError where `tls` names what is not there."""
    problems: list[str] = []
    pinned: str | None = None
    with collected(problems):
        pinned = _fingerprint(tls.fingerprint)
    with collected(problems):
        context = _context(tls, trust=pinned is None)
    raise_all(problems)
    if endpoint.scheme == "http":
        return partial(HTTPConnection, endpoint.host, endpoint.port)
    hostname = None if tls.verify_certs and pinned is None else False
    kind = _connection_class(tls, pinned)
    return partial(kind, endpoint.host, endpoint.port, ssl_context=context, assert_hostname=hostname)


def _context(tls: Tls, *, trust: bool) -> ssl.SSLContext:
    """How TLS is spoken; raises ConfigError where a file is not what it should be."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH) if tls.ca_certs is None else _bare()
    problems: list[str] = []
    if tls.ca_certs is not None:
        with collected(problems):
            _load("ca_certs", tls.ca_certs, lambda: _trust(context, str(tls.ca_certs)))
    if tls.client_cert is not None:
        with collected(problems):
            _load(
                "client_cert",
                tls.client_cert,
                lambda: context.load_cert_chain(str(tls.client_cert), tls.client_key),
            )
    elif tls.client_key is not None:
        problems.append("`client_key` is given without `client_cert`")
    raise_all(problems)
    if not (trust and tls.verify_certs):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _bare() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _trust(context: ssl.SSLContext, path: str) -> None:
    """Trust the certificates of a file, or of all files of a folder that hold some, whatever their names."""
    if not Path(path).is_dir():
        context.load_verify_locations(cafile=path)
        return
    for file in sorted(Path(path).iterdir()):
        if file.is_file():
            with contextlib.suppress(ssl.SSLError):  # a key, say
                context.load_verify_locations(cafile=file)
    if not context.cert_store_stats()["x509"]:
        raise ssl.SSLError("no certificates")


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
        raise WrongCertificateError(
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
