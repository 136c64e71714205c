"""Reading recordings that are torn, still being written, or not what was asked for."""

import json
import sqlite3
import subprocess
import sys
import threading

import pytest

import millstream
from millstream import Status, open_store, start_span
from millstream.errors import InputError
from millstream.store.segments import State, list_segments
from millstream.store.summaries import summarise


def line(span_id, *, name="f", end_ns=None, parent="null"):
    head = (
        f'{{"trace_id":"{"a" * 32}","parent_id":{parent},"span_id":"{span_id:016x}",'
        f'"name":{json.dumps(name, ensure_ascii=False)},"kind":"FUNCTION","start_ns":1700000000000000000'
    )
    return (head + ("" if end_ns is None else f',"end_ns":{end_ns},"status":"ok"') + "}\n").encode()


@pytest.fixture
def write(tmp_path):
    """Writes a segment as a process that died would have left it."""
    (tmp_path / "journal").mkdir()

    def write(content, number=1):
        (tmp_path / "journal" / f"00000000000000000001-7-{number:04d}.jsonl").write_bytes(content)
        return open_store(tmp_path)

    return write


@pytest.mark.parametrize("blank", [b"\n", b"\x00"])
def test_room_that_was_not_used_is_blank_between_lines_and_at_the_end(write, tmp_path, blank):
    store = write(line(1, end_ns=5) + blank * 5000 + line(2, end_ns=6) + line(3) + blank * 5000)
    assert {span.span_id: span.status for span in store.spans()} == {
        f"{1:016x}": Status.OK,
        f"{2:016x}": Status.OK,
        f"{3:016x}": Status.INTERRUPTED,
    }
    assert not store.rejected
    assert list_segments(tmp_path)[0].state is State.ABANDONED


def test_a_torn_line_before_unused_room_does_not_take_the_next_line_with_it(write):
    store = write(line(1, end_ns=5)[:40] + b"\x00" * 100 + line(2, end_ns=6))
    assert [span.span_id for span in store.spans()] == [f"{2:016x}"]
    assert store.rejected.total() == 1


@pytest.mark.parametrize("name", ["f", 'say "start_ns":12, \\ x', "ü"])
def test_a_span_cut_anywhere_after_its_start_keeps_its_name_and_parent(write, name):
    parent = f'"{7:016x}"'
    whole = line(1, name=name, end_ns=1800000000000000000, parent=parent)
    head = len(line(1, name=name, parent=parent)) - 2
    for cut in range(head + 1, len(whole) - 2):
        store = write(whole[:cut] + b"\n" * 3)
        (span,) = store.spans()
        assert (span.name, span.parent_id, span.status) == (name, f"{7:016x}", Status.INTERRUPTED)
        assert span.start_ns == 1_700_000_000_000_000_000
        assert store.rejected == {"torn line, span kept as interrupted": 1}
    for cut in range(1, head + 1):  # the start's own digits may be cut
        store = write(whole[:cut] + b"\n" * 3)
        assert list(store.spans()) == []
        assert store.rejected == {"torn line or not JSON": 1}


def test_where_a_living_process_writes_is_no_torn_line(home, tmp_path):
    with start_span("done"):
        pass
    (segment,) = list_segments(home)
    assert segment.state is State.LIVE
    end = segment.path.read_bytes().rfind(b"}\n") + 2
    with segment.path.open("r+b") as file:
        file.seek(end)
        file.write(line(1, end_ns=5)[:70])
    store = open_store(home)
    assert [span.name for span in store.spans()] == ["done"]
    assert not store.rejected
    assert sum(one.rejected for one in summarise(home)) == 0


def test_what_comes_behind_room_that_a_living_process_is_filling_is_not_read_yet(home):
    with start_span("done"):
        pass
    (segment,) = list_segments(home)
    end = segment.path.read_bytes().rfind(b"}\n") + 2
    blob = b'{"blob":"%b","value":"%b"}\n' % (b"0" * 32, b"y" * 3000)
    refers = line(1, end_ns=5).replace(b'"status"', b'"blobs":{"/input":"%b"},"status"' % (b"0" * 32))
    with segment.path.open("r+b") as file:
        file.seek(end + len(blob))
        file.write(refers)
    store = open_store(home)
    assert [span.name for span in store.spans()] == ["done"]
    assert not store.rejected


def test_reading_while_threads_write_finds_no_torn_line_and_every_ended_span(tmp_path):
    stop = threading.Event()

    def work():
        while not stop.wait(0.0005):
            with start_span("x", input="y" * 3000):
                pass

    with millstream.recording(home=tmp_path) as recording:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            code = (
                "from millstream import open_store\n"
                f"for _ in range(15):\n s = open_store({str(tmp_path)!r}); print(len(list(s.spans())),"
                " s.rejected.total())"
            )
            while recording.stats()["made"] < 10:
                stop.wait(0.01)
            result = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
            )
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    seen = [tuple(map(int, row.split())) for row in result.stdout.splitlines()]
    assert [torn for _, torn in seen] == [0] * 15
    assert seen[0][0] >= 10
    assert [count for count, _ in seen] == sorted(count for count, _ in seen)


def test_a_text_for_trace_ids_is_refused_at_once(home, tmp_path):
    with start_span("x") as span:
        pass
    file = tmp_path / "spans.jsonl"
    file.write_bytes(line(1, end_ns=5))
    for source in (home, file):
        with pytest.raises(InputError, match="collection of trace ids"):
            open_store(source).spans(trace_ids=span.trace_id)
    assert [one.name for one in open_store(home).spans(trace_ids=[span.trace_id])] == ["x"]


def test_a_span_that_crosses_a_rotation_is_not_open(write, tmp_path):
    write(line(1) + line(2) + line(3) + line(3, end_ns=4))
    write(line(1, end_ns=5) + line(4), number=2)
    write(line(2, end_ns=6) + line(5), number=3)
    for _ in range(2):  # counted, then from the cache
        assert [(one.spans, one.open_spans) for one in summarise(tmp_path)] == [(1, 0), (1, 1), (1, 1)]


def test_ids_of_another_process_do_not_close_a_span(write, tmp_path):
    write(line(1))
    other = tmp_path / "journal" / "00000000000000000002-8-0001.jsonl"
    other.write_bytes(line(1, end_ns=5))
    assert [one.open_spans for one in summarise(tmp_path)] == [1, 0]


def test_a_closed_segment_is_read_once(write, tmp_path):
    write(line(1) + line(2, end_ns=5))
    first = summarise(tmp_path)
    (path,) = (tmp_path / "journal").iterdir()
    path.write_bytes(b" " * (path.stat().st_size - 2) + b"}\n")
    assert summarise(tmp_path) == first
    path.write_bytes(line(1, end_ns=4) + line(2, end_ns=5) + line(3, end_ns=6))
    assert [one.spans for one in summarise(tmp_path)] == [3]


def _junk(path):
    path.write_bytes(b"junk" * 1000)


def _of_another_version(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE segments (something TEXT)")
    connection.execute("PRAGMA user_version = 1")
    connection.close()


def _rows_that_are_no_json(path):
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE segments SET told = 'x'")
    connection.close()


def _directory(path):
    path.unlink()
    path.mkdir()


def _cannot_be_made(path):
    path.unlink()
    path.symlink_to("/nowhere/at/all")


@pytest.mark.parametrize(
    ("harm", "heals"),
    [
        (_junk, True),
        (_of_another_version, True),
        (_rows_that_are_no_json, True),
        (_directory, False),
        (_cannot_be_made, False),
    ],
)
def test_the_manifest_is_only_a_cache(write, tmp_path, harm, heals):
    write(line(1) + line(2, end_ns=5))
    whole = summarise(tmp_path)
    manifest = tmp_path / "manifest.sqlite"
    if harm is _of_another_version:
        manifest.unlink()
    harm(manifest)
    assert summarise(tmp_path) == summarise(tmp_path) == whole
    assert manifest.is_file() is heals
    if heals:
        connection = sqlite3.connect(manifest)
        assert connection.execute("SELECT count(*) FROM segments").fetchone() == (1,)
        connection.close()
