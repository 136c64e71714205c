"""`millstream profile` as a user runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import millstream
from millstream import semconv
from millstream.profiler.units import duration
from millstream.span import SpanError, SpanKind, Status, Usage
from millstream.store.parquet import write_table
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import runs, span

PACKAGES = Path(millstream.__file__).parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "spans.jsonl"
    lines = [msgspec.json.encode(one) for one in runs(6, seed=2)]
    path.write_bytes(b"\n".join([*lines, b"no span", b""]))
    return path


def run(*arguments, cwd, columns="160"):
    code = "from millstream.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return execute(command, cwd, columns)


def execute(command, cwd, columns="160"):
    environment = os.environ | {"COLUMNS": columns, "NO_COLOR": "1", "PYTHONPATH": str(PACKAGES)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_text_names_what_matters_and_writes_nothing(source, tmp_path):
    done = run("profile", source, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 requests" in done.stdout
    assert "1 lines could not be read" in done.stdout
    for word in (
        "Latency",
        "Models",
        "Where the time goes",
        "mixtral-8x22b-instruct",
        "calls at once: at most",
    ):
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_errors_cost_caches_and_the_forecast_are_a_line_each(tmp_path):
    """Of what is known; what is not is said to be unknown, and why."""
    spans = [
        span("r", 0, 9_000_000_000, kind=SpanKind.WORKFLOW, name="agent"),
        span("a", 1_000_000_000, 2_000_000_000, "r", kind=SpanKind.TOOL, name="se\x1barch", input="q",
             status=Status.ERROR, error=SpanError("TimeoutError", "late")),
        span("b", 3_000_000_000, 4_000_000_000, "r", kind=SpanKind.TOOL, name="se\x1barch", input="q"),
        *(span(f"l{n}", n, n + 1_000_000_000, "r", kind=SpanKind.LLM, name="chat",
               input=[{"role": "user", "content": "word " * 2000}], usage=Usage(2000, 1000, 500 * n),
               attributes={semconv.REQUEST_MODEL: "gpt-4o", semconv.PROVIDER_NAME: "openai"})
          for n in range(2)),
        span("u", 5_000_000_000, 6_000_000_000, "r", kind=SpanKind.LLM, name="other"),
    ]  # fmt: skip
    (tmp_path / "spans.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, spans)))
    done = run("profile", "spans.jsonl", "--forecast", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    failed = "1 of 2 calls (50.0 %; TimeoutError 1), 1 retry of which 1 went well; 1.00 s lost."
    assert f"Errors of TOOL se?arch: {failed}" in said
    assert any(
        re.fullmatch(r"Cost: at least 0\.0294 USD, by prices of 20\d\d-\d\d-\d\d\.", line) for line in said
    )
    assert "1 of 3 calls not priced: no price for the model: 1 call." in said
    assert any(line.startswith("Cache of gpt-4o: 12.5 % of the input was read, ") for line in said)
    assert any(re.fullmatch(r"No forecast: .*30 .*", line) for line in said)
    assert "orecast" not in run("profile", "spans.jsonl", cwd=tmp_path).stdout


def rows(text, title):
    """The lines of one table, by the name in their second or first column."""
    lines = text.split(f"{title}", 1)[1].splitlines()[2:]
    return [re.split(r"  +", line.strip()) for line in lines]


def test_at_80_columns_every_row_is_one_line_with_whole_figures(source, tmp_path):
    done = run("profile", source, cwd=tmp_path, columns="80")
    assert max(map(len, done.stdout.splitlines())) <= 80
    head = done.stdout.split("Latency", 1)[1].splitlines()[1].split()
    assert head == ["kind", "name", "n", "mean", "p50", "p95", "p99"]
    for row in rows(done.stdout, "Latency")[:7]:
        assert row[0] in ("WORKFLOW", "LLM", "TOOL", "FUNCTION")
        assert len(row) == 7
        assert all(re.fullmatch(r"[\d.,]+ (us|ms|s)", cell) for cell in row[3:])
    for name in ("meta-llama-3.1-70b-instruct", "email_phishing_analyzer"):
        assert name in done.stdout


def test_at_80_columns_long_names_give_way_to_figures(tmp_path):
    name = "a-model-with-a-name-that-is-too-long"
    spans = [span(f"{n}", n, n + 3_840_000_000, name=name, kind=SpanKind.LLM) for n in range(9)]
    spans += [span("f", 1, 3_950_000_000, name=name, kind=SpanKind.LLM, status=Status.ERROR)]
    spans += [span("o", 1, None, name=name, kind=SpanKind.LLM)]
    source = tmp_path / "spans.jsonl"
    source.write_bytes(b"\n".join(map(msgspec.json.encode, spans)))
    done = run("profile", source, cwd=tmp_path, columns="80")
    (row,) = rows(done.stdout, "Latency")[:1]
    assert row[1].endswith("…")
    assert row[2:5] == ["10", "1", "1"]  # closed, failed, open
    assert all(re.fullmatch(r"[\d.]+ s", cell) for cell in row[5:9]), row


def test_not_in_a_terminal_there_is_room_for_intervals(source, tmp_path):
    done = run("profile", source, cwd=tmp_path, columns="")
    assert 80 < max(map(len, done.stdout.splitlines())) <= 120
    assert re.search(r"phishing_agent +\d+ +[\d.]+ s +±[\d.]+ m?s", done.stdout)


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (None, "-"),
        (0.0, "0 s"),
        (2.5e-7, "0.25 us"),
        (0.000042, "42.0 us"),
        (0.0009996, "1.00 ms"),
        (0.1824, "182 ms"),
        (0.9996, "1.00 s"),
        (9.996, "10.0 s"),
        (99.96, "100 s"),
        (12345.6, "12,346 s"),
    ],
)
def test_durations_have_three_digits_and_the_unit_that_fits(value_s, text):
    assert duration(value_s) == text


def test_failed_and_cancelled_requests_are_counted_apart(tmp_path):
    spans = [
        span(f"{i}", i, i + 5, trace_id=f"{i:032x}", kind=SpanKind.WORKFLOW, status=status)
        for i, status in enumerate([Status.OK, Status.ERROR, Status.CANCELLED, Status.CANCELLED])
    ]
    spans.append(span("x", 9, None, trace_id="f" * 32, status=Status.INTERRUPTED))
    (tmp_path / "spans.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, spans)))
    done = run("profile", "spans.jsonl", cwd=tmp_path)
    assert "5 requests, 1 failed, 2 cancelled, 1 unfinished; 5 spans" in done.stdout


def test_json_is_the_findings_file(source, tmp_path):
    done = run("profile", source, "--json", "--output-dir", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = msgspec.json.decode(done.stdout)
    assert printed == msgspec.json.decode((tmp_path / "out/findings.json").read_bytes())
    assert printed["source"]["format"] == "jsonl"
    assert sum(printed["source"]["rejected"].values()) == 1
    assert (tmp_path / "out/report.html").exists()


def test_a_config_file_needs_only_its_profiler_section(source, tmp_path):
    config = tmp_path / "config.yml"
    config.write_text(
        "llms: {x: {api_key: '${NOT_SET}'}}\neval: {general: {profiler: {csv_exclude_io_text: true}}}"
    )
    done = run("profile", source, "--config_file", config, "--output_dir", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "llm_text_input" not in (tmp_path / "out/standardized_data_all.csv").read_text().split("\n", 1)[0]


TABLE = "{currency: EUR, date: 2026-11-01, models: {mixtral-8x22b-instruct: {input: 1, output: 2}}}"


@pytest.mark.parametrize("prices", [TABLE, "prices.yml"])
def test_prices_of_the_workflow_file_are_used(source, tmp_path, prices):
    (tmp_path / "prices.yml").write_text(TABLE)
    (tmp_path / "config.yml").write_text(f"eval: {{general: {{profiler: {{prices: {prices}}}}}}}")
    done = run("profile", source, "--config_file", "config.yml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cost = msgspec.json.decode(done.stdout)["cost"]
    assert (cost["currency"], cost["date"]) == ("EUR", "2026-11-01")
    assert {one["name"]: one["priced"] > 0 for one in cost["models"]}["mixtral-8x22b-instruct"]


@pytest.mark.parametrize("command", ["profile", "validate"])
@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ("nowhere.yml", "the price table nowhere.yml cannot be read: No such file or directory"),
        ("{currency: EUR, date: 2026-11-01}", "missing required field `models`"),
        ("{currency: EUR, date: 2026-11-01, models: {m: {input: -1, output: 2}}}", "`float` >= 0"),
        ("3", "give the path of a price table, or the table itself"),
    ],
)
def test_prices_that_are_wrong_are_told_before_anything_is_done(source, tmp_path, command, prices, message):
    (tmp_path / "c.yml").write_text(f"eval: {{general: {{profiler: {{prices: {prices}}}}}}}")
    what = ["profile", source, "--config_file"] if command == "profile" else ["validate", "--config_file"]
    done = run(*what, "c.yml", cwd=tmp_path, columns="500")
    assert done.returncode == 2
    assert "eval.general.profiler.prices" in done.stderr + done.stdout
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile", "missing"], "missing"),
        (["profile", "empty.jsonl"], "holds no spans"),
        (["profile", "empty.parquet"], "holds no spans"),
        (["profile", "spans.jsonl", "--config_file", "bare.yml"], "eval.general.profiler"),
        (["profile", "spans.jsonl", "--config_file", "typo.yml"], "spike_threshold"),
    ],
)
def test_wrong_input_is_one_sentence(source, tmp_path, arguments, message):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    write_table(SpanTable.from_spans([]), tmp_path / "empty.parquet")
    (tmp_path / "spans.jsonl").write_bytes(source.read_bytes())
    (tmp_path / "bare.yml").write_text("eval: {general: {output_dir: x}}")
    (tmp_path / "typo.yml").write_text(
        "eval: {general: {profiler: {concurrency_spike_analysis: {spike_treshold: 3}}}}"
    )
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_extra_it_says_which(source, tmp_path):
    """NumPy hidden as if it were not installed."""
    code = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('numpy', 'scipy', 'PIL', 'pyarrow', 'jinja2'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from millstream.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "profile", str(source)]
    done = execute(command, tmp_path)
    assert done.returncode == 4
    assert "pip install 'millstream[profiling]'" in done.stderr
    command[-2:] = ["profile", "--help"]
    assert execute(command, tmp_path).returncode == 0
