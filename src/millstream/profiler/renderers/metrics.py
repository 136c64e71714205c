"""`workflow_profiling_metrics.json`: bottlenecks and concurrency, under the reference's keys."""

from pathlib import Path
from typing import Any

import msgspec

from millstream.profiler.engine import Profile
from millstream.profiler.renderers.files import outcome, write_json
from millstream.profiler.results import Failure


def metrics(profile: Profile) -> dict[str, Any]:
    """The document. Analyses that are off are null."""
    return {
        "simple_stack_analysis": outcome(profile.simple_stack),
        "nested_stack_analysis": outcome(profile.nested_stack),
        "concurrency_spike_analysis": _concurrency(profile),
        "prefix_span_analysis": outcome(profile.patterns),
    }


def _concurrency(profile: Profile) -> dict[str, Any] | None:
    """The figures of concurrency with the list of spikes."""
    if not profile.config.concurrency_spike_analysis.enable:
        return None
    found, spikes = profile.concurrency, profile.spikes
    for result in (found, spikes):
        if isinstance(result, Failure):
            return {"error": result.error}
    figures = msgspec.structs.asdict(found)
    del figures["spikes"]
    return figures | {"spike_intervals": spikes}


def write(profile: Profile, path: Path) -> None:
    """Write the file."""
    write_json(path, metrics(profile))
