"""One sink, step by step: what is sent, again, later, never. The clock is the test's own."""

import json
from random import Random

import msgspec
import pytest

from millstream.deliver.cursor import Counts, Cursor, read_state
from millstream.deliver.policy import Policy
from millstream.deliver.sending import Sending, Step
from millstream.deliver.sink import SKIPPED, Rejected, Retry, Skipped
from millstream.errors import RefusedError, UnreachableError
from millstream.record import faults
from tests.deliver.sinks import Clock, Moody, Store, away, record, rejecting, retrying


class Run:
    """A sink, what sends to it, and a clock."""

    def __init__(self, home, sink, processors=(), **policy):
        self.home, self.sink = home, sink
        self.clock = Clock()
        self.counts = Counts()
        self.policy = Policy(**policy)
        self.sending = Sending(
            home,
            Cursor.open(home, "out"),
            sink,
            self.policy,
            processors,
            counts=self.counts,
            clock=self.clock,
            random=Random(7),  # noqa: S311  # no secret
        )

    def until_nothing(self, seconds=3600.0, tick=0.05):
        """Let time pass until all is settled, or so much has passed; what the steps were."""
        end = self.clock.now + seconds
        steps = []
        while self.clock.now < end:
            steps.append(self.sending.step())
            if steps[-1] is Step.NOTHING and not self.sending.holds:
                break
            until = self.sending.backoff.retry_at if steps[-1] is Step.PAUSED else 0
            self.clock.now = max(self.clock.now + tick, until)
        return steps

    @property
    def letters(self):
        path = self.home / "dead-letter" / "out.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def run(tmp_path):
    runs = []

    def make(sink, names=(), processors=(), size=100, **policy):
        record(tmp_path, *names, size=size)
        runs.append(Run(tmp_path, sink, processors, **policy))
        return runs[-1]

    yield make
    for one in runs:
        one.sending.close()


def numbered(count):
    return [f"span {number}" for number in range(count)]


def test_all_is_sent_once_in_order_in_batches(run):
    store = Store()
    it = run(store, numbered(25), batch_size=10)
    assert [it.sending.step() for _ in range(4)] == [Step.FULL, Step.FULL, Step.SOME, Step.NOTHING]
    assert [len(batch) for batch in store.batches] == [10, 10, 5]
    assert store.names == numbered(25)
    assert (it.sending.left(), it.counts.sent) == (0, 25)


@pytest.mark.parametrize("limit", [{"queue_items": 10}, {"queue_bytes": 5_000}])
def test_a_batch_that_memory_cuts_short_is_followed_by_the_next(run, limit):
    """Else a `batch_size` of more than is held would mean one such batch each `flush_interval`."""
    store = Store()
    it = run(store, numbered(35), batch_size=1000, **limit)
    steps = [it.sending.step() for _ in range(2)]
    assert steps == [Step.FULL, Step.FULL]
    assert set(it.until_nothing()[:-2]) <= {Step.FULL}
    assert store.names == numbered(35)


@pytest.mark.parametrize("after_s", [1e300, float("inf"), 10 * 365 * 86400.0])
def test_nobody_is_waited_for_longer_than_an_hour(run, after_s):
    told = [UnreachableError("later", after_s), [Retry("later", after_s)], [None, Retry("later", after_s)]]

    def mood(batch):
        answer = told.pop(0) if told else None
        if isinstance(answer, Exception):
            raise answer
        return answer and [*answer, *[None] * len(batch)][: len(batch)]

    it = run(Moody(mood), numbered(2), batch_size=2)
    it.until_nothing(seconds=4 * 3700)
    assert it.sending.left() == 0
    assert len(it.sink.ids) == 2


def test_batches_are_bounded_by_bytes_and_a_large_span_goes_alone(run):
    store = Store()
    it = run(store, numbered(20), size=1000, batch_bytes=5000)
    it.until_nothing()
    assert {len(batch) for batch in store.batches[:-1]} == {3}
    assert store.names == numbered(20)
    record(it.home, "large", size=50_000)
    record(it.home, "small")
    it.until_nothing()
    assert [len(batch) for batch in store.batches[-2:]] == [1, 1]


def test_what_is_held_is_bounded(run):
    sink = Moody(lambda batch: [Retry("later", 3000.0) if "odd" in span.name else None for span in batch])
    names = [f"{'odd' if number % 2 else 'even'} {number}" for number in range(400)]
    it = run(sink, names, batch_size=10, queue_items=50)
    it.until_nothing(seconds=60)
    assert it.sending._backlog.items == 50
    assert len(sink.ids) == 50  # and as many were not taken
    assert it.sending.left() == 350


def test_what_is_held_is_bounded_in_bytes(run):
    sink = Moody(lambda batch: [Retry("later", 3000.0) for span in batch[1:]] + [None])
    it = run(sink, numbered(300), size=10_000, batch_size=10, queue_bytes=200_000)
    it.until_nothing(seconds=60)
    assert 150_000 < it.sending._backlog.bytes < 300_000


def test_nobody_answers_then_all_is_sent_again(run):
    sink = Moody(away)
    it = run(sink, numbered(3))
    assert it.sending.step() is Step.FAILED
    assert it.sending.step() is Step.PAUSED
    assert str(it.sending.backoff.error) == "the server does not answer"
    assert it.sending.left() == 3
    sink.mood = None
    assert it.sending.step(at_once=True) is not Step.PAUSED
    it.until_nothing()
    assert sink.names == numbered(3)
    assert (it.counts.sent, it.counts.retried, it.sending.left()) == (3, 3, 0)


def test_pauses_grow_and_then_one_span_probes(run):
    sink = Moody(away)
    it = run(sink, numbered(2000), backoff_s=0.2, longest_backoff_s=30.0, breaker_after=5)
    ends = [0.2, 0.4, 0.8, 1.6]
    for most_s in ends:
        it.clock.now = max(it.clock.now, it.sending.backoff.retry_at)
        assert it.sending.step() is Step.FAILED
        assert 0 <= it.sending.backoff.retry_at - it.clock.now <= most_s
    for _ in range(10):
        it.clock.now = max(it.clock.now, it.sending.backoff.retry_at)
        assert it.sending.step() is Step.FAILED
        assert 15 <= it.sending.backoff.retry_at - it.clock.now <= 30
    assert [len(call) for call in sink.calls[:5]] == [500, 250, 125, 62, 31]
    assert all(len(call) == 1 for call in sink.calls[5:])
    sink.mood = None
    it.until_nothing()
    assert sorted(sink.names) == sorted(numbered(2000))
    assert set(sink.ids.values()) == {1}


def test_the_server_says_how_long_to_wait(run):
    def busy(batch):
        raise UnreachableError("busy", retry_after_s=17.0)

    it = run(Moody(busy), numbered(3))
    it.sending.step()
    assert it.sending.backoff.retry_at == it.clock.now + 17.0


def test_refused_spans_are_kept_and_tried_rarely(run):
    def refuse(batch):
        raise RefusedError("wrong password")

    sink = Moody(refuse)
    it = run(sink, numbered(3))
    it.until_nothing(seconds=600)
    assert 10 <= len(sink.calls) <= 20
    assert (it.sending.left(), it.letters) == (3, [])
    sink.mood = None
    it.until_nothing()
    assert sink.names == numbered(3)


def test_single_spans_are_retried_beside_the_others(run):
    sink = Moody(retrying("span 3", "span 7"))
    it = run(sink, numbered(20), batch_size=10)
    it.until_nothing(seconds=30)
    assert sorted(sink.names) == sorted(set(numbered(20)) - {"span 3", "span 7"})
    assert it.sending.left() == 2
    assert it.counts.retried > 4
    sink.mood = None
    it.until_nothing()
    assert set(sink.ids.values()) == {1}
    assert it.counts.sent == 20


def test_a_span_that_is_never_taken_does_not_stop_others(run):
    """Alone it looks as if the sink took nothing: then one span is sent at a time, another each time."""
    sink = Moody(retrying("stuck"))
    it = run(sink, ["stuck"])
    it.until_nothing(seconds=300)
    assert it.sending.backoff.is_open
    record(it.home, *numbered(50))
    it.until_nothing(seconds=120)
    assert sorted(sink.names) == sorted(numbered(50))
    assert it.sending.left() == 1


def test_a_span_that_breaks_connections_becomes_a_dead_letter(run):
    def reset(batch):
        if any(span.name == "span 13" for span in batch):
            raise UnreachableError("connection reset")

    sink = Moody(reset)
    it = run(sink, numbered(40))
    for number in range(200):
        it.until_nothing(seconds=60, tick=1)
        if it.letters:
            break
        record(it.home, f"more {number}")
    assert [(letter["span"]["name"], letter["reason"]) for letter in it.letters] == [
        ("span 13", "connection reset")
    ]
    it.until_nothing()
    assert it.sending.left() == 0
    assert set(numbered(40)) - set(sink.names) == {"span 13"}
    assert set(sink.ids.values()) == {1}


def test_a_receiver_that_says_later_four_times_in_five_loses_nothing_and_gets_whole_batches(run):
    chance = Random(3)  # noqa: S311  # no secret

    def flaps(batch):
        if chance.random() < 0.8:
            raise UnreachableError("takes nothing now (503)", says_later=True)

    sink = Moody(flaps)
    it = run(sink, numbered(1000), batch_size=50)
    it.until_nothing(seconds=20_000)
    assert (it.letters, it.sending.left()) == ([], 0)
    assert set(sink.ids.values()) == {1}
    assert sum(len(call) > 1 for call in sink.calls) > len(sink.calls) / 4  # others probe


def test_a_span_for_which_a_receiver_says_later_stops_no_others_and_is_kept(run):
    def never(batch):
        if any(span.name == "span 13" for span in batch):
            raise UnreachableError("takes nothing now (500)", says_later=True)

    sink = Moody(never)
    it = run(sink, numbered(40), batch_size=10)
    for number in range(60):
        it.until_nothing(seconds=120, tick=1)
        record(it.home, f"more {number}")
    assert it.letters == []
    assert set(numbered(40)) - set(sink.names) == {"span 13"}
    sink.mood = None
    it.until_nothing()
    assert it.sending.left() == 0
    assert set(sink.ids.values()) == {1}


def test_a_span_that_the_sink_raises_on_becomes_a_dead_letter(run):
    def stumble(batch):
        for span in batch:
            if span.name == "span 13":
                raise ValueError("thirteen")

    sink = Moody(stumble)
    it = run(sink, numbered(500))
    steps = it.until_nothing(seconds=10)
    assert Step.FAILED not in steps
    assert len(sink.calls) < 40
    assert [(letter["span"]["name"], letter["reason"]) for letter in it.letters] == [
        ("span 13", "ValueError: thirteen")
    ]
    assert (it.counts.sent, it.counts.rejected, it.sending.left()) == (499, {"ValueError: thirteen": 1}, 0)
    assert set(sink.ids.values()) == {1}


def test_a_sink_that_is_broken_does_not_make_dead_letters_of_everything(run):
    def broken(batch):
        raise KeyError("no such option")

    it = run(Moody(broken), numbered(500))
    it.until_nothing(seconds=120)
    assert len(it.letters) < 10
    assert "Moody raises KeyError: 'no such option'" in str(it.sending.backoff.error)
    it.sink.mood = None
    it.until_nothing()
    assert it.counts.sent + len(it.letters) == 500
    assert it.sending.left() == 0


def test_a_pool_of_threads_that_has_ended_with_the_program_is_no_fault_of_a_span(run):
    def submit(batch):
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    it = run(Moody(submit), numbered(5))
    assert it.sending.step() is Step.FAILED
    assert it.sending.left() == 5


def test_errors_of_networks_are_no_fault_of_a_span(run):
    def reset(batch):
        raise ConnectionResetError("reset by peer")

    sink = Moody(reset)
    it = run(sink, numbered(5))
    it.until_nothing(seconds=300)
    assert (it.letters, it.sending.left()) == ([], 5)
    assert "reset by peer" in str(it.sending.backoff.error)


@pytest.mark.parametrize("answer", [None, [None], [None] * 4, ["taken"] * 3, 7])
def test_a_sink_must_say_of_each_span_what_became_of_it(run, answer):
    class Wrong(Store):
        def send(self, batch):
            return answer

    it = run(Wrong(), numbered(3))
    assert it.sending.step() is Step.FAILED
    assert "send() of Wrong must give one result a span" in str(it.sending.backoff.error)
    assert isinstance(it.sending.backoff.error, RefusedError)
    assert (it.sending.left(), it.letters) == (3, [])


def test_rejected_spans_are_on_disk_before_they_are_settled(run):
    it = run(Moody(rejecting("span 1", "span 2")), numbered(4))
    it.until_nothing()
    assert [letter["reason"] for letter in it.letters] == ["span 1 is bad", "span 2 is bad"]
    assert all(letter["sink"] == "out" and letter["time"].endswith("Z") for letter in it.letters)
    assert it.letters[0]["span"]["input"] == "x" * 100
    assert it.counts.rejected == {"span 1 is bad": 1, "span 2 is bad": 1}
    state = read_state(it.home, "out")
    assert (state.counts.sent, state.counts.rejected) == (2, it.counts.rejected)
    assert (it.home / "dead-letter" / "out.jsonl").stat().st_mode & 0o777 == 0o600
    assert (it.home / "dead-letter").stat().st_mode & 0o777 == 0o700


def test_without_room_for_dead_letters_nothing_is_settled(run):
    it = run(Moody(rejecting("span 1")), numbered(3))
    (it.home / "dead-letter").write_text("a file in the way")
    assert it.sending.step() is Step.FAILED
    assert "cannot be written" in str(it.sending.backoff.error)
    assert (it.sending.left(), it.counts.rejected) == (1, {})
    (it.home / "dead-letter").unlink()
    it.until_nothing()
    assert (it.sending.left(), it.counts.rejected) == (0, {"span 1 is bad": 1})
    assert set(it.sink.ids.values()) == {1}


def test_a_letter_is_written_once_when_its_process_is_killed_before_it_could_note_that(run, monkeypatch):
    it = run(Moody(rejecting("span 1")), numbered(3))
    monkeypatch.setattr(it.sending._tail, "save", lambda: None)
    monkeypatch.setattr(it.sending._cursor, "save", lambda: None)
    it.sending.step()
    assert len(it.letters) == 1
    it.sending._cursor._let_go()
    again = run(Moody(rejecting("span 1")))
    again.until_nothing()
    assert again.sink.names == ["span 0", "span 2"]  # at least once
    assert len(again.letters) == 1
    assert read_state(it.home, "out").counts.rejected == {"span 1 is bad": 1}


def test_skipped_spans_are_settled_and_counted(run):
    it = run(Moody(lambda batch: [SKIPPED, *[Skipped("it is empty")] * (len(batch) - 1)]), numbered(3))
    it.until_nothing()
    assert (it.sending.left(), it.counts.skipped, it.counts.sent) == (0, 3, 0)
    assert it.counts.skipped_reasons == {"it is empty": 2}
    assert read_state(it.home, "out").counts.skipped_reasons == {"it is empty": 2}


def test_skipped_spans_say_nothing_of_a_sink_that_is_away(run):
    def mood(batch):
        if any(span.name.startswith("call") for span in batch):
            raise UnreachableError("the server does not answer")
        return [SKIPPED] * len(batch)

    names = [f"{'call' if number % 2 else 'tool'} {number}" for number in range(12)]
    it = run(Moody(mood), names, breaker_after=3)
    failures = []
    for _ in range(30):
        it.sending.step()
        failures.append(it.sending.backoff.failures)
        it.clock.now += 60
    assert failures == sorted(failures)
    assert it.sending.backoff.is_open
    it.sink.mood = None
    it.until_nothing()
    assert it.sending.backoff.error is None
    assert it.sending.left() == 0


def test_processors_change_and_drop(run):
    def change(span):
        if span.name == "span 1":
            return None
        span.attributes["seen"] = True
        return span

    it = run(Store(), numbered(3), [change])
    it.until_nothing()
    assert [(span.name, span.attributes) for span in it.sink.spans] == [
        ("span 0", {"seen": True}),
        ("span 2", {"seen": True}),
    ]
    assert (it.counts.dropped, it.sending.left()) == ({"by a processor": 1}, 0)


def test_a_processor_that_raises_leaves_no_content(run, monkeypatch):
    monkeypatch.setattr(faults, "strict", False)

    def redact(span):
        if span.name == "span 1":
            raise ValueError(span.input)
        return span

    it = run(Store(), numbered(2), [redact])
    it.until_nothing()
    whole, bare = it.sink.spans
    assert (whole.input, bare.input) == ("x" * 100, msgspec.UNSET)
    assert bare.attributes == {"millstream.incomplete": True}
    assert sum(faults.counts.values()) == 1
    (fault,) = it.counts.processor_faults
    assert fault.endswith("redact raised ValueError")
    assert it.counts.processor_faults[fault] == 1
    assert read_state(it.home, "out").counts.processor_faults == it.counts.processor_faults


def test_a_fault_of_a_processor_is_counted_once_however_often_its_span_is_sent(run, monkeypatch):
    monkeypatch.setattr(faults, "strict", False)

    def redact(span):
        raise SystemExit(span.name)

    it = run(Moody(away), numbered(3), [redact])
    it.until_nothing(seconds=60)
    assert it.counts.processor_faults == {}  # none is sent
    it.sending.close()
    again = run(Store(), (), [redact])
    again.until_nothing()
    assert list(read_state(it.home, "out").counts.processor_faults.values()) == [3]
    assert [span.input for span in again.sink.spans] == [msgspec.UNSET] * 3


@pytest.mark.parametrize("error", [SystemExit(1), GeneratorExit(), ValueError("no"), TypeError("no")])
def test_a_sink_whose_answer_raises_when_it_is_looked_at_is_one_that_raises(run, error):
    class Lazy(Store):
        def send(self, batch):
            yield from [None] * (len(batch) - 1)
            raise error

    it = run(Lazy(), numbered(1))
    it.until_nothing(seconds=1)
    if isinstance(error, Exception):
        assert [letter["reason"] for letter in it.letters] == [f"{type(error).__name__}: no"]
    else:
        assert f"Lazy raises {type(error).__name__}" in str(it.sending.backoff.error)
        assert (it.letters, it.sending.left()) == ([], 1)


def test_a_processor_that_gives_no_span_is_at_fault_and_named(run, monkeypatch):
    monkeypatch.setattr(faults, "strict", False)
    said = []
    monkeypatch.setattr(faults, "swallow", lambda fault, _: said.append(str(fault)))

    async def asynchronous(span):
        return span

    for processor in (lambda span: 5, lambda span: {"name": span.name}, asynchronous):
        it = run(Store(), numbered(1), [processor])
        it.until_nothing()
        assert it.letters == []
        assert it.sink.spans[-1].attributes == {"millstream.incomplete": True}
        it.sending.close()
    assert [text.split(" gave a ")[1].split(":")[0] for text in said] == ["int", "dict", "coroutine"]
    assert "asynchronous gave a coroutine: a processor gives a Span, or None to drop it" in said[2]


def test_what_a_processor_made_no_json_of_reaches_the_dead_letters_all_the_same(run):
    class Encoding(Store):
        def send(self, batch):
            msgspec.json.encode(list(batch))
            return super().send(batch)

    def spoil(span):
        if span.name == "span 1":
            span.attributes["what"] = object
        return span

    it = run(Encoding(), numbered(3), [spoil])
    it.until_nothing()
    (letter,) = it.letters
    assert letter["span"]["name"] == "span 1"
    assert "object" in letter["span"]["attributes"]["what"]
    assert it.sink.names == ["span 0", "span 2"]


def test_the_next_goes_on_where_this_one_was_killed(run):
    it = run(Moody(retrying("span 2")), numbered(5))
    it.sending.step()
    it.sending._cursor._let_go()
    again = run(Store())
    again.until_nothing()
    assert again.sink.names == ["span 2"]
    assert read_state(it.home, "out").counts.sent == 5


def test_letters_hold_what_was_sent_not_what_was_recorded(run):
    def redact(span):
        span.input = "[redacted]"
        return span

    it = run(Moody(lambda batch: [Rejected("no")] * len(batch)), numbered(1), [redact])
    it.until_nothing()
    assert it.letters[0]["span"]["input"] == "[redacted]"
