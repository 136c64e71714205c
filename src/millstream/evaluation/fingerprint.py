"""What was evaluated, in a form that two runs can compare: may the results of one go on in the other?"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

_LOOPBACK_PORT: Final = re.compile(r"(?<=://)(localhost|127\.0\.0\.1|\[::1\]):\d+")
_MAX_NAMED: Final = 5
_MISSING: Final = object()


def evaluated_config(effective: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a workflow file that answers depend on.

    Left out are `eval` (scores are computed anew each time, and each item of the dataset is compared by
    itself), telemetry, and ports of servers on this machine, which change whenever they are started.

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
