"""Lines that are carried from segment to segment, with their large values, whatever they are."""

import subprocess
import sys

import pytest

from millstream.store import compaction
from millstream.store.compacted import compacted
from millstream.store.compaction import compact
from millstream.store.journal_store import JournalStore
from millstream.store.journal_table import journal_table
from millstream.store.table import SpanTable
from tests.store.journals import Home, by_id, end, opening
from tests.store.test_compaction import same_table
from tests.store.test_compaction_removed import family, prune

BLOB = b"f" * 32
LARGE = ["x" * 5000, {"y": 1}]


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def with_blob(line):
    return line[:-1] + b',"blobs":{"/input":"%b"}}' % BLOB


def blob_line():
    return b'{"blob":"%b","value":["%b",{"y":1}]}' % (BLOB, b"x" * 5000)


def test_a_torn_line_that_names_a_large_value_is_carried(home):
    """Killed while it was written: `blobs` had been, what follows had not."""
    first, _ = family()
    torn = with_blob(end(first))[:-1] + b',"attrib'
    home.write(1, [blob_line(), opening(first), torn])
    expected = home.read()
    home.write(2, [])
    with home.being_written(2):
        assert len(journal_table(home.path).table) == 1
    compact(home.path)
    assert home.read() == expected


def test_without_a_compiler_large_values_are_carried(home):
    first, second = family()
    home.write(1, [blob_line(), opening(first), opening(second), with_blob(end(second))])
    home.write(2, [])
    code = (
        "import sys; sys.modules['millstream.store._scan'] = None\n"
        "from pathlib import Path; from millstream.store.compaction import compact\n"
        "compact(Path(sys.argv[1]))"
    )
    with home.being_written(2):
        subprocess.run([sys.executable, "-c", code, str(home.path)], check=True)
    assert compacted(home.path).segments == {home.segment(1).stem}
    home.segment(1).unlink()
    home.write(2, [end(first)])
    second.input = LARGE
    spans, rejected, _ = home.read()
    assert (spans, dict(rejected)) == (by_id([first, second]), {})
    compact(home.path)
    assert home.read()[0] == by_id([first, second])


def test_a_value_is_read_from_its_own_segment(home, monkeypatch):
    """The same value lies in an earlier one, too, which is removed as soon as it is compacted."""
    expected = []
    for number in (1, 2):
        span, _ = family()
        span.trace_id, span.span_id = f"{number:032x}", f"{number:016x}"
        others = [
            b'{"blob":"%032x","value":"%b"}' % (number * 10 + other, b"y" * (1 << 20)) for other in range(3)
        ]
        home.write(number, [opening(span), blob_line(), *others, with_blob(end(span))])
        span.input = LARGE
        expected.append(span)
    flush = compaction._Work._flush

    def then_prune(work):
        flush(work)
        prune(home)

    monkeypatch.setattr(compaction._Work, "_flush", then_prune)
    done = compact(home.path, bytes_a_file=1)
    assert len(done.files) > 1
    spans, rejected, _ = home.read()
    assert (spans, dict(rejected)) == (by_id(expected), {})


def test_numbers_that_no_decoder_takes_are_no_span(home):
    """Else a file would be written that nobody can read."""
    first, second = family()
    numbers = (b"1e999", b"-1.5E+309", b"1" * 400 + b".5", b"1" * 250 + b"e99")
    wrong = [end(first)[:-1] + b',"input":[%b]}' % number for number in numbers]
    home.write(1, [opening(first), opening(second), end(second), *wrong])
    expected = home.read()
    compact(home.path)
    assert home.read() == expected


def test_spans_of_one_id_are_the_same_table_however_much_is_compacted(home):
    first, second = family()
    again = family()[0]
    again.name = "other"
    home.write(1, [opening(first), end(first), opening(again), end(again)])
    home.write(2, [opening(second), end(second)])
    home.write(3, [])
    before = SpanTable.from_spans(JournalStore(home.path).spans())
    same_table(journal_table(home.path).table, before)
    away = home.path / "away"
    home.segment(2).rename(away)
    compact(home.path)
    away.rename(home.segment(2).with_name("00000000000000000002-7-0001.jsonl"))
    same_table(journal_table(home.path).table, before)
    compact(home.path)
    assert len(compacted(home.path).files) == 2
    same_table(journal_table(home.path).table, before)
