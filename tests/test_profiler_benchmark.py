import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.profiler import agreement, beside
from benchmarks.profiler.measured import Stopped, measure

pytest.importorskip("pandas")

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.profiler", "--rounds", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_benchmark_measures_what_is_installed_names_what_is_not_and_compares_figures() -> None:
    done = run("--requests", "2,5", "--spans", "0", "--compaction", "0", "--nat", "/nowhere/python")
    assert done.returncode == 0, done.stderr
    for row in (beside.OURS, "millstream profile --json", beside.PANDAS, beside.NAT):
        assert done.stdout.count(f"  {row}  ") == 2
    assert done.stdout.count("not installed: nvidia-nat-profiler") == 2
    [agreed] = [line for line in done.stdout.splitlines() if line.startswith("Millstream agrees")]
    right, stated = (word for word in agreed.split() if word.isdigit())
    assert right == stated
    assert int(right) > 80


def test_growth_is_measured_by_spans() -> None:
    done = run("--requests", "0", "--spans", "300,600", "--compaction", "0")
    assert done.returncode == 0, done.stderr
    *_, small, large = done.stdout.splitlines()
    assert small.split()[0] == "300"
    assert len(large.split()) == len(small.split()) + 1  # the exponent


def test_compaction_is_measured_on_a_journal_of_its_own() -> None:
    done = run("--requests", "0", "--spans", "0", "--compaction", "130")
    assert done.returncode == 0, done.stderr
    spans, journal_mb, *_, each_second = done.stdout.splitlines()[-1].split()
    assert (spans, journal_mb) == ("130", "0.1")
    assert int(each_second.replace(",", "")) > 0


def test_a_process_is_stopped_at_its_limits_and_a_failure_says_why(tmp_path: Path) -> None:
    def limited(code: str, **limits: float) -> str:
        with pytest.raises(Stopped) as stopped:
            measure([sys.executable, "-c", code], tmp_path / "printed", **limits)
        return str(stopped.value)

    assert "stopped after 1 s" in limited("import time; time.sleep(60)", limit_s=0.5)
    held = "import time; kept = b'x' * 400_000_000; time.sleep(60)"
    assert "stopped after" in limited(held, limit_s=50, limit_mb=300)
    assert limited("raise SystemExit('no such thing')") == "failed: no such thing"


def test_figures_that_differ_are_named_with_the_reason() -> None:
    right = {"LLM latency mean s": 2.0, "requests": 3.0, "busy s": 1.0}
    lines = list(agreement.lines(right, dict(right), right | {"LLM latency mean s": 1.0}))
    assert lines[0] == "Millstream agrees with pandas on 3 of 3 figures that both state"
    assert lines[1] == "NAT agrees with pandas on 2 of 3 figures that both state"
    assert "-50.0 %" in lines[2]
    assert "last start before it" in lines[2]
