"""The stand-in model server that the frameworks talk to, and what the conformance tests found."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.integrations.conformance import RULES, pytest_generate_tests  # noqa: F401
from tests.simulate.process import running

OTHER_ENVIRONMENT = {
    "test_crewai.py": "crewai",
    "test_llama_index.py": "llama_index",
    "test_semantic_kernel.py": "semantic_kernel",
}
"""Frameworks that need openai 2: `make test` runs these tests in an environment of their own."""
collect_ignore = [file for file, module in OTHER_ENVIRONMENT.items() if find_spec(module) is None]


@pytest.fixture(scope="session")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules) as stand_in:
        yield stand_in.base_url


@pytest.fixture(autouse=True)
def endpoint(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For frameworks that make their client from the environment."""
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    monkeypatch.setenv("OPENAI_API_BASE", base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert os.environ["OPENAI_API_KEY"] == "right"
