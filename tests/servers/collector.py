"""An OpenTelemetry Collector that writes what it receives to a file."""

import json
import ssl
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.servers import go_servers, otlp_json
from tests.servers.certificates import Authority
from tests.servers.server import HOST, Server, free_port, wait_until

RECEIVED = "received.jsonl"
QUIET_S = 0.25
"""So long nothing is written: then what was taken is, of senders that did not wait for the answer, too."""


class Collector(Server):
    """Takes OTLP over HTTP and gRPC: plainly, with TLS, with a bearer token, or not at all when full."""

    def __init__(
        self,
        folder: Path,
        *,
        authority: Authority | None = None,
        token: str | None = None,
        full: bool = False,
    ) -> None:
        super().__init__("collector", folder)
        self.token = token
        self.full = full
        self.grpc_port = free_port()
        self._authority = authority
        self._program = go_servers.binary("collector")
        self._start = 0

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self._authority else super().url

    @property
    def grpc(self) -> str:
        """Where it takes gRPC, as host and port."""
        return f"{'localhost' if self._authority else HOST}:{self.grpc_port}"

    def command(self) -> list[str]:
        received = self.folder / RECEIVED
        if received.exists() and not received.read_bytes().endswith(
            b"\n"
        ):  # it was killed in the middle of a line
            with received.open("ab") as file:
                file.write(b"\n")
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        return [self._program, "--config", str(config)]

    def ready(self) -> bool:
        verify = ssl.create_default_context(cafile=self._authority.ca_file) if self._authority else True
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        one = {"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "ready"}]}]}]} if self.full else {}
        try:
            answer = httpx.post(
                f"{self.url}/v1/traces", json=one, headers=headers, verify=verify, timeout=2, trust_env=False
            )
        except httpx.TransportError:
            return False
        expected = httpx.codes.SERVICE_UNAVAILABLE if self.full else httpx.codes.OK
        return answer.status_code == expected

    def spans(self) -> list[dict[str, Any]]:
        """What it has received since the last clear(), as otlp_json.spans gives it."""
        return list(otlp_json.spans([one for one in map(_decoded, self._received()[self._start :]) if one]))

    def wait_for(self, count: int, timeout_s: float = 10) -> list[dict[str, Any]]:
        """Its spans once there are at least so many; raises ServerError."""
        wait_until(f"{count} spans in the collector", lambda: len(self.spans()) >= count, timeout_s)
        return self.spans()

    def clear(self) -> None:
        """Have spans() begin with what comes from now on."""
        before = -1
        while (count := len(self._received())) != before:
            before = count
            time.sleep(QUIET_S)
        self._start = count

    def _received(self) -> list[bytes]:
        file = self.folder / RECEIVED
        content = file.read_bytes() if file.exists() else b""
        return content[: content.rfind(b"\n") + 1].splitlines()

    def _config(self) -> dict[str, Any]:
        receiver: dict[str, Any] = {}
        if self._authority:
            files = {"cert_file": self._authority.certificate_file, "key_file": self._authority.key_file}
            receiver["tls"] = {name: str(file) for name, file in files.items()}
        if self.token:
            receiver["auth"] = {"authenticator": "bearertokenauth"}
        ends = {"http": self.port, "grpc": self.grpc_port}
        protocols = {name: {"endpoint": f"{HOST}:{port}", **receiver} for name, port in ends.items()}
        extensions = {"bearertokenauth": {"token": self.token}} if self.token else {}
        # Its own process is larger than that, so it is over its limit from the start.
        limiter = {"memory_limiter": {"check_interval": "50ms", "limit_mib": 1}} if self.full else {}
        pipeline = {"receivers": ["otlp"], "processors": list(limiter), "exporters": ["file"]}
        return {
            "receivers": {"otlp": {"protocols": protocols}},
            "processors": limiter,
            "exporters": {
                "file": {"path": str(self.folder / RECEIVED), "append": True, "flush_interval": "20ms"}
            },
            "extensions": extensions,
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "extensions": list(extensions),
                "pipelines": dict.fromkeys(("traces", "logs", "metrics"), pipeline),
            },
        }


def _decoded(line: bytes) -> Any:
    """A line; nothing of one in which it was killed."""
    try:
        return json.loads(line)
    except ValueError:
        return None
