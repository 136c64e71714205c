"""Scoring: each score is kept as it comes, no judge is asked twice, and none holds up the run."""

import json
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from millstream.cli import eval_progress

MANY = tuple((f"{number:03}", f"question {number}", f"QUESTION {number}") for number in range(24))
FEW = (("a", "one", "ONE"), ("b", "two", "TWO"), ("c", "three", "THREE"), ("d", "four", "FOUR"))
JUDGES = '''
import asyncio
import os
import random
import threading
import time
import urllib.request
from pathlib import Path


def _called(item):
    with Path("judged.txt").open("a") as judged:
        judged.write(item.id + "\\n")


async def judge(item):
    """Slow, and says another thing each time."""
    _called(item)
    await asyncio.sleep(float(os.environ.get("JUDGE_S", "0.05")))
    return {"score": random.random(), "reasoning": {"rolled": [item.id, item.rep]}}


async def sure(item):
    """Slow, and says the same each time."""
    _called(item)
    await asyncio.sleep(float(os.environ.get("JUDGE_S", "0.05")))
    if item.id == "005":
        raise RuntimeError("no opinion")
    return {"score": len(item.question) / 100, "reasoning": item.output}


async def moody(item):
    """Fails as long as there is a file."""
    _called(item)
    if item.id in ("b", "c") and Path("moody").exists():
        raise RuntimeError("not in the mood")
    return 1


def down(item):
    """Needs a server."""
    _called(item)
    if Path("up").exists():
        return 1
    return urllib.request.urlopen("http://127.0.0.1:1/").status


def hang_sync(item):
    if item.id == "b":
        time.sleep(600)
    return 1


def hang_thread(item):
    if item.id == "b":
        threading.Thread(target=time.sleep, args=(600,)).start()
        time.sleep(600)
    return 1


async def hang_async(item):
    if item.id == "b":
        await asyncio.sleep(600)
    return 1


async def block_async(item):
    if item.id == "b":
        time.sleep(600)
    return 1


async def cancel(item):
    if item.id == "b":
        raise asyncio.CancelledError
    return 1


def nonsense(item):
    return {"a": object(), "b": float("nan"), "c": [1, 2], "d": 10**400}[item.id]


async def wordy(item):
    _called(item)
    return {"score": 1, "reasoning": "because " * 300}


class Rude:
    def __float__(self):
        raise ValueError("never")

    @property
    def item(self):
        raise ValueError("ask somebody else")


def rude(item):
    return Rude()


def weigh(item):
    return {"score": len(item.output) / 1e7, "reasoning": item.output}


async def long_answer(question):
    return question.upper() * 1_000_000
'''


@pytest.fixture
def judged(runs):
    """Runs, with evaluators; `.config` is still to be written."""
    (runs.folder / "judges.py").write_text(JUDGES)
    return runs


def _use(runs, *names: str, **general) -> None:
    runs.config(
        evaluators={name: {"_type": "python", "target": f"judges.py:{name}"} for name in names}, **general
    )


def _calls(runs) -> Counter[str]:
    path = runs.folder / "judged.txt"
    return Counter(path.read_text().split() if path.exists() else [])


def _scores(runs) -> list[dict]:
    path = runs.out / "scores.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def _wait_for(runs, process, scores: int) -> None:
    until_s = time.monotonic() + 60
    while len(_scores(runs)) < scores:
        assert time.monotonic() < until_s
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def _by_id(runs, name: str) -> dict[str, dict]:
    return {item["id"]: item for item in runs.json(f"{name}_output.json")["eval_output_items"]}


def test_killed_while_scoring_no_judge_is_asked_twice(judged):
    _use(judged, "judge", max_concurrency=3)
    judged.data(*MANY)
    process = judged.start(CALL_S="0")
    _wait_for(judged, process, 6)
    process.kill()
    process.communicate()
    before = {score["id"]: score["score"] for score in _scores(judged)}
    calls = _calls(judged)
    with (judged.out / "scores.jsonl").open("a") as file:  # as if killed while writing
        file.write('{"evaluator": "judge", "id": "02')
    done = judged.run("--resume")
    assert done.returncode == 0, done.stderr
    twice = _calls(judged)
    assert len(twice) == 24
    assert all(twice[one] == 1 for one in before)
    assert sum(twice.values()) - 24 <= sum(calls.values()) - len(before) <= 3  # those in flight
    assert len(judged.asked()) == 24
    after = _by_id(judged, "judge")
    assert {one: after[one]["score"] for one in before} == before
    assert after["007"]["reasoning"] == {"rolled": ["007", 1]}
    assert [row["id"] for row in judged.json("workflow_output.json")] == [row[0] for row in MANY]
    assert judged.json("config_metadata.json")["state"] == "finished"
    assert judged.run("--resume").returncode == 0  # a third time: there is nothing left to do
    assert _calls(judged) == twice


def test_the_files_after_a_kill_are_those_of_an_undisturbed_run(judged):
    _use(judged, "sure", max_concurrency=3)
    judged.data(*MANY, ("x", "boom x", "X"))
    process = judged.start(CALL_S="0")
    _wait_for(judged, process, 9)
    process.kill()
    process.communicate()
    assert judged.run("--resume").returncode == 3
    assert judged.run("--override", "eval.general.output_dir", "whole").returncode == 3
    assert (judged.out / "sure_output.json").read_bytes() == (
        judged.folder / "whole/sure_output.json"
    ).read_bytes()
    assert _by_id(judged, "sure")["005"]["error"] == "the evaluator failed: RuntimeError: no opinion"
    assert _by_id(judged, "sure")["x"]["score"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_scoring_keeps_what_is_scored(judged, number):
    _use(judged, "judge", max_concurrency=2)
    judged.data(*MANY)
    process = judged.start(CALL_S="0", JUDGE_S="0.2")
    _wait_for(judged, process, 4)
    process.send_signal(number)
    done = judged.finish(process, 30)
    assert done.returncode == 130
    kept = len(_scores(judged))
    assert 4 <= kept < 24
    assert f"Stopped after {kept} of 24 scores. They are in {Path('out/scores.jsonl')}" in done.stderr
    assert "--resume goes on" in done.stderr
    assert not (judged.out / "workflow_output.json").exists()
    assert judged.run("--resume").returncode == 0
    assert sum(_calls(judged).values()) <= 24 + 2
    assert len(judged.json("workflow_output.json")) == 24
    assert len(_by_id(judged, "judge")) == 24


@pytest.mark.parametrize("name", ["block_async", "hang_sync", "pattern"])
def test_a_signal_ends_an_evaluator_that_hangs(judged, name):
    pattern = {"_type": "regex", "pattern": "^(A+)+$"}
    python = {"_type": "python", "target": f"judges.py:{name}"}
    judged.config(evaluators={name: pattern if name == "pattern" else python}, max_concurrency=1)
    judged.data(("a", "aaa", "x"), ("b", "a" * 60 + "!", "x"), ("c", "aaaa", "x"))
    process = judged.start(CALL_S="0")
    _wait_for(judged, process, 1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    done = judged.finish(process, 20)
    assert done.returncode == 130
    assert "Stopped after 1 of 3 scores." in done.stderr
    assert [score["id"] for score in _scores(judged)] == ["a"]


def test_skip_workflow_alone_scores_anew_and_with_resume_it_goes_on(judged):
    _use(judged, "judge", max_concurrency=2)
    judged.data(*FEW)
    assert judged.run().returncode == 0
    first = _by_id(judged, "judge")
    done = judged.run("--skip_workflow")
    assert done.returncode == 0
    assert f"The earlier scores (4 scores) are now in {Path('out/scores.previous.jsonl')}." in done.stderr
    assert set(_calls(judged).values()) == {2}
    second = _by_id(judged, "judge")
    assert second != first
    previous = (judged.out / "scores.previous.jsonl").read_text().splitlines()
    assert {json.loads(line)["score"] for line in previous} == {one["score"] for one in first.values()}
    lines = (judged.out / "scores.jsonl").read_bytes().splitlines(keepends=True)
    (judged.out / "scores.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])  # stopped on its way
    assert judged.run("--skip_workflow", "--resume").returncode == 0
    assert sorted(_calls(judged).values()) == [2, 2, 2, 3]
    assert judged.run("--skip_workflow", "--resume").returncode == 0
    assert sum(_calls(judged).values()) == 9
    assert len(judged.asked()) == 4


def test_a_judge_that_failed_is_asked_again_only_with_retry_failed(judged):
    _use(judged, "moody")
    judged.data(*FEW)
    (judged.folder / "moody").touch()
    assert judged.run().returncode == 3
    assert judged.run("--resume").returncode == 3
    assert _calls(judged) == Counter("abcd")
    (judged.folder / "moody").unlink()
    assert judged.run("--resume").returncode == 3
    assert judged.run("--resume", "--retry-failed").returncode == 0
    assert _calls(judged) == Counter("abbccd")
    assert judged.json("moody_output.json")["average_score"] == 1
    assert len(judged.asked()) == 4


def test_another_evaluator_file_or_row_is_judged_again_and_nothing_else(judged):
    _use(judged, "sure")
    judged.data(*FEW)
    assert judged.run().returncode == 0
    judged.data(*FEW[:3], ("d", "four", "another"), ("e", "five", "FIVE"))
    assert judged.run("--resume").returncode == 0
    assert _calls(judged) == Counter("abcdde")
    (judged.folder / "judges.py").write_text(JUDGES + "\n# changed\n")
    assert judged.run("--resume").returncode == 0
    assert _calls(judged) == Counter("aabbccdddee")
    accuracy = {"accuracy": {"_type": "exact_match", "ignore_case": True}}
    judged.config(evaluators={"sure": {"_type": "python", "target": "judges.py:sure"}, **accuracy})
    assert judged.run("--resume").returncode == 0
    assert sum(_calls(judged).values()) == 11
    assert judged.json("accuracy_output.json")["n"] == 5


def test_a_judge_of_another_model_is_another_judge(tmp_path):
    from millstream.evaluation.fingerprint import evaluator_fingerprint

    def of(model: dict, options: dict) -> str:
        return evaluator_fingerprint(options, {"llms": {"main": model, "other": {"a": 1}}}, tmp_path)

    judge = {"_type": "llm_judge", "llm_name": "main", "rubric": "r" * 5000}
    first = of({"model_name": "x", "base_url": "http://localhost:1/v1"}, judge)
    assert first == of({"model_name": "x", "base_url": "http://localhost:2/v1"}, judge)
    assert first != of({"model_name": "y", "base_url": "http://localhost:1/v1"}, judge)
    assert first != of({"model_name": "x", "base_url": "http://localhost:1/v1"}, {**judge, "rubric": "/"})


def test_a_stop_before_the_first_score_names_no_file_that_is_not_there(tmp_path):
    from millstream.cli.eval_progress import Shown

    with Shown(verbose=False) as shown:
        shown.scoring(3)
        said = shown.interrupted(tmp_path)
    assert said == "Stopped before any score was there; the same command with --resume goes on."


def test_a_judge_that_compares_with_other_answers_is_another_judge(tmp_path, monkeypatch):
    from millstream.evaluation.fingerprint import evaluator_fingerprint

    monkeypatch.chdir(tmp_path)
    judge = {"_type": "llm_judge", "llm_name": "main", "rubric": "r", "compare_to": "./old"}

    def of(answers: str) -> str:
        (tmp_path / "old" / "workflow_output.json").write_text(answers)
        return evaluator_fingerprint(judge, {}, tmp_path / "elsewhere")

    (tmp_path / "old").mkdir()
    assert of("[1]") == of("[1]")
    assert of("[1]") != of("[2]")


def test_a_disk_that_fills_up_while_scoring_keeps_what_is_scored(judged):
    _use(judged, "wordy", max_concurrency=1)
    judged.data(*MANY)
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash", *judged.command],  # files of at most 20 KiB
        cwd=judged.folder,
        env={**judged.environment, "MILLSTREAM_HOME": str(judged.folder / "home"), "CALL_S": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "scores.jsonl cannot be written" in done.stderr
    assert "24 results are kept; the same command with --resume goes on" in done.stderr
    kept = len(_scores(judged))
    assert 0 < kept < 24
    assert judged.spawn("--resume", MILLSTREAM_HOME=str(judged.folder / "home")).returncode == 0
    assert sum(_calls(judged).values()) <= 24 + 1
    assert judged.json("wordy_output.json")["average_score"] == 1


@pytest.mark.parametrize("name", ["hang_sync", "hang_thread", "hang_async", "block_async"])
def test_an_evaluator_that_hangs_is_given_up(judged, name):
    _use(judged, name, scoring_timeout_s=0.5, max_concurrency=2)
    judged.data(*FEW)
    done = judged.spawn()
    assert done.returncode == 3, done.stderr
    scores = _by_id(judged, name)
    assert scores["b"]["score"] is None
    assert scores["b"]["error"] == (
        "the evaluator failed: ItemTimeoutError: it ran longer than eval.general.scoring_timeout_s = 0.5 s"
    )
    assert [scores[one]["score"] for one in "acd"] == [1, 1, 1]


def test_a_pattern_that_never_comes_to_an_end_is_given_up(judged):
    judged.config(
        evaluators={"pattern": {"_type": "regex", "pattern": "^(A+)+$"}},
        scoring_timeout_s=1,
        max_concurrency=2,
    )
    judged.data(("a", "aaa", "x"), ("b", "a" * 60 + "!", "x"), ("c", "aaaa", "x"), ("d", "b", "x"))
    done = judged.spawn()
    assert done.returncode == 3, done.stderr
    scores = _by_id(judged, "pattern")
    assert [scores[one]["score"] for one in "abcd"] == [1, None, 1, 0]
    assert "scoring_timeout_s = 1 s" in scores["b"]["error"]


def test_a_search_ends_with_a_parent_that_is_killed(judged):
    judged.config(evaluators={"pattern": {"_type": "regex", "pattern": "^(A+)+$"}})
    judged.data(("b", "a" * 60 + "!", "x"))
    process = judged.start()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until_s = time.monotonic() + 30
    while not (found := children.read_text().split()):
        assert time.monotonic() < until_s
        time.sleep(0.05)
    process.kill()
    process.communicate()
    while Path(f"/proc/{found[0]}").exists():
        state = Path(f"/proc/{found[0]}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        assert time.monotonic() < until_s
        time.sleep(0.1)


def test_nonsense_is_a_missing_score_with_its_reason(judged):
    _use(judged, "nonsense", "rude", "cancel")
    judged.data(*FEW)
    assert judged.spawn().returncode == 3
    assert all(one["score"] is None and one["error"] for one in _by_id(judged, "nonsense").values())
    assert "ask somebody else" in _by_id(judged, "rude")["a"]["error"]
    assert [one["score"] for one in _by_id(judged, "cancel").values()] == [1, None, 1, 1]
    assert "cancelled itself" in _by_id(judged, "cancel")["b"]["error"]


def test_a_judges_server_that_is_down_is_one_message(judged):
    judged.config(
        evaluators={
            "down": {"_type": "python", "target": "judges.py:down"},
            "sure": {"_type": "python", "target": "judges.py:sure"},
        },
        max_concurrency=2,
    )
    judged.data(*MANY)
    done = judged.run()
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert "The evaluator down cannot score: URLError" in done.stderr
    assert "the same command with --resume goes on" in done.stderr
    kept = _scores(judged)
    assert {score["evaluator"] for score in kept} <= {"sure"}
    assert len(kept) < 24
    assert len(judged.results()) == 24
    (judged.folder / "up").touch()
    (judged.folder / "judged.txt").unlink()
    assert judged.run("--resume").returncode == 3  # 005 has no opinion
    assert sum(_calls(judged).values()) == 48 - len(kept)
    assert judged.json("down_output.json")["average_score"] == 1


def test_the_only_judge_that_cannot_be_reached_is_no_missing_score(judged):
    _use(judged, "down")
    judged.data(FEW[0])
    assert judged.run().returncode == 4
    assert not (judged.out / "scores.jsonl").exists()


def test_the_time_of_a_run_is_over_while_it_asks(judged):
    _use(judged, "sure", run_timeout_s=1.5, max_concurrency=2)
    judged.data(*MANY)
    done = judged.spawn(CALL_S="0.4")
    assert done.returncode == 3
    kept = len(judged.results())
    assert 0 < kept < 24
    assert done.stderr.splitlines()[-1] == (
        f"The run reached eval.general.run_timeout_s = 1.5 s: {kept} of 24 items are done. "
        "What is done is kept; the same command with --resume goes on."
    )
    assert judged.spawn("--resume", "--override", "eval.general.run_timeout_s", "60").returncode == 3
    assert len(_by_id(judged, "sure")) == 24


def test_the_time_of_a_run_is_over_while_it_scores(judged):
    _use(judged, "hang_thread", "sure", run_timeout_s=2, max_concurrency=4)
    judged.data(*FEW)
    done = judged.spawn(CALL_S="0")
    assert done.returncode == 3
    assert "run_timeout_s = 2 s: 7 of 8 scores are there. What is done is kept" in done.stderr
    assert len(_scores(judged)) == 7


def test_code_that_blocks_ends_with_the_run(judged):
    judged.config(run_timeout_s=1)
    judged.data(("a", "one", "ONE"), ("b", "block", "X"))
    assert judged.spawn(timeout_s=30).returncode == 3


def test_an_answer_of_5_mb(judged):
    judged.config(
        target="judges.py:long_answer",
        evaluators={
            "weigh": {"_type": "python", "target": "judges.py:weigh"},
            "found": {"_type": "regex", "pattern": "WORDW"},
            "same": {"_type": "exact_match"},
        },
    )
    judged.data(("a", "words", "x"), ("b", "wordw", "y"))
    assert judged.spawn().returncode == 0
    assert _by_id(judged, "weigh")["a"]["score"] == 0.5
    assert [one["score"] for one in _by_id(judged, "found").values()] == [0, 1]
    assert len(judged.json("workflow_output.json")[0]["generated_answer"]) == 5_000_000
    assert (judged.out / "report.html").stat().st_size < 3_000_000
    assert judged.run("--skip_workflow", "--resume").returncode == 0


def test_progress_tells_rate_failures_and_time_left(judged, monkeypatch):
    monkeypatch.setattr(eval_progress, "_PLAIN_EVERY_S", 0.0)
    _use(judged, "moody")
    (judged.folder / "moody").touch()
    judged.data(*FEW, ("e", "boom e", "X"))
    lines = judged.run().stderr.splitlines()
    assert re.fullmatch(r"5 of 5 items, 1 failed, [\d.]+ a (second|minute), 0 s left\.", lines[4]), lines
    assert re.fullmatch(r"5 of 5 scores, 2 missing, [\d.e+]+ a (second|minute), 0 s left\.", lines[9]), lines
    resumed = judged.run("--resume").stderr.splitlines()
    assert resumed[0] == "5 of 5 items are done already."
    assert resumed[-1] == "5 of 5 scores."


def test_the_pace_of_a_slow_run_is_told_in_words(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(eval_progress.time, "monotonic", lambda: now[0])
    pace = eval_progress.Pace("items", 1000, 200, "failed")
    assert pace.sentence == "200 of 1000 items"
    now[0] = 100.0
    for number in range(40):
        pace.count(bad=number < 2)
    assert pace.sentence == "240 of 1000 items, 2 failed, 24 a minute, 32 min left"
    now[0] = 10_000.0
    assert pace.parts[-1] == "52.8 h left"
