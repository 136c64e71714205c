"""Every test records into a folder of its own, and a fault of telemetry fails it."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import millstream
from millstream.record import faults
from millstream.span import Span

# Pydantic would import Logfire, which a few tests drive, in every process: most of a second each.
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "logfire-plugin"

# How long examples take to make says how busy the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that this test's own process and its subprocesses record into."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MILLSTREAM_HOME", str(folder))
    monkeypatch.setattr(faults, "strict", True)
    monkeypatch.setattr(faults, "counts", Counter())
    with millstream.recording(home=folder):
        yield folder


@pytest.fixture
def spans(home: Path) -> Callable[[], list[Span]]:
    """A function that gives what has been recorded so far, in order of start."""

    def read() -> list[Span]:
        return sorted(millstream.open_store(home).spans(), key=lambda span: (span.start_ns, span.span_id))

    return read


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write docs/integrations.md anew")
