"""Every way that a process ends: no finished span is lost, none is there twice, and all are whole."""

import hashlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import millstream
from millstream import Status
from millstream.store.segments import State, list_segments

WORK = '''
import hashlib, os, signal, sys, threading, time
import millstream
from millstream import start_span, track_function

SYSTEM = "You are a helpful assistant. " * 100

@track_function
def ask(number, system, messages, text):
    """A call whose arguments are a value that comes again, a list that grows, and one of its own."""
    return {"number": number, "digest": hashlib.sha256(text.encode()).hexdigest()}

def do(count, who=0, first=0):
    for number in range(first, first + count):
        turns = range(number - number % 13, number + 1)
        messages = [{"role": "user", "content": f"{who} {turn} " + "why? " * 60} for turn in turns]
        ask([who, number], SYSTEM, messages, f"{who} {number} " * (number % 7 * 150 + 1))
'''


def program(code: str) -> str:
    return WORK + textwrap.dedent(code)


def run(code: str, *args: object, timeout: float = 60, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program(code), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def read(home: Path, torn: int = 0) -> list[millstream.Span]:
    """What was recorded, all of it whole but for so many pieces of lines."""
    store = millstream.open_store(home)
    spans = list(store.spans())
    assert not [reason for reason in store.rejected if "large value" in reason]
    assert store.rejected.total() <= torn
    assert len({span.span_id for span in spans}) == len(spans)
    return spans


def finished(home: Path, torn: int = 0) -> Counter[tuple[int, int]]:
    """How often each call is there that ended, after a look at its content."""
    found: Counter[tuple[int, int]] = Counter()
    for span in read(home, torn):
        if span.name == "ask" and span.status is Status.OK:
            who, number = span.input["number"]
            text = span.input["text"]
            assert text == f"{who} {number} " * (number % 7 * 150 + 1)
            assert span.input["system"].startswith("You are a helpful assistant. You are")
            assert span.input["messages"][-1]["content"].startswith(f"{who} {number} why?")
            assert len(span.input["messages"]) == number % 13 + 1
            assert span.output["digest"] == hashlib.sha256(text.encode()).hexdigest()
            found[who, number] += 1
    return found


def calls(count: int, who: int = 0) -> dict[tuple[int, int], int]:
    return {(who, number): 1 for number in range(count)}


def kill(name: str) -> str:
    return f"os.kill(os.getpid(), signal.{name}); time.sleep(30)"


UNWOUND = {
    "return": ("pass", 0, Status.OK),
    "exception": ("1 / 0", 1, Status.ERROR),
    "sys.exit": ("sys.exit(3)", 3, Status.ERROR),
    "sys.exit in a thread": ("t = threading.Thread(target=sys.exit); t.start(); t.join()", 0, Status.OK),
    "SIGINT": (kill("SIGINT"), -signal.SIGINT, Status.CANCELLED),
    "SIGTERM with a handler": (
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); {kill('SIGTERM')}",
        0,
        Status.OK,
    ),
}
TORN = 3
"""Pieces in which the one line may be found that was being copied when its process was killed."""
ABRUPT = {
    "os._exit": ("os._exit(0)", 0),
    "os._exit in a thread": ("threading.Thread(target=os._exit, args=(4,)).start(); time.sleep(30)", 4),
    "SIGTERM": (kill("SIGTERM"), -signal.SIGTERM),
    "SIGHUP": (kill("SIGHUP"), -signal.SIGHUP),
    "SIGKILL": (kill("SIGKILL"), -signal.SIGKILL),
    "SIGSEGV": (kill("SIGSEGV"), -signal.SIGSEGV),
    "alarm": ("signal.setitimer(signal.ITIMER_REAL, 0.001); time.sleep(30)", -signal.SIGALRM),
    "os.abort": ("os.abort()", -signal.SIGABRT),
    "exec": ("os.execv(sys.executable, [sys.executable, '-c', 'raise SystemExit(5)'])", 5),
}


@pytest.mark.parametrize("ending", UNWOUND)
def test_a_process_that_unwinds_ends_its_open_spans_too(home, ending):
    code, returned, status = UNWOUND[ending]
    done = run(f"with start_span('outer'):\n    do(60)\n    {code}\n")
    assert done.returncode == returned, done.stderr
    assert finished(home) == calls(60)
    (outer,) = [span for span in read(home) if span.name == "outer"]
    assert outer.status is status
    assert {segment.state for segment in list_segments(home)} == {State.CLOSED}


@pytest.mark.parametrize("ending", ABRUPT)
def test_a_process_that_ends_at_once_leaves_its_open_spans_interrupted(home, ending):
    code, returned = ABRUPT[ending]
    no_core = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"
    done = run(f"{no_core}\nwith start_span('outer'):\n    do(60)\n    {code}\n")
    assert done.returncode == returned, done.stderr
    assert finished(home) == calls(60)
    (outer,) = [span for span in read(home) if span.name == "outer"]
    assert (outer.status, outer.end_ns) == (Status.INTERRUPTED, None)


def script(folder: Path, code: str) -> list[str]:
    """A program in a file, which children of multiprocessing import."""
    path = folder / "program.py"
    path.write_text(program(code))
    return [sys.executable, str(path)]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing(home, tmp_path, method):
    code = f"""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        def task(who):
            do(25, who)
            return who

        def dies(who):
            with start_span("open in a child"):
                do(25, who)
                os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            with start_span("outer"):
                do(25, 0)
                with context.Pool(2, maxtasksperchild=1) as pool:
                    assert pool.map(task, [1, 2, 3], chunksize=1) == [1, 2, 3]
                with ProcessPoolExecutor(2, mp_context=context) as executor:
                    assert list(executor.map(task, [4, 5])) == [4, 5]
                children = [context.Process(target=task, args=(6,)), context.Process(target=dies, args=(7,))]
                for child in children:
                    child.start()
                for child in children:
                    child.join()
                assert [child.exitcode for child in children] == [0, -signal.SIGKILL]
    """
    subprocess.run(script(tmp_path, code), check=True, timeout=120)
    assert finished(home) == {key: 1 for who in range(8) for key in calls(25, who)}
    spans = read(home)
    (outer,) = [span for span in spans if span.name == "outer"]
    assert outer.status is Status.OK
    (left,) = [span for span in spans if span.status is Status.INTERRUPTED]
    assert left.name == "open in a child"
    if method == "fork":  # the others begin anew, with nothing of the parent's
        forked = [span for span in spans if span.name == "ask" and span.input["number"][0] in (4, 5, 6)]
        assert {span.parent_id for span in forked} == {outer.span_id}


def test_fork_in_the_middle_of_a_span_while_threads_record(home):
    """Children keep their own spans, whatever a thread of the parent was at when it was forked."""
    code = """
        stop = threading.Event()

        def busy(who):
            number = 0
            while not stop.is_set():
                do(1, who, number)
                number += 1
            counts[who] = number

        def child(who):
            do(20, who)
            threads = [threading.Thread(target=do, args=(20, who + n)) for n in (1, 2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            os._exit(0)

        counts = {}
        with millstream.recording(segment_bytes=100_000), start_span("outer"):
            threads = [threading.Thread(target=busy, args=(who,)) for who in range(3)]
            for thread in threads:
                thread.start()
            for who in range(100, 1100, 100):
                time.sleep(0.01)
                if (pid := os.fork()) == 0:
                    child(who)
                assert os.waitpid(pid, 0)[1] == 0
            stop.set()
            for thread in threads:
                thread.join()
        print(*(counts[who] for who in range(3)))
    """
    done = run(code)
    assert done.returncode == 0, done.stderr
    of_parent = {(who, n): 1 for who, count in enumerate(done.stdout.split()) for n in range(int(count))}
    of_children = {key: 1 for who in range(100, 1100, 100) for n in range(3) for key in calls(20, who + n)}
    assert finished(home) == of_parent | of_children
    assert sum(span.name == "outer" for span in read(home)) == 1


def test_a_prefork_server(home):
    """Workers that were forked while a span was open, one of them killed, the rest told to end."""
    code = """
        import socket

        listening = socket.create_server(("127.0.0.1", 0))
        print(listening.getsockname()[1], flush=True)
        with start_span("master"):
            do(10, 0)
            workers = []
            for _ in range(3):
                if (pid := os.fork()) == 0:
                    while True:
                        connection, _ = listening.accept()
                        number = int(connection.recv(100))
                        do(5, 1, number)
                        connection.sendall(b"%d" % os.getpid())
                        connection.close()
                workers.append(pid)
            sys.stdin.read()
            os.kill(workers[0], signal.SIGKILL)
            for pid in workers[1:]:
                os.kill(pid, signal.SIGTERM)
            for pid in workers:
                os.waitpid(pid, 0)
    """
    command = [sys.executable, "-c", program(code)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        port = int(server.stdout.readline())
        served: Counter[int] = Counter()
        for number in range(0, 200, 5):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"%d" % number)
                served[int(connection.recv(100))] += 1
        server.communicate()
    assert server.returncode == 0
    expected = {(1, number + n): 1 for number in range(0, 200, 5) for n in range(5)}
    assert finished(home) == calls(10, 0) | expected
    assert Counter(span.status for span in read(home) if span.name == "master") == {Status.OK: 1}
    assert len(list_segments(home)) == 1 + len(served)


SERVERS = {
    "gunicorn": ["gunicorn", "app:wsgi", "-w", "2", "-b", "127.0.0.1:{port}", "--preload"],
    "gunicorn threads": ["gunicorn", "app:wsgi", "-w", "2", "--threads", "4", "-b", "127.0.0.1:{port}"],
    "uvicorn": ["uvicorn", "app:asgi", "--workers", "2", "--port", "{port}", "--log-level", "warning"],
}


@pytest.mark.parametrize("name", SERVERS)
def test_servers_with_workers(home, tmp_path, name):
    module, *options = SERVERS[name]
    pytest.importorskip(module)
    code = """
        def wsgi(environ, start_response):
            do(3, 1, int(environ["QUERY_STRING"]))
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"%d" % os.getpid()]

        async def asgi(scope, receive, send):
            if scope["type"] == "http":
                do(3, 1, int(scope["query_string"]))
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"%d" % os.getpid()})

        do(5, 0)  # before there are workers
    """
    (tmp_path / "app.py").write_text(program(code))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", module, *(option.format(port=port) for option in options)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as server:
        try:
            served: Counter[int] = Counter()
            for number in range(0, 90, 3):
                served[int(ask(port, number))] += 1
            os.kill(next(iter(served)), signal.SIGKILL)
            for number in range(90, 180, 3):
                served[int(ask(port, number))] += 1
        finally:
            server.terminate()
            server.stderr.read()
    found = finished(home)
    assert {key: n for key, n in found.items() if key[0] == 1} == {
        (1, number + n): 1 for number in range(0, 180, 3) for n in range(3)
    }
    assert len(served) >= 2


def ask(port: int, number: int) -> bytes:
    """What a server answers; one that is only starting, or lost a worker, is asked again."""
    for _ in range(600):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", f"/?{number}")
            return connection.getresponse().read()
        except (ConnectionError, http.client.HTTPException):
            time.sleep(0.05)
        finally:
            connection.close()
    raise AssertionError("the server never answered")


DAEMONS = """
    import gc

    @track_function
    def stream(number):
        yield number
        yield number

    class Finalized:
        def __del__(self):
            with start_span("finalized"):
                pass

    def forever(who):
        with open(f"{sys.argv[1]}/{who}", "ab", buffering=0) as done:
            number = 0
            while True:
                do(1, who, number)
                done.write(b"%d\\n" % number)
                number += 1

    millstream.recording(segment_bytes=int(sys.argv[2]))
    for who in range(4):
        threading.Thread(target=forever, args=(who,), daemon=True).start()
    gc.disable()
    for number in range(30):  # found by the last collection, when the threads have been stopped
        cycle = [stream(number), Finalized()]
        next(cycle[0])
        cycle.append(cycle)
    del cycle
    time.sleep(0.15)
"""


@pytest.mark.parametrize("segment_bytes", [1, 20_000, 64 << 20])
def test_the_interpreter_shuts_down_while_daemon_threads_record(home, tmp_path, segment_bytes):
    """It does not hang where a thread was stopped in the middle of the journal."""
    done = run(DAEMONS, tmp_path, segment_bytes, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    said = {(who, int(n)): 1 for who in range(4) for n in (tmp_path / str(who)).read_text().split()}
    found = finished(home)
    assert said.items() <= found.items()
    assert len(found) <= len(said) + 4
    spans = read(home)
    assert Counter(s.status for s in spans if s.name == "stream") == {Status.OK: 30}
    assert Counter(s.status for s in spans if s.name == "finalized") == {Status.OK: 30}
    assert all(span.name == "ask" for span in spans if span.status is Status.INTERRUPTED)


def test_a_name_of_ours_that_is_first_used_at_shutdown(home):
    code = """
        import millstream

        @millstream.track_function
        def f():
            pass

        f()

        class Finalized:
            def __del__(self):
                with millstream.start_span("finalized"):
                    pass

        kept = Finalized()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {span.name for span in read(home)} == {"f", "finalized"}


THREADS = """
    def forever(who):
        with open(f"{sys.argv[1]}/{who}", "ab", buffering=0) as done:
            number = 0
            while True:
                do(1, who, number)
                done.write(b"%d\\n" % number)
                number += 1

    sys.setswitchinterval(1e-5)
    millstream.recording(segment_bytes=int(sys.argv[2]))
    for who in range(4):
        threading.Thread(target=forever, args=(who,)).start()
"""


def start(folder: Path, segment_bytes: int) -> subprocess.Popen[bytes]:
    """A process of four threads that record without end, when all of them have begun."""
    command = [sys.executable, "-c", program(THREADS), str(folder), str(segment_bytes)]
    process = subprocess.Popen(command)
    while not all((folder / str(who)).exists() for who in range(4)):
        time.sleep(0.005)
        assert process.poll() is None
    return process


def said_done(folder: Path) -> dict[tuple[int, int], int]:
    """The calls that returned before the process was killed; a number that was being written is left out."""
    return {
        (who, int(line)): 1
        for who in range(4)
        for line in (folder / str(who)).read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    }


@pytest.mark.parametrize("segment_bytes", [1, 150_000, 64 << 20])
@pytest.mark.parametrize("seed", range(4))
def test_kill_9_at_any_moment(home, tmp_path, seed, segment_bytes):
    """Four threads, large values, and segments that end often."""
    process = start(tmp_path, segment_bytes)
    time.sleep(random.Random(f"{seed} {segment_bytes}").uniform(0.0, 0.3))  # noqa: S311  # any moment does
    process.kill()
    process.wait()
    said, found = said_done(tmp_path), finished(home, TORN)
    assert said.items() <= found.items()
    assert len(found) <= len(said) + 4
    assert set(found.values()) == {1}
    left = [span for span in read(home, TORN) if span.status is Status.INTERRUPTED]
    assert len(left) <= 4
    assert all(span.end_ns is None and span.name == "ask" for span in left)


@pytest.mark.parametrize("segment_bytes", [100_000, 64 << 20])
def test_a_process_is_killed_while_others_read(home, tmp_path, segment_bytes):
    """Readers see each finished span from the moment it is there on, and take no living process for dead."""
    process = start(tmp_path, segment_bytes)
    before: set[tuple[int, int]] = set()
    deadline = time.monotonic() + 1.5
    killer = threading.Timer(1, process.kill)
    killer.start()
    while time.monotonic() < deadline or process.poll() is None:
        said = set(said_done(tmp_path))
        store = millstream.open_store(home)
        spans = list(store.spans())
        alive = process.poll() is None
        assert store.rejected.total() == 0 or not alive
        found = {
            tuple(span.input["number"]) for span in spans if span.name == "ask" and span.status is Status.OK
        }
        assert before | said <= found
        if alive:
            assert not [span for span in spans if span.status is Status.INTERRUPTED]
        before = found
    killer.join()
    process.wait()
    assert before <= set(finished(home, TORN))
