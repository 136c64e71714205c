"""Readers of a journal while it is compacted, joined, pruned and evicted under them."""

import contextlib
import itertools

import pytest

from millstream import Span, SpanKind
from millstream.deliver import eviction, undelivered
from millstream.deliver.cursor import Cursor
from millstream.deliver.eviction import evict
from millstream.deliver.undelivered import sink_statuses
from millstream.span import Status
from millstream.store import manifest, summaries
from millstream.store.compacted import compacted
from millstream.store.compaction import MANY_SMALL, compact
from millstream.store.journal_store import JournalStore
from millstream.store.journal_table import journal_table
from millstream.store.prompt_blocks import prompt_blocks
from millstream.store.query import connect, rows_of
from millstream.store.segments import list_segments
from millstream.store.summaries import summarise
from tests.store.journals import Home, by_id, end, opening
from tests.store.test_carried import BLOB, LARGE, blob_line, with_blob
from tests.store.test_compaction import prompts
from tests.store.test_compaction_removed import prune


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def write(home, number):
    """A segment with one span, which has a large value; as it will be told."""
    start_ns = 1_790_000_000_000_000_000 + number * 1000
    span = Span(
        f"{number:032x}", f"{number:016x}", None, "m", SpanKind.LLM, start_ns, start_ns + 9, Status.OK
    )
    home.write(number, [opening(span), blob_line(), with_blob(end(span))])
    span.input = LARGE
    assert len(BLOB) == 32
    return span


def test_half_way_through_a_journal_that_is_compacted_and_pruned(home):
    spans = [write(home, 1), write(home, 2)]
    compact(home.path)
    spans += [write(home, number) for number in (3, 4, 5)]
    found = JournalStore(home.path).spans()
    first = list(itertools.islice(found, 1))
    compact(home.path)
    prune(home)
    spans_after = write(home, 6)
    assert by_id([*first, *found]) == by_id(spans)
    assert by_id(JournalStore(home.path).spans()) == by_id([*spans, spans_after])


def test_half_way_through_files_that_are_joined_and_evicted(home):
    spans = []
    for number in range(1, MANY_SMALL):
        spans.append(write(home, number))
        compact(home.path)
    found, table = JournalStore(home.path).spans(), journal_table(home.path).table
    first = list(itertools.islice(found, 1))
    write(home, MANY_SMALL)
    assert compact(home.path).joined == MANY_SMALL
    evict(home.path, max_bytes=0)
    assert compacted(home.path).files == []
    assert by_id([*first, *found]) == by_id(spans)
    assert list(table.trace_ids) == [span.trace_id for span in spans]
    assert by_id(table.spans) == by_id(spans)
    assert prompts(table.spans.prompt_blocks()) == prompts(prompt_blocks(spans))


def test_a_table_of_one_file_outlives_it(home):
    spans = [write(home, number) for number in (1, 2)]
    compact(home.path)
    table = journal_table(home.path).table
    evict(home.path, max_bytes=0)
    assert list(table.span_ids) == [span.span_id for span in spans]
    assert list(table.trace_ids) == [span.trace_id for span in spans]
    assert by_id(table.spans) == by_id(spans)
    assert prompts(table.spans.prompt_blocks()) == prompts(prompt_blocks(spans))


def test_a_query_over_files_that_are_gone(home):
    spans = [write(home, number) for number in (1, 2)]
    compact(home.path)
    spans.append(write(home, 3))
    connection = connect(home.path)
    evict(home.path, max_bytes=0)
    (found,) = rows_of(connection, "SELECT list(span_id ORDER BY span_id) FROM spans").rows
    assert found == ([span.span_id for span in spans],)


def test_between_the_look_at_segments_and_the_one_at_files(home, monkeypatch):
    """What was open and lives is no interrupted span, and none is missing."""
    ended, left_open = write(home, 1), write(home, 3)
    home.write(1, [blob_line(), opening(left_open), with_blob(end(ended))])
    home.segment(3).unlink()
    locks = contextlib.ExitStack()
    locks.enter_context(home.being_written(1))

    def compacted_later(path):
        locks.close()
        home.write(2, [])
        locks.enter_context(home.being_written(2))
        compact(path)
        prune(home)
        return compacted(path)

    for read in (lambda: JournalStore(home.path).spans(), lambda: journal_table(home.path).table.spans):
        monkeypatch.setattr("millstream.store.moment.compacted", compacted_later)
        found = {span.span_id: span.status for span in read()}
        assert found == {ended.span_id: Status.OK, left_open.span_id: None}
        monkeypatch.undo()
        assert not home.segment(1).exists()
    locks.close()


@pytest.mark.parametrize("read", [summarise, sink_statuses, lambda home: evict(home, only_compacted=True)])
def test_what_is_pruned_just_now_is_not_there(home, monkeypatch, read):
    """Between the look at the folder and the one at a segment."""
    write(home, 1)
    write(home, 2)
    Cursor.open(home.path, "sink").close()
    for module in (summaries, undelivered, eviction):

        def later(path):
            segments = list_segments(path)
            home.segment(1).unlink(missing_ok=True)
            return segments

        monkeypatch.setattr(module, "list_segments", later)
    read(home.path)
    assert [one.name for one in summarise(home.path)] == [home.segment(2).name]


def test_files_that_are_joined_while_they_are_listed(home, monkeypatch):
    spans = []
    for number in range(1, MANY_SMALL):
        spans.append(write(home, number))
        compact(home.path)
    prune(home)
    load = manifest.load

    def load_later(*arguments):
        monkeypatch.undo()
        spans.append(write(home, MANY_SMALL))
        assert compact(home.path).joined == MANY_SMALL
        prune(home)
        return load(*arguments)

    monkeypatch.setattr(manifest, "load", load_later)
    store = JournalStore(home.path)
    assert by_id(store.spans()) == by_id(spans)
    assert not store.rejected
