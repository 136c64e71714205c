"""What is settled is kept, by one process at a time, whatever happens to that process or its disk."""

import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections import Counter

import pytest

from millstream import open_store, start_span
from millstream.deliver import cursor as cursor_module
from millstream.deliver.cursor import Busy, Cursor, known_sinks, read_state
from millstream.deliver.tail import Tail
from millstream.errors import StorageError
from millstream.record import faults


@pytest.fixture
def sink(home):
    held = []

    def open_cursor(name="sink", begin="all"):
        held.append(Cursor.open(home, name, begin))
        return held[-1]

    yield open_cursor
    for cursor in held:
        cursor.close()


def python(code, *arguments, **kwargs):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], **kwargs)


HOLD = """
    import sys, time
    from pathlib import Path
    from millstream.deliver.cursor import Cursor
    cursor = Cursor.open(Path(sys.argv[1]), "sink")
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_holds_a_sink_and_its_death_frees_it(home, sink):
    process = python(HOLD, home, stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(Busy, match=rf"Process {process.pid} delivers to sink from .*{home.name}"):
        sink()
    sink("another")
    process.kill()
    process.wait()
    sink()
    process.stdout.close()


def test_one_cursor_at_a_time_of_this_process_too(home, sink):
    first = sink()
    with pytest.raises(Busy):
        sink()
    first.close()
    sink()


def test_a_forked_child_holds_nothing_and_changes_nothing(home, sink):
    cursor = sink()
    cursor.counts.sent = 1
    cursor.save()
    pid = os.fork()
    if pid == 0:
        cursor.counts.sent = 99
        cursor.close()
        time.sleep(60)
        os._exit(0)
    try:
        time.sleep(0.2)
        assert read_state(home, "sink").counts.sent == 1
        with pytest.raises(Busy):
            sink()
        cursor.close()
        sink()  # the child still lives
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_what_is_kept_is_read_by_the_next(home, sink):
    cursor = sink()
    cursor.counts.sent += 3
    cursor.counts.rejected["too large"] += 2
    cursor.progress("a").read = 5
    cursor.progress("a").owed = {1, 2}
    cursor.finish("b")
    cursor.close()
    cursor = sink()
    assert (cursor.counts.sent, cursor.counts.rejected) == (3, {"too large": 2})
    cursor.counts.rejected["too old"] += 1
    assert cursor.progress("a").owed == {1, 2}
    assert cursor.is_done("b")
    assert not cursor.is_done("a")


def test_files_are_their_owners_only(home, sink):
    cursor = sink()
    for number in range(100):
        cursor.finish(str(number))
    cursor.save()
    folder = home / "delivery"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "sink.jsonl": 0o600,
        "sink.done": 0o600,
        "sink.lock": 0o600,
    }


def test_any_name_is_a_file_in_the_folder(home, sink):
    for name in ("../out", "a/b", "..", "a.b", "ü ß"):
        cursor = sink(name)
        cursor.counts.sent = len(name)
        cursor.close()
        assert sink(name).counts.sent == len(name)
    assert known_sinks(home) == sorted(["../out", "a/b", "..", "a.b", "ü ß"])
    assert {path.name for path in home.iterdir()} <= {"delivery", "journal"}


def test_many_done_segments_go_to_their_own_file_and_the_state_stays_small(home, sink):
    cursor = sink()
    names = [f"{number:020d}-1-0001" for number in range(1100)]
    (home / "journal").mkdir()
    for name in names:
        (home / "journal" / f"{name}.jsonl").touch()
    for name in names[:1000]:
        cursor.finish(name)
        cursor.save()
    assert len((home / "delivery" / "sink.jsonl").read_bytes().splitlines()[-1]) < 1000
    cursor.close()
    with (home / "delivery" / "sink.done").open("ab") as file:
        file.write(b"00000")  # torn
    cursor = sink()
    for name in names[1000:]:
        cursor.finish(name)
    cursor.close()
    cursor = sink()
    assert all(cursor.is_done(name) for name in names)


def test_names_of_segments_that_are_gone_are_forgotten(home, sink):
    with start_span("x"):
        pass
    (segment,) = (home / "journal").iterdir()
    cursor = sink()
    cursor.finish(segment.stem)
    for number in range(1000):
        cursor.finish(f"0179584{number:013d}-1-0001")
    cursor.close()
    cursor = sink()
    assert cursor.is_done(segment.stem)
    assert not cursor.is_done("01795840000000000007-1-0001")
    assert (home / "delivery" / "sink.done").stat().st_size < 100


@pytest.mark.parametrize("harm", [b"", b"{", b"[]", b'{"segments": 1}', b"\xff\xfe"])
def test_a_state_that_is_broken_is_said_and_all_is_sent_again(home, sink, harm, monkeypatch, caplog):
    with start_span("x"):
        pass
    cursor = sink()
    tail = Tail(home, cursor)
    tail.settle([item.place for item in tail.read(10)])
    tail.save()
    cursor.close()
    (home / "delivery" / "sink.jsonl").write_bytes(harm)
    monkeypatch.setattr(faults, "strict", False)
    cursor = sink(begin="now")
    assert "not readable" in caplog.text
    assert [item.span.name for item in Tail(home, cursor).read(10)] == ["x"]


def test_a_home_that_cannot_be_written_is_said(tmp_path):
    home = tmp_path / "file"
    home.write_text("")
    with pytest.raises(StorageError, match=r"file/delivery cannot be written: .* Delivery keeps"):
        Cursor.open(home, "sink")


def test_on_a_full_disk_the_error_is_said_once_and_delivery_goes_on(home, sink, monkeypatch, caplog):
    for name in ("a", "b"):
        with start_span(name):
            pass
    cursor = sink()
    tail = Tail(home, cursor)
    monkeypatch.setattr(faults, "strict", False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        for name in ("a", "b"):
            (item,) = tail.read(1)
            assert item.span.name == name
            tail.settle([item.place])
            cursor.counts.sent += 1
            tail.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caplog.text.count("the state of delivery cannot be written") == 1
    assert read_state(home, "sink").counts.sent == 0
    tail.save()
    assert read_state(home, "sink").counts.sent == 2
    cursor.close()
    assert Tail(home, sink()).read(10) == []


def test_saving_writes_only_what_changed_and_the_file_stays_small(home, sink, monkeypatch):
    monkeypatch.setattr(cursor_module, "_MOST_BYTES", 1000)
    cursor = sink()
    path = home / "delivery" / "sink.jsonl"
    written = path.read_bytes()
    cursor.save()
    assert path.read_bytes() == written
    for number in range(100):
        cursor.counts.sent += 1
        cursor.save()
        assert read_state(home, "sink").counts.sent == number + 1
        assert path.stat().st_size < 2000
    assert {path.name for path in path.parent.iterdir()} == {"sink.jsonl", "sink.lock"}


def test_a_state_that_is_torn_leaves_the_one_before(home, sink):
    cursor = sink()
    for _ in range(2):
        cursor.counts.sent += 1
        cursor.save()
    path = home / "delivery" / "sink.jsonl"
    cursor.close()
    path.write_bytes(path.read_bytes()[:-9])
    assert sink().counts.sent == 1


def test_a_folder_that_was_removed_is_made_again(home, sink):
    cursor = sink()
    cursor.save()
    shutil.rmtree(home / "delivery")
    cursor.counts.sent = 1
    cursor.save()
    assert read_state(home, "sink").counts.sent == 1


SHIP = """
    import os, sys, time
    from pathlib import Path
    from millstream.deliver.cursor import Busy, Cursor
    from millstream.deliver.tail import Tail
    home, out = Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        try:
            cursor = Cursor.open(home, "sink")
        except Busy:
            time.sleep(0.01)
        else:
            break
    print("held", flush=True)
    tail = Tail(home, cursor)
    while True:
        items = tail.read(20)
        os.write(out, "".join(f"{item.span.span_id} {item.span.status.value}\\n" for item in items).encode())
        tail.settle(item.place for item in items)
        tail.save()
        if not items:
            if len(sys.argv) > 3 and not tail.left():
                break
            time.sleep(0.002)
"""
WRITE = """
    import sys, time, millstream
    from millstream.record import recorder
    with millstream.recording(segment_bytes=200_000), millstream.start_span("root"):
        for number in range(100_000):
            with millstream.start_span("call", kind=millstream.SpanKind.LLM, input=[str(number) * 400]):
                with millstream.start_span("request", kind=millstream.SpanKind.LLM):
                    pass
            if number % 4 == 0:
                time.sleep(0.002)
"""


def test_kill_9_of_writers_and_of_who_ships_loses_nothing(home, tmp_path):
    out, seed = tmp_path / "out", random.Random(7)  # noqa: S311  # no secret
    writers = [python(WRITE) for _ in range(2)]
    kills = 6
    for _ in range(kills):
        with python(SHIP, home, out, stdout=subprocess.PIPE) as shipper:
            shipper.stdout.readline()
            time.sleep(0.1 + seed.random() / 2)
            shipper.kill()
    for writer in writers:
        writer.kill()
        writer.wait()
    assert python(SHIP, home, out, "until done", stdout=subprocess.DEVNULL).wait(120) == 0
    expected = Counter(f"{span.span_id} {span.status.value}" for span in open_store(home).spans())
    given = Counter(line for line in out.read_text().splitlines() if line)
    assert set(given) == set(expected)
    assert given.total() - expected.total() <= 20 * kills
    state = read_state(home, "sink")
    assert state.segments == {}
    assert len(state.done) == len(list((home / "journal").iterdir())) > 2
    assert sum(1 for line in given if line.endswith("interrupted")) >= 2
