"""What was evaluated, in a form that two runs can compare: may the results of one go on in the other?"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from millstream.evaluation.outputs import WORKFLOW_OUTPUT
from millstream.evaluation.results import ItemResult
from millstream.workflow.embedders import LocalConfig
from millstream.workflow.validation import join_path

_LOOPBACK_PORT: Final = re.compile(r"(?<=://)(localhost|127\.0\.0\.1|\[::1\]):\d+")
_MAX_NAMED: Final = 5
_MAX_NAME: Final = 1000
"""Characters of an option that may be the name of a model or a file."""
_MISSING: Final = object()


def evaluated_config(effective: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a workflow file that answers depend on.

    Left out are `eval` (each score is compared with its evaluator, each item of the dataset by itself),
    telemetry, and ports of servers on this machine, which change whenever they are started.

    Args:
        effective: the whole file with secrets masked.
    """
    kept = {key: value for key, value in effective.items() if key != "eval"}
    if isinstance(kept.get("general"), Mapping):
        kept["general"] = {key: value for key, value in kept["general"].items() if key != "telemetry"}
    return {key: _without_ports(value) for key, value in kept.items() if value}


def differences(before: Any, now: Any) -> str:
    """Which keys differ, as a text of dot paths with the old and the new value; empty when none does."""
    paths = list(_differing(before, now, ""))
    named = "; ".join(f"{path} was {_shown(old)}, is {_shown(new)}" for path, old, new in paths[:_MAX_NAMED])
    return named + (f"; and {len(paths) - _MAX_NAMED} more" if len(paths) > _MAX_NAMED else "")


def _differing(before: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            below = f"{path}.{key}" if path else str(key)
            yield from _differing(before.get(key, _MISSING), now.get(key, _MISSING), below)
    elif before != now:
        yield path, before, now


def _without_ports(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_ports(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_ports(item) for item in value]
    return _LOOPBACK_PORT.sub(r"\1", value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "not there"
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"  # noqa: PLR2004  # a line


def evaluator_fingerprint(options: Mapping[str, Any], effective: Mapping[str, Any], directory: Path) -> str:
    """Of all that an evaluator's scores depend on, beside the item: 16 hex digits.

    That are its options, and the models, embedders, files and answers of other runs that they name. A judge
    of another model, or a function in a file that was changed, is another evaluator.

    Args:
        options: of the evaluator, with `_type`.
        effective: the whole workflow file with secrets masked.
        directory: what files in the options are relative to.
    """
    named = sorted({text for text in _texts(options) if len(text) <= _MAX_NAME})
    models = {
        f"{section}.{text}": _made_by(section, text, effective[section][text])
        for section in ("llms", "embedders")
        for text in named
        if text in (effective.get(section) or {})
    }
    files = {text: _file_hash(directory, text.partition(":")[0]) for text in named}
    return _digest([options, models, files])


def _made_by(section: str, name: str, entry: Mapping[str, Any]) -> Any:
    """What a model's answers or an embedder's vectors depend on."""
    if section == "embedders" and entry["_type"] == "local":  # another model may be in the folder by now
        folder = LocalConfig(model_name=entry["model_name"]).folder(join_path(section, name))
        return folder.digest()
    return _without_ports(entry)


def answer_fingerprint(result: ItemResult, row: Mapping[str, Any]) -> str:
    """Of all that an evaluator sees of an item: 16 hex digits. Spans are told by their trace."""
    seen = (result.id, result.rep, result.question, result.expected, result.answer, result.trace_id)
    return _digest([*seen, None if result.error is None else str(result.error), row])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)


def _file_hash(directory: Path, name: str) -> str | None:
    """Of a file of this name, of a Python module, or of a run's answers; `None` where there is none."""
    paths = [directory / name, directory / f"{name}.py"]
    if "/" in name:  # the output folder of another run, which a judge compares with
        paths.append(Path(name) / WORKFLOW_OUTPUT)
    for path in paths:
        try:
            if path.is_file():
                with path.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError):  # a text that can be no file
            continue
    return None


def _digest(value: Any) -> str:
    text = json.dumps(value, default=str)
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()
