"""Receivers of OTLP of the tests' own: they take what comes, keep it, and answer as they are told."""

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

PROTOBUF = "application/x-protobuf"


def taken(rejected=0, message=""):
    """The body of an answer."""
    response = ExportTraceServiceResponse()
    if rejected or message:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = message
    return response.SerializeToString()


class HttpReceiver:
    """Calls `answer` with each request; that gives status, headers and body.

    Attributes:
        heard: path, headers (names in lower case) and request, of each.
    """

    def __init__(self):
        self.heard = []
        self.answer = lambda request: (200, {"content-type": PROTOBUF}, taken())
        self.url = ""

    @property
    def names(self):
        """Of the spans of each request."""
        return [names_of(request) for _, _, request in self.heard]


def names_of(request):
    return [
        span.name for group in request.resource_spans for scope in group.scope_spans for span in scope.spans
    ]


@contextmanager
def http_receiver(context=None):
    """Speaks TLS with an SSLContext."""
    receiver = HttpReceiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            request = ExportTraceServiceRequest.FromString(body)
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.heard.append((self.path, headers, request))
            status, headers, body = receiver.answer(request)
            self.send_response(status)
            for name, value in {**headers, "content-length": len(body)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        receiver.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class GrpcReceiver(TraceServiceServicer):
    """Calls `answer` with each request and its context; that gives a response."""

    def __init__(self):
        self.heard = []
        self.answer = lambda request, context: ExportTraceServiceResponse()
        self.address = ""

    def Export(self, request, context):  # noqa: N802  # as the service names it
        self.heard.append((dict(context.invocation_metadata()), request))
        return self.answer(request, context)

    @property
    def names(self):
        """Of the spans of each request."""
        return [names_of(request) for _, request in self.heard]


@contextmanager
def grpc_receiver(credentials=None):
    """Speaks TLS with credentials of grpcio."""
    receiver = GrpcReceiver()
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        add_TraceServiceServicer_to_server(receiver, server)
        if credentials is None:
            receiver.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        else:
            receiver.address = f"localhost:{server.add_secure_port('localhost:0', credentials)}"
        server.start()
        try:
            yield receiver
        finally:
            server.stop(None).wait()
