"""Output folders as runs: those that the reference wrote, ours, and what is no such folder."""

import json
import shutil
from pathlib import Path

import pytest

from millstream.errors import InputError
from millstream.evaluation import run_folder
from millstream.profiler.compare import compare
from millstream.profiler.cost import Price, PriceTable

REFERENCE = Path(__file__).parent / "reference"

PRICES = PriceTable("USD", "2026-01-01", {"gpt-4.1-mini": Price(input=1e6, output=10e6)})


def read_run(folder):
    return run_folder.read_run(folder, PRICES)


def change(path, edit):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(edit(content)))


def test_a_run_of_the_reference():
    run = read_run(REFERENCE / "plain")
    assert [(item.id, item.input, item.failed) for item in run.items] == [
        ("q1", '"one"', False),
        ("q2", '"twotwo"', False),
        ("q3", '"three"', False),
        ("q4", '"fourth"', False),
        ("5", '"fifth5"', False),
    ]
    requests = json.loads((REFERENCE / "plain" / "all_requests_profiler_traces.json").read_text())
    for item, request in zip(run.items, requests, strict=True):
        times = [step["payload"]["event_timestamp"] for step in request["intermediate_steps"]]
        assert item.values["latency_s"] == pytest.approx(max(times) - min(times))
        assert item.values["input_tokens"] == len(json.loads(item.input))
        assert item.values["output_tokens"] == 2
        assert item.values["cost"] == item.values["input_tokens"] + 20
    assert [item.values["accuracy"] for item in run.items] == [1, 1, None, 1, 1], "q3's evaluator raised"
    assert (run.evaluators, run.shares, run.notes) == (["accuracy"], ["accuracy"], [])


def test_an_item_that_failed_there_has_no_trace_and_scores_0():
    run = read_run(REFERENCE / "failed")
    (failed,) = [item for item in run.items if item.failed]
    assert (failed.id, failed.values["latency_s"], failed.values["accuracy"]) == ("q4", None, 0)
    found = compare(read_run(REFERENCE / "plain"), run)
    assert (found.items.failed_a, found.items.failed_b, found.metrics["accuracy"].b) == (0, 1, 0.75)


def test_repetitions_there_are_of_one_item():
    found = compare(read_run(REFERENCE / "plain"), read_run(REFERENCE / "repeated"))
    assert (found.items.both, found.items.results_a, found.items.results_b) == (5, 5, 10)
    assert found.metrics["latency_s"].ratio_low > 1


def test_order_of_rows_and_requests_is_of_no_account(tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(REFERENCE / "plain", moved)
    for name in ("workflow_output.json", "all_requests_profiler_traces.json"):
        change(moved / name, lambda rows: rows[3:] + rows[:3])
    change(
        moved / "accuracy_output.json",
        lambda scores: {**scores, "eval_output_items": scores["eval_output_items"][::-1]},
    )
    found = compare(read_run(REFERENCE / "plain"), read_run(moved))
    assert found.items.both == 5
    assert all(one.difference in (0, None) for one in found.metrics.values())
    assert found.metrics["latency_s"].n == 5


def test_without_traces_the_latency_is_unknown_and_that_is_said(tmp_path):
    shutil.copytree(REFERENCE / "plain", tmp_path / "run")
    (tmp_path / "run" / "all_requests_profiler_traces.json").unlink()
    run = read_run(tmp_path / "run")
    assert {item.values["latency_s"] for item in run.items} == {None}
    assert run.items[0].values["output_tokens"] == 2
    assert "latency is unknown" in run.notes[0]


def test_bare_answers_have_the_ids_of_the_scores(tmp_path):
    shutil.copytree(REFERENCE / "plain", tmp_path / "run")
    change(tmp_path / "run" / "workflow_output.json", lambda rows: [row["generated_answer"] for row in rows])
    run = read_run(tmp_path / "run")
    assert [(item.id, item.input) for item in run.items] == [
        (one, None) for one in ("q1", "q2", "q3", "q4", "5")
    ]
    assert run.items[0].values["accuracy"] == 1
    assert run.items[0].values["latency_s"] > 0


def test_events_that_cannot_be_read_are_counted(tmp_path):
    shutil.copytree(REFERENCE / "plain", tmp_path / "run")

    def spoil(requests):
        requests[0]["intermediate_steps"][1] = {"payload": {"event_type": 3}}
        return requests

    change(tmp_path / "run" / "all_requests_profiler_traces.json", spoil)
    assert read_run(tmp_path / "run").notes == [f"1 event of {tmp_path / 'run'} could not be read."]


def test_a_run_of_ours(runs):
    runs.config(evaluators={"accuracy": {"_type": "exact_match"}, "calls": {"_type": "avg_num_llm_calls"}})
    runs.data(("007", "one", "ONE"), ("b", "two boom", "x"), ("c", "three", "other"))
    assert runs.run("--reps", "2").returncode == 3
    run = read_run(runs.out)
    assert [(item.id, item.failed) for item in run.items] == [
        (one, one == "b") for one in ("007", "007", "b", "b", "c", "c")
    ]
    assert [item.values["accuracy"] for item in run.items] == [1, 1, 0, 0, 0, 0]
    assert [item.values["output_tokens"] for item in run.items] == [3, 3, 8, 8, 5, 5]
    assert all(item.values["latency_s"] >= 0.01 for item in run.items), "failed items have theirs"
    assert all(item.values["cost"] is None for item in run.items), "the model has no price"
    assert all(item.values["calls"] == 1 for item in run.items)
    assert (run.evaluators, run.shares) == (["accuracy", "calls"], ["accuracy"])


def test_the_files_that_the_reference_has_too_say_the_same_of_our_run(runs):
    runs.config()
    runs.data(("a", "one", "ONE"), ("b", "two", "x"), ("c", "three", "THREE"))
    assert runs.run().returncode == 0
    whole = read_run(runs.out)
    ours = ("rep", "error", "trace_id", "start_ns", "runtime_s")

    def strip(rows):
        return [{name: value for name, value in row.items() if name not in ours} for row in rows]

    change(runs.out / "workflow_output.json", strip)
    change(
        runs.out / "accuracy_output.json",
        lambda scores: {"average_score": 0, "eval_output_items": strip(scores["eval_output_items"])},
    )
    found = compare(whole, read_run(runs.out))
    assert [found.metrics[name].n for name in ("latency_s", "input_tokens", "accuracy")] == [3, 3, 3]
    assert found.metrics["latency_s"].difference == pytest.approx(0, abs=1e-6)
    assert found.metrics["input_tokens"].difference == found.metrics["accuracy"].difference == 0


def test_a_dataset_without_structure_pairs_by_the_whole_row(runs):
    runs.config(
        dataset={"_type": "csv", "file_path": "data.csv", "structure": {"disable": True}},
        evaluators={"calls": {"_type": "avg_num_llm_calls"}},
    )
    runs.data(("a", "one", "ONE"))
    assert runs.run().returncode == 0
    (item,) = read_run(runs.out).items
    assert json.loads(item.input) == {"id": "a", "question": "one", "answer": "ONE"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "does not exist"),
        ({}, "holds no workflow_output.json"),
        ({"results.jsonl": "{}\n"}, "millstream eval --resume"),
        ({"workflow_output.json": "{"}, "is not JSON"),
        ({"workflow_output.json": "[" * 100_000}, "is not JSON"),
        ({"workflow_output.json": "{}"}, "is not a list"),
        ({"workflow_output.json": "[]"}, "holds no items"),
        ({"workflow_output.json": '[{"name": 1}]'}, "eval.general.dataset.id_key"),
        ({"workflow_output.json": '[{"id": 1}]', "a_output.json": "x"}, "a_output.json is not JSON"),
        ({"workflow_output.json": '[{"id": 1}]', "config_effective.yml": "a: ["}, "config_effective.yml"),
        (
            {"workflow_output.json": '[{"id": 1}]', "all_requests_profiler_traces.json": '[{"no": 1}]'},
            "traces of a profiler",
        ),
    ],
)
def test_what_is_no_run_is_refused_with_a_reason(tmp_path, files, said):
    folder = tmp_path / "run"
    for name, content in (files or {}).items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    if files == {}:
        folder.mkdir()
    with pytest.raises(InputError, match=said):
        read_run(folder)


def test_odd_values_are_unknown(tmp_path):
    (tmp_path / "workflow_output.json").write_text(
        json.dumps([{"id": 1, "question": None, "runtime_s": None, "intermediate_steps": "x", "error": None}])
    )
    (tmp_path / "a_output.json").write_text('{"eval_output_items": [{"id": 1, "score": NaN}, 3]}')
    (tmp_path / "b_output.json").write_text('{"eval_output_items": [{"id": 1, "score": true}]}')
    (tmp_path / "cost_output.json").write_text('{"eval_output_items": [{"id": 1, "score": [1]}]}')
    (tmp_path / "calc_runner_output.json").write_text("[1]")
    run = read_run(tmp_path)
    (item,) = run.items
    assert item.values == {
        **dict.fromkeys(("latency_s", "input_tokens", "output_tokens", "cost", "a", "cost (score)")),
        "b": 1,
    }
    assert item.input == "null"


def test_several_values_and_categories_are_compared_over_what_either_run_has(tmp_path):
    """`tone` is polite in one run and rude in the other: each category is a share in both."""
    for name, tones, failed in (("a", ("polite", "polite"), False), ("b", ("rude", None), True)):
        folder = tmp_path / name
        folder.mkdir()
        rows = [
            {"id": str(number), "question": "q", "runtime_s": 1.0, "intermediate_steps": [], "error": None}
            for number in range(2)
        ]
        items = [
            {"id": str(number), "score": {"tone": tone, "near": 0.5, "calls": 3}, "reasoning": None}
            for number, tone in enumerate(tones)
        ]
        if failed:
            rows[1]["error"] = {"type": "E", "message": ""}
            items[1]["score"] = 0.0
        (folder / "workflow_output.json").write_text(json.dumps(rows))
        (folder / "judge_output.json").write_text(json.dumps({"eval_output_items": items}))
    found = compare(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    assert [name for name in found.metrics if "judge" in name] == [
        "judge.tone.polite",
        "judge.tone.rude",
        "judge.near",
        "judge.calls",
    ]
    both = {name: (one.a, one.b) for name, one in found.metrics.items() if "judge" in name}
    assert both == {
        "judge.tone.polite": (1, 0),
        "judge.tone.rude": (0, 0.5),
        "judge.near": (0.5, 0.25),
        "judge.calls": (3, 1.5),
    }
    assert found.shares == ["judge.tone.polite", "judge.tone.rude", "judge.near"]
