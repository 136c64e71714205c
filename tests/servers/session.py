"""The servers of one test session: each starts at first use and ends with the session."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.servers.certificates import Authority
from tests.servers.collector import Collector
from tests.servers.errors import ServerError
from tests.servers.search import SearchServer
from tests.servers.server import Server
from tests.servers.toxiproxy import Toxiproxy
from tests.servers.trace_servers import MLflow, Phoenix

TOKEN = "a-token-of-the-tests"
S = TypeVar("S", bound=Server)


class Servers:
    """Each method gives the session's one server of its kind; raises NotPrepared or ServerError.

    It runs, and is not paused; what it was given before is still there until its wipe() or clear().
    """

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.authority = authority
        self._folder = folder
        self._started: dict[str, Any] = {}
        self._broken: dict[str, str] = {}
        self._stack = ExitStack()

    def search(self, kind: str) -> SearchServer:
        """A search server of one of search.KINDS."""
        return self._one(kind, lambda folder: SearchServer(kind, folder))

    def collector(self) -> Collector:
        """Takes all."""
        return self._one("collector", Collector)

    def tls_collector(self) -> Collector:
        """Takes all that comes by TLS."""
        return self._one("tls_collector", lambda folder: Collector(folder, authority=self.authority))

    def token_collector(self) -> Collector:
        """Takes what comes with its token."""
        return self._one("token_collector", lambda folder: Collector(folder, token=TOKEN))

    def full_collector(self) -> Collector:
        """Takes nothing, for now."""
        return self._one("full_collector", lambda folder: Collector(folder, full=True))

    def phoenix(self) -> Phoenix:
        """Arize Phoenix."""
        return self._one("phoenix", Phoenix)

    def mlflow(self) -> MLflow:
        """MLflow."""
        return self._one("mlflow", MLflow)

    def toxiproxy(self) -> Toxiproxy:
        """Holds proxies with faults."""
        return self._one("toxiproxy", Toxiproxy)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _one(self, name: str, make: Callable[[Path], S]) -> S:
        if name in self._broken:  # one that does not come up is waited for once
            raise ServerError(self._broken[name])
        if name not in self._started:
            server = make(self._folder / name)
            self._stack.callback(server.kill)
            self._started[name] = server
        try:
            return self._started[name].restored()
        except ServerError as error:
            self._broken[name] = str(error)
            raise
