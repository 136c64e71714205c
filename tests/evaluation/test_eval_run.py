"""One run of the command: files, figures, exit codes."""

import json
import math
import shutil
import subprocess

import pytest
import yaml

from millstream.record import journal_home

TWO = (("007", "one", "ONE"), ("b", "two", "wrong"))


def test_scores_files_and_last_line(runs):
    runs.config(
        evaluators={
            "accuracy": {"_type": "exact_match"},
            "latency": {"_type": "avg_llm_latency"},
            "runtime": {"_type": "avg_workflow_runtime"},
            "calls": {"_type": "avg_num_llm_calls"},
            "tokens": {"_type": "avg_tokens_per_llm_end"},
        }
    )
    runs.data(*TWO, ("c", "three", "THREE"), ("d", "four", "FOUR"))
    done = runs.run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "out/report.html"
    assert (runs.out / "report.html").is_file()
    accuracy = runs.json("accuracy_output.json")
    assert (accuracy["average_score"], accuracy["n"], accuracy["missing"], accuracy["failed"]) == (
        0.75,
        4,
        0,
        0,
    )
    assert accuracy["interval"]["method"] == "wilson"
    assert [(item["id"], item["score"]) for item in accuracy["eval_output_items"]] == [
        ("007", 1),
        ("b", 0),
        ("c", 1),
        ("d", 1),
    ]
    assert runs.json("calls_output.json")["average_score"] == 1
    assert runs.json("calls_output.json")["interval"]["method"] == "skew_corrected_t"
    assert runs.json("tokens_output.json")["average_score"] == 3 + (3 + 3 + 5 + 4) / 4
    latency, runtime = runs.json("latency_output.json"), runs.json("runtime_output.json")
    assert 0.01 <= latency["average_score"] <= runtime["average_score"]
    answers = runs.json("workflow_output.json")
    assert [(row["id"], row["question"], row["answer"], row["generated_answer"]) for row in answers] == [
        ("007", "one", "ONE", "ONE"),
        ("b", "two", "wrong", "TWO"),
        ("c", "three", "THREE", "THREE"),
        ("d", "four", "FOUR", "FOUR"),
    ]
    assert [step["payload"]["event_type"] for step in answers[0]["intermediate_steps"]] == ["LLM_END"]
    assert [row["trace_id"] for row in answers] == [
        result["trace_id"] for result in sorted(runs.results(), key=lambda result: result["index"])
    ]
    metadata = runs.json("config_metadata.json")
    assert (metadata["state"], metadata["reps"], metadata["items"]) == ("finished", 1, 4)
    effective = yaml.safe_load((runs.out / "config_effective.yml").read_text())
    assert effective["eval"]["evaluators"]["accuracy"] == {"_type": "exact_match"}


def test_example_number_is_the_index_of_the_item(runs):
    runs.config(max_concurrency=3)
    runs.data(("a", "a slow", "A"), ("b", "b", "B"), ("c", "c", "C"))
    assert runs.run().returncode == 0
    requests = runs.json("all_requests_profiler_traces.json")
    inputs = [request["intermediate_steps"][0]["payload"]["data"]["input"] for request in requests]
    assert inputs == ["a slow", "b", "c"]


def test_an_item_that_raises_fails_alone_with_its_trace(runs):
    runs.config(evaluators={"accuracy": {"_type": "exact_match"}, "calls": {"_type": "avg_num_llm_calls"}})
    runs.data(("a", "boom", "BOOM"), ("b", "two", "TWO"), ("c", "exit", "EXIT"), ("d", "", "x"))
    done = runs.run()
    assert done.returncode == 3
    assert "'a': ValueError: this question went wrong" in done.stdout
    by_id = {row["id"]: row for row in runs.json("workflow_output.json")}
    assert by_id["a"]["error"] == {"type": "ValueError", "message": "this question went wrong"}
    assert by_id["a"]["generated_answer"] is None
    assert by_id["b"]["error"] is None
    assert "sys.exit('leaving')" in by_id["c"]["error"]["message"]
    assert by_id["d"]["error"]["message"] == "the question is empty"
    accuracy = runs.json("accuracy_output.json")
    assert (accuracy["average_score"], accuracy["n"], accuracy["failed"]) == (0.25, 4, 3)
    calls = {item["id"]: item["score"] for item in runs.json("calls_output.json")["eval_output_items"]}
    assert calls == {"a": 1, "b": 1, "c": 1, "d": None}  # of a failed item, what was recorded counts
    failed = [step for step in runs.spans() if "error" in step["payload"]["metadata"]]
    assert {step["payload"]["metadata"]["error"]["type"] for step in failed} >= {"ValueError"}


def test_reps_keep_ids_and_count_items_not_repetitions_in_the_interval(runs):
    runs.config()
    runs.data(*TWO)
    assert runs.run("--reps", "3").returncode == 0
    accuracy = runs.json("accuracy_output.json")
    assert [(item["id"], item["rep"]) for item in accuracy["eval_output_items"]] == [
        ("007", 1),
        ("007", 2),
        ("007", 3),
        ("b", 1),
        ("b", 2),
        ("b", 3),
    ]
    assert (accuracy["n"], accuracy["average_score"]) == (6, 0.5)
    assert accuracy["interval"]["method"] == "wilson_of_items"


def test_gates(runs):
    runs.config(evaluators={"accuracy": {"_type": "exact_match"}, "calls": {"_type": "avg_num_llm_calls"}})
    runs.data(*TWO)
    assert runs.run("--fail-under", "accuracy=0.5").returncode == 0
    broken = runs.run("--fail-under", "accuracy=0.51")
    assert broken.returncode == 1
    assert "gate broken: accuracy is 0.5, under 0.51" in broken.stderr
    assert broken.stdout.splitlines()[-1] == "out/report.html"
    assert runs.run("--fail_under", "calls=1").returncode == 0  # lower is better: a bound from above
    assert runs.run("--fail-under", "calls=0.9").returncode == 1


def test_a_broken_gate_is_said_before_failed_items(runs):
    runs.config()
    runs.data(("a", "boom", "BOOM"), ("b", "two", "TWO"))
    assert runs.run("--fail-under", "accuracy=0.9").returncode == 1
    assert runs.run("--fail-under", "accuracy=0.5").returncode == 3


def test_a_gate_without_an_evaluator_stops_before_anything_runs(runs):
    runs.config()
    runs.data(*TWO)
    for gate in ("acuracy=0.5", "accuracy", "accuracy=high", "accuracy=nan"):
        done = runs.run("--fail-under", gate)
        assert done.returncode == 2
        assert gate in done.stderr
    assert "did you mean 'accuracy'?" in runs.run("--fail-under", "acuracy=0.5").stderr
    assert runs.asked() == []


def test_a_gate_on_a_metric_without_a_score_fails(runs):
    runs.config()
    runs.data(("a", "one", ""), ("b", "two", ""))
    done = runs.run("--fail-under", "accuracy=0")
    assert done.returncode == 1
    assert "accuracy has no score" in done.stderr


@pytest.mark.parametrize(
    ("evaluator", "is_said"),
    [
        ({"_type": "avg_llm_latency"}, False),
        ({"_type": "python", "target": "flow.py:score"}, False),
        ({"_type": "regex", "pattern": "ONE"}, False),
        ({"_type": "regex", "pattern": "{expected}"}, True),
        ({"_type": "similarity", "method": "edit"}, True),
    ],
)
def test_that_answers_are_missing_is_said_where_an_evaluator_needs_them(runs, evaluator, is_said):
    runs.config(evaluators={"one": evaluator})
    runs.data(("a", "one", ""), ("b", "two", "TWO"))
    assert ("no expected answer ('answer')." in runs.run().stderr) == is_said


def test_missing_expected_answers_are_missing_scores(runs):
    runs.config()
    runs.data(("a", "one", "ONE"), ("b", "two", ""), ("c", "three", "no"))
    done = runs.run()
    assert done.returncode == 3
    assert "1 of 3 items has no expected answer" in done.stderr
    assert "accuracy: 1 score is missing (item 'b': the dataset has no expected answer" in done.stdout
    accuracy = runs.json("accuracy_output.json")
    assert (accuracy["average_score"], accuracy["n"], accuracy["missing"]) == (0.5, 2, 1)


def test_python_evaluators_sync_and_async(runs):
    runs.config(
        evaluators={
            "spans": {"_type": "python", "target": "flow.py:score"},
            "opinion": {"_type": "python", "target": "flow.py:score_async"},
        }
    )
    runs.data(("a", "one", "ONE"), ("b", "two", "TWO"))
    assert runs.run().returncode == 3  # b has no opinion
    spans = runs.json("spans_output.json")["eval_output_items"]
    assert [(item["score"], item["reasoning"]) for item in spans] == [(1, "a 1 one"), (1, "b 1 two")]
    opinion = runs.json("opinion_output.json")
    assert (opinion["average_score"], opinion["n"], opinion["missing"], opinion["interval"]) == (
        1,
        1,
        1,
        None,
    )
    assert opinion["eval_output_items"][1]["score"] is None
    assert opinion["eval_output_items"][1]["error"] == "the evaluator failed: RuntimeError: no opinion"


def test_json_result(runs):
    runs.config()
    runs.data(*TWO)
    done = runs.run("--json")
    assert done.returncode == 0
    content = json.loads(done.stdout)
    assert content["report"] == "out/report.html"
    assert content["summary"]["metrics"][0]["average"] == 0.5
    assert content["summary"]["input_tokens"] == 6
    assert math.isfinite(content["summary"]["runtime_p95_s"])


def test_another_dataset_and_overrides(runs):
    runs.config()
    rows = [
        {"id": 7, "question": "seven", "answer": "SEVEN"},
        {"id": 8, "question": "eight", "answer": "EIGHT"},
    ]
    (runs.folder / "other.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = runs.run("--dataset", "other.jsonl", "--override", "eval.general.output_dir", "elsewhere")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "elsewhere/report.html"
    scores = json.loads((runs.folder / "elsewhere/accuracy_output.json").read_text())
    assert [item["id"] for item in scores["eval_output_items"]] == ["7", "8"]
    effective = yaml.safe_load((runs.folder / "elsewhere/config_effective.yml").read_text())
    assert effective["eval"]["general"]["dataset"] == {"_type": "jsonl", "file_path": "other.jsonl"}
    metadata = json.loads((runs.folder / "elsewhere/config_metadata.json").read_text())
    assert metadata["overrides"] == [["eval.general.output_dir", "elsewhere"]]
    assert runs.run("--dataset", "other.parquet").returncode == 2


def test_skip_workflow_scores_earlier_answers_again(runs):
    runs.config()
    runs.data(*TWO)
    assert runs.run().returncode == 0
    runs.config(evaluators={"pattern": {"_type": "regex", "pattern": "^(ONE|TWO)$"}})
    done = runs.run("--skip_workflow")
    assert done.returncode == 0, done.stderr
    assert len(runs.asked()) == 2
    assert runs.json("pattern_output.json")["average_score"] == 1
    assert not (runs.out / "accuracy_output.json").exists()  # not of this run
    assert len(runs.json("all_requests_profiler_traces.json")) == 2
    assert runs.run("--skip_workflow", "--reps", "2").returncode == 2


def test_skip_workflow_with_answers_of_the_dataset(runs):
    runs.config()
    (runs.folder / "data.csv").write_text("id,question,answer,generated_answer\na,q,A,A\nb,q,B,C\n")
    assert runs.run("--skip_workflow").returncode == 0
    assert runs.json("accuracy_output.json")["average_score"] == 0.5
    runs.data(*TWO)
    for name in runs.out.iterdir():
        name.unlink()
    done = runs.run("--skip_workflow")
    assert done.returncode == 2
    assert "found no answers" in done.stderr


def test_skip_workflow_reads_the_steps_that_come_with_answers(runs):
    """The answers of one run, here or elsewhere, are a dataset: what was recorded of them is in it."""
    runs.config()
    runs.data(*TWO)
    assert runs.run().returncode == 0
    other = {
        "general": {
            "output_dir": "again",
            "dataset": {"_type": "json", "file_path": str(runs.out / "workflow_output.json")},
        },
        "evaluators": {
            "calls": {"_type": "avg_num_llm_calls"},
            "tokens": {"_type": "avg_tokens_per_llm_end"},
        },
    }
    (runs.folder / "config.yml").write_text(yaml.safe_dump({"eval": other}))
    shutil.rmtree(journal_home())
    done = runs.run("--skip_workflow")
    assert done.returncode == 0, done.stderr
    calls, tokens = (
        json.loads((runs.folder / "again" / f"{name}_output.json").read_text())
        for name in ("calls", "tokens")
    )
    assert (calls["average_score"], calls["n"]) == (1, 2)
    assert (tokens["average_score"], tokens["n"]) == (6, 2)


def test_wrong_configurations_and_datasets_exit_2(runs):
    runs.data(*TWO)
    for changes, words in [
        ({"evaluators": {"x": {"_type": "exact_mach"}}}, "did you mean 'exact_match'"),
        ({"evaluators": {"x": {"_type": "exact_match", "stripp": True}}}, "did you mean 'strip'"),
        ({"evaluators": {"workflow": {"_type": "exact_match"}}}, "workflow_output.json"),
        ({"evaluators": {"x": {"_type": "regex", "pattern": "("}}}, "eval.evaluators.x.pattern"),
        ({"evaluators": {"x": {"_type": "python", "target": "flow.py:scor"}}}, "did you mean 'score'"),
        ({"max_concurency": 2}, "did you mean 'max_concurrency'"),
        ({"dataset": {"_type": "pickle", "file_path": "x"}}, "known: csv, custom, json, jsonl, parquet, xls"),
        ({"dataset": {"_type": "csv", "file_path": "nowhere.csv"}}, "nowhere.csv does not exist"),
        ({"profiler": {"fit_model": True}}, "fit_model"),
    ]:
        runs.config(**changes)
        done = runs.run()
        assert done.returncode == 2, (changes, done.stderr)
        assert words in done.stderr, (changes, done.stderr)
    assert runs.asked() == []


def test_two_runs_do_not_share_a_folder(runs):
    runs.config()
    runs.data(("a", "hang", "A"))
    first = runs.start()
    try:
        while not runs.asked():
            assert first.poll() is None
        second = runs.spawn()
        assert second.returncode == 4
        assert "another run is writing to out" in second.stderr
    finally:
        first.kill()
        first.communicate()
    runs.data(*TWO)
    assert runs.run().returncode == 0  # a killed run holds nothing


def test_output_folder_that_cannot_be_used(runs):
    runs.config(output_dir="file/out")
    runs.data(*TWO)
    (runs.folder / "file").write_text("not a folder")
    done = runs.run()
    assert done.returncode == 4
    assert "file/out cannot be used" in done.stderr
    assert runs.asked() == []


def test_recordings_that_cannot_be_written_are_told_before_anything_runs(runs):
    runs.config()
    runs.data(*TWO)
    (runs.folder / "home").write_text("not a folder")
    done = runs.spawn(MILLSTREAM_HOME=str(runs.folder / "home"))
    assert done.returncode == 4
    assert "MILLSTREAM_HOME" in done.stderr
    assert runs.asked() == []


def test_without_recording_scores_remain(runs):
    runs.config()
    runs.data(*TWO)
    done = runs.spawn(MILLSTREAM_DISABLED="true")
    assert runs.json("accuracy_output.json")["average_score"] == 0.5
    assert "have no recorded spans" in done.stderr or "No spans could be read back" in done.stderr
    assert done.returncode == 0


def test_a_disk_that_fills_up_keeps_what_is_done(runs, tmp_path):
    runs.config(max_concurrency=1)
    runs.data(*((str(number), "q" * 1000, "Q") for number in range(40)))
    home = tmp_path / "home"
    command = 'ulimit -f 20; exec "$@"'  # files of at most 20 KiB
    done = subprocess.run(
        ["bash", "-c", command, "bash", *runs.command],
        cwd=runs.folder,
        env={**runs.environment, "MILLSTREAM_HOME": str(home), "CALL_S": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert "results.jsonl cannot be written" in done.stderr
    kept = runs.results()
    assert 0 < len(kept) < 40
    again = runs.spawn(
        "--resume", "--override", "eval.general.max_concurrency", "4", MILLSTREAM_HOME=str(home)
    )
    assert again.returncode in (0, 3), again.stderr
    assert len(runs.results()) == 40


def test_a_profile_that_fails_loses_no_score(runs, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("the profile broke")

    monkeypatch.setattr("millstream.profiler.engine.profile", broken)
    runs.config()
    runs.data(*TWO)
    done = runs.run()
    assert done.returncode == 3
    assert "the profile failed: RuntimeError: the profile broke" in done.stderr
    assert runs.json("accuracy_output.json")["average_score"] == 0.5
    assert len(runs.json("workflow_output.json")) == 2
    assert runs.json("config_metadata.json")["state"] == "finished"


def test_one_item_and_no_evaluators(runs):
    runs.config(evaluators={})
    runs.data(("a", "one", "ONE"))
    assert runs.run().returncode == 0
    assert runs.json("workflow_output.json")[0]["generated_answer"] == "ONE"


def test_verbose_says_each_item(runs):
    runs.config(verbose=True)
    runs.data(("a", "boom", "x"), ("b", "two", "TWO"))
    err = runs.run().stderr
    assert "a: ValueError: this question went wrong" in err
    assert "b: ok" in err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("n" * 101, "at most 100"),
        ("accuracy.tone", "this is also what a value 'tone' of 'accuracy' is called"),
        ("workflow", "whose file is taken"),
    ],
)
def test_a_name_that_cannot_be_one_is_said_before_anything_is_asked(runs, name, words):
    runs.data(("a", "one", "ONE"))
    runs.config(evaluators={"accuracy": {"_type": "exact_match"}, name: {"_type": "exact_match"}})
    done = runs.run()
    assert done.returncode == 2
    assert words in done.stderr
    assert runs.asked() == []
