"""Ctrl-C pressed again and again, and before there is a run: 130 and a sentence, whatever it hits."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.evaluation.conftest import COMMAND
from tests.simulate.process import running

MANY = tuple((f"{number:03}", f"question {number}", f"QUESTION {number}") for number in range(12))
SLOW_TO_STOP = """
import asyncio


async def answer(question: str) -> str:
    try:
        await asyncio.sleep(0.1)
    finally:
        await asyncio.sleep(0.1)
    return question.upper()
"""


def _press_until_it_ends(process: subprocess.Popen[str], number: int, gap_s: float) -> None:
    until_s = time.monotonic() + 20
    while process.poll() is None:
        assert time.monotonic() < until_s
        process.send_signal(number)
        time.sleep(gap_s)


@pytest.mark.parametrize(
    ("number", "gap_s"), [(signal.SIGINT, 0.003), (signal.SIGINT, 0.05), (signal.SIGTERM, 0.003)]
)
def test_an_impatient_user_gets_the_message_and_can_go_on(runs, number, gap_s):
    (runs.folder / "slow.py").write_text(SLOW_TO_STOP)
    runs.config(target="slow.py:answer", max_concurrency=2)
    runs.data(*MANY)
    process = runs.start()
    while len(runs.results()) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    _press_until_it_ends(process, number, gap_s)
    done = runs.finish(process)
    kept = len(runs.results())
    assert done.returncode == 130
    assert done.stderr.removeprefix("Stopping; press Ctrl-C again to stop at once.\n") == (
        f"Stopped after {kept} of 12 items. Their results are in out/results.jsonl; the same command with "
        "--resume goes on.\n"
    )
    assert runs.run("--resume").returncode == 0
    assert [row["id"] for row in runs.json("workflow_output.json")] == [row[0] for row in MANY]


@pytest.mark.parametrize(
    ("number", "arguments"), [(signal.SIGINT, ()), (signal.SIGTERM, ("--skip_workflow",))]
)
def test_a_signal_while_it_profiles(runs, number, arguments):
    runs.config()
    runs.data(*MANY)
    if arguments:
        assert runs.run().returncode == 0
        (runs.out / "scores.jsonl").unlink()
    process = runs.start(*arguments)
    scores = runs.out / "scores.jsonl"
    while not scores.exists() or len(scores.read_text().splitlines()) < 12:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(number)
    done = runs.finish(process, 15)
    assert done.returncode == 130
    assert done.stderr.endswith(
        "Stopped after 12 of 12 scores. They are in out/scores.jsonl; "
        "the same command with --resume goes on.\n"
    )
    assert done.stdout == ""
    assert runs.run("--resume", *arguments).returncode == 0
    assert len(runs.json("accuracy_output.json")["eval_output_items"]) == 12
    assert (runs.out / "report.html").exists()


AGENT = """
from millstream import Builder, FunctionBaseConfig, FunctionInfo, register_function


class AddConfig(FunctionBaseConfig, name="add_of_the_stopped_test"):
    pass


@register_function(config_type=AddConfig)
async def add(config: AddConfig, builder: Builder):
    async def add(a: int, b: int) -> int:
        return a + b

    yield FunctionInfo.from_fn(add, description="Adds two numbers.")
"""
RULES = {
    "models": {"able": {"latency": {"time_to_first_token_s": 0.05}}, "judge": None},
    "rules": [
        {"when": {"model": "judge", "last_user_matches": "It is [0-4]"}, "reply": {"json": {"score": 2}}},
        {"when": {"model": "judge"}, "reply": {"json": {"score": 4}}},
        {"when": {"last_message_role": "tool"}, "reply": "It is $last"},
        {
            "when": {"last_user_matches": r"add (?P<a>\d+) and (?P<b>\d+)"},
            "reply": {"tool_calls": [{"name": "add", "arguments": {"a": "$a", "b": "$b"}}]},
        },
    ],
}


def _scores(folder):
    """Without times, ids and tokens of the calls."""
    return {
        name: [
            (one["id"], one["score"], one["reasoning"])
            for one in json.loads((folder / f"{name}_output.json").read_text())["eval_output_items"]
        ]
        for name in ("calls", "path")
    }


def test_an_agent_that_was_killed_has_the_scores_of_one_that_nobody_disturbed(runs, tmp_path):
    rows = [
        {
            "id": str(n),
            "question": f"add {n} and 0",
            "calls": [{"name": "add", "arguments": {"a": str(n), "b": str(n % 2)}}],
        }
        for n in range(8)
    ]
    (runs.folder / "data.json").write_text(json.dumps(rows))
    (runs.folder / "adding.py").write_text(AGENT)
    (runs.folder / "rules.yml").write_text(yaml.safe_dump(RULES))
    dataset = {"_type": "json", "file_path": "data.json", "structure": {"expected_trajectory_key": "calls"}}
    with running(runs.folder / "rules.yml") as server:
        content = {
            "general": {"modules": ["adding.py"]},
            "llms": {
                name: {"_type": "openai", "model_name": name, "base_url": server.base_url}
                for name in ("able", "judge")
            },
            "functions": {"add": {"_type": "add_of_the_stopped_test"}},
            "workflow": {"_type": "tool_calling_agent", "llm_name": "able", "tool_names": ["add"]},
            "eval": {
                "general": {"output_dir": "out", "dataset": dataset, "max_concurrency": 1},
                "evaluators": {
                    "calls": {"_type": "tool_calls", "mode": "any_order"},
                    "path": {"_type": "trajectory", "llm_name": "judge"},
                },
            },
        }
        (runs.folder / "config.yml").write_text(yaml.safe_dump(content))
        process = runs.start()
        while len(runs.results()) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert runs.run("--resume").returncode == 0
        assert runs.run("--override", "eval.general.output_dir", "whole").returncode == 0
    assert _scores(runs.out) == _scores(runs.folder / "whole")
    calls, path = _scores(runs.out).values()
    assert {score for _, score, _ in calls} == {0, 1}
    assert {score for _, score, _ in path} == {0.25, 0.75}
    assert all(reason["steps"] == 3 for _, _, reason in path)


@pytest.mark.parametrize("after_s", [0.1, 0.3, 0.6, 1.0])
def test_a_signal_during_the_imports_is_a_word_and_no_traceback(runs, after_s):
    runs.config()
    runs.data(*MANY)
    begun = "print('begun', flush=True)"  # what comes before is Python's own start
    code = f"from millstream.__main__ import main; {begun}; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *COMMAND[3:]],
        cwd=runs.folder,
        env=runs.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    time.sleep(after_s)
    _press_until_it_ends(process, signal.SIGINT, 0.003)
    done = runs.finish(process)
    assert done.returncode == 130
    said = done.stderr.removeprefix("Stopping; press Ctrl-C again to stop at once.\n")
    assert said in ("interrupted\n", "Stopped.\n")
    assert not runs.out.exists()
