"""Delivery with real threads and processes: started, flushed, forked, killed, ended."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from random import Random

import msgspec
import pytest

import millstream
from millstream import open_store, start_span
from millstream.deliver import announcing, shipper
from millstream.deliver.cursor import Cursor, read_state
from millstream.deliver.delivery import Delivery, Flushed
from millstream.deliver.eviction import evict
from millstream.deliver.otlp import OtlpSink
from millstream.deliver.policy import Policy
from millstream.errors import ConfigError, InputError, RefusedError, UnreachableError
from tests.deliver.receivers import http_receiver
from tests.deliver.sinks import Hanging, Moody, Store, away, record, rejecting

QUICK = Policy(flush_interval_s=0.02, backoff_s=0.01, longest_backoff_s=0.05, shutdown_timeout_s=5)


@pytest.fixture
def deliver(home):
    running = []

    def make(sink, *, policy=QUICK, processors=(), name="out", **kwargs):
        delivery = Delivery(home, [(name, sink, policy, processors)], **kwargs)
        delivery.start()
        running.append((delivery, sink))
        return delivery

    yield make
    for delivery, sink in running:
        if isinstance(sink, Hanging):
            sink.release.set()
        delivery.close(5)


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "millstream")

    def said():
        return [record.getMessage() for record in caplog.records if record.name == "millstream.deliver"]

    return said


def spans(*names):
    for name in names:
        with start_span(name, input="x" * 100):
            pass


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def test_what_cannot_be_delivered_at_all_is_left(deliver, home, said):
    spans("a", "b", "c")
    (home / "delivery").write_text("no folder")
    delivery = deliver(Store(), begin="all")
    assert delivery.flush(5).left == 3
    assert "nothing is delivered to out" in said()[0]


def test_a_name_is_delivered_to_once_in_a_program(home, tmp_path):
    section = {"_type": "file", "path": str(tmp_path / "one.jsonl")}
    with (
        millstream.deliver_to({"one": section}, home),
        pytest.raises(ConfigError, match="this program delivers under this name already"),
    ):
        millstream.deliver_to({"one": section}, home)
    millstream.deliver_to({"one": section}, home).close()


@pytest.mark.parametrize("wrong", ["x", {"a": None}, {"a": "file"}, {"a": object()}, [("a", 1)]])
def test_what_is_no_sink_is_refused(wrong):
    with pytest.raises(ConfigError, match="deliver_to"):
        millstream.deliver_to(wrong)


def test_a_processor_from_code(home, tmp_path):
    def rename(span):
        span.name = "renamed"
        return span

    path = tmp_path / "one.jsonl"
    with millstream.deliver_to({"one": {"_type": "file", "path": str(path), "processors": [rename]}}, home):
        spans("a")
    assert msgspec.json.decode(path.read_bytes())["name"] == "renamed"


def test_what_ends_from_now_on_is_delivered_in_the_background(deliver):
    spans("before")
    sink = Store()
    delivery = deliver(sink)
    spans("a", "b")
    until(lambda: sink.names == ["a", "b"])
    spans("c")
    until(lambda: sink.names == ["a", "b", "c"])
    assert delivery.close().left == 0
    assert sink.closed


def test_from_the_beginning_where_that_is_asked_for(deliver):
    spans("before")
    sink = Store()
    deliver(sink, begin="all").close()
    assert sink.names == ["before"]


def test_a_sink_that_is_known_goes_on_where_it_was(deliver):
    deliver(first := Store()).close()
    spans("between")
    deliver(second := Store()).close()
    assert (first.names, second.names) == ([], ["between"])


def test_flush_tells_what_was_sent_since_the_last(deliver):
    delivery = deliver(Moody(rejecting("bad")))
    spans("a", "bad", "b")
    assert delivery.flush(10) == Flushed(2, 0, {"bad is bad": 1}, {"out": Flushed(2, 0, {"bad is bad": 1})})
    spans("c")
    assert millstream.flush(10) == Flushed(1, 0, {}, {"out": Flushed(1)})
    assert millstream.flush(10) == Flushed(0, 0, {}, {"out": Flushed()})
    assert read_state(delivery.home, "out").counts.sent == 3  # on disk, too


def test_flush_without_delivery():
    assert millstream.flush(0) == Flushed()


@pytest.mark.parametrize("wrong", [None, "x", "5", -1, -0.1, float("nan"), True, [1], 1j])
def test_what_is_no_time_is_refused_with_what_to_give(deliver, wrong):
    text = r"\): give the seconds to wait at most, a number that is 0 or more, such as 30"
    with pytest.raises(InputError, match=r"flush\(.*" + text):
        millstream.flush(wrong)
    delivery = deliver(Store())
    with pytest.raises(InputError, match=r"flush\(.*" + text):
        delivery.flush(wrong)
    if wrong is not None:
        with pytest.raises(InputError, match=r"close\(.*" + text):
            delivery.close(wrong)
    spans("a")
    assert delivery.flush(10).sent == 1


@pytest.mark.parametrize("endless", [float("inf"), 10**400, 1e300], ids=["inf", "int", "float"])
def test_flush_may_wait_for_ever(deliver, endless):
    delivery = deliver(Store())
    spans("a")
    assert delivery.flush(endless).sent == 1
    assert delivery.close(endless).left == 0


def test_flush_does_not_wait_for_the_interval(deliver):
    delivery = deliver(Store(), policy=Policy(flush_interval_s=3600))
    delivery.flush(10)
    spans("a")
    began = time.monotonic()
    assert delivery.flush(10).sent == 1
    assert time.monotonic() - began < 2


def test_several_sinks_each_have_their_own_spans(home):
    def mark(text):
        def mark(span):
            span.attributes["mark"] = text
            span.input = text
            return span

        return mark

    a, b, plain = Store(), Store(), Store()
    exporters = [("a", a, QUICK, [mark("a")]), ("b", b, QUICK, [mark("b")]), ("plain", plain, QUICK, ())]
    with Delivery(home, exporters) as delivery:
        spans("one")
        told = delivery.flush(10)
    assert (told.sent, {name: one.sent for name, one in told.sinks.items()}) == (
        3,
        {"a": 1, "b": 1, "plain": 1},
    )
    assert [sink.spans[0].input for sink in (a, b, plain)] == ["a", "b", "x" * 100]
    assert plain.spans[0].attributes == {}


def test_one_sink_that_is_away_does_not_hold_up_another(home):
    good, bad = Store(), Moody(away)
    with Delivery(home, [("bad", bad, QUICK, ()), ("good", good, QUICK, ())]) as delivery:
        spans("a")
        told = delivery.flush(0.5)
    assert (told.sinks["good"].left, told.sinks["bad"].left) == (0, 1)


def test_stats_count_what_was_delivered(deliver):
    assert "sinks" not in millstream.stats()
    sink = Moody(away)
    delivery = deliver(sink, processors=[lambda span: None if span.name == "drop" else span])
    spans("a", "bad", "drop")
    until(lambda: sink.calls)
    sink.mood = rejecting("bad")
    delivery.flush(10)
    for stats in (millstream.stats(), delivery.stats()):
        assert (stats["sent"], stats["rejected"]) == (1, {"bad is bad": 1})
        assert stats["dropped"] == {"by a processor": 1}
        assert stats["retried"] >= 2
        assert stats["sinks"]["out"]["sent"] == 1
    assert (millstream.stats()["made"], millstream.stats()["stored"]) == (3, 3)
    delivery.close()
    assert millstream.stats()["sent"] == 1
    deliver(Store())
    spans("b")
    millstream.flush(10)
    assert millstream.stats()["sent"] == 2


def test_stats_are_those_of_the_home(deliver, tmp_path):
    deliver(Store())
    spans("a")
    millstream.flush(10)
    with millstream.recording(home=tmp_path):
        assert millstream.stats()["sent"] == 0
    assert millstream.stats()["sent"] == 1


def test_an_outage_is_said_once_and_so_is_its_end(deliver, said, monkeypatch):
    monkeypatch.setattr(announcing, "_WELL_S", 0.2)
    sink = Moody(away)
    delivery = deliver(sink)
    spans("a", "b")
    until(lambda: len(sink.calls) > 10)
    (outage,) = said()
    assert "out gets nothing: the server does not answer; 2 spans wait in " in outage
    sink.mood = None
    delivery.flush(10)
    until(lambda: len(said()) == 2)
    assert "out takes spans again, after an outage of " in said()[1]
    assert delivery.close().left == 0
    assert len(said()) == 2


def test_an_outage_that_ended_just_before_the_program_is_said_to_be_over(deliver, said):
    sink = Moody(away)
    delivery = deliver(sink)
    spans("a")
    until(said)
    sink.mood = None
    until(lambda: delivery.stats()["sent"])
    until(lambda: delivery._shippers[0].announcing._well_since is not None)
    assert len(said()) == 1
    delivery.close()
    assert "out takes spans again, after an outage of " in said()[1]
    assert len(said()) == 2


def test_an_outage_that_ends_with_the_last_try_is_said_to_be_over(deliver, said):
    sink = Moody(away)
    delivery = deliver(sink, policy=Policy(flush_interval_s=0.02, backoff_s=0.01, longest_backoff_s=3600))
    spans("a")
    until(lambda: said() and len(sink.calls) == 5)  # now it is rarely tried
    sink.mood = None
    assert delivery.close().left == 0
    assert [text.split(": ")[1] for text in said()] == ["out gets nothing", "out takes spans again"]


def test_a_hitch_is_not_said(deliver, said):
    failures = iter([True, True])

    def hitch(batch):
        if next(failures, False):
            raise UnreachableError("busy")

    delivery = deliver(Moody(hitch))
    spans("a")
    assert delivery.flush(10).sent == 1
    delivery.close()
    assert said() == []


def test_what_a_person_has_to_mend_is_said_at_once_and_once(deliver, said):
    def refuse(batch):
        raise RefusedError("the server wants a password")

    delivery = deliver(Moody(refuse))
    spans("a")
    began = time.monotonic()
    assert delivery.flush(30).left == 1
    assert delivery.flush(30).left == 1
    assert time.monotonic() - began < 5
    (text,) = said()
    assert "the server wants a password; 1 span waits" in text
    assert "to be sent when that is mended" in text
    delivery.close()
    assert "the server wants a password" not in said()[1]


def test_rejected_spans_are_said_once(deliver, said):
    delivery = deliver(Moody(rejecting("a", "b")), config_file=Path("flow.yml"))
    spans("a")
    delivery.flush(10)
    spans("b")
    delivery.flush(10)
    assert [text.count("out rejected 1 span (a is bad); it is in ") for text in said()] == [1]
    delivery.close()
    assert said()[1].startswith("millstream: out rejected 2 spans (a is bad, and for 1 other reason)")
    assert said()[1].endswith("millstream ship --config_file flow.yml --retry-rejected` sends them again")


def test_the_end_says_what_is_left_and_what_helps(deliver, said, monkeypatch, home):
    monkeypatch.chdir(home.parent)
    sink = Moody(away)
    delivery = deliver(sink, policy=Policy(), config_file=Path("flow.yml"))
    spans("a", "b", "c")
    began = time.monotonic()
    told = delivery.close()
    assert time.monotonic() - began < 5
    assert told.left == 3
    assert 2 <= len(sink.calls) <= 4  # one may have been before the end
    (text,) = said()
    assert text == (
        "millstream: 3 of 3 spans are not delivered to out yet (the server does not answer);"
        f" they are kept in {home.name}, and `millstream ship --config_file flow.yml` sends them"
    )
    deliver(store := Store()).close()
    assert store.names == ["a", "b", "c"]


def test_a_sink_that_is_known_to_be_away_gets_one_last_try(deliver, said):
    sink = Moody(away)
    delivery = deliver(sink, policy=Policy(backoff_s=5, longest_backoff_s=100))
    spans("a")
    until(lambda: sink.calls)
    began = time.monotonic()
    assert delivery.close().left == 1
    assert time.monotonic() - began < 1
    assert len(sink.calls) == 2


def test_a_sink_that_comes_back_at_the_last_moment_gets_it_all(deliver):
    sink = Moody(away)
    delivery = deliver(sink, policy=Policy(backoff_s=5, longest_backoff_s=100, breaker_after=1))
    spans(*"abcdef")
    until(lambda: sink.calls)
    sink.mood = None
    assert delivery.close().left == 0
    assert sink.names == list("abcdef")


def test_a_sink_that_hangs_does_not_hold_up_the_end(deliver, said):
    sink = Hanging()
    delivery = deliver(sink, policy=Policy(flush_interval_s=0.01))
    spans("a", "b")
    assert sink.entered.wait(10)
    began = time.monotonic()
    assert delivery.flush(0.1).left == 2
    assert delivery.close(0.3).left == 2
    assert time.monotonic() - began < 5
    assert "2 of 2 spans are not delivered to out yet (it has not answered for " in said()[-1]
    sink.release.set()
    deliver(after := Store())
    until(lambda: read_state(delivery.home, "out").counts.sent == 2)  # what it took in the end counts
    spans("c")
    millstream.flush(10)
    assert after.names == ["c"]


def test_more_than_can_be_counted_in_time_is_not_waited_for(deliver, said, monkeypatch):
    monkeypatch.setattr(shipper, "_COUNTING_S", 0.1)
    counted = threading.Event()
    monkeypatch.setattr(shipper.Sending, "left", lambda self: counted.wait(30) and 7)
    delivery = deliver(Moody(away))
    spans("a", "b")
    told = delivery.close(0.2)
    counted.set()
    assert told.left == 2
    assert said()[-1].startswith(
        "millstream: 2 of 2 spans are not delivered to out yet (there are more than could be counted"
    )


def test_a_hang_is_not_waited_out_however_long_the_end_may_take(deliver, monkeypatch):
    monkeypatch.setattr(shipper, "HUNG_S", 0.3)
    sink = Hanging()
    delivery = deliver(sink, policy=Policy(flush_interval_s=0.01, shutdown_timeout_s=3600))
    spans("a")
    assert sink.entered.wait(10)
    began = time.monotonic()
    assert delivery.close().left == 1
    assert time.monotonic() - began < 5


def test_the_second_waits_and_takes_over(deliver, said):
    first, second = Store(), Store()
    one = deliver(first)
    spans("a")
    other = deliver(second)
    spans("b")
    assert other.flush(10) == Flushed(0, 0, {}, {"out": Flushed()})  # the first sees to it
    assert first.names == ["a", "b"]
    one.close()
    spans("c")
    until(lambda: second.names == ["c"])
    assert other.close().left == 0
    assert said() == []


def test_a_home_that_cannot_be_written_is_said_and_costs_nothing_else(deliver, said, home):
    (home / "delivery").write_text("in the way")
    delivery = deliver(Store())
    spans("a")
    assert delivery.flush(10).left == 1
    delivery.close()
    assert len(said()) == 2
    assert "nothing is delivered to out: " in said()[0]
    assert "1 of 1 span is not delivered to out yet" in said()[1]


def test_a_sink_that_cannot_be_closed_is_counted(deliver, monkeypatch):
    class Stuck(Store):
        def close(self):
            raise ValueError("no")

    monkeypatch.setattr(millstream.record.faults, "strict", False)
    deliver(Stuck()).close()
    assert millstream.stats()["dropped"] == {"a sink could not be closed": 1}


def test_a_fault_of_ours_is_counted_and_delivery_begins_anew(deliver, monkeypatch):
    monkeypatch.setattr(millstream.record.faults, "strict", False)
    monkeypatch.setattr(shipper, "_AFTER_FAULT_S", 0.01)
    failing = iter([True])
    step = shipper.Sending.step

    def faulty(self, **kwargs):
        if next(failing, False):
            raise RuntimeError("a bug")
        return step(self, **kwargs)

    monkeypatch.setattr(shipper.Sending, "step", faulty)
    delivery = deliver(sink := Store())
    spans("a")
    assert delivery.flush(10).left == 0
    assert sink.names == ["a"]
    assert millstream.stats()["dropped"] == {"delivery failed, and begins anew": 1}


def test_deliver_to_takes_sections_and_sinks(home, tmp_path):
    sink = Store()
    with millstream.deliver_to({"mine": sink, "file": {"_type": "file", "path": str(tmp_path / "x.jsonl")}}):
        spans("a")
        assert millstream.flush(10).sent == 2
    assert sink.names == ["a"]
    assert (tmp_path / "x.jsonl").read_text().count("\n") == 1


def test_deliver_to_says_what_is_wrong():
    with pytest.raises(ConfigError, match=r"deliver_to.x._type: unknown exporter 'elastic'"):
        millstream.deliver_to({"x": {"_type": "elastic"}})


def test_the_thread_belongs_to_no_span_and_is_not_traced(deliver):
    context = pytest.importorskip("opentelemetry.context")
    seen = []

    class Looking(Store):
        def send(self, batch):
            seen.append(
                (millstream.current_span().name, context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY))
            )
            return super().send(batch)

    with start_span("outer"):
        delivery = deliver(Looking())
    spans("a")
    delivery.flush(10)
    assert seen[0][1] is True
    assert seen[0][0] == ""


# Processes


def python(program, home, *arguments, **kwargs):
    environment = {
        **os.environ,
        "MILLSTREAM_HOME": str(home),
        "PYTHONPATH": str(Path(millstream.__file__).parents[1]),
    }
    return subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            textwrap.dedent(PROLOGUE) + textwrap.dedent(program),
            *arguments,
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **kwargs,
    )


PROLOGUE = """
    import os, signal, sys, threading, time
    import millstream
    from millstream import start_span
    from millstream.errors import UnreachableError

    class Sink:
        '''Appends the ids of spans to a file, unless they are there: a server that knows ids.'''
        def __init__(self, path):
            self.path = path
        def send(self, batch):
            with open(self.path, "a+") as file:
                file.seek(0)
                there = set(file.read().split())
                file.write("".join(f"{span.span_id}\\n" for span in batch if span.span_id not in there))
            return [None] * len(batch)
        def close(self):
            pass

    class Hangs(Sink):
        def send(self, batch):
            time.sleep(3600)

    class Away(Sink):
        def send(self, batch):
            raise UnreachableError("nobody is there")

    def spans(count, name="span"):
        for number in range(count):
            with start_span(f"{name} {number}", input="x" * 100):
                pass
"""


def stored(path):
    return sorted(path.read_text().split())


def recorded(home):
    return sorted(span.span_id for span in open_store(home).spans())


def test_the_end_of_a_program_waits_until_all_is_sent(tmp_path):
    program = "millstream.deliver_to({'out': Sink(sys.argv[1])}); spans(1000)"
    done = python(program, tmp_path / "home", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    assert stored(tmp_path / "out") == recorded(tmp_path / "home")


def test_other_ends_of_a_program_lose_nothing(tmp_path):
    home, out = tmp_path / "home", tmp_path / "out"
    for ending in ("os._exit(0)", "os.kill(os.getpid(), signal.SIGTERM)", "raise SystemExit(3)", "1 / 0"):
        python(f"millstream.deliver_to({{'out': Sink(sys.argv[1])}}); spans(50); {ending}", home, str(out))
    done = python("millstream.deliver_to({'out': Sink(sys.argv[1])})", home, str(out))
    assert (done.returncode, done.stderr) == (0, "")
    assert stored(out) == recorded(home)
    assert len(stored(out)) == 200


@pytest.mark.parametrize(
    ("sink", "reason"), [("Away", "nobody is there"), ("Hangs", "it has not answered for")]
)
def test_a_program_ends_in_time_and_says_in_one_line_what_is_left(tmp_path, sink, reason):
    program = f"millstream.deliver_to({{'out': {sink}('')}}); spans(7)"
    began = time.monotonic()
    done = python(program, tmp_path / "home", cwd=tmp_path)
    assert time.monotonic() - began < 25
    assert done.returncode == 0
    assert done.stderr.startswith(f"millstream: 7 of 7 spans are not delivered to out yet ({reason}")
    assert done.stderr.endswith("they are kept in home, and the next run sends them\n")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_ends_the_wait(tmp_path):
    program = """
        millstream.deliver_to({'out': Hangs('')})
        spans(3)
        timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True  # or it would be waited for first
        timer.start()
    """
    began = time.monotonic()
    done = python(program, tmp_path / "home")
    assert time.monotonic() - began < 9
    assert "3 of 3 spans are not delivered to out yet" in done.stderr
    assert "Traceback" not in done.stderr


def test_killed_again_and_again_and_nothing_is_lost_or_doubled(tmp_path):
    home, out = tmp_path / "home", tmp_path / "out"
    program = """
        from millstream.deliver.delivery import Delivery
        from millstream.deliver.policy import Policy
        policy = Policy(batch_size=20, flush_interval_s=0.005)
        delivery = Delivery(millstream.record.journal_home(), [("out", Sink(sys.argv[1]), policy, ())], "all")
        delivery.start()
        threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGKILL)).start()
        while True:
            spans(10)
            time.sleep(0.005)
    """
    for life_s in (0.05, 0.1, 0.2, 0.3, 0.4):
        assert python(program, home, str(out), str(life_s)).returncode == -signal.SIGKILL
    python("millstream.deliver_to({'out': Sink(sys.argv[1])})", home, str(out))
    assert stored(out) == recorded(home)
    assert len(stored(out)) > 50
    assert read_state(home, "out").counts.sent >= len(stored(out))


def test_a_forked_child_delivers_nothing_itself_and_its_parent_all(tmp_path):
    program = """
        delivery = millstream.deliver_to({'out': Sink(sys.argv[1])})
        spans(20, "parent")
        pid = os.fork()
        if not pid:
            assert millstream.stats()["sent"] == 0
            spans(20, "child")
            told = millstream.flush(20)
            assert (told.sent, told.left) == (0, 0), told
            assert threading.active_count() == 1
            spans(20, "last")
            sys.exit(7)  # runs what is to run at exit
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    """
    done = python(program, tmp_path / "home", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    assert stored(tmp_path / "out") == recorded(tmp_path / "home")
    assert len(stored(tmp_path / "out")) == 60


def test_two_processes_share_a_sink_and_the_second_takes_over(tmp_path):
    home, out = tmp_path / "home", tmp_path / "out"
    program = """
        millstream.deliver_to({'out': Sink(sys.argv[1])})
        for _ in range(int(sys.argv[2])):
            spans(10)
            time.sleep(0.01)
        told = millstream.flush(20)
        assert told.left == 0, told
    """
    environment = {**os.environ, "MILLSTREAM_HOME": str(home)}
    code = textwrap.dedent(PROLOGUE) + textwrap.dedent(program)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(out), rounds], env=environment, stderr=subprocess.PIPE
        )
        for rounds in ("100", "20", "200")
    ]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, b"")
    assert stored(out) == recorded(home)
    assert len(stored(out)) == 3200


def test_threads_that_still_record_at_the_end_are_no_trouble(tmp_path):
    program = """
        millstream.deliver_to({'out': Sink(sys.argv[1])})
        def forever():
            while True:
                spans(10)
                time.sleep(0.001)
        for _ in range(3):
            threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.3)
    """
    done = python(program, tmp_path / "home", str(tmp_path / "out"))
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "Fatal" not in done.stderr


async def test_a_loop_can_wait_for_a_flush(deliver):
    deliver(sink := Store())
    spans("a")
    assert (await asyncio.to_thread(millstream.flush, 10)).sent == 1
    assert sink.names == ["a"]


def test_many_threads_flush_at_once(deliver):
    delivery = deliver(Store())
    told = []

    def work():
        for _ in range(20):
            spans("a", "b")
            told.append(delivery.flush(20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    delivery.flush(20)
    assert {one.left for one in told} == {0}
    assert delivery.stats()["sent"] == 320


def test_the_cursor_is_free_when_close_returns(deliver, home):
    for _ in range(20):
        deliver(Store()).close()
        Cursor.open(home, "out").close()


def test_recorded_before_the_first_home_exists(tmp_path):
    sink = Store()
    with millstream.recording(home=tmp_path / "new"):
        with millstream.deliver_to({"out": sink}):
            spans("a")
        assert sink.names == ["a"]


def test_records_of_other_processes_of_the_home_come_too(deliver, home):
    deliver(sink := Store(), begin="all")
    record(home, "elsewhere")
    millstream.flush(10)
    assert sink.names == ["elsewhere"]


@pytest.mark.parametrize(
    "error", [SystemExit(1), asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt()]
)
def test_a_sink_that_wants_to_end_the_thread_is_one_that_fails(deliver, home, error):
    """As one does that runs a loop of asyncio's, or calls what is made for a command line."""
    told = [error]

    def mood(batch):
        if told:
            raise told.pop()

    sink = Moody(mood)
    delivery = deliver(sink)
    with millstream.recording(home=home):
        spans("a", "b")
        assert delivery.flush(10).left == 0
    assert sorted(sink.names) == ["a", "b"]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_what_ends_threads_is_said_as_a_fault_wherever_a_sink_raises_it(deliver, said, monkeypatch, error):
    def leave(batch):
        raise error

    class Stuck(Moody):
        def close(self):
            raise error

    monkeypatch.setattr(millstream.record.faults, "strict", False)
    delivery = deliver(Stuck(leave))
    spans("a")
    until(said)
    assert f"out gets nothing: Stuck raises {type(error).__name__}" in said()[0]
    assert delivery.close().left == 1
    assert millstream.stats()["dropped"] == {"a sink could not be closed": 1}


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_a_processor_that_wants_to_end_the_thread_costs_the_content(deliver, monkeypatch, error):
    def leave(span):
        raise error

    monkeypatch.setattr(millstream.record.faults, "strict", False)
    delivery = deliver(sink := Store(), processors=[leave])
    spans("a")
    assert delivery.flush(10).sent == 1
    assert sink.spans[0].input is msgspec.UNSET
    counted = millstream.stats()["sinks"]["out"]["processor_faults"]
    assert [(key.rpartition(".")[2], n) for key, n in counted.items()] == [
        (f"leave raised {type(error).__name__}", 1)
    ]


def test_room_is_made_before_it_is_said_what_is_left(deliver, said, home):
    """Else what is said to be kept would be removed a moment later."""
    record(home, *"abc")

    def make_room():
        evicted.append(evict(home, max_bytes=1))
        return True

    evicted = []
    delivery = deliver(Moody(away), begin="all", make_room=make_room)
    spans("d", "e")
    assert delivery.close().left == 2
    assert evicted[0].undelivered == {"out": 3}
    assert said()[-1].startswith("millstream: 2 of 2 spans are not delivered to out yet")
    assert "they are kept in " in said()[-1]


def test_of_a_journal_with_limits_nothing_is_promised(deliver, said):
    delivery = deliver(Moody(away), make_room=lambda: False)
    spans("a")
    until(said)
    assert said()[0].endswith(
        ", to be sent when it is well again, unless the limits of the journal remove them first"
    )
    delivery.close()


def test_a_receiver_that_answers_503_four_times_in_five_is_said_once(deliver, said):
    chance = Random(5)  # noqa: S311  # no secret
    with http_receiver() as receiver:
        receiver.answer = lambda request: (503 if chance.random() < 0.8 else 200, {}, b"")
        sink = OtlpSink(endpoint=receiver.url)
        delivery = deliver(sink, policy=msgspec.structs.replace(QUICK, batch_size=2, breaker_after=50))
        for number in range(150):
            spans(f"span {number}")
            time.sleep(0.02)
        until(lambda: delivery.stats()["sent"] == 150, 60)
        assert delivery.stats()["retried"] > 150
        assert [text.split(": ")[1] for text in said()] == ["out gets nothing"]
        delivery.close()
    assert ["takes spans again" in text for text in said()] == [False, True]


def test_a_receiver_that_asks_for_ages_does_not_end_delivery(deliver, home):
    told = [UnreachableError("later", 1e300)]

    def mood(batch):
        if told:
            raise told.pop()

    sink = Moody(mood)
    delivery = deliver(sink)
    with millstream.recording(home=home):
        spans("a")
        until(lambda: sink.calls)
        time.sleep(0.2)
        assert delivery.flush(5).left == 0
    assert sink.names == ["a"]
