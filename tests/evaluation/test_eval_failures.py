"""Items and evaluators that fail in uncommon ways, and what the figures then say."""

import subprocess

import pytest

from millstream.store import open_store

ODD = """
import asyncio
import math

from millstream import start_span


def interrupted(question: str) -> str:
    if question == "interrupt":
        raise KeyboardInterrupt
    return question.upper()


async def cancelled(question: str) -> str:
    async def inner() -> None:
        raise KeyboardInterrupt

    if question == "interrupt":
        await asyncio.create_task(inner())
    if question == "cancel":
        raise asyncio.CancelledError
    return question.upper()


async def slow(question: str) -> str:
    try:
        await asyncio.sleep(600 if question == "hang" else 0)
    except asyncio.CancelledError:
        return "too late"
    return question.upper()


def bulky(question: str) -> str:
    with start_span("bulky", input=question + "x" * 9000):
        return question.upper()


def score(item):
    return float(item.output)


def not_finite(item):
    return math.nan


def mutate(item):
    item.row["answer"] = "changed"
    item.row["nested"]["x"].append("changed")
    return 1


def see(item):
    return item.row["answer"] == "ONE" and item.row["nested"] == {"x": []}


def leave(item):
    raise SystemExit(3)
"""


@pytest.fixture
def odd(runs):
    (runs.folder / "odd.py").write_text(ODD)
    return runs


def _root(runs, item_id: str):
    trace_id = {result["id"]: result["trace_id"] for result in runs.results()}[item_id]
    home = runs.json("config_metadata.json")["journal_home"]
    return next(span for span in open_store(home).spans([trace_id]) if span.parent_id is None)


@pytest.mark.parametrize("target", ["flow.py:answer", "odd.py:slow"])
def test_an_item_that_times_out_is_an_error_of_its_root_span(odd, target):
    odd.config(target=target, timeout_s=0.3)
    odd.data(("a", "hang", "X"), ("b", "two", "TWO"))
    assert odd.spawn().returncode == 3
    root = _root(odd, "a")
    assert root.status == "error"
    assert root.error.type == "ItemTimeoutError"
    assert root.error.message == "the item ran longer than eval.general.timeout_s = 0.3 s"
    assert _root(odd, "b").status == "ok"
    assert {result["id"]: result["error"] for result in odd.results()}["a"]["type"] == "ItemTimeoutError"


@pytest.mark.parametrize("target", ["odd.py:interrupted", "odd.py:cancelled"])
def test_a_keyboard_interrupt_of_the_workflow_is_that_items_failure(odd, target):
    odd.config(target=target, max_concurrency=1)
    odd.data(("a", "one", "ONE"), ("b", "interrupt", "X"), ("c", "three", "THREE"))
    done = odd.spawn()
    assert done.returncode == 3, done.stderr
    errors = {result["id"]: result["error"] for result in odd.results()}
    assert errors["a"] is errors["c"] is None
    assert "KeyboardInterrupt" in errors["b"]["message"]
    assert _root(odd, "b").status == "error"


def test_a_workflow_that_cancels_itself_failed(odd):
    odd.config(target="odd.py:cancelled")
    odd.data(("a", "cancel", "ONE"), ("b", "two", "TWO"))
    assert odd.spawn().returncode == 3
    assert _root(odd, "a").status == "error"


def test_an_evaluator_that_leaves_is_a_missing_score(odd):
    odd.config(evaluators={"leave": {"_type": "python", "target": "odd.py:leave"}})
    odd.data(("a", "one", "ONE"), ("b", "two", "TWO"))
    done = odd.run()
    assert done.returncode == 3
    assert "2 scores are missing (item 'a' and 1 more: the evaluator failed: " in done.stdout
    assert "leave called sys.exit(3)" in done.stdout


@pytest.mark.parametrize("target", ["odd.py:score", "odd.py:not_finite"])
def test_failed_items_alone_make_no_average(odd, target):
    odd.config(evaluators={"e": {"_type": "python", "target": target}})
    odd.data(("a", "boom", "X"), ("b", "two", "TWO"), ("c", "boom too", "X"))
    done = odd.run("--fail-under", "e=0")
    assert done.returncode == 1
    scored = odd.json("e_output.json")
    assert (scored["average_score"], scored["n"], scored["missing"]) == (None, 0, 3)
    assert all(one["score"] is None for one in scored["eval_output_items"])
    assert "no answered item has a score" in scored["eval_output_items"][0]["error"]


def test_all_failed_is_still_an_average_of_0(odd):
    odd.config(evaluators={"e": {"_type": "python", "target": "odd.py:score"}})
    odd.data(("a", "boom", "X"), ("b", "boom too", "X"))
    assert odd.run().returncode == 3
    assert odd.json("e_output.json")["average_score"] == 0


def test_what_cannot_be_compared_is_missing_for_failed_items_too(odd):
    odd.config(
        evaluators={
            "js": {"_type": "json_match"},
            "re": {"_type": "regex", "pattern": "{expected}"},
        }
    )
    odd.data(("a", "boom", "not json"), ("b", "two", "2"), ("c", "boom too", "3"), ("d", "boom d", ""))
    assert odd.run().returncode == 3
    js = {one["id"]: one["score"] for one in odd.json("js_output.json")["eval_output_items"]}
    assert js == {"a": None, "b": 0, "c": 0, "d": None}
    re = {one["id"]: one["score"] for one in odd.json("re_output.json")["eval_output_items"]}
    assert re == {"a": 0, "b": 0, "c": 0, "d": None}


def test_an_evaluator_cannot_change_the_row_of_others(odd):
    odd.config(
        evaluators={
            "mutate": {"_type": "python", "target": "odd.py:mutate"},
            "see": {"_type": "python", "target": "odd.py:see"},
        },
        dataset={"_type": "json", "file_path": "data.json"},
    )
    (odd.folder / "data.json").write_text(
        '[{"id": "a", "question": "one", "answer": "ONE", "nested": {"x": []}}]'
    )
    assert odd.run().returncode == 0
    assert odd.json("see_output.json")["average_score"] == 1
    assert odd.json("workflow_output.json")[0]["nested"] == {"x": []}


def test_an_empty_question_is_not_asked_and_misses_no_spans(odd):
    odd.config(evaluators={"calls": {"_type": "avg_num_llm_calls"}})
    odd.data(("a", "", "X"), ("b", "two", "TWO"))
    done = odd.run()
    assert done.returncode == 3
    assert "recorded spans" not in done.stderr
    assert "1 of 2 items has no question" in done.stderr
    calls = odd.json("calls_output.json")["eval_output_items"][0]
    assert calls["score"] is None
    assert "the question is empty" in calls["error"]


def test_the_commonest_reason_is_named(odd):
    odd.config(evaluators={"js": {"_type": "json_match"}})
    odd.data(("a", "one", ""), ("b", "two", "x"), ("c", "three", "x"), ("d", "four", "1"))
    text = odd.run().stdout
    assert "js: 3 scores are missing (item 'b' and 1 more: the expected answer is not JSON)" in text


def test_times_in_the_answers_are_those_of_the_root_span(odd):
    odd.config()
    odd.data(("a", "one", "ONE"))
    assert odd.run().returncode == 0
    row, root = odd.json("workflow_output.json")[0], _root(odd, "a")
    assert (row["start_ns"], row["runtime_s"]) == (root.start_ns, root.duration_s)


def test_lost_spans_say_where_why_and_what_to_do(odd, tmp_path):
    odd.config(target="odd.py:bulky", max_concurrency=1)
    odd.data(*((str(number), f"q{number}", f"Q{number}") for number in range(6)))
    home = tmp_path / "home"
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 24; exec "$@"', "bash", *odd.command],
        cwd=odd.folder,
        env={**odd.environment, "MILLSTREAM_HOME": str(home), "CALL_S": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert f" spans could not be recorded in {home}" in done.stderr
    assert "MILLSTREAM_HOME" in done.stderr
    assert odd.json("accuracy_output.json")["average_score"] == 1
