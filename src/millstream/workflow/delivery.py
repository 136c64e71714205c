"""`general.telemetry`: what is recorded is delivered while a workflow runs, and the journal kept small."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from millstream.deliver.delivery import Delivery
from millstream.deliver.eviction import evict, told
from millstream.deliver.exporters import Configured, build_all
from millstream.errors import MillstreamError
from millstream.record import journal_home, recorder
from millstream.workflow.config import JournalConfig, TelemetryConfig, WorkflowConfig
from millstream.workflow.validation import Problems

_LOOK_EVERY_S: Final = 60.0
_LOGGER: Final = logging.getLogger("millstream")
_active: Final[dict[str, tuple["_Running", int]]] = {}
"""What is under way, by what it was configured as, and how many blocks use each."""


@asynccontextmanager
async def delivering(config: WorkflowConfig) -> AsyncIterator[None]:
    """Deliver what this process records while the block runs; blocks with the same exporters share them.

    At the end of the last it is waited for what was recorded, for as long as `shutdown_timeout` says; what is
    left then stays in the journal, and is said.

    Raises:
        ConfigError: an exporter is seen to be configured wrongly.
        MissingExtraError: something that one needs is not installed.
    """
    telemetry, home = config.general.telemetry, journal_home()
    key = f"{home} {telemetry.tracing!r} {telemetry.journal!r}"
    running, users = _active.get(key, (None, 0))
    if running is None:
        running = _Running(home, config)
    _active[key] = (running, users + 1)
    try:
        yield
    finally:
        _, users = _active.pop(key)
        if users > 1:
            _active[key] = (running, users - 1)
        else:
            await _aside(running.close)


def exporters_of(path: Path, telemetry: TelemetryConfig) -> list[Configured]:
    """The exporters of a workflow file, made; nothing is contacted or written.

    Raises:
        ConfigError: everything that is seen to be wrong with them; names the file.
        MissingExtraError: something that one needs is not installed.
    """
    problems, exporters = Problems(), list[Configured]()
    with problems.collect():
        exporters = build_all(telemetry.tracing)
    problems.raise_if_any(str(path))
    return exporters


async def _aside(function: Callable[[], object]) -> None:
    """Call it in a thread. Unlike one of asyncio's, nobody waits for it who is interrupted twice."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            function()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="millstream close", daemon=True).start()
    await done.wait()


class _Running:
    """A delivery, and whoever keeps the journal small meanwhile."""

    def __init__(self, home: Path, config: WorkflowConfig) -> None:
        self._home = home
        self._limits = config.general.telemetry.journal
        self._over = threading.Event()
        exporters = exporters_of(config.path, config.general.telemetry)
        make_room = (lambda: keep_small(home, self._limits)) if self._has_limits else None
        self._delivery = Delivery(home, exporters, config_file=config.path, make_room=make_room)
        if recorder.get() is not None:
            self._delivery.start()
        else:
            for one in exporters:
                one.sink.close()
        if self._has_limits:
            threading.Thread(target=self._keep_small, name="millstream journal", daemon=True).start()

    def close(self) -> None:
        """End both: what could be delivered is not counted as lost."""
        self._over.set()
        self._delivery.close()
        if self._has_limits:  # where nothing is delivered, too
            keep_small(self._home, self._limits)

    @property
    def _has_limits(self) -> bool:
        return self._limits.max_bytes is not None or self._limits.max_age_s is not None

    def _keep_small(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            keep_small(self._home, self._limits)


def keep_small(home: Path, limits: JournalConfig) -> bool:
    """Remove segments of a journal that are over the limits, and say so; whether there were any."""
    try:
        evicted = evict(home, max_bytes=limits.max_bytes, max_age_s=limits.max_age_s)
    except MillstreamError as error:
        _LOGGER.warning("millstream: general.telemetry.journal: %s", error)
        return False
    if evicted.segments:
        _LOGGER.warning("millstream: %s is over general.telemetry.journal: %s", home, told(evicted))
    return evicted.segments > 0
