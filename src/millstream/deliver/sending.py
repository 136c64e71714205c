"""From a journal to one sink, a batch at a time; no thread, no waiting."""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from random import Random
from typing import Final

from millstream.deliver import sink_call
from millstream.deliver.backlog import Backlog, Held
from millstream.deliver.backoff import Backoff, asked
from millstream.deliver.batch import Batch, kept
from millstream.deliver.cursor import Counts, Cursor
from millstream.deliver.dead_letters import DeadLetters
from millstream.deliver.giving_way import GivingWay
from millstream.deliver.policy import Policy
from millstream.deliver.processors import process
from millstream.deliver.sink import Rejected, Result, Retry, Sink, Skipped
from millstream.deliver.tail import Item, Tail
from millstream.errors import RefusedError, UnreachableError
from millstream.record.policy import Processor
from millstream.store.following import end_of_content
from millstream.store.segments import list_segments

_RAISES_IN_A_ROW: Final = 12
"""It takes fewer to halve a batch down to the span that a sink raises on; with more it is the sink."""
_FAILURES_ALONE: Final = 10
"""After so many, with others taken in between, it is the span that a connection breaks at."""
_LATER_IN_A_ROW: Final = 8
"""A receiver that says "later" is busy, whatever is sent; after so many, perhaps it is what is sent."""
_DROPPED: Final = "by a processor"


class Step(Enum):
    """What became of one step."""

    FULL = "full"
    """A whole batch was sent: there may be more."""
    SOME = "some"
    """What was there was sent."""
    NOTHING = "nothing"
    """There was nothing to send now."""
    FAILED = "failed"
    """The sink took nothing."""
    PAUSED = "paused"
    """The sink took nothing lately, and is not to be tried yet."""


class Sending:
    """Delivers to one sink what a cursor says is not delivered. For one thread.

    Args:
        home: the folder of recordings.
        cursor: held for this sink.
        sink: where to.
        policy: how.
        processors: run on every span first.
        counts: what becomes of the spans, added to; beside what the cursor counts.
        clock: seconds, monotonic.
        random: where chance comes from.

    Attributes:
        backoff: how the sink does.
        failed_letters: whether the dead letters cannot be written.
    """

    def __init__(
        self,
        home: Path,
        cursor: Cursor,
        sink: Sink,
        policy: Policy,
        processors: Sequence[Processor],
        *,
        counts: Counts,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        give_way = GivingWay()
        self.backoff = Backoff(policy, clock, random)
        self._home = home
        self._cursor = cursor
        self._sink = sink
        self._policy = policy
        self._processors = tuple(processors)
        self._every_counts = (cursor.counts, counts)
        self._clock = clock
        self._give_way = give_way
        self._tail = Tail(home, cursor, give_way)
        self._letters = DeadLetters(home, cursor.name, give_way)
        self._evicted = cursor.counts.evicted
        self._backlog = Backlog(policy, clock)
        self._raises = 0
        """In a row."""
        self._worked = 0
        """Batches in all."""
        self._most = policy.batch_size
        """Spans of a batch: halved by failures, doubled by successes."""

    @property
    def holds(self) -> int:
        """Spans that were read and are not settled."""
        return self._backlog.items

    def next_due(self) -> float:
        """When a span is to be sent again that the sink did not take; far away where there is none."""
        return self._backlog.next_due()

    def left(self) -> int:
        """Spans that have ended and are not settled."""
        return self._tail.left()

    def marks(self) -> dict[str, int]:
        """Up to where there is something at this moment, in each segment that is not done."""
        marks = {}
        for segment in list_segments(self._home):
            if not self._cursor.is_done(segment.path.stem):
                with contextlib.suppress(FileNotFoundError):
                    marks[segment.path.stem] = end_of_content(segment.path)
                self._give_way()
        return marks

    def unsettled(self, marks: Mapping[str, int]) -> int | None:
        """How many spans that ended before these marks are not settled; `None` while not all were read."""
        count = 0
        for name, end in marks.items():
            if self._cursor.is_done(name):
                continue
            progress = self._cursor.segments.get(name)
            if progress is None or progress.read < end:
                return None
            count += sum(offset < end for offset in progress.owed)
        return count

    def step(self, *, at_once: bool = False) -> Step:
        """Send one batch, if something is to be sent now.

        Args:
            at_once: without waiting for the end of a pause.
        """
        now = self._clock()
        if not at_once and now < self.backoff.retry_at:
            return Step.PAUSED
        probing = self.backoff.is_open
        until = float("inf") if at_once else now
        batch = self._backlog.next_batch(1 if probing else self._most, until, self._read, probing=probing)
        if not batch:
            self._save()
            return Step.NOTHING
        is_full = len(batch) >= min(self._most, self._policy.batch_size) or not self._backlog.has_room
        worked = self._send(batch)
        while batch:  # to free many at once takes long
            batch.pop()
            self._give_way()
        self._save()
        if not worked:
            return Step.FAILED
        return Step.FULL if is_full or self._backlog.has_ready else Step.SOME

    def close(self) -> None:
        """Keep what is settled, and let go of the journal and the cursor."""
        self._save()
        self._tail.close()
        self._cursor.close()

    # Reading

    def _read(self, wanted: int) -> None:
        """Read some of so many spans, where there is room and something is new."""
        while self._backlog.has_room and not self._backlog.has_ready:
            self._give_way()
            items = self._tail.read(self._backlog.room(wanted))
            if not items:
                return
            for item in items:
                self._take(item)

    def _take(self, item: Item) -> None:
        span, fault = process(item.span, self._processors)
        if span is None:
            for counts in self._every_counts:
                counts.dropped[_DROPPED] += 1
            self._tail.settle([item.place])
        else:
            one = kept(span)
            size = len(one) if isinstance(one, bytes) else self._policy.batch_bytes
            self._backlog.add(Held(one, item.place, size, fault))
        self._give_way()

    # Sending

    def _send(self, batch: list[Held]) -> bool:
        """Whether the sink took, or said what it does not take."""
        began = self._clock()
        if again := sum(held.times_sent > 0 for held in batch):
            for counts in self._every_counts:
                counts.retried += again
        for held in batch:
            held.times_sent += 1
        try:
            results = sink_call.send(self._sink, Batch([held.kept for held in batch]))
        except (UnreachableError, RefusedError) as error:
            return self._failed(batch, error, began)
        except Exception as error:  # noqa: BLE001  # a span may be more than a sink can do anything with
            return self._raised(batch, error, began)
        self._raises = 0
        return self._settle(batch, results, began)

    def _failed(self, batch: Sequence[Held], error: Exception, began: float) -> bool:
        """The sink took nothing: all is sent again, a span that was alone after others."""
        self.backoff.failed(error, began)
        says_later = isinstance(error, UnreachableError) and error.says_later
        if not says_later or self.backoff.failures > _LATER_IN_A_ROW:
            self._most = max(1, min(self._most, len(batch)) // 2)
        if len(batch) > 1 or isinstance(error, RefusedError):
            self._backlog.put_back(batch)
            return False
        self._backlog.put_back(())
        held = batch[0]
        if not says_later:
            held.failed += held.worked != self._worked
            held.worked = self._worked
        if held.failed > _FAILURES_ALONE:
            return self._reject([(held, str(error))], began) and self._heard()
        self._backlog.send_later(held, self.backoff.pause_s(max(held.failed, 1)), self.backoff.retry_at)
        return False

    def _raised(self, batch: list[Held], error: Exception, began: float) -> bool:
        """Find the span that the sink cannot do anything with."""
        self._raises += 1
        reason = f"{type(error).__name__}: {error}"
        if len(batch) > 1:
            self._backlog.split(batch)
        elif batch[0].raised + 1 < self._policy.item_attempts:
            batch[0].raised += 1
            self._backlog.send_later(batch[0], self.backoff.pause_s(batch[0].raised))
        else:
            self._settle(batch, [Rejected(reason)], began)
        if self._raises <= _RAISES_IN_A_ROW:
            return True
        self.backoff.failed(UnreachableError(f"{type(self._sink).__name__} raises {reason}"), began)
        return False

    # Settling

    def _settle(self, batch: Sequence[Held], results: Sequence[Result], began: float) -> bool:
        retries = [result for result in results if isinstance(result, Retry)]
        if len(retries) == len(results):
            asked_s = max(asked(retry.after_s) for retry in retries)
            error = UnreachableError(retries[0].reason, asked_s, says_later=True)
            return self._failed(batch, error, began)
        settled = []
        rejected = []
        skipped: list[str] = []
        sent = 0
        for held, result in zip(batch, results, strict=True):
            self._give_way()
            if result is None:
                sent += 1
            elif isinstance(result, Retry):
                pause_s = max(self.backoff.pause_s(held.times_sent), asked(result.after_s))
                self._backlog.send_later(held, pause_s)
                continue
            elif isinstance(result, Rejected):
                rejected.append((held, result.reason))
                continue
            elif isinstance(result, Skipped):
                skipped.append(result.reason)
            settled.append(held)
        for counts in self._every_counts:
            counts.sent += sent
            counts.skipped += len(skipped)
            counts.skipped_reasons.update(Counter(filter(None, skipped)))
        self._done(settled)
        if not self._reject(rejected, began):
            return False
        if sent or rejected:  # of what is only skipped, the receiver may not have heard
            self._heard()
        return True

    def _heard(self) -> bool:
        """The sink took spans, or said what is wrong with them: it works."""
        self.backoff.worked()
        self._worked += 1
        self._most = min(self._most * 2, self._policy.batch_size)
        return True

    def _reject(self, rejected: Sequence[tuple[Held, str]], began: float) -> bool:
        """Put spans to the dead letters. Where these cannot be written, they are sent again."""
        try:
            if rejected:
                self._letters.add((held.kept, reason) for held, reason in rejected)
        except OSError as error:
            self._backlog.put_back([held for held, _ in rejected])
            self.backoff.failed(
                UnreachableError(f"{self._letters.path} cannot be written: {error.strerror or error}"), began
            )
            return False
        reasons = Counter(reason for _, reason in rejected)
        for counts in self._every_counts:
            counts.rejected.update(reasons)
        self._done([held for held, _ in rejected])
        return True

    def _done(self, batch: Sequence[Held]) -> None:
        for held in batch:
            self._tail.settle([held.place])
            self._backlog.settled(held)
            if held.fault is not None:
                for counts in self._every_counts:
                    counts.processor_faults[held.fault] += 1
            self._give_way()

    def _save(self) -> None:
        evicted = self._cursor.counts.evicted
        if evicted != self._evicted:
            self._every_counts[1].evicted += evicted - self._evicted
            self._evicted = evicted
        self._tail.save()
