"""Lines to spans: every span once, torn lines counted, open spans kept until their end comes."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Final

import msgspec

from millstream.span import Span, Status

_decode: Final = msgspec.json.Decoder(Span).decode
_TRACE_KEY: Final = b'{"trace_id":"'
_TRACE_ID: Final = slice(len(_TRACE_KEY), len(_TRACE_KEY) + 32)
_END_KEY: Final = b',"end_ns":'


class SpanReader:
    """Turns the lines of one process's files into spans, in the order in which they ended.

    A span's first line only says that it began; it is held until the line of its end comes. Memory grows
    with the spans that are open at one time, not with the file.

    Args:
        trace_ids: only spans of these traces; `None` for all.
        rejected: counts, by reason, of lines that are no spans; added to.
    """

    def __init__(self, trace_ids: Collection[str] | None, rejected: Counter[str]) -> None:
        self._wanted = None if trace_ids is None else {trace_id.encode() for trace_id in trace_ids}
        self._rejected = rejected
        self._open: dict[str, Span] = {}

    def read(self, lines: Iterable[bytes]) -> Iterator[Span]:
        """The spans that end in these lines."""
        for line in lines:
            if (
                self._wanted is not None
                and line.startswith(_TRACE_KEY)
                and line[_TRACE_ID] not in self._wanted
            ):
                continue
            span = self._parse(line)
            if span is None or not (self._wanted is None or span.trace_id.encode() in self._wanted):
                continue
            if span.end_ns is None and span.status is None:
                self._open[span.span_id] = span
            else:
                self._open.pop(span.span_id, None)
                yield span

    def still_open(self, *, interrupted: bool) -> Iterator[Span]:
        """The spans whose end did not come.

        Args:
            interrupted: whether it can no longer come, because the process has died.
        """
        for span in self._open.values():
            span.status = Status.INTERRUPTED if interrupted else None
            yield span
        self._open.clear()

    def _parse(self, line: bytes) -> Span | None:
        try:
            return _decode(line)
        except msgspec.ValidationError as error:
            self._rejected[f"not a span: {str(error).partition(' - ')[0]}"] += 1
        except msgspec.DecodeError:
            head, separator, _ = line.partition(_END_KEY)
            if separator and line.startswith(_TRACE_KEY):  # killed while its end was being written
                try:
                    span = _decode(head + b"}")
                except msgspec.DecodeError:
                    pass
                else:
                    self._rejected["torn line, span kept as interrupted"] += 1
                    return span
            self._rejected["torn line or not JSON"] += 1
        return None
