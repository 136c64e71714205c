"""Real runs of `millstream eval` in a folder of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import millstream
from millstream.cli import main

COMMAND = [sys.executable, "-m", "millstream", "eval", "--config_file", "config.yml"]

WORKFLOW = '''
import asyncio
import os
import sys
import threading
import time
from pathlib import Path

from millstream import start_span
from millstream.span import SpanKind, Usage


async def answer(question: str) -> str:
    """Upper case, after one model call; some questions go wrong."""
    with Path("asked.txt").open("a") as asked:
        asked.write(question + "\\n")
    with start_span("model", kind=SpanKind.LLM, input=[{"role": "user", "content": question}]) as span:
        await asyncio.sleep(float(os.environ.get("CALL_S", "0.01")))
        span.set_usage(Usage(input_tokens=3, output_tokens=len(question)))
        span.set_output({"role": "assistant", "content": question.upper()})
    if "boom" in question:
        raise ValueError("this question went wrong")
    if "exit" in question:
        sys.exit("leaving")
    if "hang" in question:
        await asyncio.sleep(600)
    if "block" in question:
        time.sleep(600)
    return question.upper()


def sync_answer(question: str) -> str:
    if "hang" in question:
        time.sleep(600)
    if "thread" in question:
        threading.Thread(target=time.sleep, args=(600,)).start()
        time.sleep(600)
    return question.upper()


def score(item):
    return {"score": len(item.spans) / 2, "reasoning": f"{item.id} {item.rep} {item.row['question']}"}


async def score_async(item):
    if item.id == "b":
        raise RuntimeError("no opinion")
    return item.output == item.expected
'''


class Done(NamedTuple):
    """What came of one run."""

    returncode: int
    stdout: str
    stderr: str


class Runs:
    """Runs the command in one folder.

    Attributes:
        folder: the working directory; `out` in it is the output folder.
    """

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.out = folder / "out"
        (folder / "flow.py").write_text(WORKFLOW)
        self.command = COMMAND
        self.environment = {**os.environ, "PYTHONPATH": str(Path(millstream.__file__).parents[1])}

    def config(
        self, *, target: str = "flow.py:answer", evaluators: dict[str, Any] | None = None, **general: Any
    ) -> None:
        """Write config.yml."""
        general.setdefault("dataset", {"_type": "csv", "file_path": "data.csv"})
        content = {
            "workflow": {"_type": "python", "target": target},
            "eval": {
                "general": {"output_dir": "out", **general},
                "evaluators": {"accuracy": {"_type": "exact_match"}} if evaluators is None else evaluators,
            },
        }
        (self.folder / "config.yml").write_text(yaml.safe_dump(content))

    def data(self, *rows: tuple[str, str, str]) -> None:
        """Write data.csv with id, question and answer."""
        lines = ["id,question,answer", *(",".join(row) for row in rows)]
        (self.folder / "data.csv").write_text("\n".join(lines) + "\n")

    def run(self, *arguments: str) -> Done:
        """Run the command in this process."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["eval", "--config_file", "config.yml", *arguments])
        out, err = self._capsys.readouterr()
        return Done(left.value.code, out, err)

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start the command."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env={**self.environment, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def spawn(self, *arguments: str, timeout_s: float = 60, **env: str) -> Done:
        """Run the command in a process of its own."""
        return self.finish(self.start(*arguments, **env), timeout_s)

    @staticmethod
    def finish(process: subprocess.Popen[str], timeout_s: float = 60) -> Done:
        """Wait for a process; one that hangs is a failure."""
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"still running after {timeout_s} s: {process.communicate()}") from None
        assert "Traceback" not in err, err
        return Done(process.returncode, out, err)

    def json(self, name: str) -> Any:
        """One file of the output folder."""
        return json.loads((self.out / name).read_text())

    def results(self, name: str = "results.jsonl") -> list[dict[str, Any]]:
        """The lines of the results."""
        path = self.out / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def asked(self) -> list[str]:
        """The questions that the workflow was asked."""
        path = self.folder / "asked.txt"
        return path.read_text().splitlines() if path.exists() else []

    def spans(self) -> list[dict[str, Any]]:
        """What the profile was made of."""
        requests = self.json("all_requests_profiler_traces.json")
        return [step for request in requests for step in request["intermediate_steps"]]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runs:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    return Runs(tmp_path, capsys)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Writes a file of the test's folder."""

    def file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return file
