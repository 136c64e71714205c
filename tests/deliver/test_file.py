"""The file sink: every span once and whole, whoever is killed, however many write, however full the disk."""

import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

import millstream
from millstream import SpanKind, open_store, start_span, track_unregistered_function
from millstream.deliver import json_lines
from millstream.deliver.file import FileSink
from millstream.errors import ConfigError, RefusedError, UnreachableError
from millstream.record.steps import IntermediateStep


def record(count, size=10):
    """Spans as they come from a journal, some with a parent."""

    @track_unregistered_function
    def step(number, text):
        return {"number": number, "text": text}

    for number in range(count // 2):
        with start_span("run", kind=SpanKind.WORKFLOW, input={"number": number}, workload_id="run"):
            step(number, "x" * size)
    return list(open_store(os.environ["MILLSTREAM_HOME"]).spans())


def ids(*paths):
    """How often each span is in the files; every line is whole."""
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return Counter((line["trace_id"], line["span_id"]) for line in lines)


def send(path, spans, **options):
    sink = FileSink(path=path, **options)
    results = sink.send(spans)
    sink.close()
    return results


def once(spans):
    return Counter((span.trace_id, span.span_id) for span in spans)


def test_a_line_is_what_journal_export_prints(tmp_path, home):
    path = tmp_path / "new" / "traces.jsonl"
    assert send(path, record(4)) == [None] * 4
    command = [sys.executable, "-m", "millstream", "journal", "export", "--home", str(home)]
    exported = subprocess.run(command, capture_output=True, check=True).stdout
    assert path.read_bytes() == exported
    assert [span.name for span in open_store(path).spans()] == ["step", "run"] * 2


def test_only_its_owner_can_read_it(tmp_path):
    send(tmp_path / "traces.jsonl", record(2))
    assert stat.S_IMODE((tmp_path / "traces.jsonl").stat().st_mode) == 0o600


def test_append_goes_on_and_overwrite_begins_anew(tmp_path):
    path, spans = tmp_path / "traces.jsonl", record(6)
    send(path, spans[:2])
    send(path, spans[2:4])
    assert ids(path) == once(spans[:4])
    time.sleep(0.02)  # the clock of the file system ticks every 4 to 10 ms
    send(path, spans[4:], mode="overwrite")
    assert ids(path) == once(spans[4:])


def test_overwrite_leaves_what_was_written_since_the_run_began(tmp_path):
    """Two processes of one run: the second takes over when the first has ended."""
    path, spans = tmp_path / "traces.jsonl", record(4)
    path.write_text("old\n")
    time.sleep(0.02)
    first, second = (FileSink(path=path, mode="overwrite") for _ in range(2))
    time.sleep(0.02)
    first.send(spans[:2])
    first.close()
    second.send(spans[2:])
    second.close()
    assert ids(path) == once(spans)


def test_nothing_is_touched_before_something_is_sent(tmp_path):
    path = tmp_path / "traces.jsonl"
    path.write_text("old\n")
    time.sleep(0.02)
    FileSink(path=path, mode="overwrite").close()
    FileSink(path=tmp_path / "no" / "traces.jsonl").close()
    assert path.read_text() == "old\n"
    assert not (tmp_path / "no").exists()


def test_what_is_there_already_is_not_written_again(tmp_path):
    path, spans = tmp_path / "traces.jsonl", record(20)
    send(path, spans[:12])
    assert send(path, spans) == [None] * 20
    assert ids(path) == once(spans)


@pytest.mark.parametrize("format_", ["spans", "events"])
def test_a_line_torn_anywhere_is_mended(tmp_path, format_):
    path, spans = tmp_path / "traces.jsonl", record(4)
    send(path, spans, format=format_)
    whole = path.read_bytes()
    for end in range(whole.rindex(b"\n", 0, -1) - 40, len(whole)):
        path.write_bytes(whole[:end])
        send(path, spans, format=format_)
        assert path.read_bytes() == whole, end


def test_a_torn_line_longer_than_a_piece_is_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "_CHUNK", 100)
    path, spans = tmp_path / "traces.jsonl", record(4, size=1000)
    send(path, spans)
    whole = path.read_bytes()
    path.write_bytes(whole[:-500])
    send(path, spans)
    assert path.read_bytes() == whole


def test_a_last_line_of_somebody_else_stays(tmp_path):
    path, spans = tmp_path / "traces.jsonl", record(2)
    for line in ("a note of mine", '{"trace_id":"mine"}', '{"note": "no newline'):
        path.write_text(line)
        send(path, spans)
        first, *rest = path.read_text().splitlines()
        assert first == line
        assert len(rest) == 2


def test_rolling_keeps_files_below_their_size(tmp_path):
    path, spans = tmp_path / "traces.jsonl", record(40, size=300)
    send(path, spans, enable_rolling=True, max_file_size=4000, max_files=100)
    files = sorted(tmp_path.glob("traces*.jsonl"))
    assert len(files) > 4
    assert all(file.stat().st_size <= 4000 for file in files)
    assert all(re.fullmatch(r"traces(_\d{8}_\d{6}_\d{6})?\.jsonl", file.name) for file in files)
    assert ids(*files) == once(spans)
    send(path, spans, enable_rolling=True, max_file_size=4000, max_files=100)
    assert ids(*sorted(tmp_path.glob("traces*.jsonl"))) == once(spans)


def test_older_files_than_max_files_are_removed_and_said(tmp_path, caplog):
    path, spans = tmp_path / "traces.jsonl", record(40, size=300)
    mine = tmp_path / "traces_mine.jsonl"
    mine.write_text("mine")
    send(path, spans, enable_rolling=True, max_file_size=4000, max_files=2)
    assert len(list(tmp_path.glob("traces_2*.jsonl"))) == 2
    assert mine.read_text() == "mine"
    (message,) = (record.getMessage() for record in caplog.records)
    assert "was removed: max_files keeps 2 older files" in message
    assert ids(path)[spans[-1].trace_id, spans[-1].span_id] == 1


def test_a_span_longer_than_a_file_may_be_has_one_of_its_own(tmp_path):
    path, spans = tmp_path / "traces.jsonl", record(4, size=900)
    send(path, spans, enable_rolling=True, max_file_size=100)
    assert ids(*tmp_path.glob("traces*.jsonl")) == once(spans)
    assert len(list(tmp_path.glob("traces*.jsonl"))) == 4


WRITER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from millstream import open_store
    from millstream.deliver.file import FileSink
    path, journal, options = Path(sys.argv[1]), sys.argv[2], eval(sys.argv[3])
    spans = list(open_store(journal).spans())
    sink = FileSink(path=path, **options)
    print("ready", flush=True)
    for start in range(0, len(spans), 20):
        sink.send(spans[start : start + 20])
        print("sent", flush=True)
    sink.close()
""")


def writer(path, journal, options="{}"):
    command = [sys.executable, "-c", WRITER, str(path), str(journal), options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def journals(tmp_path):
    """Three journals of different spans, as files."""
    made = []
    for number in range(3):
        with millstream.recording(home=tmp_path / f"home{number}"):
            for i in range(300):
                with start_span(f"span {i}", input="x" * 500):
                    pass
        made.append(tmp_path / f"home{number}")
    return made


def all_ids(journals):
    return once(span for journal in journals for span in open_store(journal).spans())


@pytest.mark.parametrize("options", ["{}", "dict(enable_rolling=True, max_file_size=50_000, max_files=1000)"])
def test_processes_that_write_to_one_file(tmp_path, journals, options):
    path = tmp_path / "traces.jsonl"
    writers = [writer(path, journal, options) for journal in journals]
    for one in writers:
        one.communicate(timeout=60)
        assert one.returncode == 0
    assert ids(*tmp_path.glob("traces*.jsonl")) == all_ids(journals)


@pytest.mark.parametrize("options", ["{}", "dict(enable_rolling=True, max_file_size=50_000, max_files=1000)"])
def test_processes_that_are_killed_write_everything_once_in_the_end(tmp_path, journals, options):
    path = tmp_path / "traces.jsonl"
    killed = 0
    for kill_after in (1, 3, 6, 9):
        writers = [writer(path, journal, options) for journal in journals]
        for one in writers:
            for _ in range(kill_after):
                one.stdout.readline()
            one.kill()
        for one in writers:
            one.communicate(timeout=60)
            killed += one.returncode == -signal.SIGKILL
    assert killed > 3
    for one in [writer(path, journal, options) for journal in journals]:
        one.communicate(timeout=60)
        assert one.returncode == 0
    assert ids(*tmp_path.glob("traces*.jsonl")) == all_ids(journals)


def test_a_full_disk_takes_whole_batches_or_none(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        spans = record(400, size=400)
        sink = FileSink(path=disk / "traces.jsonl")
        (disk / "other").write_bytes(b"x" * 50_000)
        sent = 0
        with pytest.raises(UnreachableError, match="No space left on device; make room on its disk"):
            for start in range(0, 400, 10):
                sink.send(spans[start : start + 10])
                sent += 10
        assert 0 < sent < 400
        assert ids(disk / "traces.jsonl") == once(spans[:sent])
        (disk / "other").unlink()
        sink.send(spans[sent : sent + 10])
        sink.close()
        assert ids(disk / "traces.jsonl") == once(spans[: sent + 10])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_path_that_cannot_be_written_is_for_somebody_to_mend(tmp_path):
    sink = FileSink(path=tmp_path / "folder" / "traces.jsonl")
    (tmp_path / "folder").write_text("")
    with pytest.raises(
        RefusedError, match=r"traces\.jsonl cannot be written: Not a directory; give another path"
    ):
        sink.send(record(2))


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/dev/null", "path: /dev/null is a device or a pipe; give a file"),
        ("/", "path: / is a folder; give a file in it"),
        ("/etc/passwd/new/traces.jsonl", "cannot be made, for /etc/passwd is a file and no folder"),
        (
            "/proc/nope/traces.jsonl",
            "cannot be made, for /proc takes no files: No such file or directory; give",
        ),
        ("/proc/nope/deeper/traces.jsonl", "cannot be made, for /proc takes no files"),
        ("/proc/traces.jsonl", "cannot be made, for /proc takes no files"),
        (f"/etc/{'x' * 300}", "cannot be written: File name too long; give another path"),
        ("/sys/x.jsonl", "path: /sys/x.jsonl cannot be made, for /sys takes no files: "),
    ],
)
def test_what_can_be_no_file_is_refused_at_once(path, problem):
    with pytest.raises(ConfigError, match=problem):
        FileSink(path=Path(path))


def test_looking_at_a_path_leaves_nothing_there(tmp_path):
    there = tmp_path / "there.jsonl"
    there.write_text("a line\n")
    for path in (there, tmp_path / "new.jsonl", tmp_path / "folder" / "new.jsonl"):
        FileSink(path=path, mode="overwrite").close()
    assert [one.name for one in tmp_path.iterdir()] == ["there.jsonl"]
    assert there.read_text() == "a line\n"


def test_a_process_that_holds_the_file_for_long_is_no_reason_to_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "_PATIENCE_S", 0.1)
    path, spans = tmp_path / "traces.jsonl", record(2)
    sink = FileSink(path=path)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UnreachableError, match=r"another process has held it for 0\.1 s"):
            sink.send(spans)
    sink.send(spans)
    sink.close()
    assert ids(path) == once(spans)


def test_a_forked_child_does_not_hold_the_file_of_a_parent_that_died(tmp_path):
    path, spans = tmp_path / "traces.jsonl", record(4)
    program = f"""
        import fcntl, os, signal, time
        from pathlib import Path
        from millstream.deliver.file import FileSink
        sink = FileSink(path=Path({str(path)!r}))
        with sink._file.alone():
            if child := os.fork():
                print(child, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    try:
        assert parent.wait(timeout=10) == -signal.SIGKILL
        began = time.monotonic()
        send(path, spans)
        assert time.monotonic() - began < 5
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()
    assert ids(path) == once(spans)


def test_events_are_what_other_tools_read(tmp_path):
    path, spans = tmp_path / "traces.jsonl", record(2)
    send(path, spans, format="events")
    steps = [msgspec.json.decode(line, type=IntermediateStep) for line in path.read_bytes().splitlines()]
    assert [step.event_type for step in steps] == [
        "FUNCTION_START",
        "FUNCTION_END",
        "WORKFLOW_START",
        "WORKFLOW_END",
    ]
    _, run = spans
    assert steps[1].parent_id == run.span_id
    assert steps[1].function_ancestry.function_name == "step"
    assert steps[1].function_ancestry.parent_name == "run"
    assert steps[3].payload.span_event_timestamp == run.start_ns / 1e9
    send(path, spans, format="events")
    assert len(path.read_bytes().splitlines()) == 4


def test_a_function_that_has_not_ended_is_known_by_name(tmp_path):
    path = tmp_path / "traces.jsonl"
    with start_span("run", kind=SpanKind.WORKFLOW, workload_id="run") as run, start_span("call"):
        pass
    call, _ = open_store(os.environ["MILLSTREAM_HOME"]).spans()
    send(path, [call], format="events")
    ancestry = json.loads(path.read_text().splitlines()[1])["function_ancestry"]
    assert ancestry == {
        "function_id": run.span_id,
        "function_name": "run",
        "parent_id": None,
        "parent_name": None,
    }
