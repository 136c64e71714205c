"""`general.telemetry.tracing`: from a section of a workflow file to a sink, without the network."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

from msgspec import Meta

from millstream.deliver.file import FileSink
from millstream.deliver.options import Accepted, collected, component, raise_all
from millstream.deliver.plugins import EXPORTERS, Section
from millstream.deliver.policy import Policy, policy_for
from millstream.deliver.processors import build_processors
from millstream.deliver.sink import Sink
from millstream.errors import ConfigError
from millstream.record.policy import Processor

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Configured(NamedTuple):
    """One exporter.

    Attributes:
        name: its key in the workflow file, and the name of its cursor and of its dead letters.
        sink: where it sends to.
        policy: how it is sent.
        processors: run on every span that is sent there, in this order.
    """

    name: str
    sink: Sink
    policy: Policy
    processors: tuple[Processor, ...]


def build(name: str, section: Mapping[str, Any], where: str = "") -> Configured:
    """An exporter from its section. Nothing is contacted or written.

    Args:
        name: its key.
        section: `_type` and its options, or `type` and `config`. Beside the sink's own: `processors`,
            `batch_size` (spans), `flush_interval` (s), `max_retries` (before sending pauses; nothing is ever
            dropped for it), `shutdown_timeout` (s).
        where: path of the section in the workflow file, for errors.

    Raises:
        ConfigError: everything that is seen to be wrong, one problem a line.
        MissingExtraError: something that the exporter needs is not installed.
    """
    where = where or f"general.telemetry.tracing.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: {name!r} names files; use letters, digits, _ . and -, at most 100")
    problems: list[str] = []
    with collected(problems):
        processors = build_processors(component(section, where).get("processors"), f"{where}.processors")
    with collected(problems):
        found = Section(EXPORTERS, section, where, Accepted(_delivery))
        problems += found.problems
        sink: Sink = found.make("send", "close")
        if problems:
            sink.close()
    raise_all(problems)
    return Configured(name, sink, _policy(sink, **found.others[0]), processors)


def build_all(tracing: Mapping[str, Any], where: str = "general.telemetry.tracing") -> list[Configured]:
    """All exporters of a workflow file, in its order; see `build`.

    Raises:
        ConfigError: everything that is seen to be wrong with any of them, or two write one file.
        MissingExtraError: something that one needs is not installed.
    """
    built: list[Configured] = []
    problems: list[str] = []
    for name, section in tracing.items():
        with collected(problems):
            built.append(build(str(name), section, f"{where}.{name}"))
    files: dict[Any, str] = {}
    for one in built:
        if isinstance(one.sink, FileSink):
            other = files.setdefault(one.sink.path.absolute(), one.name)
            if other != one.name:
                problems.append(f"{where}.{one.name}.path: {other} writes to {one.sink.path} already")
    if problems:
        for one in built:
            one.sink.close()
    raise_all(problems)
    return built


def check(tracing: Mapping[str, Any], where: str = "general.telemetry.tracing") -> None:
    """See whether exporters are configured rightly, as `build_all` does, and let go of them."""
    for one in build_all(tracing, where):
        one.sink.close()


def _delivery(
    *,
    processors: Any = None,
    batch_size: Annotated[int, Meta(ge=1, le=100_000)] | None = None,
    flush_interval: Annotated[float, Meta(gt=0, le=3600)] | None = None,
    max_retries: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None,
    shutdown_timeout: Annotated[float, Meta(ge=0, le=3600)] | None = None,
) -> None:
    """The options that every exporter has: only its signature is used."""


def _policy(
    sink: Sink,
    *,
    processors: Any = None,  # noqa: ARG001  # built apart
    batch_size: int | None = None,
    flush_interval: float | None = None,
    max_retries: int | None = None,
    shutdown_timeout: float | None = None,
) -> Policy:
    return policy_for(
        sink,
        batch_size=batch_size,
        flush_interval_s=flush_interval,
        breaker_after=None if max_retries is None else max(max_retries, 1),
        shutdown_timeout_s=shutdown_timeout,
    )
