"""Capture, on the thread that does the work: decorators, blocks, framework integrations, the journal."""

from millstream.record.integrations import instrument, uninstrument
from millstream.record.opening import current_span, start_span
from millstream.record.recorder import journal_home, recording, stats
from millstream.record.redaction import Redaction
from millstream.record.sampling import Sampling
from millstream.record.steps import IntermediateStep, subscribe
from millstream.record.track import track_function, track_unregistered_function

__all__ = [
    "IntermediateStep",
    "Redaction",
    "Sampling",
    "current_span",
    "instrument",
    "journal_home",
    "recording",
    "start_span",
    "stats",
    "subscribe",
    "track_function",
    "track_unregistered_function",
    "uninstrument",
]
