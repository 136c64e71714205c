"""Spans that keep nothing: while recording is off, and in traces that are not sampled."""

# ruff: noqa: D102  # there is nothing to say of what does nothing

from collections.abc import Mapping
from typing import Any, Final, Self

import msgspec

from millstream import context
from millstream.record import recorder
from millstream.record.live import ENDED, LiveSpan, leave
from millstream.span import SpanKind, Usage

_NOWHERE: Final = ("0" * 32, "0" * 16, None, 0)


class NotRecorded(LiveSpan):
    """What `start_span` gives while recording is off: takes everything, keeps nothing."""

    def set_attribute(self, key: str, value: Any) -> None:
        pass

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        pass

    def set_output(self, value: Any) -> None:
        pass

    def set_usage(self, usage: Usage) -> None:
        pass

    def add_event(self, name: str, attributes: dict[str, Any] | None = None) -> None:
        pass

    def add_chunk(self, chunk: Any = msgspec.UNSET, *, new_token: bool = False) -> None:
        pass

    def end(self, *_arguments: object, **_options: object) -> None:
        self.generation = ENDED

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass


class NotSampled(NotRecorded):
    """The root of a trace that is not sampled: while it is current, nothing below it is recorded either."""

    @classmethod
    def root(cls, active: "recorder.Recorder", name: str, kind: SpanKind) -> Self:
        """One that is open."""
        return cls(*_NOWHERE, active, active.journal, active.generation, None, name, kind, sampled=False)

    def __enter__(self) -> Self:
        if self.token is None:
            self.token = context.current.set(self)
        return self

    def __exit__(self, *_error: object) -> None:
        leave(self)
        self.end()


NOT_RECORDED: Final = NotRecorded(
    *_NOWHERE, recorder.NOT_RECORDING, recorder.NOT_RECORDING.journal, sampled=False
)
NOT_SAMPLED: Final = NotSampled(
    *_NOWHERE, recorder.NOT_RECORDING, recorder.NOT_RECORDING.journal, sampled=False
)
"""Is current in a call whose trace is not sampled, for who takes it back by token."""
