"""`findings.json`: every finding in one document, as `millstream profile --json` prints it."""

from pathlib import Path
from typing import Any

from millstream.profiler.engine import Profile
from millstream.profiler.renderers.files import outcome, write_json

OFF = "not asked for, by --forecast or eval.general.profiler.token_usage_forecast"


def findings(profile: Profile) -> dict[str, Any]:
    """The document: JSON values, structs and lists of structs."""
    return {
        "source": profile.source,
        "requests": outcome(profile.requests),
        "latency": outcome(profile.latency),
        "tokens": outcome(profile.tokens),
        "self_time": outcome(profile.self_time),
        "critical_path": outcome(profile.critical_path),
        "concurrency": outcome(profile.concurrency),
        "retries": outcome(profile.retries),
        "cost": outcome(profile.cost),
        "cache": outcome(profile.cache),
        "forecast": outcome(profile.forecast) or {"refused": OFF},
        "oddities": profile.table.oddities,
    }


def write(profile: Profile, path: Path) -> None:
    """Write the file."""
    write_json(path, findings(profile))
