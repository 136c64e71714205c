"""What goes wrong on demand, over the wire; and starting and stopping."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

from tests.simulate.process import COMMAND

BROKEN_STREAM = (openai.APIConnectionError, httpx.TransportError)
"""Version 2 of the SDK lets the error of httpx through."""
HELLO = [{"role": "user", "content": "hello there"}]


def client_of(server, **options):
    return openai.OpenAI(
        **{"base_url": server.base_url, "api_key": "x", "max_retries": 0, "timeout": 20, **options}
    )


def ask(client, **more):
    return client.chat.completions.create(model="m", messages=HELLO, **more)


def test_the_api_key_is_checked_on_every_openai_endpoint(start):
    with start("{api_key: sk-correct-horse, models: {m: }}") as server:
        with client_of(server, api_key="sk-correct-horse") as client:
            assert ask(client).choices
        with client_of(server, api_key="sk-wrong-horse-entirely") as client:
            with pytest.raises(
                openai.AuthenticationError, match=r"Incorrect API key provided: sk-\*\*\*rely"
            ) as caught:
                ask(client)
            assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
        bare = httpx.post(f"{server.base_url}/chat/completions", json={})
        assert (bare.status_code, "didn't provide an API key" in bare.text) == (401, True)
        assert httpx.get(f"{server.root_url}/health").json() == {"status": "ok"}


def test_malformed_json_is_400(start):
    with start("models: {m: }") as server:
        answer = httpx.post(f"{server.base_url}/chat/completions", content=b'{"model": ')
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_rate_limit_tells_how_long_to_wait_and_waiting_helps(start):
    with (
        start("models: {m: {rate_limits: {requests_per_minute: 30}}}") as server,
        client_of(server) as client,
    ):
        with pytest.raises(openai.RateLimitError, match="Limit 30, Requested 1") as caught:
            while True:
                ask(client, max_tokens=1)
        assert server.stats()["completed"] >= 30
        headers = caught.value.response.headers
        assert caught.value.code == "rate_limit_exceeded"
        assert headers["retry-after"] in {"1", "2"}
        assert 0 < int(headers["retry-after-ms"]) <= 2000
        with client_of(server, max_retries=3) as patient:  # the SDK itself waits as told
            assert ask(patient).choices
        assert server.stats()["errors"]["429"] >= 1


def test_a_request_longer_than_the_window_is_refused(start):
    with start("models: {m: {context_window: 12}}") as server, client_of(server) as client:
        assert ask(client, max_tokens=4).choices
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, max_tokens=5)
        assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("streamed", [False, True])
def test_errors_on_demand_with_words_of_ones_own(start, streamed):
    rules = "{models: {m: }, default: {error: {status: 429, message: Slow down., retry_after_s: 7}}}"
    with start(rules) as server, client_of(server) as client:
        with pytest.raises(openai.RateLimitError, match=r"Slow down\.") as caught:
            ask(client, stream=streamed)
        assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_connection_is_really_reset(start, streamed):
    with start("{models: {m: }, default: {error: {fault: reset}}}") as server:
        with client_of(server) as client, pytest.raises(openai.APIConnectionError) as caught:
            ask(client, stream=streamed)
        assert "Connection reset by peer" in str(caught.value.__cause__)
        assert server.stats()["errors"] == {"reset": 1}


def test_a_stream_breaks_after_some_tokens(start):
    rules = "{models: {m: }, default: {text: one two three four, error: {fault: reset, after_tokens: 2}}}"
    with start(rules) as server, client_of(server) as client:
        seen = []
        with pytest.raises(BROKEN_STREAM), ask(client, stream=True) as stream:
            seen.extend(chunk.choices[0].delta.content for chunk in stream)
        assert seen == ["", "one", " two"]
        with pytest.raises(openai.APIConnectionError):
            ask(client)


def test_an_error_in_the_middle_of_a_stream_is_an_event(start):
    rules = "{models: {m: }, default: {text: one two three, error: {status: 500, after_tokens: 1}}}"
    with start(rules) as server, client_of(server) as client:
        with (
            pytest.raises(openai.APIError, match="The server had an error"),
            ask(client, stream=True) as stream,
        ):
            list(stream)
        with pytest.raises(openai.InternalServerError):
            ask(client)


def test_a_hanging_request_hangs_until_the_client_gives_up(start):
    rules = "{models: {m: {max_concurrency: 1}}, default: {error: {fault: hang}}}"
    with start(rules) as server, client_of(server, timeout=0.5) as client:
        with pytest.raises(openai.APITimeoutError):
            ask(client)
        assert server.stats()["errors"] == {"hang": 1}


def wait_for(condition, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_goes_away_frees_its_place(start, streamed):
    rules = (
        "{models: {m: {max_concurrency: 1, latency: {time_per_output_token_s: 60}}}, default: one two three}"
    )
    with start(rules) as server, client_of(server, timeout=0.3) as client:
        with pytest.raises(BROKEN_STREAM), ask(client, stream=streamed) as stream:
            list(stream)
        wait_for(lambda: server.stats()["cancelled"] == 1)
        assert server.stats()["in_flight"] == 0
        assert ask(client, max_tokens=1).choices


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_even_while_requests_hang(start, number):
    with start("{models: {m: }, default: {error: {fault: hang}}}") as server:
        port = int(server.root_url.rpartition(":")[2])
        body = json.dumps({"model": "m", "messages": HELLO}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + body)
            wait_for(lambda: server.stats()["errors"] == {"hang": 1})
            server.process.send_signal(number)
            assert server.process.wait(timeout=10) == 0


def test_a_port_that_is_taken_is_said(tmp_path):
    rules = tmp_path / "rules.yml"
    rules.write_text("models: {m: }")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*COMMAND, "--config", rules, "--port", port],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in done.stderr


STARTER = """
import subprocess, sys
child = subprocess.Popen([*sys.argv[1:]], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline(), flush=True)
sys.stdin.read()
"""


def test_it_can_stop_with_the_process_that_started_it(tmp_path):
    rules = tmp_path / "rules.yml"
    rules.write_text("models: {m: }")
    arguments = [sys.executable, "-c", STARTER, *COMMAND, "--config", rules, "--exit-with-parent"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        pid, url = starter.stdout.readline().split()
        assert httpx.get(f"{url.removesuffix('/v1')}/health").json() == {"status": "ok"}
        starter.kill()

    def gone():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        return (
            "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
        )  # its new parent may be slow to bury it

    wait_for(gone)


def test_without_the_extra_it_says_which_one(tmp_path):
    rules = tmp_path / "rules.yml"
    rules.write_text("models: {m: }")
    code = "import sys; sys.modules['uvicorn'] = None; from millstream.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *COMMAND[3:], "--config", rules],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 4
    assert "The stand-in model server needs the extra [web]: pip install 'millstream[web]'" in done.stderr
