"""Dead letters: whole lines, sent again on request, removed once they are taken, whatever kills whom."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from millstream import open_store
from millstream.deliver.cursor import Busy, Cursor, read_state
from millstream.deliver.dead_letters import DeadLetters, count_letters, dead_letter_path, retry_rejected
from millstream.deliver.sink import Skipped
from millstream.errors import RefusedError, StorageError, UnreachableError
from tests.deliver.sinks import Moody, Store, away, record, rejecting, retrying


def letters(home, name="out"):
    path = dead_letter_path(home, name)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add(home, *names, reason="bad"):
    record(home, *names)
    spans = [span for span in open_store(home).spans() if span.name in names]
    DeadLetters(home, "out", lambda: None).add((span, reason) for span in spans)
    cursor = Cursor.open(home, "out")
    cursor.counts.rejected[reason] += len(spans)
    cursor.close()


def test_those_that_are_taken_are_removed_and_counted_as_sent(tmp_path):
    add(tmp_path, "a", "b", "c", "d")
    sink = Moody(rejecting("b", "d"))
    again = retry_rejected(tmp_path, "out", sink, batch_size=3)
    assert (again.sent, again.rejected, again.left) == (2, {"b is bad": 1, "d is bad": 1}, 0)
    assert [(letter["span"]["name"], letter["reason"]) for letter in letters(tmp_path)] == [
        ("b", "b is bad"),
        ("d", "d is bad"),
    ]
    counts = read_state(tmp_path, "out").counts
    assert (counts.sent, counts.rejected) == (2, {"b is bad": 1, "d is bad": 1})
    again = retry_rejected(tmp_path, "out", Store())
    assert (again.sent, again.rejected) == (2, {})
    assert not dead_letter_path(tmp_path, "out").exists()
    assert read_state(tmp_path, "out").counts.rejected == {}


def test_large_letters_are_not_held_all_at_once(tmp_path):
    record(tmp_path, *"abcdef", size=90_000)
    spans = list(open_store(tmp_path).spans())
    DeadLetters(tmp_path, "out", lambda: None).add((span, "bad") for span in spans)
    sink = Store()
    assert retry_rejected(tmp_path, "out", sink, batch_bytes=200_000).sent == 6
    assert [len(batch) for batch in sink.batches] == [2] * 3


def test_without_letters_nothing_happens(tmp_path):
    again = retry_rejected(tmp_path, "out", Store())
    assert (again.sent, again.rejected, again.left) == (0, {}, 0)


def test_what_was_not_reached_stays(tmp_path):
    add(tmp_path, *"abcdefgh")
    calls = []

    def once(batch):
        calls.append(batch)
        if len(calls) > 1:
            raise UnreachableError("gone")

    again = retry_rejected(tmp_path, "out", Moody(once), batch_size=3)
    assert (again.sent, again.left, str(again.why)) == (3, 5, "gone")
    assert [letter["span"]["name"] for letter in letters(tmp_path)] == list("defgh")


@pytest.mark.parametrize("error", [UnreachableError("away"), RefusedError("password")])
def test_a_sink_that_takes_nothing_changes_nothing(tmp_path, error):
    def fail(batch):
        raise error

    add(tmp_path, "a", "b")
    before = dead_letter_path(tmp_path, "out").read_bytes()
    assert retry_rejected(tmp_path, "out", Moody(fail)).why is error
    assert dead_letter_path(tmp_path, "out").read_bytes() == before


def test_each_result_is_counted(tmp_path):
    add(tmp_path, "a", "b", "c")
    moods = {"a": Skipped("it is empty"), "b": None}
    sink = Moody(lambda batch: [moods.get(span.name, *retrying("c")([span])) for span in batch])
    again = retry_rejected(tmp_path, "out", sink)
    assert (again.sent, again.skipped, again.left) == (1, 1, 1)
    assert [letter["span"]["name"] for letter in letters(tmp_path)] == ["c"]
    counts = read_state(tmp_path, "out").counts
    assert (counts.skipped, counts.skipped_reasons) == (1, {"it is empty": 1})


def test_one_that_the_sink_raises_on_stays_with_the_reason(tmp_path):
    def stumble(batch):
        if any(span.name == "b" for span in batch):
            raise ValueError("b?")

    add(tmp_path, "a", "b", "c")
    again = retry_rejected(tmp_path, "out", Moody(stumble))
    assert (again.sent, again.rejected) == (2, {"ValueError: b?": 1})


def test_lines_of_others_and_torn_ones_stay_and_repeated_ones_are_sent_once(tmp_path):
    add(tmp_path, "a")
    path = dead_letter_path(tmp_path, "out")
    line = path.read_bytes()
    path.write_bytes(b"not ours\n" + line + line + line[:50])
    sink = Store()
    again = retry_rejected(tmp_path, "out", sink)
    assert (sink.names, again.sent, again.left, again.unreadable) == (["a"], 1, 0, 2)
    assert path.read_bytes() == b"not ours\n" + line[:50] + b"\n"
    add(tmp_path, "b")
    assert path.read_bytes().count(b"\n") == 3


def test_a_torn_end_is_closed_before_more_is_added(tmp_path):
    add(tmp_path, "a")
    path = dead_letter_path(tmp_path, "out")
    path.write_bytes(path.read_bytes()[:-20])
    add(tmp_path, "b")
    torn, whole = path.read_bytes().splitlines()
    assert json.loads(whole)["span"]["name"] == "b"
    assert b'"a"' in torn


def test_nobody_sends_again_while_another_delivers(tmp_path):
    add(tmp_path, "a")
    cursor = Cursor.open(tmp_path, "out")
    with pytest.raises(Busy):
        retry_rejected(tmp_path, "out", Store())
    cursor.close()
    assert retry_rejected(tmp_path, "out", Store()).sent == 1


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    add(tmp_path, "a")
    (tmp_path / "dead-letter" / "out.jsonl.new").mkdir()
    with pytest.raises(StorageError, match=r"out.jsonl.new cannot be read or written"):
        retry_rejected(tmp_path, "out", Store())
    assert len(letters(tmp_path)) == 1


def test_a_kill_in_the_middle_costs_no_letter(tmp_path):
    add(tmp_path, *[f"span {number}" for number in range(50)])
    program = f"""
        import os, signal
        from pathlib import Path
        from millstream.deliver.dead_letters import retry_rejected
        class Sink:
            calls = 0
            def send(self, batch):
                self.calls += 1
                if self.calls == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                return [None] * len(batch)
            def close(self): pass
        retry_rejected(Path({str(tmp_path)!r}), "out", Sink(), batch_size=10)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    assert len(letters(tmp_path)) == 50
    sink = Store()
    assert retry_rejected(tmp_path, "out", sink).sent == 50
    assert set(sink.ids.values()) == {1}


def test_away_is_away(tmp_path):
    add(tmp_path, "a")
    assert isinstance(retry_rejected(tmp_path, "out", Moody(away)).why, UnreachableError)


@pytest.mark.parametrize(
    "line",
    [
        b'{"sink":"out","reason":"bad","time":"now","span":5}',
        b'{"sink":"out","reason":"bad","time":"now"}',
        b'{"sink":"\xff","reason":"bad","time":"now","span":5}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"",
        b"\x00" * 50,
    ],
    ids=["no span", "nothing", "no text", "too deep", "too deep, too", "empty", "zeros"],
)
def test_a_line_that_is_no_letter_is_counted_and_stays_as_it_is(tmp_path, line):
    add(tmp_path, "a", "b")
    path = dead_letter_path(tmp_path, "out")
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + second)
    again = retry_rejected(tmp_path, "out", Store())
    assert (again.sent, again.left, again.unreadable) == (2, 0, 1)
    assert path.read_bytes() == line + b"\n"
    assert count_letters(tmp_path, "out") == 1
    assert retry_rejected(tmp_path, "out", Store()).unreadable == 1
    assert path.read_bytes() == line + b"\n"


def test_a_letter_without_a_line_end_is_not_glued_to_another(tmp_path):
    add(tmp_path, "a")
    path = dead_letter_path(tmp_path, "out")
    path.write_bytes(b"not ours\n" + path.read_bytes().rstrip(b"\n"))
    assert count_letters(tmp_path, "out") == 2
    assert retry_rejected(tmp_path, "out", Moody(retrying("a"))).left == 1
    again = retry_rejected(tmp_path, "out", Store())
    assert (again.sent, again.unreadable, path.read_bytes()) == (1, 1, b"not ours\n")


def test_it_stops_between_batches_and_keeps_what_was_not_tried(tmp_path):
    add(tmp_path, *"abcdefgh")
    sink = Store()
    again = retry_rejected(tmp_path, "out", sink, batch_size=3, stopped=lambda: len(sink.batches) == 2)
    assert (again.sent, again.left, again.why) == (6, 2, None)
    assert [letter["span"]["name"] for letter in letters(tmp_path)] == list("gh")
    assert read_state(tmp_path, "out").counts.rejected == {"bad": 2}


@pytest.mark.parametrize("error", [SystemExit(1), GeneratorExit()])
def test_a_sink_that_wants_to_end_the_program_is_one_that_fails(tmp_path, error):
    def leave(batch):
        raise error

    add(tmp_path, "a")
    again = retry_rejected(tmp_path, "out", Moody(leave))
    assert f"Moody raises {type(error).__name__}" in str(again.why)
    assert len(letters(tmp_path)) == 1


def test_ctrl_c_while_they_are_sent_costs_no_letter(tmp_path):
    def interrupt(batch):
        raise KeyboardInterrupt

    add(tmp_path, "a")
    with pytest.raises(KeyboardInterrupt):
        retry_rejected(tmp_path, "out", Moody(interrupt))
    assert len(letters(tmp_path)) == 1
    assert retry_rejected(tmp_path, "out", Store()).sent == 1
