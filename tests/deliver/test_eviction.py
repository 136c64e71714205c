"""Removing segments: what is closed only, counted by sink, and said."""

import json
import os
import subprocess
import sys
import textwrap
import time

import pytest

import millstream
from millstream import open_store, start_span
from millstream.deliver.cursor import Cursor, read_state
from millstream.deliver.eviction import Evicted, evict
from millstream.deliver.tail import Tail
from millstream.deliver.undelivered import sink_statuses, undelivered
from millstream.errors import InputError
from millstream.store.segments import list_segments


def journal_command(*arguments):
    command = [sys.executable, "-W", "error", "-m", "millstream", "journal", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def record(home, count, *, segment_bytes=1 << 20):
    with millstream.recording(home=home, segment_bytes=segment_bytes):
        for number in range(count):
            with start_span(f"span {number}", input="x" * 1000):
                pass


def deliver(home, name, count):
    """Settle some spans for a sink, as delivery does."""
    cursor = Cursor.open(home, name)
    tail = Tail(home, cursor)
    while count and (items := tail.read(count)):
        tail.settle(item.place for item in items)
        cursor.counts.sent += len(items)
        count -= len(items)
    tail.save()
    tail.close()
    cursor.close()


@pytest.fixture
def recorded(tmp_path):
    """Three segments of 200, 300 and 400 spans, all closed."""
    for count in (200, 300, 400):
        record(tmp_path, count)
    return tmp_path


@pytest.mark.parametrize("settled", [0, 1, 199, 200, 201, 450, 899, 900])
def test_what_is_left_is_counted_from_outside(recorded, settled):
    deliver(recorded, "a", settled)
    (status,) = sink_statuses(recorded)
    assert (status.name, status.counts.sent, status.left) == ("a", settled, 900 - settled)


def test_spans_of_a_process_that_died_are_left_too(tmp_path):
    program = """
        import os, signal
        from millstream import start_span
        for number in range(10):
            with start_span("whole"):
                pass
        with start_span("open"), start_span("open, too"):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = {**os.environ, "MILLSTREAM_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=environment, check=False)
    deliver(tmp_path, "a", 4)
    assert sink_statuses(tmp_path)[0].left == 8
    deliver(tmp_path, "a", 100)
    (status,) = sink_statuses(tmp_path)
    assert (status.left, status.counts.sent) == (0, 12)


def test_one_whose_state_is_broken_is_listed(recorded):
    deliver(recorded, "a", 10)
    (recorded / "delivery" / "a.jsonl").write_text("{")
    assert sink_statuses(recorded)[0].left is None
    assert "a: its state cannot be read" in journal_command("status", "--home", str(recorded)).stdout


def test_status_shows_each_sink(recorded):
    deliver(recorded, "files", 250)
    cursor = Cursor.open(recorded, "search")
    cursor.counts.rejected["mapping conflict"] += 3
    cursor.counts.dropped["could not be encoded"] += 2
    cursor.counts.evicted += 7
    cursor.counts.retried += 5
    cursor.close()
    shown = journal_command("status", "--home", str(recorded)).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["files", "250", "650", "0", "0", "0", "0", "0"] in lines
    assert ["search", "0", "900", "5", "3", "2", "0", "7"] in lines
    assert "search: 3 rejected: mapping conflict" in shown
    assert "dead-letter/search.jsonl; millstream ship --retry-rejected" in shown
    assert "search: 2 dropped: could not be encoded" in shown
    assert "search: 7 were removed from the journal before they were delivered" in shown
    data = json.loads(journal_command("status", "--home", str(recorded), "--json").stdout)
    assert [(sink["name"], sink["left"]) for sink in data["sinks"]] == [("files", 650), ("search", 900)]


def test_the_oldest_go_until_it_is_small_enough(recorded):
    deliver(recorded, "a", 250)
    sizes = [path.stat().st_size for path in sorted((recorded / "journal").iterdir())]
    evicted = evict(recorded, max_bytes=sum(sizes) - 1)
    assert (evicted.segments, evicted.spans, evicted.undelivered, evicted.size) == (1, 200, {}, sizes[0])
    evicted = evict(recorded, max_bytes=sizes[2])
    assert (evicted.segments, evicted.spans, evicted.undelivered) == (1, 300, {"a": 250})
    assert evict(recorded, max_bytes=sizes[2]).segments == 0
    assert len(list(open_store(recorded).spans())) == 400
    (status,) = sink_statuses(recorded)
    assert (status.left, status.counts.evicted, status.counts.sent) == (400, 250, 250)
    deliver(recorded, "a", 1000)
    (status,) = sink_statuses(recorded)
    assert (status.left, status.counts.evicted, status.counts.sent) == (0, 250, 650)


def test_a_segment_that_is_written_stays_and_is_said(recorded):
    with millstream.recording(home=recorded), start_span("open"):
        done = journal_command("prune", "--home", str(recorded), "--max-bytes", "0")
        assert done.returncode == 0
        assert "3 segments were removed" in done.stdout
        assert "900 spans" in done.stdout
        assert "MB more than max_bytes stay: they are being written" in done.stdout
    assert [span.name for span in open_store(recorded).spans()] == ["open"]


def test_without_limits_nothing_goes(recorded):
    assert evict(recorded) == Evicted()
    assert len(list_segments(recorded)) > 1


def test_by_age(recorded):
    old, *_ = sorted((recorded / "journal").iterdir())
    day_ago = time.time() - 86_400
    os.utime(old, (day_ago, day_ago))
    done = journal_command("prune", "--home", str(recorded), "--max-age", "23h", "--json")
    assert json.loads(done.stdout)["spans"] == 200
    assert (
        json.loads(journal_command("prune", "--home", str(recorded), "--max-age", "1h", "--json").stdout)[
            "segments"
        ]
        == 0
    )


def test_only_what_every_sink_has_had(recorded):
    deliver(recorded, "a", 900)
    deliver(recorded, "b", 450)
    done = journal_command("prune", "--home", str(recorded), "--delivered")
    assert "1 segment was removed" in done.stdout
    assert evict(recorded, only_delivered=True, max_bytes=0).segments == 0
    deliver(recorded, "b", 100)
    assert evict(recorded, only_delivered=True, max_age_s=3600).segments == 0
    assert evict(recorded, only_delivered=True, max_bytes=0).spans == 300
    assert undelivered(recorded, read_state(recorded, "b")).total() == 350


def test_nothing_was_ever_delivered(recorded):
    with pytest.raises(InputError, match="no sink is known there"):
        evict(recorded, only_delivered=True)
    assert journal_command("prune", "--home", str(recorded), "--delivered").returncode == 2


def test_prune_announces_what_was_not_delivered(recorded):
    deliver(recorded, "a", 150)
    done = journal_command("prune", "--home", str(recorded), "--max-bytes", "0")
    assert "900 spans); 750 of the spans had not been delivered to a" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to remove: --max-bytes, --max-age, --delivered or --compacted"),
        (["--max-bytes", "much"], "--max-bytes: 'much' is no amount; write 500MB (units: kb, mb"),
        (
            ["--max_age", "3 fortnights"],
            "--max-age: '3 fortnights' is no amount; write 30d (units: s, m, h, d, w)",
        ),
    ],
)
def test_prune_is_told_wrongly(recorded, arguments, message):
    done = journal_command("prune", "--home", str(recorded), *arguments)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_a_sink_that_is_being_delivered_to_sees_it(recorded):
    cursor = Cursor.open(recorded, "a")
    tail = Tail(recorded, cursor)
    tail.settle(item.place for item in tail.read(100))
    tail.save()
    evicted = evict(recorded, max_bytes=0)
    assert evicted.undelivered == {"a": 800}
    while items := tail.read(1000):
        tail.settle(item.place for item in items)
    assert tail.left() == 0
    tail.save()
    tail.close()
    cursor.close()
