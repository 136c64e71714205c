"""`findings.json`: every finding in one document, as `millstream profile --json` prints it."""

from pathlib import Path
from typing import Any

import msgspec

from millstream.profiler.engine import Profile
from millstream.profiler.renderers.files import outcome, write_json
from millstream.profiler.results import Failure

REFUSED = "this version makes no forecast"


def findings(profile: Profile) -> dict[str, Any]:
    """The document: JSON values, structs and lists of structs."""
    return {
        "source": profile.source,
        "requests": outcome(profile.requests),
        "latency": outcome(profile.latency),
        "tokens": outcome(profile.tokens),
        "self_time": outcome(profile.self_time),
        "critical_path": outcome(profile.critical_path),
        "concurrency": _concurrency(profile),
        "forecast": {"refused": REFUSED},
        "oddities": profile.table.oddities,
    }


def _concurrency(profile: Profile) -> dict[str, Any]:
    """The figures without the list of spikes, which is as long as the record."""
    found = profile.concurrency
    if isinstance(found, Failure):
        return {"error": found.error}
    figures = msgspec.structs.asdict(found)
    figures["spikes"] = len(figures.pop("spike_intervals"))
    return figures


def write(profile: Profile, path: Path) -> None:
    """Write the file."""
    write_json(path, findings(profile))
