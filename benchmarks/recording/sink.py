"""A server on this machine that takes whatever is sent to it, and counts spans when it is asked."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from benchmarks.recording.subjects import version_of


class Sink:
    """Runs on a thread of this process, as a block."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def clear(self) -> None:
        """Forget what was sent until now."""
        self._server.bodies = []

    def spans(self) -> int:
        """Spans in what was sent since: requests of OTLP, as protobuf."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415  # comes with OTLP
            ExportTraceServiceRequest,
        )

        return sum(
            len(scope.spans)
            for body in self._server.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    bodies: list[bytes] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/traces") and "protobuf" in self.headers.get("Content-Type", ""):
            self.server.bodies.append(body)
            self._answer(b"", "application/x-protobuf")
        elif self.path.endswith("/mlflow/traces"):
            self._answer(_begun_by_mlflow(body))
        else:
            self._answer(b"{}")

    def do_GET(self) -> None:
        if self.path == "/version":  # MLflow asks whether this server is too old to take spans
            self._answer(version_of("mlflow-tracing").encode(), "text/plain")
        else:
            self._answer(b"{}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, body: bytes, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the interface's
        """Nothing."""


def _begun_by_mlflow(body: bytes) -> bytes:
    """What its server answers where it keeps spans in its database: the trace, marked so."""
    trace = json.loads(body)
    trace["trace"]["trace_info"].setdefault("tags", {})["mlflow.trace.spansLocation"] = "TRACKING_STORE"
    return json.dumps(trace).encode()
