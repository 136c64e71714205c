"""Starts the processes that are measured, one at a time."""

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import millstream
from benchmarks.recording.sink import Sink
from benchmarks.recording.subjects import Subject
from benchmarks.recording.worker import COUNTER, RESULT

PATIENCE_S: Final = 600
_ROOT: Final = Path(__file__).parents[2]
_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")


class MeasurementFailed(Exception):  # noqa: N818  # says what happened
    """A process that did not come to its end."""


class Processes:
    """Runs tasks of `worker` that send to one sink.

    Args:
        sink: takes what is sent.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def find(self, subject: Subject, task: str, **arguments: Any) -> dict[str, Any]:
        """What a task found.

        Raises:
            MeasurementFailed: it found nothing, or it tried to reach another machine.
        """
        with tempfile.TemporaryDirectory(prefix="bench-recording-") as folder:
            self._sink.clear()
            process = self._start(subject, task, folder, arguments)
            try:
                _, said = process.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise MeasurementFailed(f"not done after {PATIENCE_S} s") from None
            path = Path(folder, RESULT)
            if process.returncode or not path.exists():
                raise MeasurementFailed((said.strip().splitlines() or ["no reason said"])[-1])
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if found["tried"]:
                raise MeasurementFailed(f"tried to reach {', '.join(sorted(set(found['tried'])))}")
            if task == "cost" and subject.told:
                found["arrived"] = self._arrived(subject, Path(folder))
            found["on_disk"] = sum(path.stat().st_size for path in Path(folder).rglob("*.jsonl"))
        return found

    def lost_in_kill(self, subject: Subject, *, after_s: float, per_second: int) -> tuple[int, int]:
        """Kill a process (SIGKILL) that has made spans for some time.

        Returns:
            Spans that it had made, and those of them that were lost.
        """
        with tempfile.TemporaryDirectory(prefix="bench-recording-") as folder:
            self._sink.clear()
            process = self._start(
                subject, "until_killed", folder, {"folder": folder, "per_second": per_second}
            )
            counter = Path(folder, COUNTER)
            try:
                _wait_for_first(process, counter)
                time.sleep(after_s)
            finally:
                process.send_signal(signal.SIGKILL)
                _, said = process.communicate()
            made = _read(counter)
            if process.returncode != -signal.SIGKILL or not made:
                raise MeasurementFailed((said.strip().splitlines() or ["made no spans"])[-1])
            time.sleep(0.5)  # the sink reads what was sent
            return made, max(0, made - self._arrived(subject, Path(folder)))

    def _start(
        self, subject: Subject, task: str, folder: str, arguments: Mapping[str, Any]
    ) -> subprocess.Popen[str]:
        order = {
            "subject": subject.name,
            "task": task,
            "sink": self._sink.address,
            "folder": folder,
            "arguments": arguments,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.recording.worker", json.dumps(order)],
            cwd=folder,
            env=_environment(folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _arrived(self, subject: Subject, folder: Path) -> int:
        if subject.told == "journal":
            return sum(span.status != "interrupted" for span in millstream.open_store(folder).spans())
        if subject.told == "jsonl":
            whole = (folder / "spans.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
            return len(whole)
        return self._sink.spans()


def _environment(folder: str) -> dict[str, str]:
    """Nothing of the user's that would change what is measured, or send it away."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        **inherited,
        "HOME": folder,
        "PYTHONPATH": str(_ROOT),
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "LOGFIRE_SEND_TO_LOGFIRE": "false",
    }


def _wait_for_first(process: subprocess.Popen[str], counter: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline and not _read(counter):
        time.sleep(0.02)


def _read(counter: Path) -> int:
    data = counter.read_bytes() if counter.exists() else b""
    return int(struct.unpack("q", data)[0]) if len(data) == struct.calcsize("q") else 0
