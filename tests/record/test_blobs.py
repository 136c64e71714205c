"""Large values are stored once, come back whole, and leave nothing in memory."""

import gc
import json
import subprocess
import sys
import textwrap
import threading
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import millstream
from millstream import SpanKind, open_store, start_span, track_function
from millstream.record import journal
from millstream.record.blobs import LARGE, Blobs
from millstream.record.journal import Journal
from millstream.store.blobs import BlobReader
from millstream.store.segments import list_segments, read_lines


def size(home):
    return sum(path.stat().st_size for path in home.rglob("*.jsonl"))


def conversation(turns, words=60):
    messages = [{"role": "system", "content": "You are helpful. " * 10}]
    for turn in range(turns):
        messages.append({"role": "user", "content": f"Question {turn}: " + "why? " * words})
        yield list(messages)
        messages.append({"role": "assistant", "content": f"Answer {turn}: " + "because. " * words})


def test_a_conversation_is_stored_once(tmp_path):
    with millstream.recording(home=tmp_path):
        for messages in conversation(40):
            with start_span("able", kind=SpanKind.LLM, input=messages) as span:
                span.set_output({"role": "assistant", "content": "because."})
    spans = list(open_store(tmp_path).spans())
    assert [span.input for span in spans] == list(conversation(40))
    last = len(json.dumps(spans[-1].input))
    assert size(tmp_path) < last + 40 * 600 + 5_000
    assert size(tmp_path) < sum(len(json.dumps(span.input)) for span in spans) / 10


def test_so_is_one_that_is_an_argument_among_others(tmp_path):
    @track_function
    def ask(messages, temperature, *, tools):
        return messages[-1]

    tools = [{"name": "search", "description": "Looks for it. " * 100}]
    with millstream.recording(home=tmp_path):
        for messages in conversation(40):
            ask(messages, 0.5, tools=tools)
    spans = list(open_store(tmp_path).spans())
    assert [span.input for span in spans] == [
        {"messages": messages, "temperature": 0.5, "tools": tools} for messages in conversation(40)
    ]
    assert size(tmp_path) < len(json.dumps(spans[-1].input)) + 40 * 1_200 + 5_000


def test_a_document_handed_down_is_stored_once(tmp_path):
    @track_function
    def deeper(document, level):
        return deeper(document, level - 1) if level else document

    with millstream.recording(home=tmp_path):
        deeper("x" * 50_000, 5)
    assert size(tmp_path) < 50_000 + 6 * 1_000
    spans = list(open_store(tmp_path).spans())
    assert {span.output for span in spans} == {span.input["document"] for span in spans} == {"x" * 50_000}


def test_many_conversations_at_once_in_threads(tmp_path):
    def converse(name):
        for messages in conversation(15):
            with start_span(name, input=[*messages, {"role": "user", "content": name}]):
                pass

    with millstream.recording(home=tmp_path):
        threads = [threading.Thread(target=converse, args=(f"t{n}",)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    spans = list(open_store(tmp_path).spans())
    assert len(spans) == 90
    for span in spans:
        assert span.input[-1]["content"] == span.name
    expected = [[*messages, None] for messages in conversation(15)]
    for number in range(6):
        seen = [span.input[:-1] for span in spans if span.name == f"t{number}"]
        assert seen == [messages[:-1] for messages in expected]


@pytest.fixture
def small_windows():
    """Segments end soon: a window is a page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_FIRST_WINDOW", 4096)
        patch.setattr(journal, "_LAST_WINDOW", 4096)
        yield


@pytest.mark.parametrize("segment_bytes", [1, 20_000])
def test_each_segment_can_be_read_without_the_others(segment_bytes, tmp_path, small_windows):
    with millstream.recording(home=tmp_path, segment_bytes=segment_bytes):
        for messages in conversation(40):
            with start_span("able", input=messages):
                pass
    segments = list_segments(tmp_path)
    whole = [span.input for span in open_store(tmp_path).spans()]
    assert whole == list(conversation(40))
    assert len(segments) > 3
    for segment in segments[: len(segments) // 2]:
        segment.path.unlink()
    store = open_store(tmp_path)
    rest = [span.input for span in store.spans()]
    assert rest
    assert rest == whole[-len(rest) :]
    assert not store.rejected


def test_a_missing_value_costs_only_itself(tmp_path):
    with millstream.recording(home=tmp_path):
        for number in range(3):
            with start_span("x", input={"large": f"{number}" + "y" * 5000, "small": number}):
                pass
    (segment,) = list_segments(tmp_path)
    kept = [
        line for line in segment.path.read_bytes().splitlines(keepends=True) if b'"value":"1y' not in line
    ]
    segment.path.write_bytes(b"".join(kept))
    store = open_store(tmp_path)
    inputs = [span.input for span in store.spans()]
    assert [sorted(value) for value in inputs] == [["large", "small"], ["small"], ["large", "small"]]
    assert store.rejected == {"a large value is missing, span kept without it": 1}


def test_what_users_write_is_never_taken_for_a_blob(spans):
    tricky = [
        {"blobs": {"/input": "a" * 32}},
        {"blob": "a" * 32, "value": 1},
        '"blobs":{"/input":"x"}',
        {"dropped": True},
        {"a~b/c": "y" * 2000, "~1": "z" * 2000, "": "w" * 2000},
    ]
    for value in tricky:
        with start_span("x", input=value, attributes={"blobs": {"/input": "a"}}) as span:
            span.set_output(value)
    seen = spans()
    assert [span.input for span in seen] == tricky
    assert [span.output for span in seen] == tricky


def test_only_spans_of_the_wanted_trace_are_put_together(tmp_path):
    with millstream.recording(home=tmp_path):
        for messages in conversation(5):
            with start_span("able", input=messages) as span:
                wanted = span.trace_id
    (only,) = open_store(tmp_path).spans(trace_ids=[wanted])
    assert only.input == list(conversation(5))[-1]


def test_after_a_fork_the_child_stores_its_own(tmp_path):
    code = f"""
        import os, millstream
        value = ["x" * 3000]
        with millstream.recording(home={str(tmp_path)!r}):
            with millstream.start_span("parent", input=value): pass
            child = os.fork()
            with millstream.start_span("child" if child == 0 else "parent", input=value): pass
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    store = open_store(tmp_path)
    assert [(span.name, span.input) for span in store.spans()] == [
        (name, ["x" * 3000]) for name in ("parent", "parent", "child")
    ]
    assert not store.rejected


def test_nothing_of_the_values_is_kept_in_memory(tmp_path):
    with millstream.recording(home=tmp_path):
        tracemalloc.start()
        try:
            for number in range(300):
                with start_span("x", input=[f"{number}" + "x" * 20_000]):
                    pass
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept < 1_000_000


def test_the_table_is_bounded(tmp_path):
    written_to = Journal(tmp_path)
    blobs = Blobs(written_to, lambda data: data)
    for number in range(10_000):
        blobs.put(json.dumps([f"{number}" + "x" * 200]).encode())
    assert len(blobs._seen.wholes) <= 8192
    assert len(blobs._seen.lists) <= 1024
    written_to.close()


values_in_lists = (
    st.text(max_size=6) | st.integers() | st.dictionaries(st.text(max_size=3), st.text(max_size=3))
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(values_in_lists, max_size=8), min_size=1, max_size=8), st.integers(1, 4_000))
def test_any_sequence_of_lists_comes_back(tmp_path_factory, small_windows, lists, segment_bytes):
    """Lists that grow, shrink, share beginnings and differ late, across small segments."""
    home = tmp_path_factory.mktemp("blobs")
    padding = "p" * LARGE
    values = []
    for grown in lists:
        before = values[-1] if values else [padding]
        values += [[padding, *grown], [*before, *grown], before[: len(before) // 2 + 1]]
    with millstream.recording(home=home, segment_bytes=segment_bytes):
        for value in values:
            with start_span("x", input=value):
                pass
    store = open_store(home)
    assert [span.input for span in store.spans()] == values
    assert not store.rejected


def test_reader_keeps_no_file_open(tmp_path):
    with millstream.recording(home=tmp_path), start_span("x", input=["x" * 3000]):
        pass
    reader = BlobReader(millstream.store.open.Counter())
    (segment,) = list_segments(tmp_path)
    assert len(list(reader.read(segment.path, read_lines(segment.path)))) == 2
    assert reader._file is None
