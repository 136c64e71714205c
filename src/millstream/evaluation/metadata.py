"""`config_metadata.json`: how a run was started, what it evaluated, and whether it came to its end."""

import json
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from millstream import sources
from millstream.errors import ConfigError
from millstream.evaluation.files import json_bytes, write_file
from millstream.evaluation.fingerprint import differences, evaluated_config
from millstream.evaluation.outputs import METADATA
from millstream.evaluation.prepare import Prepared
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.secrets import is_secret_key, is_secret_variable, masked
from millstream.workflow.yaml_file import parse_yaml

FINISHED: Final = "finished"
RUNNING: Final = "running"
_DEFAULT: Final = re.compile(r"\$\{(\w+):-[^}]*\}")
_ENDLESS: Final = 1 << 30


class Metadata:
    """The file of one output folder.

    Args:
        folder: the output folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / METADATA
        self.content: dict[str, Any] = {}
        self.before = _read(self._path)
        """What an earlier run left; empty without one."""

    def write(self, **changes: Any) -> None:
        """Change the file.

        Raises:
            StorageError: it cannot be written.
        """
        self.content = {**self.content, **changes, "timestamp": _now()}
        write_file(self._path, json_bytes(self.content, indent=2))

    def describe_scoring(self, description: Mapping[str, Any]) -> None:
        """Describe a run that asks nobody: who was asked, and how often, stays as it was."""
        asked: dict[str, Any] = {key: self.before[key] for key in ("endpoint", "reps") if key in self.before}
        self.content = {**self.before, **description, **asked}

    def check_resumable(self, config: WorkflowConfig, home: Path, endpoint: str | None) -> None:
        """Refuse to go on with results of another workflow or endpoint.

        Args:
            config: the workflow that would go on.
            home: the folder that it records into.
            endpoint: where it is served, if it is elsewhere.

        Raises:
            ConfigError: the workflow, its endpoint or the folder of recordings is another; says which.
        """
        if not self.before:
            raise ConfigError(
                f"{self._path} is missing, so --resume cannot tell what the results are of; leave it out"
            )
        earlier, now = self.before.get("endpoint"), masked(endpoint)
        if earlier != now:
            here = "the workflow file's own workflow"
            raise ConfigError(
                f"--resume: the results in {self._path.parent} are of {earlier or here}, not of"
                f" {now or here}. Put --endpoint as it was, or leave out --resume to start over."
            )
        changed = differences(self.before.get("evaluated"), evaluated_config(config.raw_effective))
        if changed:
            raise ConfigError(
                f"--resume: the results in {self._path.parent} are of another workflow: {changed}. "
                "Put it back, or leave out --resume to start over."
            )
        earlier_home = self.before.get("journal_home")
        if earlier_home not in (None, str(home)):
            raise ConfigError(
                f"--resume: the earlier items were recorded in {earlier_home}; set MILLSTREAM_HOME to it."
            )


def describe_run(
    config: WorkflowConfig,
    prepared: Prepared,
    *,
    overrides: Sequence[tuple[str, str]],
    reps: int,
    resume: bool,
    skip_workflow: bool,
    endpoint: str | None = None,
) -> Mapping[str, Any]:
    """The content of the file for a run that starts."""
    return {
        "config_file": str(config.path),
        "config_file_type": config.path.suffix.removeprefix("."),
        "overrides": masked_overrides(overrides),
        "dataset": prepared.dataset.path,
        "result_json_path": "$",
        "skip_workflow": skip_workflow,
        "skip_completed_entries": resume,
        "reps": reps,
        "endpoint": masked(endpoint),
        "workflow": config.name,
        "dataset_sha256": prepared.dataset.sha256,
        "items": len(prepared.dataset.items),
        "python": platform.python_version(),
        "evaluators": [metric.name for metric in prepared.metrics],
    }


def masked_overrides(overrides: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Overrides as they may be written down: `[path, value]`, secrets masked as in `config_effective.yml`.

    A value is hidden by any key of its path, by the keys inside it, and where it is the password of a URL or
    the default of a secret variable. A value without a secret stays as it was typed.
    """
    return [[path, _masked_text(path, text)] for path, text in overrides]


def _masked_text(path: str, text: str) -> str:
    text = _DEFAULT.sub(
        lambda found: f"${{{found[1]}:-}}" if is_secret_variable(found[1]) else found[0], text
    )
    value = parse_yaml(text, f"the value of --override {path}")
    secret = any(is_secret_key(key) for key in path.split("."))
    shown = masked(value, "headers" if secret else "")  # below headers every value is hidden
    if shown == value:
        return text
    if isinstance(shown, str):
        return shown
    return yaml.safe_dump(
        shown, default_flow_style=True, sort_keys=False, allow_unicode=True, width=_ENDLESS
    ).strip()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _now() -> str:
    return datetime.fromtimestamp(sources.active.clock.wall_ns() / 1e9, UTC).isoformat()
