"""Ctrl-C pressed again and again, and before there is a run: 130 and a sentence, whatever it hits."""

import signal
import subprocess
import sys
import time

import pytest

from tests.evaluation.conftest import COMMAND

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
