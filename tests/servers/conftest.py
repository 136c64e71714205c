"""Real servers as fixtures; README.md says what each gives."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.servers import search
from tests.servers.certificates import Authority
from tests.servers.collector import Collector
from tests.servers.errors import NotPrepared
from tests.servers.nginx import Guard
from tests.servers.search import SearchServer
from tests.servers.server import Server
from tests.servers.session import Servers
from tests.servers.toxiproxy import Toxiproxy
from tests.servers.trace_servers import MLflow, Phoenix

S = TypeVar("S")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("servers")


def prepared(get: Callable[[], S]) -> S:
    """What get gives; where that is not prepared the test is skipped, or fails if servers are required."""
    try:
        return get()
    except NotPrepared as error:
        if os.environ.get("CI") == "true" or os.environ.get("MILLSTREAM_TEST_SERVERS_REQUIRED") == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("servers"), authority) as started:
        yield started


def _search(servers: Servers, kind: str) -> SearchServer:
    server = prepared(lambda: servers.search(kind))
    server.wipe()
    return server


@pytest.fixture(params=search.KINDS)
def search_server(request: pytest.FixtureRequest, servers: Servers) -> SearchServer:
    return _search(servers, request.param)


@pytest.fixture
def elasticsearch8(servers: Servers) -> SearchServer:
    return _search(servers, "elasticsearch8")


@pytest.fixture
def elasticsearch9(servers: Servers) -> SearchServer:
    return _search(servers, "elasticsearch9")


@pytest.fixture
def opensearch2(servers: Servers) -> SearchServer:
    return _search(servers, "opensearch2")


@pytest.fixture
def opensearch3(servers: Servers) -> SearchServer:
    return _search(servers, "opensearch3")


def _cleared(get: Callable[[], Any]) -> Any:
    server = prepared(get)
    server.clear()
    return server


@pytest.fixture
def collector(servers: Servers) -> Collector:
    return _cleared(servers.collector)


@pytest.fixture
def tls_collector(servers: Servers) -> Collector:
    return _cleared(servers.tls_collector)


@pytest.fixture
def token_collector(servers: Servers) -> Collector:
    return _cleared(servers.token_collector)


@pytest.fixture
def full_collector(servers: Servers) -> Collector:
    return _cleared(servers.full_collector)


@pytest.fixture
def phoenix(servers: Servers) -> Phoenix:
    return _cleared(servers.phoenix)


@pytest.fixture
def mlflow(servers: Servers) -> MLflow:
    return _cleared(servers.mlflow)


@pytest.fixture
def toxiproxy(servers: Servers) -> Toxiproxy:
    return _cleared(servers.toxiproxy)


@pytest.fixture
def guard(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Callable[..., Guard]]:
    with ExitStack() as started:

        def start(target: Server | int, *, tls: bool = False, **options: Any) -> Guard:
            folder = tmp_path_factory.mktemp("nginx")
            chosen = authority if tls else None
            return started.enter_context(prepared(lambda: Guard(folder, target, authority=chosen, **options)))

        yield start
