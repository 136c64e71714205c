"""Processors: what they may do with a span that ends, before it is written."""

import asyncio
import signal
import threading

import pytest

import millstream
from millstream import Redaction, SpanKind, Status, Usage, open_store, start_span, subscribe, track_function
from millstream.context import current
from millstream.errors import ConfigError
from millstream.record import faults


@pytest.fixture
def lenient(monkeypatch):
    monkeypatch.setattr(faults, "strict", False)
    monkeypatch.setattr(faults, "counts", type(faults.counts)())


@track_function
def add(a, b):
    return a + b


def test_they_see_and_change_everything_but_ids_and_times(tmp_path):
    def change(span):
        assert (span.name, span.input, span.output, span.status) == ("add", {"a": 1, "b": 2}, 3, Status.OK)
        assert span.duration_s > 0
        span.name, span.kind, span.workload_id = "sum", SpanKind.TOOL, "maths"
        span.input, span.output = {"a": "?"}, [span.output]
        span.attributes["team"] = "search"
        span.usage = Usage(1, 2)
        span.span_id = "0" * 16
        return span

    with millstream.recording(home=tmp_path, processors=[change]):
        add(1, 2)
    (span,) = open_store(tmp_path).spans()
    assert (span.name, span.kind, span.workload_id) == ("sum", SpanKind.TOOL, "maths")
    assert (span.input, span.output, span.attributes) == ({"a": "?"}, [3], {"team": "search"})
    assert (span.usage.input_tokens, span.status) == (1, Status.OK)
    assert span.span_id != "0" * 16


def test_they_are_called_in_turn_and_one_may_drop(tmp_path):
    seen = []

    def first(span):
        seen.append(("first", span.name))
        return None if span.input["a"] < 0 else span

    def second(span):
        seen.append(("second", span.name))
        return span

    with millstream.recording(home=tmp_path, processors=[first, second]) as recording:
        add(1, 2)
        add(-1, 2)
        counted = recording.stats()
    assert seen == [("first", "add"), ("second", "add"), ("first", "add")]
    (span,) = open_store(tmp_path).spans()
    assert span.input["a"] == 1
    assert counted["made"] == 2
    assert counted["stored"] == 1
    assert counted["dropped"] == {"by a processor": 1}


def test_one_that_raises_leaves_no_content(tmp_path, lenient):
    def redact(span):
        raise RuntimeError("cannot tell")

    with millstream.recording(home=tmp_path, processors=[redact]) as recording:
        with (
            pytest.raises(ValueError, match="secret"),
            start_span("x", kind=SpanKind.LLM, input="secret") as span,
        ):
            span.set_attribute("gen_ai.request.model", "small")
            span.set_attribute("user", "secret")
            span.add_event("secret")
            span.set_output("secret")
            span.set_usage(Usage(1, 2))
            raise ValueError("secret")
        counted = recording.stats()
    assert "secret" not in "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    (span,) = open_store(tmp_path).spans()
    assert (span.status, span.error.type, span.error.message) == (Status.ERROR, "ValueError", "")
    assert span.attributes == {"gen_ai.request.model": "small", "millstream.incomplete": True}
    assert span.usage.output_tokens == 2
    assert counted["dropped"] == {"a processor raised; the content of its span was not recorded": 1}


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), asyncio.CancelledError()])
def test_one_that_wants_to_end_the_program_is_one_that_raises(tmp_path, lenient, error):
    def leave(span):
        raise error

    with millstream.recording(home=tmp_path, processors=[leave]) as recording:
        assert add(1, 2) == 3
        counted = recording.stats()
    (span,) = open_store(tmp_path).spans()
    assert (span.status, span.attributes) == (Status.OK, {"millstream.incomplete": True})
    assert counted["dropped"] == {"a processor raised; the content of its span was not recorded": 1}


def test_ctrl_c_while_one_runs_reaches_the_program(tmp_path):
    def wait(span):
        signal.raise_signal(signal.SIGINT)
        return span

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which who runs us may ignore
    try:
        with millstream.recording(home=tmp_path, processors=[wait]):
            with pytest.raises(KeyboardInterrupt):
                add(1, 2)
            assert current.get() is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_they_put_in_is_redacted_like_all_else(tmp_path):
    def tag(span):
        span.attributes["api_key"] = "opaque"
        return span

    with millstream.recording(home=tmp_path, processors=[tag, Redaction(emails=True)]):
        add("ann@example.org", "")
    (span,) = open_store(tmp_path).spans()
    assert span.attributes == {"api_key": "[redacted]"}
    assert span.input == {"a": "[redacted]", "b": ""}


def test_subscribers_see_what_they_made(tmp_path):
    seen = []

    def blank(span):
        span.output = "blank"
        return span

    with (
        millstream.recording(home=tmp_path, processors=[blank]),
        subscribe(lambda step: seen.append(step.payload.data.output)),
    ):
        add(1, 2)
    assert seen == [None, "blank"]


def test_what_cannot_be_called_is_an_error():
    with pytest.raises(ConfigError, match="cannot be called"):
        millstream.recording(processors=["redact"])


def test_what_they_call_themselves_is_not_recorded(tmp_path):
    @millstream.track_function
    def mask(text):
        with start_span("inside"):
            return text.replace("secret", "…")

    def process(span):
        thread = threading.Thread(target=mask, args=("secret",))
        thread.start()
        thread.join()
        span.input = mask(span.input)
        return span

    with millstream.recording(home=tmp_path, processors=[process]):
        for _ in range(3):
            with start_span("span", input="a secret"):
                pass
            assert current.get() is None
    assert [(span.name, span.input) for span in open_store(tmp_path).spans()] == [("span", "a …")] * 3
