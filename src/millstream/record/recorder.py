"""Whether this process records, and to where: the recorder in use and what it counts."""

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from millstream import context, sources
from millstream.errors import StorageError
from millstream.record import faults, policy
from millstream.record.blobs import NO_ROOM, Blobs
from millstream.record.journal import DEFAULT_SEGMENT_BYTES, Journal
from millstream.record.policy import DEFAULT_REDACTION, Policy, Processor
from millstream.record.redaction import Redaction
from millstream.record.sampling import Sampling
from millstream.record.tally import Tally

if TYPE_CHECKING:
    from millstream.record import _lane

_recorders: Final["weakref.WeakSet[Recorder]"] = weakref.WeakSet()
"""All of them, for forks: one that is not in use now may be again."""


class Recorder:
    """Writes spans to one journal.

    Args:
        home: the folder of recordings.
        clock: where time comes from.
        ids: where ids come from.
        policy: what is kept of spans, and of which.
        segment_bytes: size of a journal segment before the next begins.
    """

    def __init__(
        self,
        home: Path,
        *,
        clock: sources.Clock,
        ids: sources.Ids,
        policy: Policy,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    ) -> None:
        self.home = home
        self.clock = clock
        self.ids = ids
        self.monotonic_ns = clock.monotonic_ns
        self.wall_ns = clock.wall_ns
        self.ready_traces: list[str] = getattr(ids, "ready_traces", [])
        self.ready_spans: list[str] = getattr(ids, "ready_spans", [])
        self.capture_content = policy.capture_content
        self.content_limit = policy.content_limit
        self.processors = policy.processors
        self.redaction = policy.redaction
        self.suspects = None if policy.redaction is None else policy.redaction.suspects
        self.redact = _as_it_is if policy.redaction is None else policy.redaction.json
        self.redact_fields = _as_it_is if policy.redaction is None else policy.redaction.fields
        self.sampling = policy.sampling or Sampling()
        self.bounds = None if policy.sampling is None else policy.sampling.bounds()
        """Which traces are sampled; `None` where all are."""
        self.samples_by_parent = policy.sampling is not None and policy.sampling.by_parent
        self.holds = self.sampling.keeps_some
        self.not_sampled = Tally()
        """Traces that were not recorded."""
        self.dropped = Tally()
        """Spans that a processor dropped."""
        self.generation = 0
        """Grows at every fork, so that a child knows the spans that its parent has open."""
        self.workload_id = os.environ.get("MILLSTREAM_NAME") or None
        """Of spans that no scope is around."""
        self.remote_parent = context.environment_parent()
        self.journal = Journal(home, segment_bytes)
        self.blobs = Blobs(self.journal, self.redact)
        self.lane: _lane.Lane | None = None
        """Opens and ends the commonest spans, where it is compiled."""
        _recorders.add(self)

    def stats(self) -> dict[str, Any]:
        """What became of the spans of this process: see `millstream.stats`."""
        ended = self.journal.ended
        lost = self.journal.lost
        faulty = {reason: n for reason, n in faults.counts.items() if not reason.startswith("the journal in")}
        dropped = {**faulty, **({"journal cannot be written": lost} if lost else {})}
        if by_processors := self.dropped.value:
            dropped["by a processor"] = by_processors
        unsampled = self.not_sampled.value + (0 if self.lane is None else self.lane.dropped)
        if unsampled:
            dropped["traces that were not sampled"] = unsampled
        stats = {
            "made": ended + by_processors,
            "stored": ended - lost,
            "sent": 0,
            "retried": 0,
            "rejected": {},
            "dropped": dropped,
        }
        if state.delivered is not None and (delivered := state.delivered(self.home)):
            for reason, number in delivered["dropped"].items():
                dropped[reason] = dropped.get(reason, 0) + number
            stats |= {**delivered, "dropped": dropped}
        return stats

    def close(self) -> None:
        """Let go of the journal's file."""
        self.journal.close()

    def after_fork(self) -> None:
        """In a forked child: our own segment, our own counts, and no claim on the parent's open spans."""
        self.generation += 1
        self.not_sampled = Tally()
        if self.lane is not None:
            self.lane.dropped = 0
        self.dropped = Tally()
        self.journal.forget_parent()


NOT_RECORDING: Final = Recorder(
    Path(), clock=sources.SystemClock(), ids=sources.active.ids, policy=Policy(capture_content=False)
)
"""Stands where a recorder must be while recording is off; nothing is written to it."""


def _as_it_is(data: bytes) -> bytes:
    return data


class _State:
    __slots__ = ("blocks", "delivered", "recorder", "resolved", "resolving")

    def __init__(self) -> None:
        self.recorder: Recorder | None = None
        self.blocks: list[recording] = []
        """The recordings that were configured and not left, the one in use last."""
        self.resolved = False
        """Whether the environment has been read."""
        self.resolving = False
        """Whether it is being read."""
        self.delivered: Callable[[Path], dict[str, Any]] | None = None
        """What became of what a home holds where it is delivered; set by delivery."""


state: Final = _State()
_resolving = threading.RLock()  # a signal handler may record, too


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
                    recorder = Recorder(
                        journal_home(),
                        clock=sources.active.clock,
                        ids=sources.active.ids,
                        policy=policy.from_environment(),
                    )
                    recorder.lane = _lane_for(recorder)
                    state.recorder = recorder
            except Exception as error:  # noqa: BLE001  # telemetry never breaks the user's program
                faults.swallow(error, "recording could not begin")
            finally:
                state.resolved, state.resolving = True, False
    return state.recorder


def _lane_for(recorder: Recorder) -> "_lane.Lane | None":
    from millstream.record.lane import lane_for  # noqa: PLC0415  # which imports us

    return lane_for(recorder)


def _disabled() -> bool:
    return any(policy.says_yes(name) for name in ("MILLSTREAM_DISABLED", "OTEL_SDK_DISABLED"))


def _install_hooks() -> None:
    # They patch Python only where something is recorded.
    from millstream.record import processes, threads  # noqa: PLC0415

    threads.install()
    processes.install()


def _after_fork() -> None:
    global _resolving  # noqa: PLW0603
    _resolving = threading.RLock()  # another thread of the parent may have held it
    state.resolving = False
    faults.counts.clear()
    for recorder in list(_recorders):
        recorder.after_fork()


os.register_at_fork(after_in_child=_after_fork)


def journal_home() -> Path:
    """The folder recorded into: that of the recording in use, else `MILLSTREAM_HOME`, else `.millstream`."""
    if state.recorder is not None:
        return state.recorder.home
    return Path(os.environ.get("MILLSTREAM_HOME") or ".millstream").absolute()


class recording:  # noqa: N801  # used as a function and as a block
    """Configure recording for the process, or for the block of a `with` statement.

    Args:
        home: the folder of recordings; default `MILLSTREAM_HOME`, else `.millstream`.
        processors: called in turn with every span that ends, `Span -> Span | None`, before it is written;
            `None` drops it. Of a span whose processor raises no content is written.
        capture_content: whether inputs and outputs are kept; default `MILLSTREAM_CAPTURE_CONTENT`, else yes.
        content_limit: bytes of JSON above which an input or output is cut; default 1 MiB.
        redaction: what is taken out of all content; default `Redaction()`. `None` takes nothing out.
        sampling: which traces are recorded, as a `Sampling` or its rate; default what `OTEL_TRACES_SAMPLER`
            says, else all.
        enabled: `False` records nothing; so does `MILLSTREAM_DISABLED`, whatever is said here.
        clock: where time comes from.
        ids: where ids come from.
        segment_bytes: size of a journal segment before the next begins.

    Raises:
        ConfigError: an option is not what it must be.
    """

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        *,
        processors: Sequence[Processor] = (),
        capture_content: bool | None = None,
        content_limit: int | None = None,
        redaction: Redaction | None = DEFAULT_REDACTION,
        sampling: Sampling | float | None = None,
        enabled: bool = True,
        clock: sources.Clock | None = None,
        ids: sources.Ids | None = None,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    ) -> None:
        default = get()
        chosen = policy.from_environment(
            processors=processors,
            capture_content=capture_content,
            content_limit=content_limit,
            redaction=redaction,
            sampling=sampling,
        )
        self._clock = clock or sources.active.clock
        self._ids = ids or sources.active.ids
        self._recorder = None
        if enabled and not _disabled():
            self._recorder = Recorder(
                Path(home).absolute() if home is not None else journal_home(),
                clock=self._clock,
                ids=self._ids,
                policy=chosen,
                segment_bytes=segment_bytes,
            )
            self._recorder.lane = _lane_for(self._recorder)
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
    if lost := journal.lost or faults.counts[NO_ROOM]:
        what = "spans" if journal.lost else "large inputs and outputs of spans"
        raise StorageError(
            f"{lost} {what} could not be recorded in {journal.home}: {journal.error}. "
            "Make room, or set MILLSTREAM_HOME to a folder that can be written"
        )


def stats() -> dict[str, Any]:
    """What became of the spans of this process.

    Returns:
        `{"made": n, "stored": n, "sent": n, "retried": n, "rejected": {reason: n}, "dropped": {reason: n}}`;
        `made` counts ended spans, `dropped` every span or part of one that was lost, and why. Where spans are
        delivered, `sent` and so on count what this process delivered, once for each sink, whoever recorded
        it, and `sinks` says the same of each: `{name: {sent, retried, …}}`.
    """
    return (get() or NOT_RECORDING).stats()
