"""`millstream ship`: what was recorded sent on, also of processes that died, by a process of its own."""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from millstream.cli import stopping
from millstream.cli.options import option
from millstream.deliver.announcing import shown
from millstream.deliver.cursor import Busy
from millstream.deliver.dead_letters import Retried, count_letters, dead_letter_path
from millstream.deliver.dead_letters import retry_rejected as retry_dead_letters
from millstream.deliver.delivery import Delivery, Flushed
from millstream.deliver.exporters import Configured, build_all
from millstream.errors import ConfigError, InputError
from millstream.record import journal_home
from millstream.workflow.config import JournalConfig, load_config
from millstream.workflow.delivery import exporters_of, keep_small

_PATIENCE_S: Final = 30.0
"""With `--once`: how long nothing may get any further."""
_ROUND_S: Final = 1.0
_LOOK_EVERY_S: Final = 60.0
_FLYWHEEL: Final = "data_flywheel_elasticsearch"


@click.command()
@option(
    "--config_file",
    type=click.Path(path_type=Path),
    metavar="F",
    help="The workflow file whose general.telemetry.tracing says where to. Default: the sinks that"
    " OTEL_EXPORTER_OTLP_ENDPOINT and ELASTICSEARCH_URL name.",
)
@option(
    "--home",
    type=click.Path(path_type=Path),
    help="The folder of recordings. Default: MILLSTREAM_HOME, else .millstream.",
)
@option("--once", is_flag=True, help="End when nothing is left, or nothing gets any further.")
@option("--retry-rejected", "retry_rejected", is_flag=True, help="Send what was rejected again, too.")
def ship(config_file: Path | None, home: Path | None, *, once: bool, retry_rejected: bool) -> int:
    """Send what was recorded to where the workflow file says; goes on until it is stopped.

    At the end it prints how many spans it sent, how many are left, and how many lie rejected in the dead
    letters, those of earlier runs included.

    Exit codes: 0 nothing is left, 2 wrong configuration, 3 only rejected spans are left, 4 others are.
    """
    exporters, limits = _exporters(config_file)
    home = (home or journal_home()).absolute()
    if once and not home.is_dir():
        raise InputError(f"{home} is no folder: give the one that was recorded into, with --home")
    stop = stopping.wanted
    with _said():
        click.echo(f"{home} -> {', '.join(map(_destination, exporters))}", err=True)
        done = _Done(home, exporters, config_file)
        for exporter in exporters if retry_rejected else ():
            done.add_again(exporter.name, _retry_rejected(home, exporter))
        make_room = None if once or limits == JournalConfig() else lambda: keep_small(home, limits)
        delivery = Delivery(home, exporters, begin="all", config_file=config_file, make_room=make_room)
        delivery.start()
        try:
            while not stop.is_set() and not (once and done.settled):
                done.add(delivery.flush(_ROUND_S))
                if not once:
                    stop.wait(_LOOK_EVERY_S)
                    keep_small(home, limits)
        finally:
            done.add(delivery.close())
    return done.report()


class _Done:
    """What became of the spans of this command, and whether to go on."""

    def __init__(self, home: Path, exporters: Sequence[Configured], config_file: Path | None) -> None:
        self._home = home
        self._names = [exporter.name for exporter in exporters]
        self._again = f"millstream ship {_given(config_file)}--retry-rejected"
        self._sent = 0
        self._left = -1
        self._rejected: Counter[str] = Counter()
        self._unreadable: Counter[str] = Counter()
        """Lines that are no dead letters, by exporter, where they were looked at."""
        self._moved_s = time.monotonic()

    @property
    def settled(self) -> bool:
        """Whether nothing is left, or nothing has got any further for a while."""
        return self._left == 0 or time.monotonic() - self._moved_s > _PATIENCE_S

    def add(self, flushed: Flushed) -> None:
        """The next part."""
        if flushed.sent or flushed.rejected or flushed.left != self._left:
            self._moved_s = time.monotonic()
        self._sent += flushed.sent
        self._rejected.update(flushed.rejected)
        self._left = flushed.left

    def add_again(self, name: str, again: Retried) -> None:
        """What became of the dead letters of one."""
        self._unreadable[name] = again.unreadable
        self._sent += again.sent
        self._rejected.update(again.rejected)

    def report(self) -> int:
        """Say it; the exit code."""
        letters = Counter({name: count_letters(self._home, name) for name in self._names})
        click.echo(f"sent {self._sent:,}, left {self._left:,}, rejected {letters.total():,}")
        for reason, count in sorted(self._rejected.items()):
            click.echo(f"{count:,} rejected: {reason}", err=True)
        for name, count in (letters - self._unreadable).items():
            path = shown(dead_letter_path(self._home, name))
            lie, them = ("span lies", "it") if count == 1 else ("spans lie", "them")
            click.echo(f"{count:,} rejected {lie} in {path}; `{self._again}` sends {them} again", err=True)
        if self._left:
            return 4
        return 3 if letters.total() else 0


def _given(config_file: Path | None) -> str:
    return "" if config_file is None else f"--config_file {config_file} "


def _retry_rejected(home: Path, exporter: Configured) -> Retried:
    """Send dead letters again, and say what became of them."""
    name, policy = exporter.name, exporter.policy
    stopped = stopping.wanted.is_set
    try:
        again = retry_dead_letters(
            home, name, exporter.sink, policy.batch_size, policy.batch_bytes, stopped=stopped
        )
    except Busy as error:
        raise Busy(f"{error}; send what it rejected again when that process has ended") from error
    rejected = sum(again.rejected.values())
    click.echo(
        f"{name}: of its dead letters {again.sent:,} were sent, {rejected:,} rejected again,"
        f" {again.skipped:,} skipped, {again.left:,} are left"
        f"{'' if again.why is None else f': {again.why}'}",
        err=True,
    )
    if again.unreadable:
        lines = "1 line" if again.unreadable == 1 else f"{again.unreadable:,} lines"
        path = shown(dead_letter_path(home, name))
        click.echo(
            f"{name}: {lines} of {path} cannot be read as dead letters and stay there: mend or remove them",
            err=True,
        )
    return again


def _destination(exporter: Configured) -> str:
    summary = getattr(exporter.sink, "summary", None)
    return f"{exporter.name} ({summary()})" if callable(summary) else exporter.name


def _exporters(config_file: Path | None) -> tuple[list[Configured], JournalConfig]:
    if config_file is None:
        tracing = _from_environment(os.environ)
        if not tracing:
            raise ConfigError(
                "nothing says where to: give --config_file F with a section general.telemetry.tracing, or set"
                " OTEL_EXPORTER_OTLP_ENDPOINT or ELASTICSEARCH_URL"
            )
        return build_all(tracing, "the environment"), JournalConfig()
    telemetry = load_config(config_file, sections=("general",)).general.telemetry
    if not telemetry.tracing:
        raise ConfigError(f"{config_file} has no general.telemetry.tracing: it does not say where to")
    return exporters_of(config_file, telemetry), telemetry.journal


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The sinks that environment variables name: OpenTelemetry's, and those of the flywheel."""
    tracing: dict[str, Any] = {}
    if endpoint := environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        tracing["otlp"] = {"_type": "otlp", "endpoint": endpoint}
    if endpoint := environ.get("ELASTICSEARCH_URL"):
        tracing[_FLYWHEEL] = {"_type": _FLYWHEEL, "endpoint": endpoint}  # the rest it reads itself
    return tracing


@contextmanager
def _said() -> Iterator[None]:
    """Messages of ours on standard error, with their times."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("millstream")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
