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

import grpc

from millstream.deliver.endpoint import credentials
from millstream.deliver.http import shortened
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
_NOT_TRUSTED: Final = re.compile(r"certificate|handshake|peer name|WRONG_VERSION_NUMBER", re.IGNORECASE)
_WORDY: Final = re.compile(r"failed to connect to all addresses; last error: (UNKNOWN: |UNAVAILABLE: )?")
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
        code, details = error.code(), shortened(error.details() or "")
        said, wait_s = fault(dict(error.trailing_metadata() or ()).get(_DETAILS, b""))
        reason = shortened(said) or details
        if code in (_Code.RESOURCE_EXHAUSTED, _Code.OUT_OF_RANGE) and _TOO_LARGE.search(details):
            return Refusal(reason, too_large=True)
        if code is _Code.INVALID_ARGUMENT:
            return Refusal(reason or "refused without a reason", too_large=False)
        self.close()
        raise self._error(code, reason, wait_s)

    def _error(self, code: Any, reason: str, wait_s: float | None) -> UnreachableError | RefusedError:
        subject = self._target.subject
        told = f"{code.name}: {reason}" if reason else code.name
        if code in (_Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED):
            return RefusedError(self._target.not_accepted(told))
        if code is _Code.UNIMPLEMENTED:
            return RefusedError(
                f"{subject} takes no traces over gRPC ({told}): correct `endpoint` or `protocol`"
            )
        if code is _Code.UNAVAILABLE and self._target.secure and _NOT_TRUSTED.search(reason):
            return RefusedError(f"{subject} cannot be trusted ({reason}): name its CA in `tls.ca_file`")
        if code is _Code.DEADLINE_EXCEEDED:
            return UnreachableError(
                f"{subject} does not answer: nothing came within {self._target.timeout_s:g} s"
            )
        if code in _LATER:
            return UnreachableError(f"{subject} takes nothing now ({_WORDY.sub('', told)})", wait_s)
        return RefusedError(f"{subject} refuses what is sent ({told})")


def _read(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
