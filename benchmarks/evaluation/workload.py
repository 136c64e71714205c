"""The questions, the stand-in that answers them in a process of its own, and the workflow files."""

import csv
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.profiler.measured import ROOT

JUDGE: Final = "llm_judge"
RUBRIC: Final = "10: says the word once, and nothing else. 0: does not."
_STOP_WITHIN_S: Final = 10
_RULES: Final = """\
models:
  small: {latency: {time_to_first_token_s: 0.1}, tokens_per_chunk: 16}
rules:
  - when: {last_user_matches: '<answer '}
    reply: {json: {reasoning: "As the rubric has it.", score: 10}}
  - when: {last_user_matches: 'Say the word (?P<word>\\S+) twice'}
    reply: $word $word
  - when: {last_user_matches: 'Say the word (?P<word>\\S+) once'}
    reply: $word
"""
_CONFIG: Final = """\
workflow: {{_type: python, target: "benchmarks.evaluation.calls:{workflow}"}}
llms:
  judge: {{_type: openai, model_name: small, base_url: "${{BENCH_URL}}", api_key: none}}
eval:
  general:
    output_dir: {name}
    max_concurrency: {concurrency}
    dataset: {{_type: csv, file_path: "{questions}"}}
  evaluators:
"""
_EVALUATORS: Final = {
    "exact_match": "    exact_match: {_type: exact_match}\n",
    JUDGE: f'    llm_judge: {{_type: llm_judge, llm_name: judge, rubric: "{RUBRIC}"}}\n',
}


def write_questions(path: Path, items: int) -> None:
    """One in five asks for the word twice, and expects it once."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "question", "answer"])
        for number in range(items):
            often = "twice" if number % 5 == 4 else "once"
            word = f"apple-{number}"
            rows.writerow([number, f"Say the word {word} {often}, and nothing else.", word])


def write_config(path: Path, questions: Path, workflow: str, evaluator: str, concurrency: int) -> None:
    """A workflow file; the output folder is beside it, with its name."""
    head = _CONFIG.format(
        workflow=workflow, name=path.with_suffix(""), questions=questions, concurrency=concurrency
    )
    path.write_text(head + _EVALUATORS[evaluator], encoding="utf-8")


@contextmanager
def stand_in(folder: Path) -> Iterator[str]:
    """The base URL of a model server in a process of its own."""
    rules = folder / "rules.yml"
    rules.write_text(_RULES, encoding="utf-8")
    command = [sys.executable, "-m", "millstream", "simulate", "llm", "--config", rules, "--exit-with-parent"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip() if server.stdout else ""
            if not url:
                raise SystemExit("the stand-in server did not start")
            yield url
        finally:
            server.terminate()
            try:
                server.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                server.kill()
