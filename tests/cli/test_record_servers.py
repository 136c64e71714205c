"""Servers, workers and test runners as they are, under `millstream record`."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from millstream import SpanKind
from tests.cli.recording import RECORD, last_line, record, write

pytestmark = pytest.mark.usefixtures("place")
BIN = Path(sys.executable).parent
APP = """
import os
import openai

client = openai.OpenAI(max_retries=0)


def answer(question):
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model="able", messages=messages).choices[0].message.content


def wsgi(environ, start_response):
    start_response("200 OK", [("X-Process", str(os.getpid()))])
    return [answer("hi").encode()]


async def app(scope, receive, send):
    if scope["type"] == "http":
        headers = [(b"x-process", str(os.getpid()).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer("hi").encode()})
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def get(url, within_s=90):
    """What a server answers, once it does, and the process that answered."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310
                return response.read(), response.headers["X-Process"]
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@contextmanager
def served(*command):
    """A server under `record`, its URL and, after the block, what it said on stderr."""
    port = free_port()
    said = []
    command = [*RECORD, "--", *(part.format(port=port) for part in command)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{port}/", process, said
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                said += process.communicate(timeout=60)[1].splitlines()
            finally:
                process.kill()


@pytest.mark.parametrize("options", [[], ["--workers", "2"], ["--reload"]], ids=" ".join)
def test_uvicorn(options, spans):
    write("app.py", APP)
    with served(str(BIN / "uvicorn"), "app:app", "--port", "{port}", *options) as (url, process, said):
        answers = [get(url)[0] for _ in range(3)]
    assert answers == [b"one two three"] * 3
    assert [span.kind for span in spans()] == [SpanKind.LLM] * 3
    assert len({span.trace_id for span in spans()}) == 3
    assert said[-1].startswith("millstream: 3 spans, 3 LLM calls; ")
    bare = {(): -signal.SIGTERM, ("--workers", "2"): 0, ("--reload",): 0}
    assert process.returncode in (bare[tuple(options)], -signal.SIGTERM)


def test_gunicorn_with_workers(spans):
    write("app.py", APP)
    command = [str(BIN / "gunicorn"), "app:wsgi", "--bind", "127.0.0.1:{port}", "--workers", "2", "--preload"]
    with served(*command) as (url, process, said):
        processes = {get(url)[1] for _ in range(8)}
    assert len(spans()) == 8
    assert said[-1].startswith("millstream: 8 spans, 8 LLM calls; ")
    assert str(process.pid) not in processes
    assert process.returncode == 0


def test_celery_with_worker_processes(home, spans):
    tasks = """
        import celery
        from app import answer

        app = celery.Celery("tasks", broker="filesystem://", broker_transport_options={
            "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"})

        @app.task
        def ask(question):
            answer(question)
    """
    write("app.py", APP)
    write("tasks.py", tasks)
    Path("queue").mkdir()
    send = "import tasks\nfor number in range(3): tasks.ask.delay(f'question {number}')"
    subprocess.run([sys.executable, "-c", send], check=True, timeout=60)
    worker = ["celery", "-A", "tasks", "worker", "--concurrency", "2", "--pool", "prefork"]
    with served(sys.executable, "-m", *worker, "--without-mingle", "--without-gossip") as (_, process, said):
        deadline = time.monotonic() + 120
        while not (home / "journal").exists() or len([span for span in spans() if span.status]) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert sorted(span.kind for span in spans()) == [SpanKind.LLM] * 3 + [SpanKind.TASK] * 3
    assert said[-1].startswith("millstream: 6 spans, 3 LLM calls; ")
    assert process.returncode == 0


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=" ".join)
def test_pytest(options, spans):
    write("app.py", APP)
    tests = """
        from app import answer

        def test_good():
            assert answer("hi") == "one two three"

        def test_bad():
            assert answer("hi") == "nothing"
    """
    write("test_app.py", tests)
    slow = "-p no:langsmith_plugin -p no:logfire -p no:pytest_logfire"  # to import, and of no use here
    (Path.cwd() / "pytest.ini").write_text(f"[pytest]\naddopts = {slow}\n")
    command = [str(BIN / "pytest"), "-q", "-p", "no:cacheprovider", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    bare = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    result = record(*command, env=environment)
    assert result.returncode == bare.returncode == 1
    assert "1 failed, 1 passed" in result.stdout

    def steady(text):
        return sorted(re.sub(r"\d+\.\d+s|0x\w+|\[gw\d\]", "", text).splitlines())

    assert steady(result.stdout) == steady(bare.stdout)
    assert last_line(result).startswith("millstream: 2 spans, 2 LLM calls; ")
    assert len(spans()) == 2
