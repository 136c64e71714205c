import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

ROOT = Path(__file__).parents[1]
OURS, OTEL = "millstream @track_function", "OpenTelemetry + input/output + OTLP"
ROWS = ("plain call", OURS, OTEL, "Langfuse @observe", "NAT @track_function + OTLP")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_benchmark_measures_what_is_installed_and_names_what_is_not(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    chosen = [part for word in ("plain", OTEL, "Langfuse", "+ OTLP") for part in ("--only", word)]
    done = run("-m", "benchmarks.recording", "--quick", *chosen, "--only", OURS, "--json", str(figures))
    assert done.returncode == 0, done.stderr
    for row in ROWS:
        assert f"\n{row}" in done.stdout
    assert "failed" not in done.stdout
    found = json.loads(figures.read_text(encoding="utf-8"))
    for name in (OURS, OTEL):
        [cost] = found["cost"][name]
        assert cost["arrived"] == cost["made"]
        assert all(cost[form]["caller_us"] > 0 for form in ("single", "nested", "async"))
        assert set(found["flatness"][name][0]) >= {"first", "deep", "after"}
        assert found["weight"][name][0]["made"] > 0
    [kill] = found["loss"][OURS]
    assert kill["lost"] <= 1 < kill["made"]
    assert found["conversation"]["on_disk"] < found["conversation"]["all_inputs"]


def test_a_measured_process_reaches_no_other_machine() -> None:
    code = (
        "import socket\nfrom benchmarks.recording import fence\nfence.install()\n"
        "for reach in (lambda: socket.create_connection(('192.0.2.1', 80)),\n"
        "              lambda: socket.getaddrinfo('example.org', 80),\n"
        "              lambda: socket.socket().connect_ex(('192.0.2.2', 80))):\n"
        "    try:\n        reach()\n    except OSError as error:\n        print(error)\n"
        "print(fence.tried)\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    *said, tried = done.stdout.splitlines()
    assert len(said) == 3
    assert all("keeps to its own machine" in line for line in said)
    assert tried == "['192.0.2.1', 'example.org', '192.0.2.2']"
