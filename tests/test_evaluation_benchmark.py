import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from benchmarks.evaluation import beside, overhead
from benchmarks.evaluation.workload import JUDGE, stand_in, write_questions

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
    small = ("--rounds", "2", "--items", "4", "--only", "no call, exact", "--beside", "5", "--processes", "1")
    nowhere = ("--inspect", "/nowhere/python", "--nat", "/nowhere/python")
    printed = run("benchmarks.evaluation", *small, *nowhere).splitlines()
    title = overhead.CASES[0].title
    [row] = [line for line in printed if line.startswith(title)]
    _asked_ms, _calls_ms, difference_ms, low_ms, high_ms, _profile_ms = map(
        float, re.findall(r"-?[0-9.]+", row.removeprefix(title))
    )
    assert low_ms <= difference_ms <= high_ms
    ours, inspect, nat, bare = printed[-4:]
    assert ours.startswith(beside.OURS)
    assert ours.split()[-1] == "0.800"
    assert inspect.split(maxsplit=1) == [beside.INSPECT, "not installed: inspect_ai"]
    assert nat.split(maxsplit=1) == [beside.NAT, "not installed: nat.plugins.eval"]
    assert bare.startswith(beside.BARE)


def test_the_bare_calls_are_those_of_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = tmp_path / "questions.csv"
    write_questions(questions, 10)
    monkeypatch.setenv("MILLSTREAM_HOME", str(tmp_path / "home"))
    judged = next(case for case in overhead.CASES if (case.workflow, case.evaluator) == ("langchain", JUDGE))
    with stand_in(tmp_path) as url:
        monkeypatch.setenv("BENCH_URL", url)
        asked = 0
        for kind in ("engine", "bare"):
            with overhead.worker(kind, judged, 4, tmp_path) as worker:
                for _ in range(2):
                    told = worker.take(questions)
                    asked += 2 * 10
                    assert told["cpu_s"] >= told["scored_s"] > 0
                    read = httpx.get(url.removesuffix("/v1") + "/stats").json()
                    assert (read["completed"], read["requests"]) == (asked, asked)


def test_a_round_tells_what_the_larger_run_adds_for_each_item() -> None:
    class Told(overhead.Worker):
        def __init__(self, **by_file: dict[str, float]) -> None:
            self._by_file = by_file

        def take(self, questions: Path) -> dict[str, float]:
            return self._by_file[questions.name]

    engine = Told(small={"scored_s": 0.1, "cpu_s": 0.2}, large={"scored_s": 0.5, "cpu_s": 0.8})
    bare = Told(small={"scored_s": 0, "cpu_s": 0.05}, large={"scored_s": 0, "cpu_s": 0.25})
    spent = overhead.spent_in_a_round(engine, bare, Path("small"), Path("large"), 100)
    assert spent == pytest.approx(overhead.Spent(engine=4.0, profile=2.0, calls=2.0))


def test_cases_are_chosen_by_words_of_their_rows() -> None:
    assert overhead.chosen(None) == list(overhead.CASES)
    assert [case.evaluator for case in overhead.chosen(["judge"])] == [JUDGE, JUDGE]
