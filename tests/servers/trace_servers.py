"""Arize Phoenix and MLflow: trace back ends that take OTLP, and give it back."""

import base64
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.servers import otlp_json, python_servers
from tests.servers.server import HOST, Server, free_port, wait_until

PAGE = 1_000


class TraceServer(Server):
    """A server that keeps spans in projects or experiments; each test has one of its own."""

    health = "/"

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder, start_s=300)
        self._program = python_servers.program(name)

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}{self.health}", timeout=2, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def spans(self) -> list[dict[str, Any]]:
        """What it has of this test's project or experiment, as OTLP JSON, attributes as plain dicts."""
        raise NotImplementedError

    def wait_for(self, count: int, timeout_s: float = 30) -> list[dict[str, Any]]:
        """Its spans once there are at least so many; raises ServerError."""
        wait_until(f"{count} spans in {self.name}", lambda: len(self.spans()) >= count, timeout_s)
        return self.spans()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Its API's answer, decoded."""
        answer = httpx.request(method, f"{self.url}{path}", timeout=30, trust_env=False, **options)
        answer.raise_for_status()
        return answer.json()


class Phoenix(TraceServer):
    """Arize Phoenix."""

    health = "/healthz"

    def __init__(self, folder: Path) -> None:
        super().__init__("phoenix", folder)
        self.grpc_port = free_port()
        self.project = ""
        self.clear()

    def command(self) -> list[str]:
        return [self._program, "serve"]

    def environment(self) -> dict[str, str]:
        return {
            "PHOENIX_WORKING_DIR": str(self.folder),
            "PHOENIX_HOST": HOST,
            "PHOENIX_PORT": str(self.port),
            "PHOENIX_GRPC_PORT": str(self.grpc_port),
            "PHOENIX_TELEMETRY_ENABLED": "false",
        }

    def clear(self) -> None:
        """Go on in a project of a new name."""
        self.project = f"test-{uuid.uuid4()}"

    def spans(self) -> list[dict[str, Any]]:
        return list(self._pages())

    def _pages(self) -> Iterator[dict[str, Any]]:
        parameters: dict[str, Any] = {"limit": PAGE}
        while True:
            try:
                page = self.call("GET", f"/v1/projects/{self.project}/spans/otlpv1", params=parameters)
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.NOT_FOUND:  # nothing has been sent to it yet
                    return
                raise
            for span in page["data"]:
                yield otlp_json.plain(span)
            if not page["next_cursor"]:
                return
            parameters["cursor"] = page["next_cursor"]


class MLflow(TraceServer):
    """MLflow's tracking server, over SQLite."""

    health = "/health"

    def __init__(self, folder: Path) -> None:
        super().__init__("mlflow", folder)
        self.experiment_id = ""

    def command(self) -> list[str]:
        store = f"sqlite:///{self.folder}/mlflow.db"
        files = ["--backend-store-uri", store, "--artifacts-destination", str(self.folder / "artifacts")]
        return [self._program, "server", "--host", HOST, "--port", str(self.port), "--workers", "1", *files]

    @property
    def headers(self) -> dict[str, str]:
        """What says which experiment spans are sent to."""
        return {"x-mlflow-experiment-id": self.experiment_id}

    def create_experiment(self, name: str) -> str:
        """The id of a new experiment."""
        return str(
            self.call("POST", "/api/2.0/mlflow/experiments/create", json={"name": name})["experiment_id"]
        )

    def clear(self) -> None:
        """Go on in a new experiment."""
        self.experiment_id = self.create_experiment(f"test-{uuid.uuid4()}")

    def traces(self) -> list[dict[str, Any]]:
        """The traces of this test's experiment, as MLflow gives them: "trace_info" and "spans"."""
        where = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": self.experiment_id}}
        found = self.call(
            "POST", "/api/3.0/mlflow/traces/search", json={"locations": [where], "max_results": 500}
        )
        ids = [trace["trace_id"] for trace in found.get("traces", [])]
        return [
            self.call("GET", "/api/3.0/mlflow/traces/get", params={"trace_id": each})["trace"] for each in ids
        ]

    def spans(self) -> list[dict[str, Any]]:
        return [
            _hexadecimal(otlp_json.plain(span)) for trace in self.traces() for span in trace.get("spans", [])
        ]


def _hexadecimal(span: dict[str, Any]) -> dict[str, Any]:
    """The span with ids as OTLP JSON has them; MLflow gives bytes in base 64."""
    ids = {name: span[name] for name in ("traceId", "spanId", "parentSpanId") if name in span}
    return {**span, **{name: base64.b64decode(each).hex() for name, each in ids.items()}}
