"""A share of all traces, whole: every span of a trace is kept, or none."""

from millstream.record.sampling import Sampling
from millstream.span import Span


class SamplingProcessor:
    """Drops the spans of traces that are not sampled.

    The trace id decides, as OpenTelemetry's TraceIdRatioBased does, so that all spans of a trace fare alike,
    in every process and after every restart.

    Args:
        rate: share of traces that is kept, 0 to 1.

    Raises:
        ConfigError: `rate` is not from 0 to 1.
    """

    def __init__(self, *, rate: float) -> None:
        self._bound = Sampling(rate=rate).bounds()[None]

    def __call__(self, span: Span) -> Span | None:
        """The span, or `None` where its trace is not sampled."""
        return span if span.trace_id[16:] < self._bound else None
