"""The whole profile: what is off is null, what raises is reported, odd input never crashes."""

import msgspec
import pytest
from hypothesis import given, settings

from millstream.profiler import engine, profile, write, write_profile
from millstream.profiler.config import ProfilerConfig
from millstream.profiler.renderers.files import replacing
from millstream.profiler.renderers.findings import findings
from millstream.profiler.results import Failure
from millstream.span import SpanKind
from tests.profiler.profiler_synthetic import runs, small_forests, span

FILES = {
    "prediction_trie.json",
    "all_requests_profiler_traces.json", "standardized_data_all.csv", "inference_optimization.json",
    "workflow_profiling_metrics.json", "workflow_profiling_report.txt", "findings.json", "spans.parquet",
    "trace.json", "trace.speedscope.json", "gantt_chart.png", "report.html",
}  # fmt: skip


def test_one_analysis_that_raises_leaves_the_others(many_spans, tmp_path, monkeypatch):
    def broken(table):
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr(engine, "critical_path", broken)
    found = profile(many_spans)
    assert found.critical_path == Failure("ZeroDivisionError: no luck")
    assert found.failures == {"critical_path": "ZeroDivisionError: no luck"}
    assert found.latency
    written = write_profile(found, tmp_path)
    assert {path.name for path in written} == FILES
    document = msgspec.json.decode((tmp_path / "findings.json").read_bytes())
    assert document["critical_path"] == {"error": "ZeroDivisionError: no luck"}
    assert document["self_time"]
    assert "no luck" in (tmp_path / "report.html").read_text()


def test_one_file_that_cannot_be_written_is_reported_and_the_others_are_there(many, tmp_path):
    (tmp_path / "gantt_chart.png").mkdir()
    errors = {}
    written = write_profile(many, tmp_path, on_error=errors.__setitem__)
    assert set(errors) == {"gantt_chart.png"}
    assert {path.name for path in written} == FILES - {"gantt_chart.png"}
    assert not list(tmp_path.glob(".*"))
    with pytest.warns(RuntimeWarning, match=r"gantt_chart\.png could not be written"):
        write_profile(many, tmp_path)


def test_a_renderer_that_raises_leaves_no_half_file(many, tmp_path, monkeypatch):
    def halfway(found, path):
        with replacing(path) as file:
            file.write(b"half")
            raise RuntimeError("full")

    monkeypatch.setitem(write._WRITERS, "trace.json", halfway)
    errors = {}
    write_profile(many, tmp_path, on_error=errors.__setitem__)
    assert str(errors["trace.json"]) == "full"
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"trace.json"}


def test_what_is_off_is_null(many_spans, tmp_path):
    write_profile(profile(many_spans, ProfilerConfig()), tmp_path)
    optimization = msgspec.json.decode((tmp_path / "inference_optimization.json").read_bytes())
    assert optimization["workflow_runtimes"] is None
    assert optimization["common_prefixes"] is None
    metrics = msgspec.json.decode((tmp_path / "workflow_profiling_metrics.json").read_bytes())
    assert set(metrics.values()) == {None}
    assert "NOVA" not in (tmp_path / "standardized_data_all.csv").read_text()
    text = (tmp_path / "workflow_profiling_report.txt").read_text()
    for part in (
        "=== Summary ===",
        "60 requests",
        "Latency",
        "Tokens",
        "Self time",
        "mixtral-8x22b-instruct",
    ):
        assert part in text
    for key in ("enable_simple_stack", "enable_nested_stack", "concurrency_spike_analysis.enable"):
        assert f"eval.general.profiler.{'' if 'spike' in key else 'bottleneck_analysis.'}{key}" in text
    assert "BOTTLENECK REPORT" not in text


def test_prompts_that_cannot_be_read_fail_their_analyses_only(many_spans, monkeypatch):
    def unreadable(spans):
        raise OSError("no more of it")

    monkeypatch.setattr(engine, "prompt_blocks", unreadable)
    found = profile(many_spans)
    found.complete()
    assert set(found.failures) == {"common_prefixes", "prompt_starts", "cache"}
    without = profile(many_spans, ProfilerConfig())
    without.complete()  # what is off reads none
    assert without.failures == {}


@pytest.mark.parametrize(
    "spans",
    [
        [],
        [span("open", 5, None)],
        [span("instant", 5, 5, kind=SpanKind.LLM)],
        [span("x", 0, 1, "y"), span("y", 0, 1, "x")],
        [span("x", 2**70, -5, "gone", name='"$<b>\0\n' * 50, kind=SpanKind.TOOL)],
    ],
    ids=["none", "open", "instant", "cycle", "odd"],
)
def test_odd_spans_give_every_file(spans, tmp_path):
    found = profile(spans)
    errors = {}
    written = write_profile(found, tmp_path, on_error=errors.__setitem__)
    assert found.failures == errors == {}
    assert {path.name for path in written} == FILES
    for path in tmp_path.glob("*.json"):
        msgspec.json.decode(path.read_bytes())


@settings(max_examples=40, deadline=None)
@given(small_forests())
def test_no_small_forest_fails(spans):
    found = profile(spans)
    found.complete()
    assert found.failures == {}
    assert msgspec.json.encode(findings(found))


def test_trace_order_numbers_the_requests(many_spans):
    ids = sorted({s.trace_id for s in many_spans})
    assert profile(many_spans, trace_order=["none", *ids]).order == ["none", *ids]
    assert profile(many_spans, trace_order=["none", *ids]).requests.n == 60


def test_findings_have_the_documented_shape(many):
    document = msgspec.json.decode(msgspec.json.encode(findings(many)))
    assert document["source"] == {"format": "spans", "spans": len(many.table), "rejected": {}}
    assert document["requests"].keys() == {"n", "failed", "cancelled", "unfinished", "sessions"}
    assert {"kind", "name", "n", "errors", "open", "mean", "p50", "p90", "p95", "p99"} == document["latency"][
        0
    ].keys()
    assert document["latency"][0]["p50"].keys() == {"value", "low", "high"}
    tokens = {"name", "calls", "input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens"}
    assert tokens <= document["tokens"][0].keys()
    assert {"kind", "name", "n", "self_s", "share"} == document["self_time"][0].keys()
    assert {"kind", "name", "seconds", "share"} <= document["critical_path"]["by_name"][0].keys()
    assert document["concurrency"]["max"] > 1
    forecast = document["forecast"]["remaining_s"]
    assert {"low", "median", "high", "model", "error", "coverage", "n"} <= forecast.keys()
    assert forecast["low"] <= forecast["median"] <= forecast["high"]
    assert {"kind", "name", "calls", "errors", "retries"} <= document["retries"][0].keys()
    assert document["cost"]["calls"] == document["tokens"][0]["calls"] + sum(
        row["calls"] for row in document["tokens"][1:]
    )
    assert {"model", "observed", "achievable"} <= document["cache"][0].keys()


def test_a_profile_is_the_same_every_time(tmp_path):
    for folder in ("one", "two"):
        write_profile(profile(runs(5, seed=9)), tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
