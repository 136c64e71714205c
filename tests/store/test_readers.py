"""What a file is, its content says; one of another tool is refused, what is bad does not hide the rest."""

import gzip
import json
import tracemalloc

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from millstream import open_store
from millstream.errors import InputError
from millstream.store.readers.json_file import DAMAGED
from millstream.store.readers.json_split import first_keys, objects
from tests.profiler.profiler_synthetic import runs

REQUEST = {"request_number": 0, "intermediate_steps": []}
OTLP = {"resourceSpans": [{"scopeSpans": [{"spans": []}]}]}


def as_lines(values):
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


@pytest.mark.parametrize("name", ["spans.jsonl", "spans.json", "spans", "spans.txt"])
@pytest.mark.parametrize("layout", ["lines", "array", "indented", "indented, one after another"])
@pytest.mark.parametrize("compressed", [False, True])
def test_spans_in_every_layout_and_under_any_name(tmp_path, name, layout, compressed):
    spans = list(runs(3, seed=1))
    told = [msgspec.to_builtins(span) for span in spans]
    content = {
        "lines": as_lines(told),
        "array": json.dumps(told).encode(),
        "indented": json.dumps(told, indent=2).encode(),
        "indented, one after another": "\n".join(json.dumps(one, indent=4) for one in told).encode(),
    }[layout]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if compressed else content)
    store = open_store(path)
    assert store.format == "jsonl"
    key = lambda span: span.span_id  # noqa: E731
    assert sorted(store.spans(), key=key) == sorted(spans, key=key)
    assert not store.rejected
    assert list(store.trace_order) == []


@pytest.mark.parametrize(
    ("content", "format_"),
    [
        (json.dumps([REQUEST]), "nat_traces"),
        (json.dumps([REQUEST, REQUEST], indent=2), "nat_traces"),
        ("\ufeff" + json.dumps([REQUEST], indent=1), "nat_traces"),
        (json.dumps(REQUEST), "nat_traces"),
        (f"{json.dumps(OTLP)}\n{json.dumps(OTLP)}\n", "otlp_json"),
        (json.dumps(OTLP, indent=2), "otlp_json"),
        (json.dumps([OTLP, OTLP]), "otlp_json"),
        ('\n\n{"resource_spans": []}\n', "otlp_json"),
        ('{"ResourceSpans": []}', "otlp_json"),
        ('{"resourceLogs": []}\n{"resourceSpans": []}\n', "otlp_json"),
    ],
)
def test_what_a_file_is(tmp_path, content, format_):
    path = tmp_path / "file.dat"
    path.write_text(content)
    store = open_store(path)
    assert store.format == format_
    list(store.spans())
    assert store.rejected == ({"logs, not spans": 1} if "Logs" in content else {})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"traceEvents": [{"name": "a"}]}', "holds a Chrome trace"),
        (b'[{"traceId": "a", "id": "b", "timestamp": 1, "name": "c"}]', "spans of Zipkin"),
        (b'{"data": [], "total": 0}', "trace of Jaeger"),
        (
            b'{"event_type": "LLM_START", "event_timestamp": 1.5}\n',
            "START and END events without the requests",
        ),
        (b'{"parent_id": "root", "function_ancestry": {}, "payload": {}}\n', "events without the requests"),
        (
            b'[{"id": 1, "question": "q", "a": 1, "b": 1, "c": 1, "d": 1, "e": 1}]',
            "id, question, a, b, c, d and 1",
        ),
        (b"trace_id,span_id\n1,2\n", "neither JSON nor Parquet"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "neither JSON nor Parquet"),
        (b"[1, 2, 3]", "neither JSON nor Parquet"),
        (b"[]", "neither JSON nor Parquet"),
        (b"PAR1 and nothing more", "cannot be read as Parquet"),
        (b"\x1f\x8b damaged", "neither JSON nor Parquet"),
        (b'{"confidence_intervals": {}, "common_prefixes": null}', "result of a profile"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_what_it_is_and_what_can_be_read(tmp_path, content, words):
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as raised:
        open_store(path)
    assert str(path) in str(raised.value)
    assert content.startswith(b"PAR1") or "all_requests_profiler_traces.json" in str(raised.value)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_store(tmp_path / "nothing")
    with pytest.raises(InputError, match="is not a file"):
        open_store("/dev/null")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_bad_line_is_counted_and_the_next_is_read(tmp_path, compressed):
    spans = list(runs(2, seed=3))
    lines = [msgspec.json.encode(span) for span in spans]
    content = b"\n".join([b"no span", lines[0][:50], b'{"some": "object"}', *lines, lines[1][:30]])
    path = tmp_path / "spans.jsonl"
    path.write_bytes(gzip.compress(content) if compressed else content)
    store = open_store(path)
    assert len(list(store.spans())) == len(spans)
    assert store.rejected.total() == 4
    assert store.rejected["torn line or not JSON"] == 3


@pytest.mark.parametrize("field", ["input", "attributes", "what"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_line_that_is_nested_too_deeply_is_counted_and_the_next_is_read(tmp_path, field, ended):
    spans = [msgspec.to_builtins(span) for span in runs(2, seed=1)]
    deep = {key: spans[0][key] for key in ("trace_id", "span_id", "parent_id", "name", "kind", "start_ns")}
    deep |= {field: "deep"} | ({"end_ns": deep["start_ns"] + 1} if ended else {})
    nested = '{"a":' * 100_000 + "1" + "}" * 100_000
    line = json.dumps(deep).replace('"deep"', nested).encode()
    path = tmp_path / "spans.jsonl"
    path.write_bytes(line + b"\n" + as_lines(spans))
    store = open_store(path)
    assert len(list(store.spans())) == len(spans)
    assert store.rejected == {"not a span: nested too deeply": 1}


def test_an_empty_file_of_lines_holds_no_spans(tmp_path):
    for name in ("empty.jsonl", "torn.jsonl", "empty"):
        (tmp_path / name).write_bytes(b"torn\n" if "torn" in name else b"\n\n")
        store = open_store(tmp_path / name)
        assert list(store.spans()) == []
        assert store.rejected.total() == ("torn" in name)


@pytest.mark.parametrize("layout", ["lines", "array"])
def test_of_a_compressed_file_that_is_damaged_the_beginning_is_read(tmp_path, layout):
    told = [msgspec.to_builtins(span) for span in runs(200, seed=4)]
    content = as_lines(told) if layout == "lines" else json.dumps(told).encode()
    whole = gzip.compress(content)
    path = tmp_path / "spans.gz"
    path.write_bytes(whole[: len(whole) // 2])
    store = open_store(path)
    assert len(told) / 4 < len(list(store.spans())) < len(told)
    assert store.rejected[DAMAGED] == 1


def test_one_trace_of_a_file(tmp_path):
    spans = list(runs(4, seed=5))
    path = tmp_path / "spans.json"
    path.write_bytes(msgspec.json.encode(spans))
    wanted = spans[0].trace_id
    assert {span.trace_id for span in open_store(path).spans([wanted])} == {wanted}
    with pytest.raises(InputError, match="collection of trace ids"):
        open_store(path).spans(wanted)


# Cutting JSON into its objects

values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=6),
    st.integers(1, 50),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
    st.booleans(),
)
@example([{'"]}[{\\': ['\\"', "\\\\", {"{": "}"}]}], 1, None, True, False)
@example([{"a": [{"a": 1}, '{"a":'], "b": 1}, {"b": {"a": 2}}, {"a": "}, {"}, {"a": {}}], 50, 3, True, True)
def test_every_object_is_cut_out_wherever_the_chunks_end(told, size, indent, in_array, by_key):
    if in_array:
        content = json.dumps(told, indent=indent).encode()
    else:
        content = "\n".join(json.dumps(one, indent=indent) for one in told).encode()
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    found = list(objects(chunks, next(iter(told[0]), None) if told and by_key else None))
    assert [json.loads(one) for one in found] == told
    assert all(one.startswith(b"{") and one.endswith(b"}") for one in found)
    if found:
        assert first_keys(content) == list(json.loads(found[0]))


def test_what_stands_between_objects_and_what_is_not_ended_come_too():
    assert list(objects([b'[{"a": 1}, null, {"b"', b': [2]}, 7 {"c": "}'])) == [
        b'{"a": 1}',
        b"null",
        b'{"b": [2]}',
        b"7",
        b'{"c": "}',
    ]


def test_a_long_array_is_cut_in_bounded_memory_and_a_long_text_in_linear_time():
    one = json.dumps({"text": 'a "quoted" {text} ' * 100, "list": [{}] * 20}).encode()

    def chunks(count):
        yield b"["
        for _ in range(count):
            yield one + b",\n"
        yield b"]"

    tracemalloc.start()
    try:
        assert sum(1 for _ in objects(chunks(5_000))) == 5_000  # 10 MB
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    parts = [b'{"text": "', *([b"\\" * (1 << 16)] * 800), b'"}']  # looking at it anew each time takes minutes
    assert len(next(objects(parts))) == sum(map(len, parts))
