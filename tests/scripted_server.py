"""A real HTTP server that answers as a test tells it, and remembers what it was asked and when."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """One request.

    Attributes:
        number: from 0.
        at_s: by `time.monotonic`.
        path: of the URL.
        headers: with names in lower case.
        body: JSON.
    """

    number: int
    at_s: float
    path: str
    headers: dict[str, str]
    body: Any


class Answer(NamedTuple):
    """What to say."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}
    delay_s: float = 0.0
    breaks: bool = False
    """Whether the connection is closed before the end of the body."""


def completion(asked: Asked, text: str = "yes") -> Answer:
    """A chat completion, streamed where that was asked for."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    head = {"id": f"chat-{asked.number}", "created": 1, "model": asked.body.get("model", "m")}
    if not asked.body.get("stream"):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        told = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
        return Answer(200, json.dumps(told).encode(), {"content-type": "application/json"})
    chunk = {**head, "object": "chat.completion.chunk"}
    chunks = [
        {**chunk, "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**chunk, "choices": [], "usage": usage},
    ]
    lines = [f"data: {json.dumps(one)}\n\n" for one in chunks]
    return Answer(200, "".join([*lines, "data: [DONE]\n\n"]).encode(), {"content-type": "text/event-stream"})


def refusal(status: int, message: str = "no", **headers: str) -> Answer:
    """An error as OpenAI words it; names of headers with `_` for `-`."""
    body = json.dumps({"error": {"message": message, "code": message}}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, body, {"content-type": "application/json", **named})


class ScriptedServer:
    """The server.

    Attributes:
        asked: the requests so far.
        url: up to and with `/v1`.
    """

    def __init__(self, script: Callable[[Asked], Answer]) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.running = self.most = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        raw = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        with self._lock:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            asked = Asked(len(self.asked), time.monotonic(), handler.path, headers, json.loads(raw or b"{}"))
            self.asked.append(asked)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            answer = self.script(asked)
            time.sleep(answer.delay_s)
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(answer.body) + (9 if answer.breaks else 0)))
            handler.end_headers()
            handler.wfile.write(answer.body)
            handler.close_connection = answer.breaks
        except OSError:
            handler.close_connection = True  # the client went away
        finally:
            with self._lock:
                self.running -= 1


@contextmanager
def scripted(script: Callable[[Asked], Answer]) -> Iterator[ScriptedServer]:
    """Run a server."""
    server = ScriptedServer(script)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
