"""Whether this process records, and to where: the recorder in use and what it counts."""

import os
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from millstream import context, sources
from millstream.errors import StorageError
from millstream.record import faults
from millstream.record.journal import DEFAULT_SEGMENT_BYTES, Journal

_recorders: Final["weakref.WeakSet[Recorder]"] = weakref.WeakSet()
"""All of them, for forks: one that is not in use now may be again."""


class Recorder:
    """Writes spans to one journal.

    Args:
        home: the folder of recordings.
        clock: where time comes from.
        ids: where ids come from.
        capture_content: whether inputs and outputs are kept; structure, usage and times always are.
        segment_bytes: size of a journal segment before the next begins.
    """

    def __init__(
        self,
        home: Path,
        *,
        clock: sources.Clock,
        ids: sources.Ids,
        capture_content: bool = True,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    ) -> None:
        self.home = home
        self.clock = clock
        self.ids = ids
        self.monotonic_ns = clock.monotonic_ns
        self.capture_content = capture_content
        self.generation = 0
        """Grows at every fork, so that a child knows the spans that its parent has open."""
        self.remote_parent = context.parse_traceparent(os.environ.get("TRACEPARENT", ""))
        self.journal = Journal(home, segment_bytes)
        _recorders.add(self)

    def stats(self) -> dict[str, Any]:
        """What became of the spans of this process: see `millstream.stats`."""
        made = self.journal.ended
        lost = self.journal.lost
        faulty = {reason: n for reason, n in faults.counts.items() if not reason.startswith("the journal in")}
        dropped = {**faulty, **({"journal cannot be written": lost} if lost else {})}
        return {
            "made": made,
            "stored": made - lost,
            "sent": 0,
            "retried": 0,
            "rejected": {},
            "dropped": dropped,
        }

    def close(self) -> None:
        """Let go of the journal's file."""
        self.journal.close()

    def after_fork(self) -> None:
        """In a forked child: our own segment, our own counts, and no claim on the parent's open spans."""
        self.generation += 1
        self.journal.forget_parent()


NOT_RECORDING: Final = Recorder(Path(), clock=sources.SystemClock(), ids=sources.active.ids)
"""Stands where a recorder must be while recording is off; nothing is written to it."""


class _Active:
    recorder: Recorder | None = None
    blocks: ClassVar[list["recording"]] = []
    """The recordings that were configured and not left, the one in use last."""
    resolved = False
    """Whether the environment has been read."""
    resolving = False
    """Whether it is being read."""


state: Final = _Active
_resolving: Final = threading.RLock()  # a signal handler may record, too


def get() -> Recorder | None:
    """The recorder in use; `None` while recording is off."""
    return state.recorder if state.resolved else _resolve()


def _resolve() -> Recorder | None:
    """The first use in this process: read the environment, see to threads and forks."""
    with _resolving:
        if state.resolving:  # a signal handler, in the middle of the lines below
            faults.counts["recording was only beginning"] += 1
        elif not state.resolved:
            state.resolving = True
            try:
                _install_hooks()
                if not _disabled():
                    state.recorder = Recorder(
                        journal_home(),
                        clock=sources.active.clock,
                        ids=sources.active.ids,
                        capture_content=_captures_content(),
                    )
            except Exception as error:  # noqa: BLE001  # telemetry never breaks the user's program
                faults.swallow(error, "recording could not begin")
            finally:
                state.resolved, state.resolving = True, False
    return state.recorder


_FALSE: Final = frozenset({"false", "0", "no", "off"})
_TRUE: Final = frozenset({"true", "1", "yes", "on"})


def _disabled() -> bool:
    return any(
        os.environ.get(name, "").lower() in _TRUE for name in ("MILLSTREAM_DISABLED", "OTEL_SDK_DISABLED")
    )


def _captures_content() -> bool:
    return os.environ.get("MILLSTREAM_CAPTURE_CONTENT", "").lower() not in _FALSE


def _install_hooks() -> None:
    from millstream.record import threads  # noqa: PLC0415  # patches threading only where something is recorded

    threads.install()
    os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for recorder in list(_recorders):
        recorder.after_fork()


def journal_home() -> Path:
    """The folder recorded into: that of the recording in use, else `MILLSTREAM_HOME`, else `.millstream`."""
    if state.recorder is not None:
        return state.recorder.home
    return Path(os.environ.get("MILLSTREAM_HOME") or ".millstream").absolute()


class recording:  # noqa: N801  # used as a function and as a block
    """Configure recording for the process, or for the block of a `with` statement.

    Args:
        home: the folder of recordings; default `MILLSTREAM_HOME`, else `.millstream`.
        capture_content: whether inputs and outputs are kept; default `MILLSTREAM_CAPTURE_CONTENT`, else yes.
        enabled: `False` records nothing; so does `MILLSTREAM_DISABLED`, whatever is said here.
        clock: where time comes from.
        ids: where ids come from.
        segment_bytes: size of a journal segment before the next begins.
    """

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        *,
        capture_content: bool | None = None,
        enabled: bool = True,
        clock: sources.Clock | None = None,
        ids: sources.Ids | None = None,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    ) -> None:
        default = get()
        if capture_content is None:
            capture_content = _captures_content()
        self._clock = clock or sources.active.clock
        self._ids = ids or sources.active.ids
        self._recorder = None
        if enabled and not _disabled():
            self._recorder = Recorder(
                Path(home).absolute() if home is not None else journal_home(),
                clock=self._clock,
                ids=self._ids,
                capture_content=capture_content,
                segment_bytes=segment_bytes,
            )
        self._below = (default, sources.active.clock, sources.active.ids)
        state.blocks.append(self)
        state.recorder, sources.active.clock, sources.active.ids = self._recorder, self._clock, self._ids

    @property
    def home(self) -> Path:
        """The folder recorded into."""
        return self._recorder.home if self._recorder else journal_home()

    def stats(self) -> dict[str, Any]:
        """As `millstream.stats()`, of this recording."""
        return (self._recorder or NOT_RECORDING).stats()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self not in state.blocks:
            return
        position = state.blocks.index(self)
        if position == len(state.blocks) - 1:
            state.recorder, sources.active.clock, sources.active.ids = self._below
        else:  # another, begun later, is still in use: it takes our place over what was below us
            state.blocks[position + 1]._below = self._below  # noqa: SLF001
        state.blocks.remove(self)
        if self._recorder:
            self._recorder.close()


def require_stored() -> None:
    """See that every span that ended is in the journal, for programs whose subject is the recording.

    Raises:
        StorageError: some could not be written.
    """
    journal = (get() or NOT_RECORDING).journal
    if journal.lost:
        raise StorageError(
            f"{journal.lost} spans could not be recorded in {journal.home}: {journal.error}. "
            "Make room, or set MILLSTREAM_HOME to a folder that can be written"
        )


def stats() -> dict[str, Any]:
    """What became of the spans of this process.

    Returns:
        `{"made": n, "stored": n, "sent": n, "retried": n, "rejected": {reason: n}, "dropped": {reason: n}}`;
        `made` counts ended spans, `dropped` every span or part of one that was lost, and why.
    """
    return (get() or NOT_RECORDING).stats()
