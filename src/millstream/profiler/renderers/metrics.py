"""`workflow_profiling_metrics.json`: bottlenecks and concurrency, under the reference's keys."""

from pathlib import Path
from typing import Any

from millstream.profiler.engine import Profile
from millstream.profiler.renderers.files import outcome, write_json


def metrics(profile: Profile) -> dict[str, Any]:
    """The document. Analyses that are off, or not in this version, are null."""
    spikes = profile.config.concurrency_spike_analysis.enable
    return {
        "simple_stack_analysis": outcome(profile.simple_stack),
        "nested_stack_analysis": outcome(profile.nested_stack),
        "concurrency_spike_analysis": outcome(profile.concurrency) if spikes else None,
        "prefix_span_analysis": None,
    }


def write(profile: Profile, path: Path) -> None:
    """Write the file."""
    write_json(path, metrics(profile))
