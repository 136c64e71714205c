"""What a sink has not had yet of a journal, told from its state on disk, whoever delivers at this moment."""

from collections import Counter, defaultdict
from pathlib import Path

import msgspec

from millstream.deliver.ahead import Ahead
from millstream.deliver.cursor import Counts, Place, SinkState, known_sinks, read_state
from millstream.store.segments import list_segments, may_go_on


class SinkStatus(msgspec.Struct, frozen=True):
    """One sink of a journal.

    Attributes:
        left: spans that have ended, or were interrupted, and are not settled; `None` where nobody can tell.
        counts: what became of the others, as of the last time it was kept, about once a second.
    """

    name: str
    left: int | None
    counts: Counts


def sink_statuses(home: Path) -> list[SinkStatus]:
    """Every sink that was ever delivered to from a home, by name."""
    statuses = []
    for name in known_sinks(home):
        try:
            state = read_state(home, name)
            statuses.append(SinkStatus(name, undelivered(home, state).total(), state.counts))
        except (OSError, msgspec.DecodeError):
            statuses.append(SinkStatus(name, None, Counts()))
    return statuses


def undelivered(home: Path, state: SinkState) -> "Counter[str]":
    """How many spans of each segment a sink has not settled, by the segment's name.

    Spans that will turn out to be one call with another count, too. Those that were open in a process that
    died count in its last segment.
    """
    left: Counter[str] = Counter()
    of_writer: defaultdict[str, list[str]] = defaultdict(list)
    for segment in list_segments(home):
        if segment.path.stem not in state.done:
            of_writer[segment.writer].append(segment.path.stem)
    for writer, names in of_writer.items():
        known = {name: state.segments[name] for name in names if name in state.segments}
        ahead = Ahead(home / "journal", Place(names[0], 0), ())
        ahead.count(names, known)
        left.update(ahead.counts)
        left.update({name: len(progress.owed) for name, progress in known.items()})
        is_over = any(progress.over for progress in known.values())
        if not (is_over or ahead.is_written or may_go_on(writer)):
            left[names[-1]] += len(ahead.open_ids)
    return +left
