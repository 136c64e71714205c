"""What is sent to products: who asks, where it belongs, and whose variables of the environment count."""

import base64
import os
from pathlib import Path

import pytest
import yaml

from millstream.deliver import presets
from millstream.deliver.exporters import build, build_all
from millstream.errors import ConfigError, RefusedError
from tests.deliver.receivers import http_receiver
from tests.servers.spans import span

PREFIXES = ("PHOENIX_", "LANGFUSE_", "LANGSMITH_", "LANGCHAIN_", "MLFLOW_", "OTEL_")


@pytest.fixture
def receiver():
    with http_receiver() as started:
        yield started


@pytest.fixture(autouse=True)
def _nothing_of_the_machine(monkeypatch):
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        monkeypatch.delenv(name)


def sent(receiver, sink):
    """Path, headers and resource of what a sink sends."""
    assert sink.send([span()]) == [None]
    sink.close()
    path, headers, request = receiver.heard[-1]
    (group,) = request.resource_spans
    return path, headers, {each.key: each.value.string_value for each in group.resource.attributes}


def basic(user, password):
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def test_phoenix(receiver, monkeypatch):
    path, headers, resource = sent(receiver, presets.phoenix(endpoint=receiver.url))
    assert path == "/v1/traces"
    assert "authorization" not in headers
    assert "openinference.project.name" not in resource

    monkeypatch.setenv("PHOENIX_COLLECTOR_ENDPOINT", f"{receiver.url}/v1/traces")
    monkeypatch.setenv("PHOENIX_PROJECT_NAME", "grain")
    monkeypatch.setenv("PHOENIX_API_KEY", "key")
    path, headers, resource = sent(receiver, presets.phoenix())
    assert (path, headers["authorization"]) == ("/v1/traces", "Bearer key")
    assert resource["openinference.project.name"] == "grain"
    monkeypatch.setenv("PHOENIX_PROJECT", "flour")
    assert sent(receiver, presets.phoenix())[2]["openinference.project.name"] == "flour"

    _, headers, resource = sent(receiver, presets.phoenix(project="bread", api_key="other"))
    assert (headers["authorization"], resource["openinference.project.name"]) == ("Bearer other", "bread")


def test_langfuse(receiver, monkeypatch):
    sink = presets.langfuse(endpoint=receiver.url, public_key="pk-1", secret_key="sk-1")
    path, headers, resource = sent(receiver, sink)
    assert path == "/api/public/otel/v1/traces"
    assert headers["authorization"] == basic("pk-1", "sk-1")
    assert (headers["x-langfuse-public-key"], headers["x-langfuse-ingestion-version"]) == ("pk-1", "4")
    assert not {"langfuse.environment", "langfuse.release"} & resource.keys()

    monkeypatch.setenv("LANGFUSE_HOST", f"{receiver.url}/api/public/otel/")
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-2")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-2")
    monkeypatch.setenv("LANGFUSE_TRACING_ENVIRONMENT", "staging")
    monkeypatch.setenv("LANGFUSE_RELEASE", "7")
    path, headers, resource = sent(receiver, presets.langfuse())
    assert (path, headers["authorization"]) == ("/api/public/otel/v1/traces", basic("pk-2", "sk-2"))
    assert (resource["langfuse.environment"], resource["langfuse.release"]) == ("staging", "7")


@pytest.mark.parametrize("path", ["", "/otel", "/otel/v1/traces"])
def test_langsmith(path, receiver, monkeypatch):
    sink = presets.langsmith(endpoint=receiver.url + path, api_key="key", project="grain", workspace_id="w")
    path, headers, _ = sent(receiver, sink)
    assert path == "/otel/v1/traces"
    assert (headers["x-api-key"], headers["langsmith-project"], headers["x-tenant-id"]) == (
        "key",
        "grain",
        "w",
    )

    monkeypatch.setenv("LANGCHAIN_ENDPOINT", receiver.url)
    monkeypatch.setenv("LANGCHAIN_API_KEY", "key 2")
    monkeypatch.setenv("LANGSMITH_API_KEY", "key 3")
    path, headers, _ = sent(receiver, presets.langsmith())
    assert (path, headers["x-api-key"]) == ("/otel/v1/traces", "key 3")
    assert not {"langsmith-project", "x-tenant-id"} & headers.keys()


def test_mlflow(receiver, monkeypatch):
    path, headers, _ = sent(receiver, presets.mlflow(endpoint=receiver.url))
    assert (path, headers["x-mlflow-experiment-id"]) == ("/v1/traces", "0")
    assert "authorization" not in headers
    _, headers, _ = sent(
        receiver, presets.mlflow(endpoint=receiver.url, experiment_id=7, username="ann", password="flour")
    )
    assert (headers["x-mlflow-experiment-id"], headers["authorization"]) == ("7", basic("ann", "flour"))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", receiver.url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "12")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token")
    _, headers, _ = sent(receiver, presets.mlflow())
    assert (headers["x-mlflow-experiment-id"], headers["authorization"]) == ("12", "Bearer token")


def test_headers_of_the_user_come_first(receiver):
    sink = presets.langfuse(
        endpoint=receiver.url,
        public_key="pk",
        secret_key="sk",
        headers={"X-Langfuse-Ingestion-Version": "3", "X-Team": "grain"},
    )
    _, headers, _ = sent(receiver, sink)
    assert (headers["x-langfuse-ingestion-version"], headers["x-team"]) == ("3", "grain")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"_type": "langfuse"}, "public_key is missing: give it, or set LANGFUSE_PUBLIC_KEY"),
        (
            {"_type": "langfuse", "public_key": "pk"},
            "secret_key is missing: give it, or set LANGFUSE_SECRET_KEY",
        ),
        ({"_type": "langsmith"}, "api_key is missing: give it, or set LANGSMITH_API_KEY"),
        ({"_type": "mlflow", "username": "ann"}, "MLFLOW_TRACKING_PASSWORD"),
        (
            {"_type": "mlflow", "experiment_id": "abc"},
            "experiment_id: 'abc' is no id of an experiment, which",
        ),
        ({"_type": "mlflow", "experiment_id": -1}, "experiment_id: '-1' is no id"),
        ({"_type": "mlflow", "experiment_id": ""}, "experiment_id: '' is no id"),
        ({"_type": "mlflow", "experiment": 1}, "did you mean 'experiment_id'"),
        ({"_type": "phoenix", "endpoint": "localhost:6006"}, "begins with http://"),
        ({"_type": "langfuse", "public_key": "pk", "secret_key": "s\nk", "endpoint": "ftp://x"}, "http://"),
    ],
)
def test_options_that_are_wrong(section, message):
    with pytest.raises(ConfigError, match=message):
        build("traces", section)


def test_an_experiment_of_the_environment_that_is_no_number(monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "grain")
    with pytest.raises(ConfigError, match="MLFLOW_EXPERIMENT_ID: 'grain' is no id of an experiment"):
        build("traces", {"_type": "mlflow"})
    build("traces", {"_type": "mlflow", "experiment_id": 7}).sink.close()


def test_in_a_workflow_file():
    where = {
        "phoenix": "Phoenix at http://localhost:6006",
        "langfuse": "Langfuse at https://cloud.langfuse.com/api/public/otel",
        "langsmith": "LangSmith at https://api.smith.langchain.com/otel",
        "mlflow": "MLflow at http://localhost:5000",
    }
    keys = {"langfuse": {"public_key": "pk", "secret_key": "sk"}, "langsmith": {"api_key": "key"}}
    for kind, summary in where.items():
        sink = build("traces", {"_type": kind, **keys.get(kind, {})}).sink
        assert sink.summary() == summary
        sink.close()


@pytest.mark.parametrize(
    ("preset", "options", "mend"),
    [
        (presets.phoenix, {}, "`api_key`"),
        (
            presets.langfuse,
            {"public_key": "pk-grain", "secret_key": "sk-flour"},
            "`public_key` and `secret_key`",
        ),
        (presets.langsmith, {"api_key": "ls-flour"}, "`api_key`"),
        (presets.mlflow, {"token": "flour"}, "`username` and `password`, or `token`"),
    ],
)
def test_credentials_that_are_not_accepted(preset, options, mend, receiver):
    receiver.answer = lambda request: (401, {}, b"")
    sink = preset(endpoint=receiver.url, **options)
    with pytest.raises(RefusedError, match=f"does not accept the credentials .*: correct {mend}") as refused:
        sink.send([span()])
    assert "flour" not in str(refused.value)
    sink.close()


def test_the_example_of_the_page():
    page = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text()
    example = page.partition("### OTLP")[2].partition("```yaml")[2].partition("```")[0]
    tracing = yaml.safe_load(example)["general"]["telemetry"]["tracing"]
    made = {one.name: one.sink for one in build_all(tracing)}
    assert made["over_grpc"].summary() == "the OTLP receiver at localhost:4317"
    assert made["mlflow"].summary() == "MLflow at http://localhost:5000"
    assert len(made) == 4
    for sink in made.values():
        sink.close()
