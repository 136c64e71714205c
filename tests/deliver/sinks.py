"""Sinks of the tests' own, and a recording with spans in it."""

import threading
from collections import Counter

import millstream
from millstream.deliver.sink import Rejected, Retry
from millstream.errors import UnreachableError


def record(home, *names, size=100, segment_bytes=1 << 20):
    with millstream.recording(home=home, segment_bytes=segment_bytes):
        for name in names:
            with millstream.start_span(name, input="x" * size):
                pass


class Store:
    """Takes everything, and counts it by span, as a server would that knows ids."""

    def __init__(self):
        self.batches = []
        self.closed = False

    def send(self, batch):
        self.batches.append(list(batch))
        return [None] * len(batch)

    def close(self):
        self.closed = True

    @property
    def spans(self):
        return [span for batch in self.batches for span in batch]

    @property
    def names(self):
        return [span.name for span in self.spans]

    @property
    def ids(self):
        return Counter(span.span_id for span in self.spans)


class Moody(Store):
    """Does with a batch what its `mood`, a function of the batch, says: raises, or gives results."""

    def __init__(self, mood=None):
        super().__init__()
        self.mood = mood
        self.calls = []

    def send(self, batch):
        self.calls.append([span.name for span in batch])
        results = self.mood(batch) if self.mood else None
        if results is None:
            return super().send(batch)
        self.batches.append([span for span, result in zip(batch, results, strict=True) if result is None])
        return results


def away(batch):
    raise UnreachableError("the server does not answer")


def rejecting(*names):
    return lambda batch: [Rejected(f"{span.name} is bad") if span.name in names else None for span in batch]


def retrying(*names, after_s=None):
    return lambda batch: [Retry("too busy", after_s) if span.name in names else None for span in batch]


class Hanging(Store):
    """Does not return from `send` before it is released."""

    def __init__(self):
        super().__init__()
        self.entered = threading.Event()
        self.release = threading.Event()

    def send(self, batch):
        self.entered.set()
        self.release.wait(60)
        return super().send(batch)


class Clock:
    """Seconds that only pass when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now
