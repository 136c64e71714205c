"""examples/email_phishing_analyzer: its tool, and what its five stand-in models are there to show."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.simulate.rules import load_rules
from millstream.span import Span, SpanKind
from millstream.workflow.modules import import_module
from millstream.workflow.registry import scratch_registry
from tests.simulate.process import running

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "email_phishing_analyzer"
TOOL = "email_phishing_analyzer"


@pytest.fixture(scope="module")
def component():
    with scratch_registry():
        yield import_module("email_phishing_analyzer.py", EXAMPLE, where="test")


@pytest.mark.parametrize(
    ("text", "verdict", "explanation"),
    [
        ('{"is_likely_phishing": true, "explanation": "a link"}', True, "a link"),
        (
            'Sure:\n```json\n{"is_likely_phishing": false, "explanation": "{fine}"}\n```\nBye {',
            False,
            "{fine}",
        ),
        ('{"draft": 1} {"is_likely_phishing": "Yes"}', True, ""),
        ('{"is_likely_phishing": 0, "explanation": ["a"]}', False, "['a']"),
        ('{"is_likely_phishing": "perhaps"}', None, ""),
        ('{"is_likely_phishing": true, "explan', None, '{"is_likely_phishing": true, "explan'),
        ("I cannot tell.", None, "I cannot tell."),
        ("", None, ""),
    ],
)
def test_the_tool_reads_whatever_a_model_writes(component, text, verdict, explanation):
    assert component.read_findings(text) == {"is_likely_phishing": verdict, "explanation": explanation}


def call(found):
    finding = json.dumps({"is_likely_phishing": found, "explanation": ""})
    return Span("0" * 32, "0" * 16, None, TOOL, SpanKind.TOOL, 0, output=finding)


@pytest.mark.parametrize(
    ("output", "spans", "score"),
    [
        ("Verdict: phishing", [call(True)], 1),
        ("**Verdict:** Benign", [call(True), call(False)], 1),
        ("Verdict: benign", [call(True)], 0),
        ("Verdict: benign", [call(None)], 0),
        ("Verdict: phishing", [], 0),
        ("I do not know", [call(True)], 0),
        (None, [call(True)], 0),
    ],
)
def test_an_answer_is_grounded_when_it_says_what_the_tool_found(component, output, spans, score):
    item = type("Item", (), {"output": output, "spans": spans})()
    assert component.groundedness(item)["score"] == score


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_data():
    emails, few = rows_of(EXAMPLE / "data" / "emails.csv"), rows_of(EXAMPLE / "data" / "smaller_test.csv")
    assert (len(emails), len(few)) == (30, 12)
    for rows in (emails, few):
        assert sum(row["label"] == "phishing" for row in rows) == len(rows) / 2
        assert {row["label"] for row in rows} == {"phishing", "benign"}
        assert len({row["subject"] for row in rows}) == len(rows)
    assert all(row in emails for row in few)


def evaluate(server, model, output_dir):
    command = [
        sys.executable,
        "-m",
        "millstream",
        "eval",
        "--config_file",
        str(EXAMPLE / "config.yml"),
        "--json",
    ]
    done = subprocess.run(
        [*command, "--override", "eval.general.output_dir", str(output_dir)],
        cwd=ROOT,
        env={**os.environ, "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "", "MODEL": model},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)["summary"]
    scores = {metric["name"]: metric["average"] for metric in summary["metrics"]}
    events = rows_of(output_dir / "standardized_data_all.csv")
    return summary, scores, [row for row in events if row["event_type"] == "LLM_END"]


def test_one_model_goes_by_its_tool_and_one_never_calls_it(tmp_path):
    rules = load_rules(EXAMPLE / "models.yml")
    assert len(rules.models) == 5
    with running(EXAMPLE / "models.yml") as server:
        summary, scores, ends = evaluate(server, "meta-llama-3.1-8b-instruct", tmp_path / "8b")
        assert (summary["items"], summary["failures"]) == (12, [])
        assert (scores["accuracy"], scores["groundedness"]) == (0.75, 1)
        assert scores["llm_calls"] > 4
        assert {row["function_name"] for row in ends} == {"tool_calling_agent", TOOL}
        assert summary["input_tokens"] == sum(int(float(row["prompt_tokens"])) for row in ends)
        assert server.stats()["prompt_tokens"] == summary["input_tokens"]
        assert server.stats()["completion_tokens"] == summary["output_tokens"]

        summary, scores, ends = evaluate(server, "phi-3-mini-4k-instruct", tmp_path / "mini")
        assert (scores["accuracy"], scores["groundedness"], scores["llm_calls"]) == (0.5, 0, 1)
        assert {row["function_name"] for row in ends} == {"tool_calling_agent"}
    assert (tmp_path / "8b" / "report.html").exists()
