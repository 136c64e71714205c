"""The compiled passes over lines take what Python takes, and give what Python gives."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from millstream import Span, SpanKind
from millstream.store import loose, scan
from millstream.store.parquet import blocks_column
from millstream.store.parquet_spans import spans_of
from millstream.store.prompt_blocks import prompt_blocks
from millstream.store.scan import ENDED, OPENED, OTHER, Lines
from tests.store.journals import ATTRIBUTES, JSON, MESSAGES, TEXTS, lines, told

pytestmark = pytest.mark.skipif(not scan.COMPILED, reason="built without a compiler")
decode = msgspec.json.Decoder(Span).decode


def rows_of(found, kind):
    return np.flatnonzero(found.numbers["what"] == kind)


def spans_in(found, rows):
    table = loose.of_lines(found, rows, lambda line: (), open_status=None)
    table.validate(full=True)
    return [told(span) for span in spans_of(table)]


@settings(max_examples=300, deadline=None)
@given(lines(), st.data())
def test_a_line_that_is_taken_is_what_python_reads(some, data):
    changed = []
    for line in some:
        at = data.draw(st.integers(0, len(line)))
        with_ = data.draw(
            st.sampled_from([b"", b"", b'"', b"\\", b"\xff", b"1", b"}", b",", b"null", b" ", b"\\ud800"])
        )
        changed.append(line[:at] + with_ + line[at + data.draw(st.integers(0, 1)) * len(with_) :])
    found = Lines(b"\n".join(changed))
    taken = np.sort(np.concatenate([rows_of(found, ENDED), rows_of(found, OPENED)]))
    read = [told(decode(found.line(row))) for row in taken.tolist()]  # raises where it is none
    assert spans_in(found, taken) == read


@settings(max_examples=100, deadline=None)
@given(lines())
def test_lines_of_recorders_are_taken(some):
    assert not len(rows_of(Lines(b"\n".join(some)), OTHER))


@settings(max_examples=300, deadline=None)
@given(st.one_of(MESSAGES, JSON), st.one_of(st.none(), JSON), st.booleans())
def test_prompts_have_the_same_hashes(prompt, tools, spaced):
    attributes = {} if tools is None else {"gen_ai.tool.definitions": tools}
    span = Span("a" * 32, "b" * 16, None, "m", SpanKind.LLM, 1, 2, input=prompt, attributes=attributes)
    line = msgspec.json.encode(span)
    if spaced:
        line = json.dumps(json.loads(line)).encode()
    found = Lines(line)
    table = loose.of_lines(found, rows_of(found, ENDED), lambda line: (), open_status=None)
    expected = blocks_column(prompt_blocks([span]))
    assert table.column("prompt_blocks").to_pylist() == expected.to_pylist()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, ATTRIBUTES), max_size=5))
@example([("m", {"gen_ai.response.time_to_first_chunk": told}) for told in (-0.0, -1, 0, 2e99, "1", True)])
@example(
    [("m", {"millstream.cached": told, "x": "millstream.cached"}) for told in (True, False, 1, "true", None)]
)
def test_what_attributes_tell(some):
    spans = [
        Span("a" * 32, f"{at:016x}", None, name, SpanKind.LLM, 1, 2, attributes=attributes)
        for at, (name, attributes) in enumerate(some)
    ]
    found = Lines(b"\n".join(map(msgspec.json.encode, spans)))
    table = loose.of_lines(found, rows_of(found, ENDED), lambda line: (), open_status=None)
    other = loose.of_spans(spans)
    for name in ("model", "time_to_first_chunk_s", "cached"):
        assert table.column(name).to_pylist() == other.column(name).to_pylist()


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\x00\x00\n \n",
        b"{",
        b'{"trace_id":"' + b"[" * 100_000,
        b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"start_ns":99999999999999999999999999999}',
        b'{"trace_id":"a","span_id":"b","parent_id":null,"name":"n","kind":"LLM","start_ns":-0}',
        b'{"input":"\\u12',
        b'{"input":"\xf4\x90\x80\x80"}',
        b'{"attributes":{"gen_ai.request.model":"\\',
    ],
)
def test_what_is_no_line(broken):
    for end in range(max(len(broken) - 40, 0), len(broken) + 1):
        found = Lines(broken[:end])
        for row in np.flatnonzero(found.numbers["what"] < OTHER).tolist():
            decode(found.line(row))


def test_places_outside_of_the_data_are_refused():
    one = np.array([5]), np.array([3], np.int32), np.array([False])
    with pytest.raises(IndexError):
        scan.gather(b"123456", one)
    with pytest.raises(IndexError):
        scan.prompt_hashes(b"123456", one, one)
