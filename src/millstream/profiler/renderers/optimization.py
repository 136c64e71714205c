"""`inference_optimization.json`: run time, LLM latency and throughput with intervals."""

from pathlib import Path
from typing import Any

from millstream.profiler.engine import Profile
from millstream.profiler.renderers.files import outcome, write_json


def optimization(profile: Profile) -> dict[str, Any]:
    """The document. Analyses that are off, or not in this version, are null."""
    return {
        "confidence_intervals": outcome(profile.confidence),
        "common_prefixes": outcome(profile.common_prefixes),
        "token_uniqueness": outcome(profile.token_uniqueness),
        "workflow_runtimes": outcome(profile.workflow_runtimes),
        "dynamo_metrics": None,
    }


def write(profile: Profile, path: Path) -> None:
    """Write the file."""
    write_json(path, optimization(profile))
