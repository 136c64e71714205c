"""`millstream ship`, as a process of its own over what others recorded."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest

import millstream
from millstream import open_store, start_span
from millstream.cli import main, stopping
from millstream.cli import ship as ship_module
from millstream.deliver.cursor import Cursor

PLUGIN = """
import json, os, time
from pathlib import Path
from millstream.deliver.sink import Rejected, Skipped
from millstream.errors import RefusedError, UnreachableError

class Picky:
    '''Keeps spans in a file; what it does with them is said in a file beside it.'''

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder

    def send(self, batch):
        mood = (self._folder / "mood").read_text()
        if mood == "slow":
            (self._folder / "begun").touch()
            time.sleep(0.3)
        if mood == "away":
            raise UnreachableError("the picky server does not answer")
        if mood == "closed":
            raise RefusedError("the picky server wants a password")
        results = []
        with (self._folder / "taken").open("a") as file:
            for span in batch:
                bad = mood == "picky" and span.name == "odd"
                if span.name == "empty":
                    results.append(Skipped("it is empty"))
                    continue
                results.append(Rejected("odd spans are not wanted") if bad else None)
                if not bad:
                    file.write(span.span_id + "\\n")
        return results

    def close(self):
        pass
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a plugin, installed as packages are, and a home to record into."""
    (tmp_path / "picky.py").write_text(PLUGIN)
    package = tmp_path / "picky-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: picky\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[millstream.exporters]\npicky = picky:Picky\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "__all__")  # Logfire's takes seconds to load
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "ELASTICSEARCH_URL", "ELASTICSEARCH_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():  # `main` in this process leaves its own
        signal.signal(number, handler)
    stopping.wanted.clear()


@pytest.fixture
def ship(place):
    def ship(*arguments, home="home", **kwargs):
        command = [sys.executable, "-W", "error", "-m", "millstream", "ship", "--home", home, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, cwd=place, **kwargs
        )

    return ship


def record(place, *names):
    with millstream.recording(home=place / "home"):
        for name in names:
            with start_span(name, input={"text": "x" * 300}):
                pass


def config(place, section):
    path = place / "flow.yml"
    path.write_text(f"general: {{telemetry: {{tracing: {{out: {section}}}}}}}\nllms: {{a: '${{NOT_SET}}'}}\n")
    return str(path)


def written(place):
    return Counter(json.loads(line)["span_id"] for line in (place / "traces.jsonl").read_text().splitlines())


def recorded(place):
    return Counter(span.span_id for span in open_store(place / "home").spans())


FILE = "{_type: file, path: traces.jsonl, batch_size: 10}"
PICKY = "{_type: picky, folder: ., shutdown_timeout: 1}"


def test_once_sends_everything_once(place, ship):
    record(place, *["span"] * 55)
    done = ship("--config_file", config(place, FILE), "--once")
    assert (done.returncode, done.stdout) == (0, "sent 55, left 0, rejected 0\n"), done.stderr
    assert f"{place}/home -> out (traces.jsonl)" in done.stderr
    record(place, "another")
    done = ship("--config-file", config(place, FILE), "--once")
    assert (done.returncode, done.stdout) == (0, "sent 1, left 0, rejected 0\n")
    assert written(place) == recorded(place)


def test_nothing_recorded(place, ship):
    done = ship("--config_file", config(place, FILE), "--once")
    assert (done.returncode, done.stdout) == (0, "sent 0, left 0, rejected 0\n"), done.stderr


def test_a_home_that_is_not_there(place, ship):
    done = ship("--config_file", config(place, FILE), "--once", home="hom")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{place}/hom is no folder: give the one that was recorded into, with --home" in done.stderr
    assert not (place / "hom").exists()


def test_nothing_says_where_to(place, ship):
    done = ship("--once")
    assert done.returncode == 2
    assert (
        "give --config_file F with a section general.telemetry.tracing, or set OTEL_EXPORTER_" in done.stderr
    )
    (place / "flow.yml").write_text("general: {}\n")
    done = ship("--config_file", "flow.yml", "--once")
    assert (done.returncode, "flow.yml has no general.telemetry.tracing" in done.stderr) == (2, True)
    done = ship("--config_file", config(place, "{_type: fil}"))
    assert (done.returncode, "flow.yml: general.telemetry.tracing.out._type: unknown" in done.stderr) == (
        2,
        True,
    )
    done = ship("--once", env={**os.environ, "ELASTICSEARCH_URL": "http://127.0.0.1:9"})
    assert done.returncode == 2
    assert "set the environment variable ELASTICSEARCH_CLIENT_ID" in done.stderr
    done = ship("--once", env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "127.0.0.1"})
    assert (done.returncode, "the environment.otlp" in done.stderr) == (2, True), done.stderr


def test_rejected_spans_are_sent_again_when_asked_for(place, ship):
    (place / "mood").write_text("picky")
    record(place, "even", "odd", "even", "odd")
    path = config(place, PICKY)
    done = ship("--config_file", path, "--once")
    assert (done.returncode, done.stdout) == (3, "sent 2, left 0, rejected 2\n"), done.stderr
    assert "2 rejected: odd spans are not wanted" in done.stderr
    assert len((place / "home" / "dead-letter" / "out.jsonl").read_text().splitlines()) == 2
    waits = "2 rejected spans lie in home/dead-letter/out.jsonl; `millstream ship --config_file"
    assert f"{waits} {path} --retry-rejected` sends them again" in done.stderr
    done = ship("--config_file", path, "--once")
    assert (done.returncode, done.stdout) == (3, "sent 0, left 0, rejected 2\n"), done.stderr
    assert waits in done.stderr
    done = ship("--config_file", path, "--once", "--retry-rejected")
    assert (done.returncode, done.stdout) == (3, "sent 0, left 0, rejected 2\n"), done.stderr
    assert "out: of its dead letters 0 were sent, 2 rejected again, 0 skipped, 0 are left\n" in done.stderr
    (place / "mood").write_text("")
    done = ship("--config_file", path, "--once", "--retry_rejected")
    assert (done.returncode, done.stdout) == (0, "sent 2, left 0, rejected 0\n"), done.stderr
    assert "dead-letter" not in done.stderr
    assert Counter((place / "taken").read_text().split()) == recorded(place)


def reject(place, ship, *names):
    """Have them in the dead letters; their path."""
    (place / "mood").write_text("picky")
    record(place, *names)
    assert ship("--config_file", config(place, PICKY), "--once").returncode == 3
    return place / "home" / "dead-letter" / "out.jsonl"


def test_rejected_spans_that_the_receiver_cannot_take_now_are_told_with_the_reason(place, ship):
    reject(place, ship, "odd")
    (place / "mood").write_text("away")
    done = ship("--config_file", config(place, PICKY), "--once", "--retry-rejected")
    assert (done.returncode, done.stdout) == (3, "sent 0, left 0, rejected 1\n"), done.stderr
    assert " 1 are left: the picky server does not answer\n" in done.stderr
    assert "1 rejected span lies in home/dead-letter/out.jsonl; " in done.stderr


def test_rejected_spans_of_an_exporter_that_another_process_delivers_to(place, ship):
    letters = reject(place, ship, "odd")
    before = letters.read_bytes()
    cursor = Cursor.open(place / "home", "out")
    done = ship("--config_file", config(place, PICKY), "--once", "--retry-rejected")
    cursor.close()
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert "already; send what it rejected again when that process has ended" in done.stderr
    assert letters.read_bytes() == before


def test_lines_that_are_no_dead_letters_are_told_and_stay(place, ship):
    letters = reject(place, ship, "odd")
    broken = b'{"sink":"out","reason":"bad","time":"now","span":5}\n{"sink\n'
    letters.write_bytes(broken + letters.read_bytes())
    (place / "mood").write_text("")
    done = ship("--config_file", config(place, PICKY), "--once", "--retry-rejected")
    assert (done.returncode, done.stdout) == (3, "sent 1, left 0, rejected 2\n"), done.stderr
    assert (
        "out: 2 lines of home/dead-letter/out.jsonl cannot be read as dead letters and stay there"
        in done.stderr
    )
    assert "sends them again" not in done.stderr
    assert letters.read_bytes() == broken


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_sending_of_rejected_spans_and_keeps_the_others(place, ship, number):
    letters = reject(place, ship, *["odd"] * 30)
    (place / "mood").write_text("slow")
    one_by_one = config(place, "{_type: picky, folder: ., shutdown_timeout: 1, batch_size: 1}")
    with shipping(place, "--config_file", one_by_one, "--once", "--retry-rejected") as process:
        assert until((place / "begun").exists)
        process.send_signal(number)
        began = time.monotonic()
        out, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    taken = Counter((place / "taken").read_text().split())
    kept = Counter(json.loads(line)["span"]["span_id"] for line in letters.read_text().splitlines())
    assert taken + kept == recorded(place)
    assert (process.returncode, out) == (3, f"sent {len(taken)}, left 0, rejected {len(kept)}\n"), err
    assert 0 < len(taken) < 5


@pytest.mark.parametrize(
    ("mood", "message"),
    [("away", "the picky server does not answer"), ("closed", "the picky server wants a password")],
)
def test_a_sink_that_takes_nothing(place, monkeypatch, capfd, mood, message):
    monkeypatch.setattr(ship_module, "_PATIENCE_S", 1.0)
    (place / "mood").write_text(mood)
    record(place, *["span"] * 5)
    arguments = ["ship", "--config_file", config(place, PICKY), "--once", "--home", str(place / "home")]
    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert time.monotonic() - began < 15
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (4, "sent 0, left 5, rejected 0\n")
    assert err.count(message) == 1
    (place / "mood").write_text("")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert Counter((place / "taken").read_text().split()) == recorded(place)


@contextmanager
def shipping(place, *arguments):
    command = [sys.executable, "-W", "error", "-m", "millstream", "ship", "--home", "home", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=place)
    try:
        process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_on_until_it_is_stopped(place, number):
    record(place, "before")
    with shipping(place, "--config_file", config(place, FILE)) as process:
        assert until(lambda: (place / "traces.jsonl").exists() and written(place) == recorded(place))
        record(place, *["meanwhile"] * 30)
        assert until(lambda: written(place) == recorded(place))
        record(place, "at the end")
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "sent 32, left 0, rejected 0\n"), err
    assert written(place) == recorded(place)


SIGNALLED = """
import atexit, os, sys
when, number, *arguments = sys.argv[1:]

def send():
    os.kill(os.getpid(), int(number))

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == when:
            send()

sys.meta_path.insert(0, Finder())
if when == "the end":
    atexit.register(send)
from millstream.cli import main
main(arguments)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["millstream.cli.ship", "pydantic", "millstream.deliver.shipper", "the end"])
def test_a_signal_ends_it_in_order_whenever_it_comes(place, when, number):
    """While one of its modules is imported, and after its last line."""
    record(place, "span")
    command = [sys.executable, "-W", "error", "-c", SIGNALLED, when, str(number.value), "ship"]
    once = ["--once"] if when == "the end" else []
    done = subprocess.run(
        [*command, "--home", "home", "--config_file", config(place, FILE), *once],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=place,
    )
    assert (done.returncode, done.stdout) == (0, "sent 1, left 0, rejected 0\n"), done.stderr
    assert written(place) == recorded(place)


def test_it_recovers_by_itself_and_says_so(place):
    (place / "mood").write_text("away")
    record(place, *["span"] * 5)
    with shipping(place, "--config_file", config(place, PICKY)) as process:
        time.sleep(3)
        assert not (place / "taken").exists()
        (place / "mood").write_text("")
        assert until(
            lambda: (place / "taken").exists() and len((place / "taken").read_text().split()) == 5, 40
        )
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "sent 5, left 0, rejected 0\n"), err
    assert err.count("the picky server does not answer") == 1
    assert Counter((place / "taken").read_text().split()) == recorded(place)


def test_killed_again_and_again_it_sends_everything_once(place, ship):
    writer = textwrap.dedent("""
        import sys, time
        import millstream
        with millstream.recording(home="home"):
            for number in range(3000):
                with millstream.start_span("span", input="x" * 300):
                    pass
                time.sleep(0.0005)
    """)
    recorder = subprocess.Popen([sys.executable, "-c", writer], cwd=place)
    path = config(place, "{_type: file, path: traces.jsonl, batch_size: 20, enable_rolling: false}")
    try:
        for number in range(8):
            with shipping(place, "--config_file", path) as process:
                time.sleep(0.2 + 0.07 * number)
                process.kill()
    finally:
        recorder.wait(timeout=60)
    done = ship("--config_file", path, "--once")
    assert done.returncode == 0, done.stderr
    assert len(written(place)) == 3000
    assert written(place) == recorded(place)


def test_two_at_a_time_send_everything_once(place, ship):
    record(place, *["span"] * 500)
    path = config(place, FILE)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(ship("--config_file", path, "--once")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done.returncode for done in results] == [0, 0], [done.stderr for done in results]
    assert written(place) == recorded(place)


def test_status_shows_it(place, ship):
    (place / "mood").write_text("picky")
    record(place, "even", "odd", "empty", "empty")
    ship("--config_file", config(place, PICKY), "--once")
    record(place, "even")
    command = [sys.executable, "-m", "millstream", "journal", "status", "--home", "home", "--json"]
    shown = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=place).stdout)
    (sink,) = shown["sinks"]
    assert (sink["name"], sink["left"], sink["counts"]["sent"]) == ("out", 1, 1)
    assert sink["counts"]["rejected"] == {"odd spans are not wanted": 1}
    assert (sink["counts"]["skipped"], sink["counts"]["skipped_reasons"]) == (2, {"it is empty": 2})
    told = subprocess.run(command[:-1], capture_output=True, check=True, cwd=place, text=True).stdout
    assert "out: 1 rejected: odd spans are not wanted\n" in told
    assert "out: 2 skipped: it is empty\n" in told
