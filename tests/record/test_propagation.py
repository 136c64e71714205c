"""A trace goes on over HTTP, in subprocesses, in processes and pools, and in the tasks of Celery."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import forkserver

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream import extract, inject, inject_environment, start_span, w3c
from millstream.context import SpanContext, current, get_baggage, parse_traceparent
from tests.record.process_work import work

TRACE, SPAN = "a" * 32, "b" * 16
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


def tree(spans):
    names = {span.span_id: span.name for span in spans}
    return {span.name: names.get(span.parent_id) for span in spans}


# Carriers


@pytest.mark.parametrize(
    "carrier",
    [
        {"traceparent": TRACEPARENT, "tracestate": "v=1"},
        {"TRACEPARENT": TRACEPARENT, "TRACESTATE": "v=1"},
        {b"Traceparent": TRACEPARENT.encode(), b"tracestate": b"v=1"},
        {"traceparent": [TRACEPARENT], "tracestate": ["v=1"]},
        [(b"host", b"x"), (b"traceparent", TRACEPARENT.encode()), (b"tracestate", b"v=1")],
        [("Traceparent", TRACEPARENT), ("Tracestate", "v=1")],
        httpx.Headers({"traceparent": TRACEPARENT, "tracestate": "v=1"}),
    ],
)
def test_every_form_of_carrier_is_read(carrier):
    onward: dict[str, str] = {}
    with extract(carrier) as remote:
        inject(onward)
    assert (remote.trace_id, remote.span_id, remote.sampled) == (TRACE, SPAN, True)
    assert onward == {"traceparent": TRACEPARENT, "tracestate": "v=1"}
    assert current.get() is None


@pytest.mark.parametrize(
    "carrier", [None, [], [1, 2], {"traceparent": 5}, {"traceparent": [TRACEPARENT, TRACEPARENT]}, [("a",)]]
)
def test_what_is_no_carrier_changes_nothing(carrier):
    with extract(carrier) as remote:
        assert remote is None


def test_every_form_of_carrier_is_written():
    with extract({"traceparent": TRACEPARENT}):
        scope = [(b"host", b"x"), (b"Traceparent", b"old")]
        inject(scope)
        assert scope == [(b"host", b"x"), (b"traceparent", TRACEPARENT.encode())]
        pairs = [("Host", "x")]
        inject(pairs)
        assert pairs == [("Host", "x"), ("traceparent", TRACEPARENT)]
        mixed = {"Traceparent": "old", "other": "kept"}
        inject(mixed)
        assert mixed == {"other": "kept", "traceparent": TRACEPARENT}
        raw = {b"other": b"kept"}
        inject(raw)
        assert raw[b"traceparent"] == TRACEPARENT.encode()
        headers = httpx.Headers({"TraceParent": "old"})
        inject(headers)
        assert headers["traceparent"] == TRACEPARENT


def test_whether_the_trace_is_sampled_travels():
    unsampled = TRACEPARENT[:-1] + "0"
    assert parse_traceparent(unsampled).sampled is False
    assert parse_traceparent(TRACEPARENT[:-1] + "3").sampled is True
    headers: dict[str, str] = {}
    with extract({"traceparent": unsampled}):
        inject(headers)
    assert headers["traceparent"] == unsampled
    assert SpanContext.remote(TRACE, SPAN).sampled is True


def test_tracestate_belongs_to_its_trace():
    headers: dict[str, str] = {}
    with extract({"traceparent": TRACEPARENT, "tracestate": "v=1"}), start_span("x", trace_id="c" * 32):
        inject(headers)
    assert "tracestate" not in headers


def test_baggage_is_kept_as_it_is_but_what_is_invalid():
    given = 'user%20id=a%2Cb;p=1;q , bad, =worse, no name=1, x = 2 , quoted="1", é=1, empty='
    headers: dict[str, str] = {}
    with extract({"traceparent": TRACEPARENT, "baggage": given}):
        assert get_baggage() == {"user id": "a,b", "x": "2", "empty": ""}
        inject(headers)
    assert headers["baggage"] == "user%20id=a%2Cb;p=1;q,x = 2,empty="


def test_baggage_without_a_trace():
    with extract({"baggage": "a=1"}) as remote:
        assert remote is None
        assert get_baggage() == {"a": "1"}
        headers: dict[str, str] = {}
        with start_span("x"):
            inject(headers)
    assert headers["baggage"] == "a=1"
    assert get_baggage() == {}


def test_the_limits_of_baggage_cut_whole_members():
    many = w3c.parse_baggage(",".join(f"k{number}=1" for number in range(100)))
    assert len(many) == 64
    long = w3c.parse_baggage(",".join(f"k{number}={'x' * 1000}" for number in range(20)))
    assert 7 <= len(long) <= 8
    assert len(",".join(long)) <= 8192


@given(st.text() | st.binary())
def test_no_header_raises(value):
    with extract({"traceparent": TRACEPARENT, "tracestate": value, "baggage": value}) as remote:
        get_baggage()
        headers: dict[str, str] = {}
        inject(headers)
    assert remote is not None
    assert all(text.isprintable() or "\t" in text for text in headers.values())


# Over HTTP


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        with extract(self.headers), start_span("server"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(dict(get_baggage())).encode())

    def log_message(self, *arguments):
        pass


def test_over_http(spans):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with extract({"baggage": "a=1"}), start_span("client"):
            headers: dict[str, str] = {}
            inject(headers)
            url = f"http://127.0.0.1:{server.server_port}"
            assert httpx.get(url, headers=headers, trust_env=False).json() == {"a": "1"}
        server.shutdown()
    assert tree(spans()) == {"client": None, "server": "client"}


# Into processes

CHILD = """if True:
    import json, millstream
    from millstream.context import get_baggage
    with millstream.start_span("child"):
        env = millstream.inject_environment({})
    print(json.dumps([dict(get_baggage()), env]))
"""


def test_into_a_subprocess(spans):
    carrier = {"traceparent": TRACEPARENT, "tracestate": "v=1", "baggage": "a=1;p=2"}
    with extract(carrier), start_span("parent"):
        env = inject_environment()
    assert os.environ.items() <= env.items()
    told = json.loads(subprocess.check_output([sys.executable, "-c", CHILD], env=env))
    child = next(span for span in spans() if span.name == "child")
    onward = {"TRACEPARENT": f"00-{TRACE}-{child.span_id}-01", "TRACESTATE": "v=1", "BAGGAGE": "a=1;p=2"}
    assert told == [{"a": "1"}, onward]
    assert tree(spans()) == {"parent": None, "child": "parent"}


def test_an_environment_of_ones_own():
    env = {"PATH": "x", "TRACESTATE": "of another"}
    assert inject_environment(env) is env
    assert env == {"PATH": "x", "TRACESTATE": "of another"}, "nothing is current"
    with start_span("x") as span:
        inject_environment(env)
    assert env == {"PATH": "x", "TRACEPARENT": f"00-{span.trace_id}-{span.span_id}-01"}


@pytest.fixture(autouse=True)
def new_fork_server():
    """It lives on with the environment that it was started in."""
    yield
    forkserver._forkserver._stop()


METHODS = multiprocessing.get_all_start_methods()
quiet = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


@quiet
@pytest.mark.parametrize("method", METHODS)
def test_into_a_process(method, spans):
    with start_span("parent"):
        process = multiprocessing.get_context(method).Process(target=work, args=("child",))
        process.start()
    process.join()
    assert process.exitcode == 0
    assert tree(spans()) == {"parent": None, "child": "parent"}


@quiet
@pytest.mark.parametrize("method", METHODS)
def test_into_a_pool_of_processes(method, spans):
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        with start_span("first"):
            pids = {pool.submit(work, "in first").result()}
        with start_span("second"):
            pids |= set(pool.map(work, ["in second", "also in second"]))
        pids.add(pool.submit(work, "in none").result())
    assert len(pids) == 1
    assert tree(spans()) == {
        "first": None,
        "in first": "first",
        "second": None,
        "in second": "second",
        "also in second": "second",
        "in none": None,
    }


@quiet
@pytest.mark.parametrize("method", METHODS)
def test_into_a_multiprocessing_pool(method, spans):
    with start_span("around"), multiprocessing.get_context(method).Pool(1) as pool:
        with start_span("first"):
            pool.apply(work, ("in first",))
        with start_span("second"):
            pool.map(work, ["in second"])
            list(pool.imap(work, ["also in second"]))
        pool.close()
        pool.join()
    assert tree(spans()) == {
        "around": None,
        "first": "around",
        "in first": "first",
        "second": "around",
        "in second": "second",
        "also in second": "second",
    }


def test_a_process_that_cannot_start_keeps_its_target():
    process = multiprocessing.get_context("spawn").Process(target=lambda: None)
    before = process._target
    with start_span("x"), pytest.raises(Exception, match=r"pickle|local object"):
        process.start()
    assert process._target is before
