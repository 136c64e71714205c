"""A forecast made by another process is the one made here, whatever becomes of that process."""

import os
import signal
import subprocess
import sys

import pytest

from millstream.profiler.forecast.beside import Beside
from millstream.profiler.forecast.finding import Refused, forecast
from millstream.profiler.forecast.training import decoded, encoded, training_of
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import runs


@pytest.fixture(scope="module")
def table():
    return SpanTable.from_spans(runs(80, seed=6))


@pytest.fixture(scope="module")
def here(table):
    return forecast(table)


def test_the_same_as_here(table, here):
    with Beside() as beside:
        assert beside.begin(table)() == here
        assert beside._process.returncode == 0
    assert gone(beside)


def test_too_few_requests_are_refused_in_the_same_words():
    few = SpanTable.from_spans(runs(3, seed=6))
    with Beside() as beside:
        found = beside.begin(few)()
    assert isinstance(found, Refused)
    assert found == forecast(few)


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_other_process_is_killed(table, here, when):
    with Beside() as beside:
        if when == "before":
            beside._process.kill()
            beside._process.wait()
        finding = beside.begin(table)
        beside._process.kill()
        assert finding() == here


def test_nobody_asks_and_an_error_ends_it():
    with pytest.raises(ZeroDivisionError), Beside() as beside:
        _ = 1 / 0
    assert gone(beside)


def test_this_process_is_killed_and_the_other_ends():
    code = (
        "import os, signal\n"
        "from millstream.profiler.forecast.beside import Beside\n"
        "with Beside() as beside:\n"
        "    print(beside._process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    watch = subprocess.run(["tail", f"--pid={int(done.stdout)}", "-f", "/dev/null"], timeout=60, check=True)
    assert watch.returncode == 0


def test_files_of_the_working_directory_are_not_loaded(table, here, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with Beside() as beside:
        assert beside.begin(table)() == here
        assert beside._process.returncode == 0


def test_what_is_handed_over_comes_back(table):
    training = training_of(table)
    again = decoded(encoded(training))
    assert again[1:] == training[1:]
    for name in training.states.__slots__:
        before, after = getattr(training.states, name), getattr(again.states, name)
        assert before.dtype == after.dtype
        assert (before == after).all()


def gone(beside):
    try:
        os.kill(beside._process.pid, 0)
    except ProcessLookupError:
        return True
    return False
