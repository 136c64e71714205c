"""The files, read back by the tools that read them: pandas and seaborn, Arrow, a trace viewer's rules."""

import csv
import json
from pathlib import Path

import pytest

from millstream.profiler import profile, write_profile
from millstream.profiler.config import ProfilerConfig
from millstream.profiler.renderers import text
from millstream.profiler.renderers.standardized import COLUMNS, NOVA_COLUMNS
from millstream.semconv import REQUEST_MODEL
from millstream.span import SpanError, SpanKind, Status, Usage
from tests.profiler.profiler_synthetic import EPOCH_NS, span


@pytest.fixture(scope="module")
def folder(many, tmp_path_factory):
    out = tmp_path_factory.mktemp("profile")
    write_profile(many, out)
    return out


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_the_columns_in_order(folder, many_spans, tmp_path):
    header = (folder / "standardized_data_all.csv").read_text().split("\n", 1)[0].split(",")
    assert header == [*COLUMNS, *NOVA_COLUMNS]
    write_profile(profile(many_spans, ProfilerConfig(csv_exclude_io_text=True)), tmp_path)
    short = (tmp_path / "standardized_data_all.csv").read_text().split("\n", 1)[0].split(",")
    assert short == [c for c in COLUMNS if c not in ("llm_text_input", "llm_text_output", "llm_new_token")]


def test_csv_rows_say_what_happened(tmp_path):
    def llm(span_id, start, usage, **fields):
        return span(span_id, start, start + 5, "f", kind=SpanKind.LLM, name="ChatX", usage=usage,
                    attributes={REQUEST_MODEL: "model-x"}, input=[{"role": "user", "content": 'a "b"\nc'}],
                    output={"role": "assistant", "content": "d"}, **fields)  # fmt: skip

    spans = [
        span("w", EPOCH_NS, EPOCH_NS + 100, kind=SpanKind.WORKFLOW, name="agent"),
        span("f", EPOCH_NS + 1, EPOCH_NS + 90, "w", name="tool_fn", workload_id="tool_fn"),
        span("g", EPOCH_NS + 2, EPOCH_NS + 80, "f", name="helper", workload_id="tool_fn"),
        llm("known", EPOCH_NS + 10, Usage(7, 3)),
        llm("unknown", EPOCH_NS + 20, None, status=Status.ERROR, error=SpanError("E", "m")),
        span("t", EPOCH_NS + 30, EPOCH_NS + 40, "f", kind=SpanKind.TOOL, name="search"),
        span("still", EPOCH_NS + 50, None, "f", kind=SpanKind.TOOL, name="search"),
    ]
    write_profile(profile(spans), tmp_path)
    rows = rows_of(tmp_path / "standardized_data_all.csv")
    assert [row["event_type"] for row in rows] == [
        "WORKFLOW_START", "FUNCTION_START", "SPAN_START", "LLM_START", "LLM_END", "LLM_START", "LLM_END",
        "TOOL_START", "TOOL_END", "TOOL_START", "SPAN_END", "FUNCTION_END", "WORKFLOW_END",
    ]  # fmt: skip
    start, end, _, failed = rows[3:7]
    assert start["llm_name"] == end["llm_name"] == "model-x"
    assert json.loads(start["llm_text_input"]) == [{"role": "user", "content": 'a "b"\nc'}]
    assert (start["llm_text_output"], start["prompt_tokens"]) == ("", "0")
    assert (end["prompt_tokens"], end["completion_tokens"], end["total_tokens"]) == ("7", "3", "10")
    assert (failed["prompt_tokens"], failed["total_tokens"]) == ("", "")
    assert (start["function_name"], start["function_id"]) == ("tool_fn", "f")
    assert (start["parent_function_name"], start["parent_function_id"]) == ("agent", "w")
    assert rows[0]["function_name"] == "agent"
    assert (rows[7]["tool_name"], rows[7]["llm_name"]) == ("search", "")
    assert start["event_timestamp"] == "1800000000.000000010"
    assert {row["example_number"] for row in rows} == {"0"}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_the_walkthroughs_plots_run_unchanged(folder, tmp_path, monkeypatch):
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("Agg")
    csv_text = (folder / "standardized_data_all.csv").read_bytes()
    (tmp_path / "standardized_results_all.csv").write_bytes(csv_text)
    monkeypatch.chdir(tmp_path)
    snippets = (Path(__file__).parent / "walkthrough_plots.txt").read_text().split("\n# ----\n")
    assert len(snippets) == 3
    scope = {}
    for number, snippet in enumerate(snippets, start=1):
        exec(compile(snippet, "walkthrough", "exec"), scope)  # noqa: S102  # the document's own code
        assert len(plt.get_fignums()) == number
    axes = [plt.figure(number).axes[0] for number in plt.get_fignums()]
    drawn = scope["df_llm_end"]["prompt_tokens"].notna()  # a call that does not know its tokens is no point
    assert len(axes[0].collections[0].get_offsets()) == drawn.sum() > 0.9 * len(drawn)
    models = {"meta-llama-3.1-8b-instruct", "meta-llama-3.1-70b-instruct", "mixtral-8x22b-instruct"}
    assert {label.get_text() for label in axes[1].get_xticklabels()} == models
    assert {label.get_text() for label in axes[2].get_xticklabels()} == models
    assert {t.get_text() for t in axes[0].get_legend().get_texts()} >= {
        "email_phishing_analyzer",
        "phishing_agent",
    }
    plt.close("all")


def test_traces_have_the_references_structure(folder, many):
    requests = json.loads((folder / "all_requests_profiler_traces.json").read_text())
    assert [request["request_number"] for request in requests] == list(range(60))
    spans = {s.span_id: s for s in many.table.spans}
    for request in requests:
        open_uuids = set()
        for step in request["intermediate_steps"]:
            assert step.keys() == {"parent_id", "function_ancestry", "payload"}
            payload = step["payload"]
            assert payload.keys() == {
                "event_type", "event_timestamp", "span_event_timestamp", "framework", "name", "tags",
                "metadata", "data", "usage_info", "UUID",
            }  # fmt: skip
            assert step["parent_id"] == (spans[payload["UUID"]].parent_id or "root")
            if payload["event_type"].endswith("_START"):
                open_uuids.add(payload["UUID"])
            else:
                open_uuids.remove(payload["UUID"])
        assert open_uuids == {
            s.span_id
            for s in many.table.spans
            if s.trace_id == many.order[request["request_number"]] and s.end_ns is None
        }
    ends = [
        s["payload"]
        for r in requests
        for s in r["intermediate_steps"]
        if s["payload"]["event_type"] == "LLM_END"
    ]
    known = [end for end in ends if end["usage_info"]]
    assert (
        known[0]["usage_info"]["token_usage"]["prompt_tokens"] == spans[known[0]["UUID"]].usage.input_tokens
    )
    failed = [
        s["payload"]["metadata"]
        for r in requests
        for s in r["intermediate_steps"]
        if s["payload"]["event_type"] == "TOOL_END"
    ]
    assert {"type": "TimeoutError", "message": "the scanner did not answer in 30 s"} in [
        m.get("error") for m in failed
    ]


def test_parquet_gives_the_spans_back(folder, many):
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "spans.parquet")
    assert table.schema.names[:8] == [
        "trace_id", "span_id", "parent_id", "name", "kind", "start_ns", "end_ns", "status",
    ]  # fmt: skip
    rows = table.to_pylist()
    assert len(rows) == len(many.table)
    for row, one in zip(rows, many.table.spans, strict=True):
        assert (row["span_id"], row["parent_id"], row["end_ns"]) == (one.span_id, one.parent_id, one.end_ns)
        assert row["input_tokens"] == (one.usage and one.usage.input_tokens)
        assert json.loads(row["input"]) == one.input
        assert row["error_type"] == (one.error and one.error.type)


def test_chrome_trace_nests_in_every_lane(folder, many):
    document = json.loads((folder / "trace.json").read_text())
    calls = [event for event in document["traceEvents"] if event["ph"] in "XB"]
    assert len(calls) == len(many.table)
    lanes = {}
    for event in calls:
        if event["ph"] == "X":
            begin = round(event["ts"] * 1000)
            lanes.setdefault((event["pid"], event["tid"]), []).append(
                (begin, begin + round(event["dur"] * 1000))
            )
    for intervals in lanes.values():
        for a in intervals:
            for b in intervals:
                apart = a[1] <= b[0] or b[1] <= a[0]
                nested = (a[0] <= b[0] and b[1] <= a[1]) or (b[0] <= a[0] and a[1] <= b[1])
                assert apart or nested
    assert max(event["tid"] for event in calls) == 2


def test_optimization_and_metrics_have_the_references_keys(folder):
    optimization = json.loads((folder / "inference_optimization.json").read_text())
    assert set(optimization) == {
        "confidence_intervals", "common_prefixes", "token_uniqueness", "workflow_runtimes", "dynamo_metrics",
    }  # fmt: skip
    for measure in optimization["confidence_intervals"].values():
        assert set(measure) == {
            "n", "mean", "ninetieth_interval", "ninety_fifth_interval", "ninety_ninth_interval",
            "p90", "p95", "p99",
        }  # fmt: skip
        for name in ("ninetieth_interval", "ninety_fifth_interval", "ninety_ninth_interval"):
            assert 0 <= measure[name][0] < measure["mean"] < measure[name][1]
    assert set(optimization["workflow_runtimes"]) == {"p90", "p95", "p99"}
    metrics = json.loads((folder / "workflow_profiling_metrics.json").read_text())
    assert set(metrics["simple_stack_analysis"]["TOOL:lookup_sender"]) == {
        "operation_type", "operation_name", "usage_count", "avg_duration", "p95_duration", "p99_duration",
        "max_concurrency", "bottleneck_score",
    }  # fmt: skip
    nested = metrics["nested_stack_analysis"]
    assert set(nested) == {"concurrency", "node_metrics", "top_bottlenecks"}
    assert len(nested["top_bottlenecks"]) == 5
    spikes = metrics["concurrency_spike_analysis"]
    assert {"concurrency_distribution", "spike_intervals", "correlation_stats", "spike_threshold"} <= set(
        spikes
    )
    assert set(spikes["spike_intervals"][0]) == {"start_time", "end_time", "concurrency", "active_uuids"}


def test_text_report_has_the_references_headings(folder):
    told = (folder / "workflow_profiling_report.txt").read_text()
    for heading in (
        "---- BOTTLENECK REPORT ----",
        "=== Multi-Example Nested Call Profiling Report ===",
        "=== Concurrency Spike Analysis ===",
    ):
        assert f"\n\n\n{heading}\n" in told
    assert "Call trees of the 20 slowest of 60 requests:" in told


def test_no_name_can_write_a_line_of_the_text_report_or_steer_a_terminal(tmp_path):
    evil = "a\n=== Summary ===\r\x1b[31m\x9b1m\x00\u202e"
    error = SpanError(evil, evil)
    spans = [
        span(evil, 0, 10**9, trace_id=evil, name=evil, kind=kind, status=Status.ERROR, error=error)
        for kind in (SpanKind.WORKFLOW, SpanKind.LLM)
    ]
    spans[1].span_id, spans[1].parent_id = "b", evil
    text.write(profile(spans), tmp_path / "report.txt")
    report = (tmp_path / "report.txt").read_text(encoding="utf-8")
    assert report.count("\n=== Summary ===\n") == 1
    assert report.replace("\n", "").isprintable()
    assert "a?=== Summary ===??[31m" in report
