"""Runs that are stopped, killed or hang: nothing done is lost, and --resume makes them whole."""

import json
import signal
import time
from pathlib import Path

import pytest

MANY = tuple((f"{number:03}", f"question {number}", f"QUESTION {number}") for number in range(24))
VARYING = {"trace_id", "start_ns", "runtime_s"}


def _stable(path: Path) -> list[dict]:
    """The answers without times and ids."""
    rows = json.loads(path.read_text())
    for row in rows:
        assert [step["payload"]["event_type"] for step in row["intermediate_steps"]] == ["LLM_END"]
        del row["intermediate_steps"]
    return [{key: value for key, value in row.items() if key not in VARYING} for row in rows]


def _wait_for(runs, process, lines: int) -> None:
    until_s = time.monotonic() + 30
    while len(runs.results()) < lines:
        assert time.monotonic() < until_s
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_killed_and_resumed_equals_uninterrupted(runs):
    runs.config(
        max_concurrency=3,
        evaluators={"accuracy": {"_type": "exact_match"}, "calls": {"_type": "avg_num_llm_calls"}},
    )
    runs.data(*MANY[:20], ("x", "boom x", "X"), *MANY[20:])
    process = runs.start(CALL_S="0.1")
    _wait_for(runs, process, 6)
    process.kill()
    process.communicate()
    done = len(runs.results())
    with (runs.out / "results.jsonl").open("a") as file:  # as if killed while writing
        file.write('{"id": "torn", "rep": 1, "ind')
    resumed = runs.run("--resume")
    assert resumed.returncode == 3
    assert f"{done} of 25 items are done already." in resumed.stderr
    assert len(runs.asked()) <= 25 + 3  # only those that ran when it was killed are asked twice
    assert len(runs.results()) == 25
    whole = runs.run("--override", "eval.general.output_dir", "whole")
    assert whole.returncode == 3
    assert _stable(runs.out / "workflow_output.json") == _stable(runs.folder / "whole/workflow_output.json")
    for name in ("accuracy_output.json", "calls_output.json"):
        assert runs.json(name) == json.loads((runs.folder / "whole" / name).read_text())
    profiled = runs.json("all_requests_profiler_traces.json")
    assert len(profiled) == 25  # an item redone counts its last attempt only
    assert {len(request["intermediate_steps"]) for request in profiled} == {4}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_is_done(runs, number):
    runs.config(max_concurrency=2)
    runs.data(*MANY)
    process = runs.start(CALL_S="0.2")
    _wait_for(runs, process, 4)
    process.send_signal(number)
    done = runs.finish(process, 15)
    assert done.returncode == 130
    kept = len(runs.results())
    assert 4 <= kept < 24
    assert f"Stopped after {kept} of 24 items." in done.stderr
    assert "--resume" in done.stderr
    assert done.stdout == ""
    assert runs.json("config_metadata.json")["state"] == "running"
    assert runs.run("--resume").returncode == 0
    assert len(runs.json("accuracy_output.json")["eval_output_items"]) == 24


@pytest.mark.parametrize(
    ("target", "question"), [("flow.py:answer", "block"), ("flow.py:sync_answer", "thread")]
)
def test_a_signal_ends_a_run_that_hangs(runs, target, question):
    runs.config(target=target, max_concurrency=1)
    runs.data(("a", "one", "ONE"), ("b", question, "X"))
    process = runs.start()
    _wait_for(runs, process, 1)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert runs.finish(process, 15).returncode == 130
    assert len(runs.results()) == 1


@pytest.mark.parametrize(
    ("target", "question"),
    [
        ("flow.py:answer", "block"),
        ("flow.py:sync_answer", "thread"),
    ],
)
def test_an_item_that_hangs_times_out_and_the_others_go_on(runs, target, question):
    runs.config(target=target, timeout_s=1, max_concurrency=2)
    runs.data(("a", question, "X"), ("b", f"{question} too", "X"), *MANY[:6])
    began_s = time.monotonic()
    done = runs.spawn(timeout_s=30)
    assert time.monotonic() - began_s < 20
    assert done.returncode == 3, done.stderr
    by_id = {result["id"]: result for result in runs.results()}
    for name in "ab":
        assert by_id[name]["error"]["type"] == "ItemTimeoutError"
        assert "timeout_s = 1 s" in by_id[name]["error"]["message"]
        assert by_id[name]["runtime_s"] >= 0.9
    assert sum(result["error"] is None for result in by_id.values()) == 6
    scores = {item["id"]: item["score"] for item in runs.json("accuracy_output.json")["eval_output_items"]}
    assert scores == {"a": 0, "b": 0} | {row[0]: 1 for row in MANY[:6]}


def test_without_resume_a_stopped_run_starts_over_and_says_so(runs):
    runs.config(max_concurrency=1)
    runs.data(*MANY[:8])
    process = runs.start(CALL_S="0.2")
    _wait_for(runs, process, 2)
    process.kill()
    process.communicate()
    kept = runs.results()
    done = runs.run()
    assert done.returncode == 0
    assert f"An earlier run stopped after {len(kept)} items; this one starts over." in done.stderr
    assert runs.results("results.previous.jsonl") == kept
    assert len(runs.results()) == 8
    assert "starts over" not in runs.run().stderr  # the one before came to its end


def test_failed_items_are_asked_again_only_when_wanted(runs):
    runs.config()
    runs.data(("a", "boom", "BOOM"), ("b", "two", "TWO"))
    assert runs.run().returncode == 3
    assert runs.run("--resume").returncode == 3
    assert len(runs.asked()) == 2
    assert runs.run("--resume", "--retry-failed").returncode == 3
    assert runs.asked()[2:] == ["boom"]
    assert len(runs.json("workflow_output.json")) == 2
    assert runs.run("--retry-failed").returncode == 2


def test_what_an_item_used_before_it_was_asked_again_is_counted(runs):
    """The money of all attempts; the profile and the times are those of the last."""
    prices = {"currency": "EUR", "date": "2026-01-01", "models": {"model": {"input": 1e6, "output": 0}}}
    runs.config(profiler={"prices": prices})
    flow = (runs.folder / "flow.py").read_text()
    (runs.folder / "flow.py").write_text(
        flow.replace('if "boom" in question:', 'if "boom" in question and not Path("well").exists():')
    )
    runs.data(("a", "boom", "BOOM"), ("b", "two", "TWO"))

    def used(*arguments):
        done = runs.run("--json", *arguments)
        rows = {row["id"]: row for row in runs.json("workflow_output.json")}
        summary = json.loads(done.stdout)["summary"]["workflow"]
        assert summary["cost"] == sum(row["usage"]["cost"] for row in rows.values())
        return rows["a"], rows["b"]

    first, other = used()
    assert (first["usage"]["llm_calls"], first["usage"]["cost"], "earlier_attempts" in first) == (1, 3, False)
    second, _ = used("--resume", "--retry-failed")
    assert second["error"] is not None
    (runs.folder / "well").touch()
    third, same = used("--resume", "--retry-failed")
    assert (third["generated_answer"], third["error"]) == ("BOOM", None)
    assert (third["usage"]["llm_calls"], third["usage"]["input_tokens"], third["usage"]["cost"]) == (3, 9, 9)
    assert [one["trace_id"] for one in third["earlier_attempts"]] == [first["trace_id"], second["trace_id"]]
    assert same == other
    assert runs.json("findings.json")["cost"]["total"] == 6
    assert used("--resume", "--retry-failed")[0] == third
    assert used("--skip_workflow")[0] == third


def test_changed_and_new_rows_are_asked_again(runs):
    runs.config()
    runs.data(("a", "one", "ONE"), ("b", "two", "TWO"), ("c", "three", "THREE"))
    assert runs.run().returncode == 0
    runs.data(("new", "zero", "ZERO"), ("a", "one", "CHANGED"), ("b", "two", "TWO"), ("c", "drei", "DREI"))
    assert runs.run("--resume").returncode == 0
    assert sorted(runs.asked()[3:]) == ["drei", "one", "zero"]
    assert [(row["id"], row["generated_answer"]) for row in runs.json("workflow_output.json")] == [
        ("new", "ZERO"),
        ("a", "ONE"),
        ("b", "TWO"),
        ("c", "DREI"),
    ]


def test_resume_can_add_repetitions(runs):
    runs.config()
    runs.data(("a", "one", "ONE"), ("b", "two", "TWO"))
    assert runs.run().returncode == 0
    assert runs.run("--resume", "--reps", "2").returncode == 0
    assert len(runs.asked()) == 4
    assert [(row["id"], row["rep"]) for row in runs.json("workflow_output.json")] == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
        ("b", 2),
    ]


def test_resume_refuses_another_workflow(runs):
    runs.config()
    runs.data(*MANY[:3])
    assert runs.run().returncode == 0
    runs.config(target="flow.py:sync_answer", evaluators={"re": {"_type": "regex", "pattern": "Q"}})
    done = runs.run("--resume")
    assert done.returncode == 2
    assert "workflow.target was 'flow.py:answer', is 'flow.py:sync_answer'" in done.stderr
    assert len(runs.results()) == 3
    runs.config(evaluators={"re": {"_type": "regex", "pattern": "Q"}}, max_concurrency=1)  # no other answers
    assert runs.run("--resume").returncode == 0
    assert len(runs.asked()) == 3


def test_resume_refuses_another_home(runs, tmp_path):
    runs.config()
    runs.data(*MANY[:3])
    assert runs.spawn().returncode == 0
    done = runs.spawn("--resume", MILLSTREAM_HOME=str(tmp_path / "other"))
    assert done.returncode == 2
    assert "MILLSTREAM_HOME" in done.stderr


def test_resume_without_an_earlier_run_asks_all(runs):
    runs.config()
    runs.data(*MANY[:3])
    done = runs.run("--resume")
    assert done.returncode == 0
    assert "nothing to resume" in done.stderr
