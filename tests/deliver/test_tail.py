"""Every span of a journal comes to a sink once, whenever who reads is stopped and begun anew."""

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import millstream
from millstream import SpanKind, Status, open_store, semconv, start_span
from millstream.deliver import stream
from millstream.deliver.cursor import Cursor
from millstream.deliver.tail import Tail
from millstream.record import journal
from millstream.record.opening import open_span
from millstream.record.recorder import get
from millstream.store import following

LLM, TOOL, FUNCTION, TASK = SpanKind.LLM, SpanKind.TOOL, SpanKind.FUNCTION, SpanKind.TASK


class Reader:
    """A sink's side of a journal, that can be stopped and begun again."""

    def __init__(self, home, begin="all"):
        self.home = home
        self.cursor = Cursor.open(home, "sink", begin)
        self.tail = Tail(home, self.cursor)
        self.out = []
        """Given by this one, and not settled."""

    def read(self, limit=1000):
        items = self.tail.read(limit)
        self.out += items
        return items

    def settle(self, items=None):
        items = list(self.out) if items is None else items
        self.tail.settle([item.place for item in items])
        self.out = [item for item in self.out if item not in items]
        return [item.span for item in items]

    def drain(self, limit=1000):
        """The rest, settled."""
        spans = self.settle()
        while self.read(limit):
            spans += self.settle()
        return spans

    def stop(self, *, save=True):
        if save:
            self.tail.save()
        self.tail.close()
        self.cursor._let_go()  # as when it is killed

    def again(self, *, save=True):
        self.stop(save=save)
        self.__init__(self.home)


@pytest.fixture
def reader(home):
    readers = []

    def begin(folder=home, begin="all"):
        readers.append(Reader(folder, begin))
        return readers[-1]

    yield begin
    for each in readers:
        each.stop()


@pytest.fixture
def dead(monkeypatch):
    """This process counts as dead where it holds no segment."""
    monkeypatch.setattr(stream, "may_go_on", lambda _: False)


def texts(spans):
    return sorted(msgspec.json.encode(span) for span in spans)


def names(spans):
    return [span.name for span in spans]


def run(code, **kwargs):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=60, check=False, **kwargs)


def test_spans_come_when_they_have_ended_and_not_before(reader):
    one = reader()
    assert one.read() == []
    with start_span("outer"):
        with start_span("inner"):
            assert one.read() == []
        assert names(one.drain()) == ["inner"]
        assert one.tail.left() == 0
    assert names(one.drain()) == ["outer"]
    assert one.read() == []


def test_what_is_not_settled_is_given_again_by_the_next(reader):
    one = reader()
    for number in range(5):
        with start_span(str(number)):
            pass
    items = one.read()
    assert names(one.settle(items[1:3])) == ["1", "2"]
    one.again()
    assert one.tail.left() == 3
    assert names(one.drain()) == ["0", "3", "4"]
    one.again()
    assert (one.tail.left(), one.read()) == (0, [])


def test_what_was_settled_and_not_saved_is_given_again(reader):
    one = reader()
    with start_span("x"):
        pass
    assert names(one.drain()) == ["x"]
    one.again(save=False)
    assert names(one.drain()) == ["x"]


def test_reading_gives_no_more_than_is_asked_for_and_goes_on(reader):
    one = reader()
    for number in range(25):
        with start_span(str(number)):
            pass
    got = [len(one.read(10)) for _ in range(4)]
    assert got == [10, 10, 5, 0]
    assert names(one.settle()) == [str(number) for number in range(25)]


def test_large_values_are_whole_after_a_restart_before_the_line_that_refers_to_them(reader):
    one = reader()
    messages = [{"role": "user", "content": "x" * 2000}]
    with start_span("first", kind=LLM, input=messages):
        pass
    assert [span.input for span in one.drain()] == [messages]
    grown = [*messages, {"role": "user", "content": "y" * 10}]
    with start_span("second", kind=LLM, input=grown):
        one.again()
        assert one.read() == []
    (span,) = one.drain()
    assert span.input == grown


def test_a_line_that_is_being_written_is_waited_for(tmp_path, reader):
    with start_span("first"):
        pass
    path = next((get().home / "journal").glob("*.jsonl"))
    line = path.read_bytes().strip(b"\0").splitlines()[-1] + b"\n"
    one = reader()
    assert names(one.drain()) == ["first"]
    end = one.tail._streams[path.stem.rpartition("-")[0]]._lines.offset
    with path.open("r+b") as file:
        for cut in (1, 40, len(line) - 1):
            file.seek(end)
            file.write(line[:cut])
            file.flush()
            assert one.read() == []
        file.seek(end)
        file.write(line)
        file.flush()
    assert names(one.drain()) == ["first"]
    assert not one.tail.rejected


@pytest.mark.parametrize("fallocate", [True, False])
def test_a_living_journal_is_followed_across_windows_and_segments(monkeypatch, tmp_path, reader, fallocate):
    if not fallocate:
        monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(journal, "_FIRST_WINDOW", 4096)
    one = reader(tmp_path)
    made = []
    with millstream.recording(home=tmp_path, segment_bytes=40_000):
        for number in range(300):
            with start_span(str(number), input="x" * (number * 7 % 900)):
                pass
            with start_span(f"large {number}", input=["y" * (number * 31 % 9000)]):
                pass
            made += [str(number), f"large {number}"]
            if number % 7 == 0:
                assert names(one.drain()) == made
                made = []
    assert names(one.drain()) == made
    assert len(list((tmp_path / "journal").iterdir())) > 3
    assert not one.tail.rejected
    one.tail.save()
    assert len(one.cursor.segments) == 0


def test_threads_that_write_while_it_is_read_lose_nothing(tmp_path, reader, monkeypatch):
    monkeypatch.setattr(journal, "_LAST_WINDOW", 1 << 16)
    one = reader(tmp_path)
    stop, spans = threading.Event(), []
    with millstream.recording(home=tmp_path, segment_bytes=200_000) as recording:

        def work():
            while not stop.is_set():
                with start_span("x", input="y" * 1500), start_span("y", input=[1] * (time.time_ns() % 400)):
                    pass

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            spans += one.settle(one.read(50))
        stop.set()
        for thread in threads:
            thread.join()
        made = recording.stats()["made"]
    spans += one.drain()
    assert len({span.span_id for span in spans}) == len(spans) == made
    assert not one.tail.rejected


# Other processes


def test_a_process_that_was_killed_gives_what_was_open_as_interrupted_once(home, reader):
    one = reader()
    code = """
        import os, signal, millstream
        with millstream.start_span("outer", input={"a": 1}):
            with millstream.start_span("ended"):
                pass
            with millstream.start_span("inner"):
                os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run(code).returncode == -signal.SIGKILL
    assert one.tail.left() == 3
    items = one.read()
    assert [(item.span.name, item.span.status) for item in items] == [
        ("ended", Status.OK),
        ("outer", Status.INTERRUPTED),
        ("inner", Status.INTERRUPTED),
    ]
    one.settle(items[:2])
    one.again()
    assert one.tail.left() == 1
    assert names(one.drain()) == ["inner"]
    one.again()
    assert (one.tail.left(), one.read()) == (0, [])
    assert not one.cursor.segments


def test_spans_open_in_a_living_process_are_not_interrupted(home, reader):
    one = reader()
    code = """
        import sys, millstream
        with millstream.start_span("open"):
            with millstream.start_span("ended"):
                pass
            print(flush=True)
            sys.stdin.readline()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    assert names(one.drain()) == ["ended"]
    one.again()
    assert one.read() == []
    process.communicate(b"\n")
    assert [(span.name, span.status) for span in one.drain()] == [("open", Status.OK)]


def test_a_recording_that_was_left_with_an_open_span_waits_while_its_process_lives(tmp_path, reader):
    one = reader(tmp_path)
    with millstream.recording(home=tmp_path):
        span = open_span(get(), "late", FUNCTION, msgspec.UNSET, None)
    assert one.read() == []
    span.end()
    assert [(late.name, late.status) for late in one.drain()] == [("late", Status.OK)]


def test_several_writers_and_their_children_come_too(home, reader):
    one = reader()
    code = """
        import os, millstream
        with millstream.start_span("parent"):
            pid = os.fork()
            with millstream.start_span("child" if pid == 0 else "beside"):
                pass
        if pid:
            os.waitpid(pid, 0)
        else:
            os._exit(0)
    """
    for _ in range(3):
        assert run(code).returncode == 0
    with start_span("here"):
        pass
    assert sorted(names(one.drain(2))) == [*["beside"] * 3, *["child"] * 3, "here", *["parent"] * 3]
    one.tail.save()
    assert len(one.cursor._done) == 6


def test_done_segments_are_not_opened_again(home, reader, monkeypatch):
    for _ in range(3):
        run("import millstream\nwith millstream.start_span('x'): pass")
    one = reader()
    assert names(one.drain()) == ["x"] * 3
    one.again()
    opened, real = [], os.open

    def spy(path, *rest, **more):
        opened.append(str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", spy)
    assert one.read() == []
    assert one.tail.left() == 0
    assert [path for path in opened if "journal" in path] == []


# What is merged


def test_a_span_that_is_held_keeps_its_place_and_is_settled_with_the_one_it_went_into(reader):
    one = reader()
    with start_span("outer", kind=LLM):
        with start_span("inner", kind=LLM) as inner:
            inner.set_attribute(semconv.RESPONSE_ID, "r")
        with start_span("beside"):
            pass
        held = one.drain()
        assert one.tail.left() == 2 - len(held)
        one.again()
        assert one.read() == []
    (span,) = [span for span in one.drain() if span.kind is LLM]
    assert (span.name, span.attributes[semconv.RESPONSE_ID]) == ("outer", "r")
    assert one.tail.left() == 0
    one.again()
    assert one.read() == []


def test_a_duplicate_that_is_told_of_late_is_settled_at_once(reader):
    one = reader()
    with start_span("parent") as parent:
        with start_span("call", kind=LLM) as call:
            call.set_attribute(semconv.RESPONSE_ID, "r")
        assert [item.span.name for item in one.read()] == ["call"]
        late = open_span(get(), "late", LLM, msgspec.UNSET, parent, start_ns=call.start_ns)
        late.set_attribute(semconv.RESPONSE_ID, "r")
        late.end(end_ns=call.start_ns + 1)
        assert one.read() == []
        assert one.tail.left() == 1
        assert one.tail.merged == {"LLM": 1}
        one.again()
        assert names(one.drain()) == ["call"]
    assert names(one.drain()) == ["parent"]


def test_a_child_of_a_merged_span_keeps_its_parent_when_the_rest_is_done(tmp_path, reader, dead):
    one = reader(tmp_path)
    with millstream.recording(home=tmp_path, segment_bytes=1):  # a segment is what fits into two windows
        outer = open_span(get(), "outer", LLM, msgspec.UNSET, None)
        inner = open_span(get(), "inner", LLM, msgspec.UNSET, outer)
        child = open_span(get(), "child", FUNCTION, "x" * 5000, inner)
        for filler in range(40):
            open_span(get(), str(filler), FUNCTION, f"{filler} " * 3000, None).end()
        inner.end()
        outer.end()
        for filler in range(40):
            open_span(get(), str(filler), FUNCTION, f"{filler} " * 3000, None).end()
        assert names(one.drain())[40] == "outer"
        one.again()
        assert len(one.cursor.segments) <= 3 < len(list((tmp_path / "journal").iterdir()))
        child.end()
    (span,) = one.drain()
    assert (span.name, span.parent_id) == ("child", outer.span_id)
    one.again()
    assert (one.read(), one.tail.left()) == ([], 0)


def test_a_processor_that_drops_the_last_span_holds_nothing_up(tmp_path, reader):
    keep = [lambda span: span if span.name != "dropped" else None]
    with millstream.recording(home=tmp_path, processors=keep):
        with start_span("dropped", kind=LLM), start_span("kept", kind=LLM):
            pass
        assert names(reader(tmp_path).drain()) == ["kept"]


# Harm


def write(home, content, number=1):
    (home / "journal").mkdir(exist_ok=True)
    (home / "journal" / f"00000000000000000001-7-{number:04d}.jsonl").write_bytes(content)


def line(span_id, *, end_ns=None, name="f"):
    head = (
        f'{{"trace_id":"{"a" * 32}","parent_id":null,"span_id":"{span_id:016x}",'
        f'"name":"{name}","kind":"FUNCTION","start_ns":1700000000000000000'
    )
    return (head + ("" if end_ns is None else f',"end_ns":{end_ns},"status":"ok"') + "}\n").encode()


@pytest.mark.parametrize("blank", [b"\n", b"\x00"])
def test_torn_lines_are_counted_once_and_room_is_skipped(tmp_path, reader, blank):
    write(
        tmp_path,
        line(1, end_ns=5)
        + blank * 70_000
        + line(2, end_ns=6)[:40]
        + blank * 3
        + line(3, end_ns=6)
        + line(4)
        + line(5, end_ns=7)[:-3]
        + blank * 9000,
    )
    store = open_store(tmp_path)
    expected = texts(store.spans())
    one = reader(tmp_path)
    assert one.tail.left() == len(expected) == 4
    assert texts(one.drain()) == expected
    assert one.tail.rejected == store.rejected
    one.again()
    assert (one.read(), one.tail.rejected.total()) == ([], 0)


def test_segments_that_are_removed_are_counted(tmp_path, reader):
    for number in range(3):
        write(tmp_path, line(number * 2, end_ns=5) + line(number * 2 + 1, end_ns=6), number)
    one = reader(tmp_path)
    first = one.read(1)
    assert one.tail.left() == 6
    (tmp_path / "journal" / "00000000000000000001-7-0001.jsonl").unlink()
    assert len(one.settle(first) + one.drain()) == 4
    assert one.cursor.counts.evicted == 2
    one.again()
    assert one.cursor.counts.evicted == 2
    assert one.tail.left() == 0


def test_segments_that_are_removed_between_two_processes_are_counted(tmp_path, reader):
    write(tmp_path, line(1, end_ns=5) + line(2, end_ns=6))
    one = reader(tmp_path)
    one.read()
    one.stop()
    shutil.rmtree(tmp_path / "journal")
    one = reader(tmp_path)
    assert (one.read(), one.tail.left(), one.cursor.counts.evicted) == ([], 0, 2)


def test_a_segment_that_is_only_beginning_is_not_done(tmp_path, reader):
    write(tmp_path, b"")
    one = reader(tmp_path)
    assert one.read() == []
    one.tail.save()
    write(tmp_path, line(1, end_ns=5))
    assert names(one.drain()) == ["f"]


def test_where_there_are_no_file_locks_segments_that_were_cut_are_left(tmp_path, reader, monkeypatch):
    monkeypatch.setattr(following, "is_written", lambda _: True)
    one = reader(tmp_path)
    with millstream.recording(home=tmp_path, segment_bytes=1):
        for number in range(100):
            with start_span(str(number), input=f"{number} " * 2000):
                pass
            if number % 10 == 0:
                one.drain()
    assert names(one.drain())[-1] == "99"
    one.tail.save()
    assert len(one.cursor.segments) == 1
    assert one.tail.left() == 0


def test_what_is_left_is_exact_at_every_moment(tmp_path, reader):
    one = reader(tmp_path)
    ended, settled = 0, 0
    with millstream.recording(home=tmp_path, segment_bytes=1):
        for number in range(60):
            with start_span(f"outer {number}", input=f"{number} " * 2000), start_span("inner"):
                assert one.tail.left() == ended - settled
            ended += 2
            if number % 3 == 0:
                assert one.tail.left() == ended - settled
                one.read(4)
                assert one.tail.left() == ended - settled
                settled += len(one.settle(one.out[:3]))
                assert one.tail.left() == ended - settled
            if number % 10 == 0:
                one.again()
                assert one.tail.left() == ended - settled
    assert len(one.drain()) == ended - settled
    assert one.tail.left() == 0


def test_memory_does_not_grow_with_what_is_settled(tmp_path, reader):
    one = reader(tmp_path)
    with millstream.recording(home=tmp_path), start_span("root"):
        for _ in range(2000):
            with start_span("x", kind=LLM) as span:
                span.set_attribute(semconv.RESPONSE_ID, span.span_id)
        while one.read(100):
            one.settle()
            one.tail.save()
        (each,) = one.tail._streams.values()
        assert not [*each._pending, *each._given, *each._ready, *each._awaiting]
        assert len(each._began) == 1
        (progress,) = one.cursor.segments.values()
        assert progress.owed == set()


# Beginning now


def test_beginning_now_leaves_out_what_is_there_and_takes_what_ends_later(home, reader):
    run("import millstream\nwith millstream.start_span('before'): pass")
    with start_span("open"):
        with start_span("before, too", input="x" * 3000):
            pass
        one = reader(begin="now")
        assert (one.read(), one.tail.left()) == ([], 0)
        with start_span("after", input="x" * 3000):
            pass
    (after, opened) = one.drain()
    assert (after.name, after.input, opened.name) == ("after", "x" * 3000, "open")


def test_beginning_now_is_kept_at_once(home, reader):
    one = reader(begin="now")
    with start_span("x"):
        pass
    one.stop(save=False)
    assert names(reader(begin="now").drain()) == ["x"]


# Against the store

_KINDS = [LLM, LLM, FUNCTION, FUNCTION, TASK, TOOL, SpanKind.EMBEDDING]
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(0, 9), st.sampled_from(_KINDS), st.booleans()),
        st.tuples(st.just("end"), st.integers(0, 9), st.integers(0, 3)),
        st.tuples(st.just("end"), st.integers(0, 9), st.integers(0, 3)),
        st.tuples(st.just("read"), st.integers(1, 5), st.integers()),
        st.tuples(st.just("again")),
    ),
    max_size=60,
)


class Play:
    """Spans that open in open ones and end in any order, while they are read, settled and read again."""

    def __init__(self, reader):
        self.reader = reader
        self.given = []
        self.open = []
        self.number = 0

    def do(self, what, *how):
        getattr(self, f"do_{what}")(*how)
        reader = self.reader
        reader.tail.save()

    def do_open(self, which, kind, large):
        parent = self.open[which % len(self.open)] if self.open else None
        content = ["x" * (1500 if large else 5), self.number]
        self.open.append(open_span(get(), str(self.number), kind, content, parent))
        self.number += 1

    def do_end(self, which, response):
        if self.open:
            span = self.open.pop(which % len(self.open))
            if response and span.kind is LLM:
                span.set_attribute(semconv.RESPONSE_ID, str(response))
            span.end(output=["y" * 400 * response])

    def do_read(self, limit, seed):
        self.reader.read(limit)
        out = self.reader.out
        settled = random.Random(seed).sample(out, len(out) // 2)  # noqa: S311  # no secret
        self.given += self.reader.settle(settled)

    def do_again(self):
        self.reader.again()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS, segment_bytes=st.sampled_from([1, 9000, 1 << 20]), leave=st.booleans(), data=st.data())
def test_any_spans_read_with_any_restarts(
    steps, segment_bytes, leave, data, tmp_path_factory, dead, monkeypatch
):
    monkeypatch.setattr(journal, "_FIRST_WINDOW", 4096)
    home = tmp_path_factory.mktemp("any")
    play = Play(Reader(home))
    try:
        with millstream.recording(home=home, segment_bytes=segment_bytes):
            for step in steps:
                play.do(*step)
            while play.open and not leave:
                play.do("end", 0, 0)
        for _ in range(3):
            play.do("read", 2, 0)
            play.do("again")
        play.given += play.reader.drain(3)
        assert play.reader.tail.left() == 0
        play.do("again")
        assert play.reader.read() == []
        assert not play.reader.cursor.segments
    finally:
        play.reader.stop()
    if steps:
        expected = list(open_store(home).spans()) if (home / "journal").is_dir() else []
        assert texts(play.given) == texts(expected)
