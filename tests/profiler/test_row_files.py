"""The files with a row an event: what is in them for any text, and in how much memory they are written."""

import csv
import io
import json
import random
import tracemalloc

import msgspec
import pytest

from millstream import semconv
from millstream.profiler import profile
from millstream.profiler.bottlenecks import operation_name
from millstream.profiler.config import ProfilerConfig
from millstream.profiler.events import events, scopes
from millstream.profiler.nova import nova
from millstream.profiler.renderers import standardized, traces
from millstream.profiler.renderers.files import content_text
from millstream.record.steps import category, end_step, invocation_node, start_step
from millstream.span import SpanError, SpanKind, Usage
from tests.profiler.profiler_synthetic import EPOCH_NS, runs, span

TEXTS = ["", "plain", "a,b", 'a "b"', "a\nb", "a\rb", "a\r\nb", " a ", "\x00", "\u2028", "海\u200f", "\\"]
VALUES = [*TEXTS, None, 3, 1.5e300, -0.0, 1e-7, True, {"a": [1, {"b": None}]}, [], {}, msgspec.Raw(b"[1]")]


def odd_spans(seed=1):
    """Requests with every odd text, open spans, missing parents, times that run backwards."""
    rng = random.Random(seed)  # noqa: S311  # made-up data, not secrets
    for trace in range(20):
        ids = [None, "nobody"]
        for number in range(rng.randint(1, 40)):
            start = EPOCH_NS + rng.randint(0, 200) * rng.choice([1, 10**6, 10**9])
            name = rng.choice(TEXTS)
            ids.append(f"{trace:08x}{number:08x}")
            yield span(
                ids[-1],
                start,
                None if rng.random() < 0.1 else start + rng.randint(0, 100) * rng.choice([1, 10**7]),
                rng.choice(ids[:-1]),
                name=name,
                kind=rng.choice(list(SpanKind)),
                trace_id=f"{trace:032x}",
                attributes={
                    semconv.REQUEST_MODEL: rng.choice([*TEXTS, 4]),
                    semconv.FRAMEWORK: rng.choice([*TEXTS, 5]),
                    "status": "the user's own",
                },
                usage=rng.choice([None, Usage(*(rng.choice([None, 0, 10**6]) for _ in range(4)))]),
                workload_id=rng.choice([name, None, "w"]),
                error=rng.choice([None, SpanError("E", "m\n")]),
                input=rng.choice(VALUES),
                output=rng.choice(VALUES),
            )


def function_of(table, row):
    """By climbing to the root."""
    chain = []
    while row >= 0:
        one = table.spans[row]
        chain.append((one.kind, one.name, one.span_id, one.workload_id))
        row = int(table.parent[row])
    return invocation_node(chain)


def expected_rows(found):
    """The rows as one would write them, event by event."""
    table = found.table
    happened, scope = events(table), scopes(table)
    columns = nova(table, happened, scope[happened.row])
    for at, (row, end, time_ns) in enumerate(
        zip(happened.row.tolist(), happened.is_end.tolist(), happened.time_ns.tolist(), strict=True)
    ):
        one, node = table.spans[row], function_of(table, row)
        llm = one.kind is SpanKind.LLM
        counts = [int(c[row]) for c in (table.input_tokens, table.output_tokens)] if llm and end else [0, 0]
        known = [count for count in counts if count >= 0]
        framework = one.attributes[semconv.FRAMEWORK]
        expected = int(columns.predicted_osl[at])
        yield [
            f"{category(one)}_{'END' if end else 'START'}",
            f"{time_ns // 10**9}.{time_ns % 10**9:09d}",
            int(table.trace[row]),
            *(count if count >= 0 else "" for count in counts),
            sum(known) if known else "",
            content_text(one.input) if llm and not end else "",
            content_text(one.output) if llm and end else "",
            "",
            operation_name(table, row) if llm else "",
            one.name if one.kind is SpanKind.TOOL else "",
            *(node.function_name, node.function_id, node.parent_name or "", node.parent_id or ""),
            one.span_id,
            framework if isinstance(framework, str) else "",
            node.function_name,
            int(columns.requests_remaining[at]),
            float(columns.time_to_next_ms[at]),
            float(columns.time_to_event_end_ms[at]),
            expected if expected >= 0 else "",
            float(columns.time_to_session_end_ms[at]),
        ]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("millstream.profiler.events.ROWS_AT_ONCE", 30)
    monkeypatch.setattr("millstream.profiler.renderers.standardized._ROWS_AT_ONCE", 7)


@pytest.mark.usefixtures("small_blocks")
def test_csv_is_what_pythons_writer_makes_of_each_event(tmp_path):
    found = profile(odd_spans())
    standardized.write(found, tmp_path / "ours.csv")
    lines = [",".join([*standardized.COLUMNS, *standardized.NOVA_COLUMNS])]
    for row in expected_rows(found):
        line = io.StringIO(newline="")
        csv.writer(line).writerow(row)  # its lines end in \r\n, so that it quotes a field with either
        lines.append(line.getvalue().removesuffix("\r\n"))
    assert (tmp_path / "ours.csv").read_bytes().decode() == "".join(f"{line}\n" for line in lines)
    with (tmp_path / "ours.csv").open(newline="") as file:
        read = list(csv.reader(file))
    assert read[1:] == [list(map(str, row)) for row in expected_rows(found)]
    assert len(read) > 500


@pytest.mark.usefixtures("small_blocks")
def test_columns_of_text_are_left_out(tmp_path):
    texts = [standardized.COLUMNS.index(name) for name in standardized.TEXT_COLUMNS]
    spans = list(odd_spans())
    rows = {}
    for off in (False, True):
        standardized.write(profile(spans, ProfilerConfig(csv_exclude_io_text=off)), tmp_path / "short.csv")
        with (tmp_path / "short.csv").open(newline="") as file:
            rows[off] = list(csv.reader(file))
    assert rows[True] == [[text for at, text in enumerate(row) if at not in texts] for row in rows[False]]


@pytest.mark.usefixtures("small_blocks")
def test_traces_are_the_events_that_subscribers_get(tmp_path):
    spans = list(odd_spans())
    order = ["none", *dict.fromkeys(one.trace_id for one in spans), "neither"]
    found = profile(spans, trace_order=order)
    traces.write(found, tmp_path / "traces.json")
    table = found.table
    happened = events(table)
    expected = [{"request_number": number, "intermediate_steps": []} for number in range(len(order))]
    for row, end in zip(happened.row.tolist(), happened.is_end.tolist(), strict=True):
        step = (end_step if end else start_step)(table.spans[row], function_of(table, row))
        expected[int(table.trace[row])]["intermediate_steps"].append(step)
    read = (tmp_path / "traces.json").read_bytes()
    assert json.loads(read) == json.loads(msgspec.json.encode(expected, enc_hook=str))
    assert [len(request["intermediate_steps"]) > 0 for request in expected] == [False, *[True] * 20, False]
    assert b'\n{\n  "request_number": 1,\n  "intermediate_steps": [\n    {\n      "parent_id"' in read


def written_mb(write, requests, path):
    """The most memory that a file takes beyond the table, in megabytes of Python's and NumPy's."""
    found = profile(runs(requests, seed=2))
    write(found, path)  # what is kept from the first time on, such as caches of imports
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    write(found, path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (most - before) / 1e6


@pytest.mark.parametrize("module", [standardized, traces])
def test_memory_does_not_grow_with_the_spans(module, tmp_path):
    few, many = (written_mb(module.write, requests, tmp_path / "rows") for requests in (200, 1000))
    assert few > 1
    assert many - few < 1
