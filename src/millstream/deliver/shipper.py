"""One sink in the background: a thread that sends what is recorded, until it is told to end."""

import contextvars
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final, Literal

from millstream.deliver.announcing import Announcing
from millstream.deliver.cursor import Busy, Counts, Cursor
from millstream.deliver.others import left_in_all, left_of_this_process, wait_for_others
from millstream.deliver.policy import Policy
from millstream.deliver.sending import Sending, Step
from millstream.deliver.sink import Sink
from millstream.deliver.untraced import untraced
from millstream.deliver.waiting import HUNG_S, Waiting
from millstream.errors import StorageError
from millstream.record import faults
from millstream.record.policy import Processor

_TAKE_OVER_S: Final = 1.0
"""How often it is tried to take over from another process."""
_LOOK_AT_OTHERS_S: Final = 0.2
_IMPATIENT_S: Final = 2.0
"""The longest pause while somebody waits."""
_LATE_S: Final = 1.0
_GRACE_S: Final = 0.5
_COUNTING_S: Final = 10.0
_AFTER_FAULT_S: Final = 5.0
_FAULT: Final = "delivery failed, and begins anew"
_NOT_BEGUN: Final = "delivery could not begin; what is recorded stays in the journal"
_NOT_CLOSED: Final = "a sink could not be closed"


class Shipper:
    """Delivers to one sink what is recorded into a home.

    Args:
        home: the folder of recordings.
        name: the sink's.
        sink: where to; closed at the end.
        policy: how.
        processors: run on every span first.
        begin: as of `Cursor.open`.
        may_be_removed: as of `Announcing`.
        clock: seconds, monotonic.
        random: where chance comes from.

    Attributes:
        counts: what became of spans since this was made.
        announcing: what was said of the sink.
    """

    def __init__(
        self,
        home: Path,
        name: str,
        sink: Sink,
        policy: Policy,
        processors: Sequence[Processor] = (),
        *,
        begin: Literal["all", "now"] = "now",
        may_be_removed: bool = False,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.counts = Counts()
        self.announcing = Announcing(home, name, may_be_removed=may_be_removed)
        self._home = home
        self._sink = sink
        self._processors = processors
        self._begin = begin
        self._clock = clock
        self._random = random or Random()  # noqa: S311  # no secret
        self._cursor: Cursor | None = None
        self._sending: Sending | None = None
        self._obstacle: Exception | None = None
        """Why nothing is sent at all."""
        self._step_since: float | None = None
        """When the step began that is under way."""
        self._waiting: list[Waiting] = []
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._untraced = False
        self._pid = os.getpid()
        _shippers.add(self)

    def start(self) -> None:
        """Begin. What ends from now on is delivered, if not what is there."""
        if self._begin == "now":
            self._open_cursor()  # it says what "now" is
        thread = threading.Thread(target=self._run, name=f"millstream deliver {self.name}", daemon=True)
        try:
            contextvars.Context().run(thread.start)  # it belongs to no span
        except RuntimeError as error:  # no more threads, or the interpreter shuts down
            faults.swallow(error, _NOT_BEGUN)
        else:
            self._thread = thread

    @property
    def is_inherited(self) -> bool:
        """Whether this is a copy in a forked child: the parent delivers."""
        return self._pid != os.getpid()

    def ask(self, timeout_s: float, *, closing: bool = False) -> Waiting:
        """Have all that has ended settled; to be waited for by `wait`."""
        now = self._clock()
        waiting = Waiting(now, now + timeout_s, closing=closing)
        if not self.is_inherited:
            self._waiting.append(waiting)
            self._wake.set()
        return waiting

    def wait(self, waiting: Waiting) -> int:
        """Wait for what was asked; spans that are left."""
        if self.is_inherited:
            left = wait_for_others(self._home, self.name, waiting.until - self._clock())
            waiting.done(left, None)
        elif self._thread is None:
            waiting.done(left_in_all(self._home, self.name), self._obstacle)
        else:
            self._wait_for_thread(waiting)
        assert waiting.left is not None  # noqa: S101  # for mypy
        return waiting.left

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to let go of the cursor and the sink."""
        if self._thread is not None and self._step_since is None:
            self._thread.join(max(timeout_s, 0))

    def _wait_for_thread(self, waiting: Waiting) -> None:
        thread = self._thread
        while thread is not None and thread.is_alive():
            if waiting.wait(min(max(waiting.until + _GRACE_S - self._clock(), 0.05), 1.0)):
                return
            now, since = self._clock(), self._step_since
            if since is None:
                if now > waiting.until + _COUNTING_S:  # a journal of many gigabytes
                    left = self._sending.holds if self._sending is not None else 0
                    self._stop_waiting(waiting, max(left, 1), "there are more than could be counted in time")
                    return
            elif now > waiting.until + _GRACE_S or (
                waiting.closing and now - max(since, waiting.since) > HUNG_S
            ):
                why = f"it has not answered for {now - since:.0f} s"
                self._stop_waiting(waiting, left_in_all(self._home, self.name), why)
                return
        if waiting.left is None:
            self._stop_waiting(waiting, left_in_all(self._home, self.name), "its thread has ended")

    def _stop_waiting(self, waiting: Waiting, left: int, why: str) -> None:
        if waiting.closing:
            self._ended = True
        waiting.done(left, TimeoutError(why))

    # In the thread

    def _run(self) -> None:
        while not self._ended:
            self._untraced = self._untraced or untraced()
            try:
                pause_s = self._round()
            except BaseException as fault:  # noqa: BLE001  # nothing ends this thread; it goes on at the cursor
                self._step_since = None
                self._let_go()
                faults.swallow(fault, _FAULT)
                pause_s = _AFTER_FAULT_S
            if pause_s > 0 and not self._ended:
                self._wake.wait(pause_s)
                self._wake.clear()
        self._let_go()
        try:
            self._sink.close()
        except BaseException as fault:  # noqa: BLE001  # anybody's sink
            faults.swallow(fault, _NOT_CLOSED)

    def _round(self) -> float:
        """One step; seconds until the next."""
        asked = list(self._waiting)
        if self._sending is None and not self._open():
            return self._stand_by(asked)
        sending = self._sending
        assert sending is not None  # noqa: S101  # for mypy
        new = [waiting for waiting in asked if not waiting.began]
        marks = sending.marks() if new else {}
        for waiting in new:
            waiting.begin(sending.backoff, marks)
        self._step_since = self._clock()
        step = sending.step(at_once=bool(new))
        self._step_since = None
        if not self._ended and not any(waiting.closing for waiting in asked):
            self.announcing.look(sending.backoff, self.counts, self._clock(), sending.left)
        return self._after(step, sending, asked)

    def _after(self, step: Step, sending: Sending, asked: Sequence[Waiting]) -> float:
        """See to those who wait; seconds until the next step."""
        backoff, now = sending.backoff, self._clock()
        if step is Step.FAILED and asked and not getattr(backoff.error, "retry_after_s", None):
            backoff.retry_at = min(backoff.retry_at, now + _IMPATIENT_S)
        settled = step is Step.NOTHING and not sending.holds
        for waiting in asked:
            unsettled = sending.unsettled(waiting.marks)
            # Who records on while delivery ends is waited for, but not for ever.
            enough = unsettled == 0 and not (waiting.closing and now < waiting.since + _LATE_S)
            gives_up = step is Step.FAILED and waiting.gives_up(backoff)
            if settled or enough or gives_up or waiting.until <= now:
                left = sending.left() if waiting.closing or unsettled is None else unsettled
                self._done(waiting, left, backoff.error)
        if step is Step.FULL or (step is Step.SOME and self._waiting):
            return 0
        if step in (Step.FAILED, Step.PAUSED):
            until = backoff.retry_at
        else:
            until = min(now + self.policy.flush_interval_s, sending.next_due())
        return max(0.001, min([until, *(waiting.until for waiting in self._waiting)]) - self._clock())

    def _done(self, waiting: Waiting, left: int, why: Exception | None) -> None:
        self._waiting.remove(waiting)
        self._ended = self._ended or waiting.closing
        waiting.done(left, why)

    # Its place in the journal

    def _open_cursor(self) -> bool:
        try:
            self._cursor = Cursor.open(self._home, self.name, self._begin)
        except (Busy, StorageError) as error:
            self._obstacle = error
            return False
        self._obstacle = None
        return True

    def _open(self) -> bool:
        if self._cursor is None and not self._open_cursor():
            return False
        assert self._cursor is not None  # noqa: S101  # for mypy
        self._sending = Sending(
            self._home,
            self._cursor,
            self._sink,
            self.policy,
            self._processors,
            counts=self.counts,
            clock=self._clock,
            random=self._random,
        )
        return True

    def _stand_by(self, asked: Sequence[Waiting]) -> float:
        """Another process delivers, or nobody can; seconds until it is tried again."""
        if not isinstance(self._obstacle, Busy):
            self.announcing.cannot(self._obstacle)
            for waiting in asked:
                self._done(waiting, left_in_all(self._home, self.name), self._obstacle)
            asked = ()
        for waiting in asked:
            left = left_of_this_process(self._home, self.name)
            if not left or waiting.until <= self._clock():
                self._done(waiting, left, self._obstacle)
        return _LOOK_AT_OTHERS_S if self._waiting else self._random.uniform(0.5, 1) * _TAKE_OVER_S

    def _let_go(self) -> None:
        sending, cursor = self._sending, self._cursor
        self._sending = self._cursor = None
        if sending is not None:
            sending.close()
        elif cursor is not None:
            cursor.close()


_shippers: Final["weakref.WeakSet[Shipper]"] = weakref.WeakSet()


def _after_fork() -> None:
    """A forked child delivers nothing: its parent does."""
    for shipper in list(_shippers):
        shipper.counts = Counts()


os.register_at_fork(after_in_child=_after_fork)
