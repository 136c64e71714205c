"""Evaluations against the stand-in: 30 % of calls refused, cached runs, usage of items and of judges."""

import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest
import yaml

from millstream import semconv
from millstream.record import journal_home
from millstream.span import SpanKind
from millstream.store import open_store

RULES = """
models:
  steady: {}
  priced: {}
  gpt-4o-mini: {}
  busy: {errors: [{status: 429, message: slow down, probability: 0.3}]}
  told: {errors: [{status: 429, message: slow down, retry_after_s: 0.05, probability: 0.3}]}
  limited: {rate_limits: {requests_per_minute: 120}}
rules:
  - {when: {last_user_matches: "grade"}, reply: ["0.25", "0.5", "0.75"]}
default: "You said: $user"
"""

JUDGE = """
from pathlib import Path

from millstream.evaluation.evaluators.base import EvaluatorBase
from millstream.workflow.call_cache import cache_salt


class Grade(EvaluatorBase):
    llm_name: str
    votes: int = 1

    def bind(self, binding):
        binding.models.check_llm(self.llm_name, f"{binding.where}.llm_name")

        async def grade(item):
            if item.output.endswith("moody") and Path("moody").exists():
                await (await binding.models.llm(self.llm_name)).ainvoke(f"grade: {item.output}")
                raise RuntimeError("not in the mood")
            if item.output.endswith("unjudged"):
                raise RuntimeError("no verdict")
            llm = await binding.models.llm(self.llm_name)
            given = []
            for vote in range(self.votes):
                with cache_salt(f"vote {vote}"):
                    given.append(float((await llm.ainvoke(f"grade: {item.output}")).text))
            return {"score": sum(given) / len(given), "reasoning": given}

        return grade
"""


@contextmanager
def stand_in(folder, rules=RULES):
    (folder / "rules.yml").write_text(rules)
    command = [sys.executable, "-c", "from millstream.cli import main; main()", "simulate", "llm"]
    with subprocess.Popen(
        [*command, "--config", str(folder / "rules.yml"), "--exit-with-parent"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def stats(base_url):
    with urllib.request.urlopen(f"{base_url.removesuffix('/v1')}/stats") as response:  # noqa: S310
        return json.load(response)


@pytest.fixture
def server(tmp_path_factory):
    with stand_in(tmp_path_factory.mktemp("rules")) as base_url:
        yield base_url


@pytest.fixture
def configured(runs, server, monkeypatch):
    def configured(model, evaluators=None, *, llm=None, **general):
        content = {
            "llms": {
                "main": {"_type": "openai", "model_name": model, "base_url": server, **(llm or {})},
                "judge": {"_type": "openai", "model_name": "steady", "base_url": server},
            },
            "workflow": {"_type": "tool_calling_agent", "llm_name": "main"},
            "eval": {
                "general": {
                    "output_dir": "out",
                    "dataset": {"_type": "csv", "file_path": "data.csv"},
                    **general,
                },
                "evaluators": {"right": {"_type": "exact_match"}, **(evaluators or {})},
            },
        }
        (runs.folder / "config.yml").write_text(yaml.safe_dump(content))

    (runs.folder / "grading.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(runs.folder)
    return configured


@pytest.fixture
def judge(monkeypatch):
    """The evaluator `grade`, as a plugin is found."""
    from importlib.metadata import EntryPoint

    from millstream.evaluation import registry

    mine = EntryPoint("grade", "grading:Grade", registry.GROUP)
    found, ours = registry.entry_points, {registry.GROUP: [mine]}
    monkeypatch.setattr(
        registry, "entry_points", lambda *, group: [*found(group=group), *ours.get(group, [])]
    )
    yield
    sys.modules.pop("grading", None)


def asked(number):
    return [(f"i{n}", f"hello {n}", f"You said: hello {n}") for n in range(number)]


@pytest.mark.parametrize("model", ["busy", "told"])
def test_no_item_fails_though_30_percent_of_calls_are_refused(runs, server, configured, model):
    configured(model, max_concurrency=16)
    runs.data(*asked(150))
    done = runs.run()
    assert done.returncode == 0, done.stderr[-2000:]
    counts = stats(server)
    refused = counts["errors"]["429"]
    assert counts["completed"] == 150
    assert 16 < refused < 113  # 0.3 / 0.7 of 150, give or take five standard deviations
    rows = runs.json("workflow_output.json")
    assert {row["usage"]["llm_calls"] for row in rows} == {1}
    spans = [span for span in open_store(journal_home()).spans() if span.kind is SpanKind.LLM]
    assert len(spans) == 150
    retries = [event for span in spans for event in span.events if event.name == semconv.RETRY]
    assert len(retries) == refused == sum(span.attributes.get(semconv.RESEND_COUNT, 0) for span in spans)


def test_more_callers_than_a_limited_server_lets_in(runs, server, configured):
    """A bucket of 120 requests a minute, which is empty after as many; 40 callers share what flows in."""
    configured("limited", max_concurrency=40)
    runs.data(*asked(132))
    done = runs.run()
    assert done.returncode == 0, done.stderr[-2000:]
    counts = stats(server)
    assert counts["completed"] == 132
    assert counts["errors"].get("429", 0) < 200  # 40 callers that each try again on their own make thousands


def test_a_second_run_asks_nobody(runs, server, configured, judge):
    evaluators = {"grade": {"_type": "grade", "llm_name": "judge", "votes": 2}}
    prices = {
        "currency": "EUR",
        "date": "2026-01-01",
        "models": {"priced": {"input": 1e6, "output": 2e6}, "steady": {"input": 1e6, "output": 1e6}},
    }
    cache = {"enable": True, "path": "calls.sqlite"}
    configured("priced", evaluators, cache=cache, profiler={"prices": prices})
    runs.data(*asked(6))
    first = runs.run("--reps", "2")
    assert first.returncode == 0, first.stderr
    before, scores = stats(server)["requests"], runs.json("grade_output.json")
    assert before == 6 * 2 * 3  # repetitions and votes are calls of their own
    paid = runs.json("workflow_output.json")
    second = runs.run("--reps", "2")
    assert second.returncode == 0, second.stderr
    assert stats(server)["requests"] == before
    rows = runs.json("workflow_output.json")
    for row, earlier in zip(rows, paid, strict=True):
        assert row["generated_answer"] == earlier["generated_answer"]
        used, was = row["usage"], earlier["usage"]
        assert (was["cached"], used["cached"]) == (0, 1)
        tokens = used["input_tokens"], used["output_tokens"]
        assert tokens == (was["input_tokens"], was["output_tokens"])
        assert was["cost"] == pytest.approx(tokens[0] + 2 * tokens[1])
        assert used["cost"] == 0
        assert used["currency"] == "EUR"
    again = runs.json("grade_output.json")
    assert [one["score"] for one in again["eval_output_items"]] == [
        one["score"] for one in scores["eval_output_items"]
    ]
    assert {one["usage"]["cached"] for one in again["eval_output_items"]} == {2}
    assert "0 EUR" in second.stdout
    findings = runs.json("findings.json")
    assert findings["cost"]["total"] == 0
    assert findings["cost"]["cached"] == 12


def command(runs, *arguments):
    """What another command prints, run in a process of its own."""
    done = subprocess.run(
        [*runs.command[:3], *arguments],
        cwd=runs.folder,
        env=runs.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_stored_journal_knows_which_calls_came_from_the_cache(runs, server, configured):
    """Profiled from the journal, compacted or not, from a run's files, and compared: the same money."""
    configured("gpt-4o-mini", cache={"enable": True, "path": "calls.sqlite"})
    runs.data(*asked(6))
    for out in ("first", "second"):
        done = runs.spawn("--override", "eval.general.output_dir", out)
        assert done.returncode == 0, done.stderr
    assert stats(server)["requests"] == 6
    first = json.loads((runs.folder / "first" / "findings.json").read_text())["cost"]
    assert (first["calls"], first["cached"], first["saved"]) == (6, 0, 0)
    assert first["total"] > 0

    def holds(source, calls, total):
        found = json.loads(command(runs, "profile", "--json", source))
        told = found["cost"]
        assert (told["calls"], told["priced"], told["cached"], told["total"]) == (calls, calls, 6, total)
        assert told["saved"] == pytest.approx(first["total"])
        assert (found["tokens"][0]["calls"], found["tokens"][0]["cached"]) == (calls, 6)
        (latency,) = (row for row in found["latency"] if row["kind"] == "LLM")
        assert (latency["n"], latency["cached"]) == (calls - 6, 6)
        return found

    before = holds(str(journal_home()), 12, first["total"])
    command(runs, "journal", "compact")
    assert holds(str(journal_home()), 12, first["total"]) == before
    for file in ("spans.parquet", "all_requests_profiler_traces.json"):
        holds(f"second/{file}", 6, 0)
    command(runs, "journal", "export", "--output", "spans.jsonl")
    holds("spans.jsonl", 12, first["total"])
    said = command(runs, "profile", str(journal_home()))
    assert "6 of 12 calls came from the cache of an evaluation" in said
    compared = json.loads(command(runs, "compare", "--json", "first", "second"))
    cost = compared["metrics"]["cost"]
    assert (cost["n"], cost["a"], cost["b"]) == (6, pytest.approx(first["total"] / 6), 0)
    assert compared["metrics"]["input_tokens"]["difference"] == 0
    (note,) = compared["notes"]
    assert note.startswith("6 of 6 model calls of second came from the cache")


def test_without_the_cache_everything_is_asked_again(runs, server, configured):
    configured("steady")
    runs.data(*asked(3))
    runs.run()
    runs.run()
    assert stats(server)["requests"] == 6


def test_judges_are_recorded_apart_from_the_item(runs, server, configured, judge):
    evaluators = {"grade": {"_type": "grade", "llm_name": "judge", "votes": 3}}
    configured("steady", evaluators)
    runs.data(("a", "hello", "x"), ("b", "this stays unjudged", "x"))
    done = runs.run()
    assert done.returncode == 3
    rows = {row["id"]: row for row in runs.json("workflow_output.json")}
    assert rows["a"]["usage"]["llm_calls"] == 1
    assert rows["a"]["usage"]["cost"] is None  # nobody knows what `steady` costs
    assert rows["a"]["runtime_s"] > 0
    items = {one["id"]: one for one in runs.json("grade_output.json")["eval_output_items"]}
    assert items["a"]["usage"]["llm_calls"] == 3
    assert items["a"]["usage"]["input_tokens"] > 0
    assert items["a"]["usage"]["latency_s"] > 0
    assert items["b"]["score"] is None
    assert items["b"]["usage"]["llm_calls"] == 0
    spans = list(open_store(journal_home()).spans(trace_ids={items["a"]["trace_id"]}))
    (root,) = (span for span in spans if span.parent_id is None)
    assert root.kind is SpanKind.EVALUATOR
    assert root.attributes[semconv.EVALUATOR] == "grade"
    assert root.attributes[semconv.EVAL_ITEM_ID] == "a"
    assert root.attributes[semconv.EVAL_REP] == 1
    assert sum(span.kind is SpanKind.LLM for span in spans) == 3
    profiled = {step["payload"]["event_type"] for one in runs.json("all_requests_profiler_traces.json")
                for step in one["intermediate_steps"]}  # fmt: skip
    assert not any("EVALUATOR" in kind for kind in profiled)
    summary = json.loads(runs.run("--json", "--skip_workflow").stdout)["summary"]
    assert summary["workflow"]["llm_calls"] == 2
    assert summary["judges"]["llm_calls"] == 3
    assert "trace_id" not in runs.json("right_output.json")["eval_output_items"][0]
    assert '"judges":"3 calls, ' in (runs.out / "report.html").read_text()


def test_what_a_judge_used_before_it_was_asked_again_is_counted(runs, server, configured, judge):
    """Money spent is money spent, after a second retry and when the answers are scored anew, too."""
    prices = {"currency": "EUR", "date": "2026-01-01", "models": {"steady": {"input": 1e6, "output": 1e6}}}
    evaluators = {"grade": {"_type": "grade", "llm_name": "judge"}}
    configured("steady", evaluators, profiler={"prices": prices})
    runs.data(("a", "hello", "x"), ("b", "I am moody", "x"))
    (runs.folder / "moody").touch()

    def used(*arguments):
        done = runs.run("--json", *arguments)
        items = {one["id"]: one for one in runs.json("grade_output.json")["eval_output_items"]}
        sums = json.loads(done.stdout)["summary"]["judges"]
        for key in ("llm_calls", "input_tokens", "cost"):
            assert sums[key] == pytest.approx(sum(one["usage"][key] for one in items.values()))
        return items["a"]["usage"], items["b"]["usage"], items["b"]["score"]

    once, first, score = used()
    assert score is None
    assert (once["llm_calls"], first["llm_calls"]) == (1, 1)
    assert first["cost"] > 0
    assert used("--resume")[1] == first
    assert used("--resume", "--retry-failed")[1]["llm_calls"] == 2
    (runs.folder / "moody").unlink()
    same, third, score = used("--resume", "--retry-failed")
    assert same == once
    assert score is not None
    assert third["llm_calls"] == 3
    assert third["input_tokens"] == 3 * first["input_tokens"]
    assert third["cost"] > 2 * first["cost"]
    assert used("--resume", "--retry-failed")[1] == third
    assert stats(server)["requests"] == 2 + 4
    assert used("--skip_workflow")[1]["llm_calls"] == 1  # those scores are another run's


def test_a_cache_that_cannot_be_used_is_said_before_anything_is_asked(runs, server, configured):
    configured("steady", cache={"enable": True, "path": "data.csv"})
    runs.data(*asked(100))
    done = runs.run()
    assert done.returncode == 4
    assert "the cache of model calls data.csv cannot be used" in done.stderr
    assert stats(server)["requests"] == 0
