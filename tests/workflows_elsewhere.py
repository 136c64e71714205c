"""Programs that tests run in processes of their own, as part of a trace and of a chain of workflows.

python -m tests.workflows_elsewhere WHAT
"""

import asyncio
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from millstream import (
    ObservabilityContext,
    ObservabilityWorkflowInvoker,
    SpanKind,
    extract,
    start_span,
    track_function,
)

invoke = ObservabilityWorkflowInvoker.invoke_workflow_with_context


@track_function
def step(value):
    return value


async def workflow(message):
    with start_span("model", kind=SpanKind.LLM):
        return f"{step(message)}!"


class Handler(BaseHTTPRequestHandler):
    """A workflow behind HTTP, which continues what the headers tell of."""

    def do_POST(self):  # the base class's name
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, answer = 200, None
        with extract(dict(self.headers)):
            if message == "fail":
                status, answer = 500, "out of order"
            else:
                answer = asyncio.run(invoke(workflow, message, "served"))
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


def serve():
    """Print the port and answer until the process is ended."""
    server = HTTPServer(("127.0.0.1", 0), Handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(server.server_port, flush=True)  # noqa: T201  # for who started this
    server.serve_forever()


def child():
    """One call; the environment tells of the caller."""
    asyncio.run(invoke(workflow, "in", "child process"))


def work(queue, results):
    """Take contexts as dicts, or headers, from a queue until `None` comes."""
    while (item := queue.get()) is not None:
        if "version" in item:
            parent = ObservabilityContext.from_dict(item)
            answer = asyncio.run(invoke(workflow, "queued", "by dict", parent))
        else:
            with extract(item):
                answer = asyncio.run(invoke(workflow, "queued", "by headers"))
        results.put((answer, os.getpid()))


def die():
    """Be killed in the middle of a workflow in a workflow."""

    async def waiting(_):
        with start_span("model", kind=SpanKind.LLM):
            print("inside", flush=True)  # noqa: T201  # for who started this
            await asyncio.sleep(60)

    async def outer(_):
        await invoke(waiting, 1, "inner")

    asyncio.run(invoke(outer, 1, "outer"))


def leave():
    """End while a root is still in use."""
    global kept  # noqa: PLW0603
    kept = ObservabilityContext.create_root_context("kept")
    asyncio.run(invoke(workflow, 1, "one", kept))


if __name__ == "__main__":
    {"serve": serve, "child": child, "die": die, "leave": leave}[sys.argv[1]]()
