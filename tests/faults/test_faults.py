"""What a search server may do to us, while applications are killed: nothing is lost, nothing doubled."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from millstream import open_store
from millstream.deliver.undelivered import sink_statuses
from tests.faults.conftest import ended

FAULTS = {
    "reset": "reset",
    "reset once it is stored": "stored, then reset",
    "hang": "hang",
    "429": "status 429",
    "500": "status 500",
    "503": "status 503",
    "item errors": "items",
    "slow": "slow 1",
}


def settle(start):
    """Deliver what is left."""
    err = ended(start(0), within_s=60)
    assert "not delivered" not in err, err


def check(tmp_path, server):
    """Every recorded span is a document, or a dead letter with a reason; each is one once."""
    recorded = {f"{span.trace_id}-{span.span_id}" for span in open_store(tmp_path / "home").spans()}
    letters = tmp_path / "home" / "dead-letter" / "search.jsonl"
    lines = letters.read_text().splitlines() if letters.exists() else []
    rejected = Counter("{trace_id}-{span_id}".format(**json.loads(line)["span"]) for line in lines)
    created = Counter(server.created)
    lost = recorded - created.keys() - rejected.keys()
    doubled = [one for one, times in (created + rejected).items() if times > 1]
    assert (len(lost), len(doubled), created.keys() - recorded) == (0, 0, set())
    (status,) = sink_statuses(tmp_path / "home")
    assert status.left == 0
    assert status.counts.sent >= len(created)  # what was sent twice is one document
    assert sum(status.counts.rejected.values()) == len(rejected)
    return len(recorded), rejected


def killed(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_while_an_application_is_killed_and_another_runs_on(tmp_path, server, start, fault):
    first = start(60)
    time.sleep(0.5)
    server.fail(fault)
    second = start(3)
    time.sleep(1)
    killed(first)
    third = start(0.5)
    ended(third)  # in the middle of the fault
    time.sleep(1)
    server.fail("items" if fault == "items" else "none")
    ended(second)
    settle(start)
    count, rejected = check(tmp_path, server)
    assert count > 1000
    assert bool(rejected) == (fault == "items")


@pytest.mark.parametrize("dying", ["killed", "in the middle of a bulk"])
def test_a_server_that_dies_and_comes_back(tmp_path, server, start, dying):
    first = start(60)
    second = start(4)
    time.sleep(0.5)
    if dying == "killed":
        server.kill()
    else:
        server.fail("dies")
        server.ended()
        server.fail("none")
    time.sleep(1)
    killed(first)  # nobody listens now
    time.sleep(0.5)
    server.start()
    ended(second)
    settle(start)
    count, rejected = check(tmp_path, server)
    assert count > 1000
    assert not rejected


def test_a_server_that_is_away_for_a_minute(tmp_path, server, start):
    server.kill()
    away_since = time.monotonic()
    long = start(61)
    err = ended(start(1))
    assert "not delivered to search yet (another process delivers there, and has not sent them yet)" in err
    assert err.count("\n") == 1, err
    killed_one = start(60)
    time.sleep(3)
    killed(killed_one)
    time.sleep(max(0, 60 - (time.monotonic() - away_since)))
    server.start()
    err = ended(long)
    assert err.count("gets nothing") == 1, err
    settle(start)
    assert check(tmp_path, server)[0] > 10_000


def test_killed_every_moment(tmp_path, server, start):
    for moment in range(12):
        process = start(60)
        time.sleep(0.1 + 0.05 * moment)
        killed(process)
    settle(start)
    assert check(tmp_path, server)[0] > 500


def test_many_processes_and_runs_share_a_sink(tmp_path, server, start):
    server.fail("slow 0.2")
    running = [start(seconds) for seconds in (4, 1, 2, 60, 60)]
    time.sleep(1.5)
    killed(running[3])
    for process in running[:3]:
        ended(process)
    killed(running[4])
    server.fail("none")
    settle(start)
    assert check(tmp_path, server)[0] > 1000


@pytest.mark.parametrize("fault", ["hang", "status 503", "status 429", "gone"])
def test_a_short_run_ends_in_time_and_tells_in_one_line(tmp_path, server, start, fault):
    if fault == "gone":
        server.kill()
    else:
        server.fail(fault)
    process = start(0.2)
    began = time.monotonic()
    err = ended(process, within_s=20)
    assert time.monotonic() - began < 20
    assert err.count("\n") == 1, err
    name = "the search server" if fault == "gone" else "Elasticsearch"
    assert f"spans are not delivered to search yet ({name} at " in err
    assert "they are kept in " in err
    if fault == "gone":
        server.start()
    server.fail("none")
    settle(start)
    check(tmp_path, server)


def test_ship_sends_what_others_left(tmp_path, server, start):
    server.fail("status 503")
    ended(start(0.5))
    server.fail("none")
    config = tmp_path / "flow.yml"
    config.write_text(
        "general: {telemetry: {tracing: {search: "
        f"{{_type: elasticsearch, endpoint: '{server.url}', index: spans}}}}}}}}\n"
    )
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "millstream",
        "ship",
        "--config_file",
        str(config),
        "--once",
    ]
    environment = {**os.environ, "MILLSTREAM_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    check(tmp_path, server)
