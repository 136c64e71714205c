"""OTLP over gRPC: the one place that knows grpcio.

The channel is made in the thread that sends, at its first request, and belongs to its process: a forked child
makes its own. It is closed after every failure, for gRPC would otherwise wait longer and longer by itself,
also when the receiver is there again.
"""

import os
import re
import ssl
from pathlib import Path
from typing import Any, Final

# Or its C code writes to stderr, of each failure and at each fork.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc

from millstream.deliver.endpoint import credentials
from millstream.deliver.otlp_encoding import METHOD, Refusal, Reply, fault, reply
from millstream.deliver.otlp_target import Target
from millstream.errors import RefusedError, UnreachableError

_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.primary_user_agent", "millstream"),
)
_DETAILS: Final = "grpc-status-details-bin"
_TOO_LARGE: Final = re.compile(r"larger than max|exceeds maximum|too (large|big|long)", re.IGNORECASE)
_NOT_TRUSTED: Final = re.compile(r"CERTIFICATE_VERIFY_FAILED|handshake failed|peer name", re.IGNORECASE)
_NO_TLS: Final = re.compile(r"WRONG_VERSION_NUMBER")
_NOT_GRPC: Final = re.compile(r"http1\.x server|Failed parsing HTTP/2")
_WORDY: Final = re.compile(
    r"^(failed to connect to all addresses; last error: )?([A-Z]+: )?(ipv[46]:\S+: )?"
    r"(Tls handshake failed .*OPENSSL_internal:)?"
)
"""What stands before the reason in the words of gRPC's C code."""
_Code: Final = grpc.StatusCode
_LATER: Final = frozenset(
    {
        _Code.UNAVAILABLE,
        _Code.DEADLINE_EXCEEDED,
        _Code.CANCELLED,
        _Code.ABORTED,
        _Code.OUT_OF_RANGE,
        _Code.DATA_LOSS,
        _Code.RESOURCE_EXHAUSTED,
        _Code.INTERNAL,
        _Code.UNKNOWN,
    }
)


class GrpcTransport:
    """Sends requests to one receiver; uses no network when it is made."""

    def __init__(self, target: Target) -> None:
        self._target = target
        tls = target.tls
        self._credentials: Any = None
        if target.secure:
            self._credentials = grpc.ssl_channel_credentials(
                _read(tls.ca_file or ssl.get_default_verify_paths().cafile),
                _read(tls.key_file or tls.cert_file),
                _read(tls.cert_file),
            )
        metadata = dict(target.headers)
        given = credentials(target.endpoint, username=None, password=None, api_key=None, bearer_token=None)
        if given.authorization is not None:
            metadata["authorization"] = given.authorization
        self._metadata = tuple(metadata.items())
        self._channel: Any = None
        self._call: Any = None
        self._process = 0

    def export(self, request: bytes) -> Reply | Refusal:
        """Send an encoded request.

        Raises:
            UnreachableError: it was not taken, and may be later.
            RefusedError: nothing is taken until somebody mends something.
        """
        if self._channel is None or self._process != os.getpid():
            self._open()
        try:
            return reply(self._call(request, timeout=self._target.timeout_s, metadata=self._metadata))
        except grpc.RpcError as error:
            return self._failed(error)

    def close(self) -> None:
        """Close the channel."""
        channel, self._channel, self._call = self._channel, None, None
        if channel is not None and self._process == os.getpid():
            channel.close()

    def _open(self) -> None:
        self._process = os.getpid()
        address = f"{self._target.endpoint.host}:{self._target.endpoint.port}"
        if ":" in self._target.endpoint.host:
            address = f"[{self._target.endpoint.host}]:{self._target.endpoint.port}"
        compression = grpc.Compression.Gzip if self._target.gzip else grpc.Compression.NoCompression
        if self._credentials is None:
            self._channel = grpc.insecure_channel(address, _OPTIONS, compression)
        else:
            self._channel = grpc.secure_channel(address, self._credentials, _OPTIONS, compression)
        self._call = self._channel.unary_unary(METHOD)  # bytes in, bytes out

    def _failed(self, error: Any) -> Refusal:
        code, details = error.code(), error.details() or ""
        said, wait_s = fault(dict(error.trailing_metadata() or ()).get(_DETAILS, b""))
        reason = self._target.words(_WORDY.sub("", said or details)) or code.name
        if code in (_Code.RESOURCE_EXHAUSTED, _Code.OUT_OF_RANGE) and _TOO_LARGE.search(details):
            return Refusal(reason, too_large=True)
        if code is _Code.INVALID_ARGUMENT:
            return Refusal(reason, too_large=False)
        self.close()
        raise self._error(code, reason, wait_s) from None

    def _error(self, code: Any, reason: str, wait_s: float | None) -> UnreachableError | RefusedError:
        target = self._target
        if code in (_Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED):
            return RefusedError(target.not_accepted(reason))
        if code is _Code.UNIMPLEMENTED or _NOT_GRPC.search(reason):
            return RefusedError(
                f"{target.subject} takes no traces over gRPC ({reason}): correct `endpoint` or `protocol`"
            )
        if target.secure and _NO_TLS.search(reason):
            return RefusedError(f"{target.subject} does not speak TLS: write http://")
        if target.secure and _NOT_TRUSTED.search(reason):
            return RefusedError(
                f"{target.subject} cannot be trusted ({reason}): name its CA in `tls.ca_file`"
            )
        if code is _Code.DEADLINE_EXCEEDED:
            return UnreachableError(
                f"{target.subject} does not answer: nothing came within {target.timeout_s:g} s"
            )
        if code not in _LATER:
            return RefusedError(f"{target.subject} refuses what is sent ({code.name}: {reason})")
        hint = (
            " (if it speaks TLS, write https://)" if not target.secure and "Socket closed" in reason else ""
        )
        says_later = code is _Code.RESOURCE_EXHAUSTED or wait_s is not None  # else it may have broken off
        return UnreachableError(
            f"{target.subject} takes nothing now: {reason}{hint}", wait_s, says_later=says_later
        )


def _read(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
