"""`general.telemetry`: what is recorded is delivered while a workflow runs, and the journal kept small."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from millstream.deliver.delivery import Delivery
from millstream.deliver.eviction import evict, told
from millstream.deliver.exporters import build_all, check
from millstream.errors import MillstreamError
from millstream.record import journal_home, recorder
from millstream.workflow.config import JournalConfig, WorkflowConfig

_LOOK_EVERY_S: Final = 60.0
_LOGGER: Final = logging.getLogger("millstream")
_active: Final[dict[str, tuple[Delivery, int]]] = {}
"""Deliveries under way, by what they deliver to, and how many blocks use each."""


@asynccontextmanager
async def delivering(config: WorkflowConfig) -> AsyncIterator[None]:
    """Deliver what this process records while the block runs; blocks with the same exporters share them.

    At the end of the last it is waited for what was recorded, for as long as `shutdown_timeout` says; what is
    left then stays in the journal, and is said.

    Raises:
        ConfigError: an exporter is seen to be configured wrongly.
        MissingExtraError: something that one needs is not installed.
    """
    telemetry = config.general.telemetry
    with _kept_small(telemetry.journal):
        if telemetry.tracing and recorder.get() is not None:
            async with _shared(config, telemetry.tracing):
                yield
        else:
            check(telemetry.tracing)
            yield


@asynccontextmanager
async def _shared(config: WorkflowConfig, tracing: Mapping[str, Any]) -> AsyncIterator[None]:
    home = journal_home()
    key = f"{home} {tracing!r}"
    delivery, users = _active.get(key, (None, 0))
    if delivery is None:
        delivery = Delivery(home, build_all(tracing), config_file=config.path)
        delivery.start()
    _active[key] = (delivery, users + 1)
    try:
        yield
    finally:
        _, users = _active.pop(key)
        if users > 1:
            _active[key] = (delivery, users - 1)
        else:
            await asyncio.to_thread(delivery.close)


class _kept_small:  # noqa: N801  # used as a block
    """Remove old segments of the journal as long as the block runs, and when it ends."""

    def __init__(self, limits: JournalConfig) -> None:
        self._limits = limits
        self._home = journal_home()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        if self._limits.max_bytes is not None or self._limits.max_age_s is not None:
            self._thread = threading.Thread(target=self._run, name="millstream journal", daemon=True)
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        over = False
        while not over:
            over = self._over.wait(_LOOK_EVERY_S)
            keep_small(self._home, self._limits)


def keep_small(home: Path, limits: JournalConfig) -> None:
    """Remove segments of a journal that are over the limits, and say so."""
    try:
        evicted = evict(home, max_bytes=limits.max_bytes, max_age_s=limits.max_age_s)
    except MillstreamError as error:
        _LOGGER.warning("millstream: general.telemetry.journal: %s", error)
        return
    if evicted.segments:
        _LOGGER.warning("millstream: %s is over general.telemetry.journal: %s", home, told(evicted))
