"""What is on disk after every way that a process can end. Each case is a real process."""

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import millstream
from millstream import Status, start_span, track_function
from millstream.store.segments import State, list_segments


def run(code: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **kwargs,
    )


def recorded(home):
    return list(millstream.open_store(home).spans())


def test_kill_9_keeps_every_ended_span_and_names_the_open_ones(home):
    code = """
        import os, signal, millstream

        @millstream.track_function
        def step(number):
            return number

        with millstream.start_span("outer"):
            for number in range(2000):
                step(number)
            with millstream.start_span("inner"):
                os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run(code).returncode == -signal.SIGKILL
    spans = recorded(home)
    steps = [span for span in spans if span.name == "step"]
    assert [span.output for span in steps] == list(range(2000))
    interrupted = {span.name: span for span in spans if span.status is Status.INTERRUPTED}
    assert set(interrupted) == {"outer", "inner"}
    assert interrupted["inner"].parent_id == interrupted["outer"].span_id
    assert all(span.end_ns is None for span in interrupted.values())
    assert all(span.parent_id == interrupted["outer"].span_id for span in steps)


def test_kill_9_at_any_moment_with_threads_loses_at_most_one_span_a_thread(home, tmp_path):
    code = """
        import threading, millstream

        @millstream.track_function
        def step(thread, number):
            return None

        def work(thread):
            with open(f"{folder}/{thread}", "ab", buffering=0) as done:
                for number in range(1_000_000):
                    step(thread, number)
                    done.write(b"%d\\n" % number)

        for thread in range(4):
            threading.Thread(target=work, args=(thread,)).start()
    """
    folder = tmp_path / "done"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", f"folder = {str(folder)!r}\n" + textwrap.dedent(code)])
    while not (folder / "3").exists() or (folder / "3").stat().st_size < 5_000:
        time.sleep(0.01)
    process.kill()
    process.wait()
    numbers: dict[int, list[int]] = {}
    for span in recorded(home):
        if span.status is Status.OK:
            numbers.setdefault(span.input["thread"], []).append(span.input["number"])
    for thread in range(4):
        finished = len((folder / str(thread)).read_bytes().split())
        assert numbers[thread] == list(range(len(numbers[thread])))
        assert len(numbers[thread]) >= finished


@pytest.mark.parametrize(
    "ending",
    [
        "pass",
        "raise SystemExit(3)",
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "1 / 0",
    ],
)
def test_every_way_out_keeps_what_ended(home, ending):
    run(f"import millstream\n@millstream.track_function\ndef f(): return 1\nf(); f()\n{ending}")
    assert [span.output for span in recorded(home)] == [1, 1]


def test_fork_children_write_their_own_segment_and_an_inherited_span_ends_once(home):
    code = """
        import os, millstream

        @millstream.track_function
        def f(who):
            return os.getpid()

        with millstream.start_span("shared"):
            f("before")
            pid = os.fork()
            f("child" if pid == 0 else "parent")
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        f("after")
    """
    result = run(code)
    assert result.returncode == 0, result.stderr
    spans = recorded(home)
    assert sorted(span.input["who"] for span in spans if span.name == "f") == [
        "after",
        "before",
        "child",
        "parent",
    ]
    (shared,) = [span for span in spans if span.name == "shared"]
    assert shared.status is Status.OK
    assert len({span.span_id for span in spans}) == len(spans) == 5
    child = next(span for span in spans if span.input == {"who": "child"})
    assert child.parent_id == shared.span_id
    assert len(list_segments(home)) == 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_children_are_kept(home, tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import multiprocessing, millstream

            @millstream.track_function
            def f(number):
                return number

            if __name__ == "__main__":
                f(-1)
                with multiprocessing.get_context({method!r}).Pool(2) as pool:
                    pool.map(f, range(20))
        """)
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=60)
    assert sorted(span.output for span in recorded(home)) == list(range(-1, 20))


def test_rotation_keeps_every_span_of_every_thread(tmp_path):
    @track_function
    def f(number):
        return "x" * 100

    with millstream.recording(home=tmp_path, segment_bytes=100_000) as recording:
        threads = [threading.Thread(target=lambda: [f(number) for number in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert recording.stats()["made"] == recording.stats()["stored"] == 4000
    assert len(recorded(tmp_path)) == 4000
    segments = list_segments(tmp_path)
    assert len(segments) > 5
    assert {segment.state for segment in segments} == {State.CLOSED}


def test_a_span_that_spans_a_rotation_is_read_once(tmp_path):
    @track_function
    def f():
        return "x" * 1000

    with millstream.recording(home=tmp_path, segment_bytes=10_000), start_span("long"):
        for _ in range(500):
            f()
    names = [span.name for span in recorded(tmp_path)]
    assert names.count("long") == 1
    assert len(names) == 501


def test_lines_larger_than_the_window_are_whole(tmp_path):
    @track_function
    def f(text):
        return text

    with millstream.recording(home=tmp_path):
        for letter, size in zip("abcde", (10, 90_000, 10, 90_000, 50), strict=True):
            f(letter * size)
    assert [span.output for span in recorded(tmp_path)] == [
        letter * size for letter, size in zip("abcde", (10, 90_000, 10, 90_000, 50), strict=True)
    ]


def test_a_torn_line_stops_nobody(home, tmp_path):
    with millstream.recording(home=tmp_path):
        with start_span("first"):
            pass
        with start_span("second"):
            pass
    (segment,) = list_segments(tmp_path)
    whole = segment.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(1, len(lines[1])):
        segment.path.write_bytes(lines[0] + lines[1][:cut] + b"\n" * 50)
        store = millstream.open_store(tmp_path)
        names = [span.name for span in store.spans()]
        assert names[0] == "first"
        assert len(names) <= 2
    segment.path.write_bytes(b'{"broken\n' + whole + b"\x00\x00[1]\n")
    store = millstream.open_store(tmp_path)
    assert [span.name for span in store.spans()] == ["first", "second"]
    assert store.rejected.total() == 2


def test_open_spans_of_a_living_process_are_not_interrupted(home):
    with start_span("running"):
        (span,) = recorded(home)
        assert (span.status, span.end_ns) == (None, None)
        assert list_segments(home)[0].state is State.LIVE


def test_only_the_owner_may_read(home):
    with start_span("x"):
        pass
    for path in (home / "journal", *(home / "journal").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_full_disk_loses_no_line_but_those_it_has_no_room_for(tmp_path):
    """A limit on the size of files stands for a full disk: both refuse when the file grows."""
    code = f"""
        import resource, signal, sys, millstream
        from millstream import track_function

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

        @track_function
        def f(number):
            return "x" * 200

        with millstream.recording(home={str(tmp_path)!r}):
            for number in range(2000):
                f(number)
            stats = millstream.stats()
        assert stats["made"] == 2000
        print(stats["stored"], stats["dropped"]["journal cannot be written"])
    """
    result = run(code)
    assert result.returncode == 0, result.stderr
    stored, dropped = map(int, result.stdout.split())
    assert stored > 400
    assert result.stderr.count("cannot be written") == 1
    ended = [span for span in recorded(tmp_path) if span.status is Status.OK]
    assert [span.input["number"] for span in ended] == list(range(len(ended)))
    assert len(ended) == stored
    assert stored + dropped >= 2000


def test_a_really_full_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        code = f"""
            import millstream
            with millstream.recording(home={str(disk)!r}):
                for number in range(5000):
                    with millstream.start_span("s", input="x" * 200):
                        pass
                print(millstream.stats()["stored"])
        """
        result = run(code)
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("No space left") == 1
        assert sum(1 for span in recorded(disk) if span.status is Status.OK) == int(result.stdout) > 500
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_home_that_cannot_be_made_is_said_once_and_the_program_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    code = f"""
        import millstream
        with millstream.recording(home={str(tmp_path / "file" / "home")!r}):
            for _ in range(10):
                with millstream.start_span("s"):
                    pass
            print(millstream.stats()["stored"])
    """
    result = run(code)
    assert (result.returncode, result.stdout) == (0, "0\n")
    assert result.stderr.count("\n") == 1


def test_the_environment_decides(tmp_path):
    code = """
        import millstream
        with millstream.start_span("s", input="text"):
            pass
        print(millstream.stats()["made"])
    """
    base = {**os.environ, "MILLSTREAM_HOME": str(tmp_path / "a")}
    assert run(code, env={**base, "MILLSTREAM_DISABLED": "true"}).stdout == "0\n"
    assert run(code, env={**base, "OTEL_SDK_DISABLED": "true"}).stdout == "0\n"
    assert not (tmp_path / "a").exists()
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    assert (
        run(code, env={**base, "MILLSTREAM_CAPTURE_CONTENT": "false", "TRACEPARENT": parent}).stdout == "1\n"
    )
    line = json.loads(next((tmp_path / "a" / "journal").iterdir()).read_text().splitlines()[-1])
    assert "input" not in line
    assert (line["trace_id"], line["parent_id"]) == ("a" * 32, "b" * 16)


def test_memory_does_not_grow_with_spans(tmp_path):
    @track_function
    def f(number):
        return number

    with millstream.recording(home=tmp_path):
        for number in range(5_000):
            f(number)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(50_000):
            f(number)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 6_000


def test_a_signal_handler_that_records_neither_hangs_nor_tears(home):
    code = """
        import signal, millstream

        @millstream.track_function
        def inside(number):
            return str(number) + "x" * 3000

        @millstream.track_function
        def handled():
            return "y" * 50

        count = 0
        def handler(*_):
            global count
            count += 1
            handled()

        inside(-1)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        for number in range(20000):
            inside(number)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        print(count)
    """
    result = run(code)
    assert result.returncode == 0, result.stderr
    store = millstream.open_store(home)
    names = [span.name for span in store.spans()]
    assert names.count("inside") == 20001
    assert names.count("handled") == int(result.stdout) > 10
    assert store.rejected.total() == 0


def test_a_finalizer_that_ends_a_span_while_another_is_written_does_not_hang(home):
    code = """
        import gc, millstream

        @millstream.track_function
        def numbers():
            yield 1

        @millstream.track_function
        def f():
            return []

        gc.set_threshold(1)
        for _ in range(2000):
            cycle = [numbers()]
            next(cycle[0])
            cycle.append(cycle)
            del cycle
            f()
    """
    result = run(code)
    assert result.returncode == 0, result.stderr
    names = [span.name for span in recorded(home)]
    assert (names.count("f"), names.count("numbers")) == (2000, 2000)


def test_recording_while_a_segment_is_cut_does_not_write_past_its_end(tmp_path):
    code = f"""
        import os, millstream

        cut, calls = os.ftruncate, []

        def then_record(fd, size):
            cut(fd, size)
            if len(calls) < 10:
                calls.append(size)
                for number in range(40):
                    with millstream.start_span("handler", input=f"{{len(calls)}} {{number}}" + "y" * 3000):
                        pass

        os.ftruncate = then_record
        with millstream.recording(home={str(tmp_path)!r}, segment_bytes=1):
            for number in range(20):
                with millstream.start_span("span", input=str(number) + "x" * 50_000):
                    pass
    """
    result = run(code)
    assert result.returncode == 0, result.stderr
    names = [span.name for span in recorded(tmp_path)]
    assert names.count("span") == 20
    assert names.count("handler") == 400


def test_a_log_handler_may_record_while_the_journal_complains(tmp_path):
    (tmp_path / "file").write_text("")
    code = f"""
        import logging, threading, millstream

        class Handler(logging.Handler):
            def emit(self, record):
                with millstream.start_span("logged"):
                    pass

        logging.getLogger().addHandler(Handler())
        logging.getLogger("other").warning("first")

        def log():
            for _ in range(200):
                logging.getLogger("other").warning("more")

        with millstream.recording(home={str(tmp_path / "file" / "home")!r}):
            threads = [threading.Thread(target=log) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            stats = millstream.stats()
        print(stats["made"], stats["stored"])
    """
    result = run(code)
    assert result.returncode == 0, result.stderr
    made, stored = map(int, result.stdout.split())
    assert made >= 800
    assert stored == 0


def test_a_fork_inside_a_nested_recording_leaves_the_outer_journal_alone(tmp_path):
    code = f"""
        import os, millstream

        with millstream.recording(home={str(tmp_path / "a")!r}):
            with millstream.start_span("outer"):
                with millstream.recording(home={str(tmp_path / "b")!r}):
                    pid = os.fork()
                for number in range(50):
                    with millstream.start_span("parent" if pid else "child"):
                        pass
                if pid:
                    os.waitpid(pid, 0)
            if pid == 0:
                os._exit(0)
    """
    result = run(code)
    assert result.returncode == 0, result.stderr
    names = [span.name for span in recorded(tmp_path / "a")]
    assert (names.count("parent"), names.count("child"), names.count("outer")) == (50, 50, 1)


def test_a_file_system_without_locks(tmp_path):
    code = f"""
        import fcntl, os, millstream

        def refuse(*_):
            raise OSError(37, "No locks available")

        fcntl.flock = refuse
        with millstream.recording(home={str(tmp_path)!r}):
            for _ in range(500):
                with millstream.start_span("span"):
                    pass
            assert len(os.listdir("/proc/self/fd")) < 20
    """
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert len(recorded(tmp_path)) == 500
    assert len(list_segments(tmp_path)) == 1


def test_a_journal_that_is_removed_is_begun_again(tmp_path):
    with millstream.recording(home=tmp_path / "home"):
        with start_span("before"):
            pass
        shutil.rmtree(tmp_path / "home")
        for number in range(2000):
            with start_span("after", input=number):
                pass
    numbers = [span.input for span in recorded(tmp_path / "home")]
    assert numbers == list(range(2000 - len(numbers), 2000))
    assert numbers


def test_recordings_that_overlap_each_keep_their_own(tmp_path):
    first = millstream.recording(home=tmp_path / "first")
    second = millstream.recording(home=tmp_path / "second")
    with start_span("in second"):
        pass
    first.__exit__(None, None, None)
    with start_span("still in second"):
        pass
    second.__exit__(None, None, None)
    second.__exit__(None, None, None)
    with start_span("outside"):
        pass
    assert [span.name for span in recorded(tmp_path / "second")] == ["in second", "still in second"]
    assert not (tmp_path / "first").exists()


def test_disabled_by_the_environment_is_disabled(tmp_path, monkeypatch):
    monkeypatch.setenv("MILLSTREAM_DISABLED", "true")
    with millstream.recording(home=tmp_path / "home"), start_span("span"):
        pass
    assert not (tmp_path / "home").exists()
