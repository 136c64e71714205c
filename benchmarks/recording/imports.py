"""What it costs to load an SDK."""

import subprocess
import sys
from typing import Final

from benchmarks.recording.subjects import version_of

STATEMENTS: Final = {  # and the package that it is of
    "import millstream": "millstream",
    "from millstream import track_function": "millstream",
    "import opentelemetry.sdk.trace.export": "opentelemetry-sdk",
    "import opentelemetry.exporter.otlp.proto.http.trace_exporter, opentelemetry.sdk.trace.export": (
        "opentelemetry-exporter-otlp-proto-http"
    ),
    "import langfuse": "langfuse",
    "import logfire": "logfire",
    "import mlflow": "mlflow-tracing",
    "from nat.plugins.profiler.decorators.function_tracking import track_function": "nvidia-nat-profiler",
}


def import_ms(statement: str, tries: int) -> float | None:
    """Milliseconds of CPU that a statement costs a new interpreter; `None` where it is not installed."""
    if not version_of(STATEMENTS[statement]):
        return None
    code = f"import time; start = time.process_time(); {statement}; print(time.process_time() - start)"
    command = [sys.executable, "-c", code]
    return min(float(subprocess.check_output(command)) for _ in range(tries)) * 1000
