"""Compacted, a journal tells the same: at any moment, whoever writes, whatever breaks."""

import dataclasses
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream import Span, SpanKind
from millstream.errors import StorageError
from millstream.record.journal import Journal
from millstream.span import Status
from millstream.store import compaction, manifest, open_store
from millstream.store.compacted import METADATA, CompactedFile, compacted
from millstream.store.compaction import compact
from millstream.store.journal_store import JournalStore
from millstream.store.journal_table import journal_table
from millstream.store.parquet import write_table
from millstream.store.parquet_table import read_table
from millstream.store.prompt_blocks import prompt_blocks
from millstream.store.table import SpanTable
from tests.store.journals import Home, by_id, end, lines, opening, parts_of

RECORD = """
import sys
from pathlib import Path
from millstream import SpanKind, Usage, recording, start_span

with recording(home=Path(sys.argv[1])):
    for number in range(int(sys.argv[2])):
        with start_span("support", kind=SpanKind.WORKFLOW, input={"question": number}):
            talk = [{"role": "system", "content": "You are brief. " * 20}]
            for step in range(4):
                talk = [*talk, {"role": "user", "content": f"Step {step} of {number}?"}]
                attributes = {"gen_ai.request.model": "m", "gen_ai.response.time_to_first_chunk": 0.5}
                with start_span("m", kind=SpanKind.LLM, attributes=attributes) as span:
                    span.input = talk
                    span.set_output({"role": "assistant", "content": "é" * step})
                    span.set_usage(Usage(120, 20, step))
                talk = [*talk, {"role": "assistant", "content": "é" * step}]
                with start_span("look up", kind=SpanKind.TOOL) as span:
                    span.input = {"order": number, "all": "x" * (6000 if step == 2 else 3)}
"""


@pytest.fixture
def recorded(tmp_path):
    subprocess.run([sys.executable, "-c", RECORD, str(tmp_path), "40"], check=True)
    return tmp_path


def same_table(table, other):
    for field in dataclasses.fields(SpanTable):
        one, also = getattr(table, field.name), getattr(other, field.name)
        if field.name == "spans":
            assert by_id(one) == by_id(also)
        elif isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, also, field.name)
        else:
            assert (list(one) if field.name.endswith("ids") else one) == (
                list(also) if field.name.endswith("ids") else also
            ), field.name


def test_a_recording_is_the_same_table(recorded):
    before = SpanTable.from_spans(open_store(recorded).spans())
    done = compact(recorded)
    assert (done.spans, done.rejected, done.merged, done.left) == (len(before), {}, {}, 0)
    (path,) = compacted(recorded).paths
    same_table(read_table(path), before)
    hashes = read_table(path).spans.prompt_blocks()
    assert hashes.length.sum() > 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert compact(recorded).files == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines(), st.data())
def test_any_lines_are_the_same_table(some, data):
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        some = [data.draw(st.sampled_from([line, line, line, line, line[: len(line) // 2]])) for line in some]
        home.write(1, some, room=b"\x00" * data.draw(st.integers(0, 9)))
        expected = home.read_raw()
        table = SpanTable.from_spans(JournalStore(home.path).spans())
        compact(home.path)
        assert home.read() == expected
        for path in compacted(home.path).paths:
            same_table(read_table(path), table)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines(), st.data())
def test_compacted_while_it_is_written(some, data):
    """Segment by segment, the last one held by a living process; then the process ends."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        parts = parts_of(data.draw, some, 4)
        for number, part in enumerate(parts):
            home.write(number + 1, part)
            with home.being_written(number + 1):
                if data.draw(st.booleans()):
                    compact(home.path)
                seen = home.read()[0]
            if data.draw(st.booleans()) and number:
                home.segment(number).unlink()
                if home.segment(number).stem not in compacted(home.path).segments:
                    return  # it was removed before it was compacted: what it held is gone
            assert home.read()[0].keys() == seen.keys()
        compact(home.path)
        whole = Home(home.path / "whole")
        for number, part in enumerate(parts):
            whole.write(number + 1, part)
        assert home.read() == whole.read()


def test_a_trace_waits_for_its_end_across_segments(tmp_path):
    home = Home(tmp_path)
    first, second = (span for span in _two_spans())
    home.write(1, [opening(first), opening(second), end(second)])
    home.write(2, [])
    with home.being_written(2):
        assert compact(tmp_path).spans == 0
        home.segment(1).unlink()
        assert home.read()[0].keys() == {(one.trace_id, one.span_id) for one in (first, second)}
    home.write(2, [end(first)])
    assert compact(tmp_path).spans == 2
    assert len(home.read()[0]) == 2
    assert not list((tmp_path / "spans").glob("*.carried.jsonl"))


def test_a_trace_that_never_ends_does_not_hold_back_what_has(tmp_path, monkeypatch):
    monkeypatch.setattr("millstream.store.journal_rows.MOST_CARRIED", 100)
    home = Home(tmp_path)
    first, second = _two_spans()
    home.write(1, [opening(first), opening(second), end(second)])
    home.write(2, [])
    with home.being_written(2):
        assert compact(tmp_path).spans == 1
    home.write(2, [end(first)])
    assert compact(tmp_path).spans == 1
    assert home.read()[0] == by_id([first, second])


def _two_spans():
    first = Span("a" * 32, "1" * 16, None, "w", SpanKind.WORKFLOW, 5, 50, Status.OK)
    return first, Span("a" * 32, "2" * 16, "1" * 16, "t", SpanKind.TOOL, 6, 9, Status.OK)


def test_killed_at_any_moment_it_goes_on(recorded):
    expected = Home(recorded).read_raw()
    code = (
        "import sys; from pathlib import Path; from millstream.store.compaction import compact\n"
        "print('ready', flush=True); compact(Path(sys.argv[1]), bytes_a_file=1)"
    )
    for pause_s in (0, 0.005, 0.02, 0.05, 0.1):
        with subprocess.Popen([sys.executable, "-c", code, str(recorded)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(pause_s)
            process.send_signal(signal.SIGKILL)
        assert Home(recorded).read() == expected
    compact(recorded)
    assert Home(recorded).read() == expected
    assert not list((recorded / "spans").glob("*.tmp"))


def test_one_at_a_time(recorded):
    with compaction._alone(recorded), pytest.raises(StorageError, match="being compacted by another process"):
        compact(recorded)


def test_a_full_disk_leaves_the_journal_as_it_was(recorded):
    expected = Home(recorded).read_raw()
    code = (
        "import resource, sys; from pathlib import Path; from millstream.store.compaction import compact\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); compact(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(recorded)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "spans cannot be written: File too large. The journal is as it was" in done.stderr
    assert [path.name for path in (recorded / "spans").iterdir()] == ["lock"]
    assert Home(recorded).read() == expected


def test_a_folder_that_cannot_be_made_is_said(recorded):
    (recorded / "spans").touch()
    with pytest.raises(StorageError, match=r"spans cannot be written: File exists\."):
        compact(recorded)


def test_files_of_others_stay(recorded):
    compact(recorded)
    (recorded / "spans" / "notes.txt").touch()
    (recorded / "spans" / "00000007.parquet.tmp").touch()
    compact(recorded)
    assert sorted(path.name for path in (recorded / "spans").iterdir()) == [
        "00000001.parquet",
        "lock",
        "notes.txt",
    ]


def test_nothing_there(tmp_path):
    assert compact(tmp_path).files == []
    assert list(tmp_path.iterdir()) == []


def test_files_of_earlier_times_tell_what_was_cached(tmp_path):
    """Files without the column are read, joined with newer ones, and give the same table."""
    home = Home(tmp_path)
    cached = [{"millstream.cached": True}, {}]
    made = [
        Span(f"{n:032x}", f"{n:016x}", None, "m", SpanKind.LLM, n, n + 1, Status.OK, attributes=cached[n % 2])
        for n in range(10)
    ]
    for number, span in enumerate(made[:9]):
        home.write(number + 1, [end(span)])
        compact(tmp_path)
        if number < 4:
            (path,) = [file for file in compacted(tmp_path).paths if int(file.stem) == number + 1]
            pq.write_table(pq.read_table(path).drop_columns(["cached"]), path)
            same_table(journal_table(tmp_path).table, SpanTable.from_spans(made[: number + 1]))
    assert len(compacted(tmp_path).files) < 8
    home.write(10, [end(made[9])])
    same_table(journal_table(tmp_path).table, SpanTable.from_spans(made))


def test_small_files_are_joined_and_traces_with_them(tmp_path):
    """One trace of many processes, each compacted when it ends."""
    for number in range(compaction.MANY_SMALL):
        journal = Journal(tmp_path)
        for some in _of_process(number):
            journal.begin(opening(some) + b"\n")
            journal.finish(end(some) + b"\n")
        journal.close()
        expected = Home(tmp_path).read_raw()
        done = compact(tmp_path)
    assert done.joined == compaction.MANY_SMALL
    (path,) = compacted(tmp_path).paths
    assert [one.name for one in (tmp_path / "spans").glob("*.parquet")] == [path.name]
    assert Home(tmp_path).read() == expected
    same_table(read_table(path), SpanTable.from_spans(JournalStore(tmp_path).spans()))


def _of_process(number):
    parent = f"{number - 1:016x}" if number else None
    yield Span("b" * 32, f"{number:016x}", parent, "p", SpanKind.TASK, 100 - number, 200, Status.OK)


@pytest.mark.parametrize("break_it", [Path.unlink, lambda path: path.write_bytes(b"junk" * 999)])
def test_the_manifest_is_only_a_cache(recorded, break_it):
    compact(recorded)
    expected = Home(recorded).read()
    assert manifest.load(recorded, "files", CompactedFile) != {}
    break_it(recorded / "manifest.sqlite")
    assert Home(recorded).read() == expected


def test_a_damaged_file_is_said_and_the_journal_read_instead(recorded):
    expected = Home(recorded).read()
    compact(recorded)
    (path,) = compacted(recorded).paths
    path.write_bytes(path.read_bytes()[:-50])
    spans_, rejected, _ = Home(recorded).read()
    assert spans_ == expected[0]
    assert list(rejected) == [f"{path.name} is damaged; what is left of the journal was read instead"]
    assert compact(recorded).spans == len(spans_)


def test_traces_and_times_are_chosen_from_files_too(recorded):
    compact(recorded)
    store = JournalStore(recorded)
    every = list(store.spans())
    one = every[0].trace_id
    assert by_id(store.spans([one])) == by_id(span for span in every if span.trace_id == one)
    last = max(span.end_ns for span in every)
    assert list(store.spans(since_ns=last + 1)) == []
    assert len(list(store.spans(since_ns=last))) == len(every)


def test_without_a_compiler_it_is_the_same(recorded):
    table = read_table(_compacted(recorded))
    (recorded / "spans").rename(recorded / "before")
    code = (
        "import sys; sys.modules['millstream.store._scan'] = None\n"
        "from pathlib import Path; from millstream.store import scan; assert not scan.COMPILED\n"
        "from millstream.store.compaction import compact; compact(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(recorded)], check=True)
    same_table(read_table(compacted(recorded).paths[0]), table)
    columns = [pq.read_table(path, columns=["prompt_blocks"]) for path in (recorded).rglob("*.parquet")]
    assert columns[0].equals(columns[1])


def _compacted(home):
    compact(home)
    return compacted(home).paths[0]


def test_pruned_it_is_read_from_parquet(recorded):
    expected = Home(recorded).read()
    compact(recorded)
    for path in (recorded / "journal").iterdir():
        path.unlink()
    assert Home(recorded).read() == expected
    (recorded / "journal").rmdir()
    assert by_id(open_store(recorded).spans()) == expected[0]


def test_memory_does_not_grow_with_the_journal(tmp_path):
    peaks = []
    for count in (200, 2000):
        home = tmp_path / str(count)
        subprocess.run([sys.executable, "-c", RECORD, str(home), str(count)], check=True)
        code = (
            "import resource, sys; from pathlib import Path\n"
            "from millstream.store.compaction import compact\n"
            "compact(Path(sys.argv[1]), bytes_a_file=4 << 20)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(home)], check=True, capture_output=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 150


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines(), st.data())
def test_a_journal_is_one_table_however_much_of_it_is_compacted(some, data):
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        parts = parts_of(data.draw, some, 3)
        for number, part in enumerate(parts):
            home.write(number + 1, part)
            with home.being_written(number + 1):
                if data.draw(st.booleans()):
                    compact(home.path)
                table = SpanTable.from_spans(JournalStore(home.path).spans())
                same_table(journal_table(home.path).table, table)
                same_table(written(journal_table(home.path).table, home.path.parent), table)
        table = SpanTable.from_spans(JournalStore(home.path).spans())
        same_table(journal_table(home.path).table, table)


def written(table, folder):
    """A table that went through a file."""
    write_table(table, folder / "spans.parquet")
    return read_table(folder / "spans.parquet")


def test_spans_and_prompts_of_several_files_are_those_of_one(recorded):
    whole = journal_table(recorded).table
    compact(recorded)
    first = compacted(recorded).paths[0]
    subprocess.run([sys.executable, "-c", RECORD, str(recorded), "3"], check=True)
    compact(recorded)
    subprocess.run([sys.executable, "-c", RECORD, str(recorded), "2"], check=True)
    table, rejected = journal_table(recorded)
    same_table(table, SpanTable.from_spans(JournalStore(recorded).spans()))
    assert not rejected
    assert len(compacted(recorded).paths) == 2
    assert first in compacted(recorded).paths
    assert list(table.spans[3:9]) == [table.spans[row] for row in range(3, 9)]
    blocks, expected = table.spans.prompt_blocks(), prompt_blocks(list(table.spans))
    assert prompts(blocks) == prompts(expected)
    assert prompts(whole.spans.prompt_blocks()) == prompts(expected)[: len(whole)]
    again = written(table, recorded.parent)
    same_table(again, table)
    assert prompts(again.spans.prompt_blocks()) == prompts(expected)


def prompts(blocks):
    ends = zip(blocks.first.tolist(), blocks.length.tolist(), blocks.known.tolist(), strict=True)
    return [
        blocks.hashes[start : start + length].tolist() if known else None for start, length, known in ends
    ]


@pytest.mark.parametrize("name", ["../victim", "/etc/hostname", "..", ""])
def test_a_file_that_names_others_elsewhere_is_damaged(recorded, name):
    compact(recorded)
    expected = Home(recorded).read()[0]
    (path,) = compacted(recorded).paths
    (recorded / "victim").touch()
    rows = pq.read_table(path)
    told = msgspec.json.decode(rows.schema.metadata[METADATA]) | {"replaces": [name]}
    pq.write_table(
        rows.replace_schema_metadata({**rows.schema.metadata, METADATA: msgspec.json.encode(told)}), path
    )
    assert compacted(recorded).files == []
    compact(recorded)
    assert (recorded / "victim").exists()
    assert Home(recorded).read()[0] == expected


def test_pandas_is_not_loaded(recorded, tmp_path):
    """It takes longer to load than a journal to read."""
    pytest.importorskip("pandas")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from millstream.store.compaction import compact\n"
        "from millstream.store.journal_table import journal_table\n"
        "from millstream.store.parquet import write_table\n"
        "home, file = map(Path, sys.argv[1:])\n"
        "for compacts in (False, True):\n"
        "    if compacts:\n"
        "        compact(home)\n"
        "    table = journal_table(home).table\n"
        "    list(table.spans)\n"
        "    write_table(table, file)\n"
        "sys.exit('pandas' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, recorded, tmp_path / "spans.parquet"], check=True)
