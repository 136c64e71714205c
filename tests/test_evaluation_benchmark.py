import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from benchmarks.evaluation import beside, overhead
from benchmarks.evaluation.workload import stand_in, write_config, write_questions

pytest.importorskip("pandas")
pytest.importorskip("langchain_openai")

ROOT = Path(__file__).parents[1]


def run(*arguments: str, **environ: str) -> str:
    """What a module of the benchmark prints."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_tables_are_measured_and_say_what_is_not_installed() -> None:
    small = ("--rounds", "1", "--items", "2", "--only", "no call", "--beside", "5")
    printed = run("benchmarks.evaluation", *small, "--inspect", "/nowhere/python").splitlines()
    title = overhead.CASES[0].title
    [row] = [line for line in printed if line.startswith(title)]
    asked_ms, calls_ms, difference_ms, *_ = map(float, row.removeprefix(title).replace(" to ", " ").split())
    assert calls_ms == 0
    assert difference_ms == asked_ms
    ours, theirs, bare = printed[-3:]
    assert ours.startswith(beside.OURS)
    assert ours.split()[-1] == "0.800"
    assert theirs.split(maxsplit=1) == [beside.INSPECT, "not installed: inspect-ai"]
    assert bare.startswith(beside.BARE)


def test_the_bare_calls_are_those_of_the_evaluation(tmp_path: Path) -> None:
    questions, config = tmp_path / "questions.csv", tmp_path / "judged.yml"
    write_questions(questions, 10)
    write_config(config, questions, "langchain", "llm_judge", 4)

    def asked(url: str, *arguments: str) -> tuple[int, int]:
        """Requests so far, after those of a process, whose CPU time it tells."""
        told = json.loads(run(*arguments, BENCH_URL=url, MILLSTREAM_HOME=str(tmp_path / "home")))
        assert told["cpu_s"] >= told.get("scored_s", 0.1) > 0
        read = httpx.get(url.removesuffix("/v1") + "/stats").json()
        return read["completed"], read["requests"]

    with stand_in(tmp_path) as url:
        assert asked(url, "benchmarks.evaluation.evaluated", str(config)) == (20, 20)
        bare = ("benchmarks.evaluation.bare", str(questions), "langchain", "4", "judged")
        assert asked(url, *bare) == (40, 40)


def test_cases_are_chosen_by_words_of_their_rows() -> None:
    assert overhead.chosen(None) == list(overhead.CASES)
    assert [case.evaluator for case in overhead.chosen(["judge"])] == ["llm_judge"]
