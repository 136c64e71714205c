"""What became of spans in all deliveries of this process: what `millstream.stats()` tells of them."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from millstream.deliver.cursor import Counts
from millstream.record import recorder

_EVICTED: Final = "removed from the journal before it was sent"
_running: Final[list[tuple[Path, str, Counts]]] = []
_past: Final[dict[tuple[Path, str], Counts]] = {}


def begin(home: Path, name: str, counts: Counts) -> None:
    """A delivery counts from now on."""
    _running.append((home, name, counts))


def end(home: Path, name: str, counts: Counts) -> None:
    """One does not count any more; that may be said twice."""
    if not any(one[2] is counts for one in _running):
        return
    _running[:] = [one for one in _running if one[2] is not counts]
    add(_past.setdefault((home, name), Counts()), counts)


def stats_of(home: Path) -> dict[str, Any]:
    """What `told` says of the deliveries from a home; nothing where there were none."""
    sinks: dict[str, Counts] = {}
    for place, name, counts in [*((*key, counts) for key, counts in list(_past.items())), *_running]:
        if place == home:
            add(sinks.setdefault(name, Counts()), counts)
    return told(sinks) if sinks else {}


def told(sinks: Mapping[str, Counts]) -> dict[str, Any]:
    """Counts for people: `{sent, retried, rejected, dropped, sinks: {name: {all of Counts}}}`."""
    total = Counts()
    for counts in sinks.values():
        add(total, counts)
    return {
        "sent": total.sent,
        "retried": total.retried,
        "rejected": dict(total.rejected),
        "dropped": dict(total.dropped) | ({_EVICTED: total.evicted} if total.evicted else {}),
        "sinks": {name: msgspec.to_builtins(counts) for name, counts in sinks.items()},
    }


def add(total: Counts, counts: Counts) -> None:
    """Add counts to others. They may be growing at this moment."""
    total.sent += counts.sent
    total.retried += counts.retried
    total.skipped += counts.skipped
    total.evicted += counts.evicted
    total.rejected = Counter(total.rejected) + Counter(dict(counts.rejected))
    total.skipped_reasons = Counter(total.skipped_reasons) + Counter(dict(counts.skipped_reasons))
    total.dropped = Counter(total.dropped) + Counter(dict(counts.dropped))
    total.processor_faults = Counter(total.processor_faults) + Counter(dict(counts.processor_faults))


def _after_fork() -> None:
    _running.clear()
    _past.clear()


os.register_at_fork(after_in_child=_after_fork)
recorder.state.delivered = stats_of
