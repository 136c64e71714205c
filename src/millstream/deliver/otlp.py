"""Spans to whatever takes OTLP: `_type: otlp` in a workflow file, or `otelcollector`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from millstream.deliver.otlp_sender import OtlpSender
from millstream.deliver.otlp_target import target

Protocol = Literal["http/protobuf", "grpc"]
Compression = Literal["gzip", "none"]
Seconds = Annotated[float, Meta(gt=0)]


class OtlpSink(OtlpSender):
    """Sends spans by OTLP.

    Args:
        endpoint: `http://` or `https://`, of the receiver or of its `/v1/traces`; may hold `user:password@`.
            Of gRPC also `host:port`, which is with TLS unless the host is this machine.
        protocol: `http/protobuf` or `grpc`.
        headers: sent with each request.
        compression: `gzip` or `none`.
        timeout: seconds to wait for an answer.
        tls: `ca_file`, `cert_file` and `key_file` (PEM), `insecure`.
        resource_attributes: what makes the spans; they go before those of OTEL_SERVICE_NAME and
            OTEL_RESOURCE_ATTRIBUTES.

    Raises:
        ConfigError: an option is wrong; the receiver is not asked.
        MissingExtraError: the extra is not installed.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        protocol: Protocol = "http/protobuf",
        headers: Mapping[str, str] | None = None,
        compression: Compression = "gzip",
        timeout: Seconds = 10.0,
        tls: Mapping[str, Any] | None = None,
        resource_attributes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            target(
                endpoint,
                protocol=protocol,
                headers=headers,
                compression=compression,
                timeout_s=timeout,
                tls=tls,
                name="the OTLP receiver",
                who="`headers`",
            ),
            resource_attributes,
        )
