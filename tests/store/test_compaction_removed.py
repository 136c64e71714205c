"""What is removed of a compacted journal, and what never is, whoever reads meanwhile."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from millstream import Span, SpanKind
from millstream.deliver.eviction import evict
from millstream.span import Status
from millstream.store import compaction
from millstream.store.compacted import compacted
from millstream.store.compaction import compact
from millstream.store.journal_store import JournalStore
from millstream.store.journal_table import journal_table
from tests.store.journals import Home, by_id, end, opening

DAY_S = 86400


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def family(start_ns=None):
    """A workflow and a tool in it."""
    start_ns = time.time_ns() if start_ns is None else start_ns
    return (
        Span("a" * 32, "1" * 16, None, "w", SpanKind.WORKFLOW, start_ns, start_ns + 50, Status.OK),
        Span("a" * 32, "2" * 16, "1" * 16, "t", SpanKind.TOOL, start_ns + 6, start_ns + 9, Status.OK),
    )


def prune(home):
    evict(home.path, only_compacted=True)


@contextmanager
def carried_on(home):
    """A family whose workflow goes on in the next segment; the first is compacted and pruned."""
    first, second = family()
    home.write(1, [opening(first), opening(second), end(second)])
    home.write(2, [])
    with home.being_written(2):
        compact(home.path)
        prune(home)
        yield first, second


def test_carried_lines_are_not_too_old(home):
    """A file of which all spans are still to be written has none that says how old it is."""
    with carried_on(home) as (first, second):
        assert evict(home.path, max_age_s=DAY_S).files == 0
        assert evict(home.path, max_bytes=0).files == 0
        assert home.read()[0].keys() == {("a" * 32, "1" * 16), ("a" * 32, "2" * 16)}
    home.write(2, [end(first)])
    assert home.read()[0] == by_id([first, second])


def test_what_was_carried_once_is_not_asked_for_again(home):
    """The file that says that carried lines are written now may be the first to be too old."""
    old, second = family(start_ns=5)
    other = family()[0]
    other.trace_id, other.span_id = "b" * 32, "9" * 16
    home.write(1, [opening(old), opening(second), end(second), opening(other), end(other)])
    home.write(2, [])
    with home.being_written(2):
        compact(home.path)
    home.write(2, [end(old)])
    compact(home.path)
    prune(home)
    evict(home.path, max_age_s=DAY_S)
    assert other.trace_id in {trace for trace, _ in home.read()[0]}
    assert compact(home.path).files == []


def test_a_file_stays_as_long_as_its_segments(home):
    """Else they would be read again, and told twice what was carried on to the next file."""
    first, second = family(start_ns=5)
    first.end_ns = time.time_ns()
    old = Span("c" * 32, "3" * 16, None, "w", SpanKind.WORKFLOW, 5, 9, Status.OK)
    home.write(1, [opening(old), end(old), opening(first), opening(second), end(second)])
    home.write(2, [])
    with home.being_written(2):
        compact(home.path)
    home.write(2, [end(first)])
    compact(home.path)
    evict(home.path, max_age_s=DAY_S)  # the segments were written just now
    assert home.read()[0] == by_id([old, first, second])
    os.utime(home.segment(1), (0, 0))
    evicted = evict(home.path, max_age_s=DAY_S)
    assert (evicted.segments, evicted.files, evicted.spans, evicted.compacted) == (1, 1, 1, 0)
    assert home.read()[0] == by_id([first, second])


def test_tidying_leaves_what_is_not_ours(home):
    first, second = family()
    home.write(1, [opening(first), end(first)])
    compact(home.path)
    (home.path / "spans" / "notes.csv").write_text("mine")
    (home.path / "spans" / "mine").mkdir()
    home.write(2, [opening(second), end(second)])
    assert compact(home.path).spans == 1
    assert {"notes.csv", "mine"} < {path.name for path in (home.path / "spans").iterdir()}


def test_carried_lines_outlive_a_file_that_cannot_be_read_for_a_while(home):
    with carried_on(home) as (_first, _second):
        (path,) = compacted(home.path).paths
        content = path.read_bytes()
        path.write_bytes(b"PAR1")
        compact(home.path)
        path.write_bytes(content)
        assert home.read()[0].keys() == {("a" * 32, "1" * 16), ("a" * 32, "2" * 16)}


def test_a_damaged_file_tells_no_span_twice(home):
    """What it left open is in the next one, and in the journal, which is read instead of it."""
    first, second = family()
    third = family()[0]
    third.trace_id, third.span_id = "b" * 32, "3" * 16
    home.write(1, [opening(first), opening(second), end(second), opening(third), end(third)])
    home.write(2, [])
    with home.being_written(2):
        compact(home.path)
    home.write(2, [end(first)])
    compact(home.path)
    compacted(home.path).paths[0].write_bytes(b"PAR1")
    expected = by_id([first, second, third])
    assert home.read()[0] == expected
    compact(home.path)
    assert home.read()[0] == expected
    assert len(journal_table(home.path).table) == 3
    prune(home)
    assert home.read()[0] == expected


def test_segments_are_read_in_order(home, monkeypatch):
    """One whose process lives and let go of it badly waits, and those after it with it."""
    first, second = family()
    home.write(1, [opening(second), end(second), opening(first)], room=b"\0\0")
    home.write(2, [end(first)])
    monkeypatch.setattr("millstream.store.compaction.may_go_on", lambda writer: True)
    assert compact(home.path).left == 2
    monkeypatch.undo()
    compact(home.path)
    assert home.read()[0] == by_id([first, second])


def test_a_new_file_of_an_old_name_and_size_is_read(home):
    """Numbers come again where all files were removed."""
    for number in (1, 2):
        home.write(number, [opening(family()[0])])
        home.write(number + 1, [])
        with home.being_written(number + 1):
            compact(home.path)
            assert compacted(home.path).segments == {home.segment(number).stem}
        for path in [*(home.path / "spans").iterdir(), home.segment(number)]:
            path.unlink()


def test_a_file_that_was_just_made_is_not_compacted(home):
    """Its process, which may not be seen from here, locks it a moment later."""
    first, _ = family()
    home.write(1, [])
    compact(home.path)
    home.write(1, [opening(first), end(first)])
    assert home.read()[0] == by_id([first])


@pytest.mark.parametrize("hidden", ["spans", "spans/00000001.parquet", "journal"])
@pytest.mark.parametrize("known", [True, False])
def test_what_may_not_be_read_is_said(home, hidden, known):
    first, _ = family()
    home.write(1, [opening(first), end(first)])
    compact(home.path)
    prune(home)
    if not known:
        (home.path / "manifest.sqlite").unlink()
    path = home.path / hidden
    path.chmod(0)
    try:
        for arguments in (["export"], ["query", "SELECT count(*) FROM spans"], ["status"]):
            if arguments == ["status"] and hidden.endswith("parquet") and known:
                continue  # what the manifest tells is enough
            done = powerless("journal", *arguments, "--home", str(home.path))
            assert done.returncode == 2, (arguments, done.stdout, done.stderr)
            assert "may not be read: recordings belong to the user who made them" in done.stderr
    finally:
        path.chmod(0o700)


def powerless(*arguments):
    """The command, by a root that may no longer read everything."""
    command = [sys.executable, "-m", "millstream", *arguments]
    if os.geteuid() == 0:
        powers = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}", *command]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_files_of_few_large_spans_are_not_joined(home, monkeypatch):
    """Joined files are in memory together."""
    monkeypatch.setattr(compaction, "BYTES_A_FILE", 1 << 20)
    for number in range(1, compaction.MANY_SMALL + 1):
        first, _ = family()
        first.trace_id = f"{number:032x}"
        first.input = "x" * (1 << 18)
        home.write(number, [opening(first), end(first)])
        assert compact(home.path).joined == 0
    assert len(home.read()[0]) == compaction.MANY_SMALL


def test_a_file_of_spans_that_never_ended_is_as_old_as_they_are(home):
    first = family()[0]
    first.start_ns = time.time_ns()
    home.write(1, [opening(first)])
    compact(home.path)
    home.segment(1).unlink()
    assert evict(home.path, max_age_s=3600).files == 0
    store = JournalStore(home.path)
    assert [span.span_id for span in store.spans(since_ns=first.start_ns)] == [first.span_id]
    assert evict(home.path, max_age_s=0).files == 1
