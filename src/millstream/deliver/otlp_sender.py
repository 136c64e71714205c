"""Batches of spans to one receiver of OTLP: in requests that it takes, with what it says of each span."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from millstream.deliver.giving_way import GivingWay
from millstream.deliver.otlp_resource import described
from millstream.deliver.otlp_target import GRPC, Target
from millstream.deliver.sink import Rejected, Result, Retry
from millstream.errors import MissingExtraError, RefusedError, UnreachableError
from millstream.span import Span

if TYPE_CHECKING:
    from millstream.deliver.otlp_encoding import Encoded, Reply
    from millstream.deliver.otlp_grpc import GrpcTransport
    from millstream.deliver.otlp_http import HttpTransport

_REQUEST_BYTES: Final = 2 << 20
"""Of a request before it is compressed; receivers of gRPC take 4 MiB."""
_LOGGER: Final = logging.getLogger("millstream")
_Results = dict[int, Result]


class OtlpSender:
    """A sink; uses no network when it is made, and none in a child that was forked from its process.

    Args:
        target: the receiver.
        resource_attributes: of what makes the spans, before those of the environment.

    Raises:
        ConfigError: an attribute is wrong.
        MissingExtraError: the extra is not installed.
    """

    batch_size = 500

    def __init__(self, target: Target, resource_attributes: Mapping[str, Any] | None) -> None:
        try:
            from millstream.deliver import otlp_encoding  # noqa: PLC0415  # protobuf is optional

            self._transport: GrpcTransport | HttpTransport
            if target.protocol == GRPC:
                from millstream.deliver import otlp_grpc  # noqa: PLC0415  # grpcio is optional

                self._transport = otlp_grpc.GrpcTransport(target)
            else:
                from millstream.deliver import otlp_http  # noqa: PLC0415  # it needs protobuf, too

                self._transport = otlp_http.HttpTransport(target)
        except MissingExtraError:
            raise
        except ImportError as error:
            raise MissingExtraError(f"Sending to {target.name}", "otlp") from error
        self._encoding = otlp_encoding
        self._target = target
        self._resource = otlp_encoding.resource(described(resource_attributes))
        self._warned: set[str] = set()

    def summary(self) -> str:
        """Where spans go, for people."""
        return self._target.subject

    def send(self, batch: Sequence[Span]) -> list[Result]:
        """Send finished spans; see `Sink`."""
        results: _Results = {}
        try:
            for spans in self._requests(batch, results):
                self._deliver(spans, batch, results)
        except (UnreachableError, RefusedError) as error:
            if not results:
                raise
            later = Retry(str(error), getattr(error, "retry_after_s", None))
            return [results.get(place, later) for place in range(len(batch))]
        return [results[place] for place in range(len(batch))]

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _requests(self, batch: Sequence[Span], results: _Results) -> Iterator[list["Encoded"]]:
        """The spans, encoded, as many together as receivers take; one that cannot be encoded is rejected."""
        spans: list[Encoded] = []
        size = 0
        give_way = GivingWay()
        for place, span in enumerate(batch):
            try:
                encoded = self._encoding.encode(place, span)
            except ValueError as error:
                results[place] = Rejected(f"it cannot be written as OTLP: {error}")
                continue
            give_way()
            if spans and size + encoded.size > _REQUEST_BYTES:
                yield spans
                spans, size = [], 0
            spans.append(encoded)
            size += encoded.size
        if spans:
            yield spans

    def _deliver(self, spans: list["Encoded"], batch: Sequence[Span], results: _Results) -> None:
        """Send a request; in halves, where it is too large or one of its spans may be at fault."""
        answer = self._transport.export(self._encoding.request(self._resource, spans))
        if isinstance(answer, self._encoding.Reply):
            self._settle(spans, answer, results)
        elif len(spans) > 1:
            middle = len(spans) // 2
            self._deliver(spans[:middle], batch, results)
            self._deliver(spans[middle:], batch, results)
        else:
            place = spans[0].place
            lean = self._encoding.encode(place, batch[place], once=True)
            if answer.too_large and lean.size < spans[0].size:
                self._deliver([lean], batch, results)
            else:
                results[place] = Rejected(answer.reason)

    def _settle(self, spans: list["Encoded"], reply: "Reply", results: _Results) -> None:
        """Of a partial success OTLP tells how many spans were rejected, not which.

        So many are said to be: those whose ids the receiver names first, then any.
        """
        results.update((each.place, None) for each in spans)
        reason = self._target.words(reply.reason)
        if not reply.rejected:
            self._warn(reason)
            return
        named = [each for each in spans if each.id in reply.reason]
        others = [each for each in spans if each.id not in reply.reason]
        rejected = Rejected(reason or "rejected by the receiver, without a reason")
        results.update((each.place, rejected) for each in [*named, *others][: reply.rejected])

    def _warn(self, words: str) -> None:
        """Pass on what a receiver says although it took all, once."""
        if words and words not in self._warned and len(self._warned) < 100:  # noqa: PLR2004  # bounded
            self._warned.add(words)
            _LOGGER.warning("millstream: %s took all spans and says: %s", self._target.subject, words)
