"""What recording costs the caller: a tracked call beside the same call under the OpenTelemetry SDK.

    make bench

One process, rounds in turn, so that a busy machine burdens all alike. Every variant records the call's name,
times, parent and its input and output as JSON. Ours writes them to the journal on disk within the call;
OpenTelemetry hands them to a batch processor whose exporter throws them away on another thread. The figure is
CPU time of the calling thread alone (CLOCK_THREAD_CPUTIME_ID), in microseconds a call.
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import millstream

CALLS = 400  # a round stays below OpenTelemetry's queue of 2,048 spans, which drops what is above


def work(a: int, b: int) -> dict[str, object]:
    return {"a": a, "sum": a + b, "ok": True}


class Discard(SpanExporter):
    """Takes every span and keeps none."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002  # the interface's
        return SpanExportResult.SUCCESS


def with_opentelemetry(provider: TracerProvider) -> Callable[[int, int], object]:
    tracer = provider.get_tracer("benchmark")

    def call(a: int, b: int) -> object:
        with tracer.start_as_current_span("work") as span:
            span.set_attribute("input.value", json.dumps({"a": a, "b": b}))
            result = work(a, b)
            span.set_attribute("output.value", json.dumps(result))
            return result

    return call


def round_us(call: Callable[[int, int], object]) -> float:
    """Microseconds of the calling thread's CPU a call, over one round."""
    started = time.thread_time_ns()
    for number in range(CALLS):
        call(number, 2)
    return (time.thread_time_ns() - started) / CALLS / 1000


def import_ms(statement: str) -> float:
    """Milliseconds of CPU that a statement costs a new interpreter."""
    code = f"import time; start = time.process_time(); {statement}; print(time.process_time() - start)"
    return min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(7)) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Discard()))
    tracked = millstream.track_function(work)

    def without_content(a: int, b: int) -> object:
        with millstream.start_span("work"):
            return work(a, b)

    with tempfile.TemporaryDirectory() as folder, millstream.recording(home=folder) as recording:
        variants: dict[str, Callable[[int, int], object]] = {
            "plain call": work,
            "millstream @track_function": tracked,
            "millstream start_span, no content": without_content,
            "OpenTelemetry SDK, input and output": with_opentelemetry(provider),
        }
        samples: dict[str, list[float]] = {name: [] for name in variants}
        for call in variants.values():
            round_us(call)
        gc.disable()
        for _ in range(rounds):
            for name, call in variants.items():
                samples[name].append(round_us(call))
                provider.force_flush()
        stored = recording.stats()["stored"]
        on_disk = sum(path.stat().st_size for path in Path(folder).rglob("*.jsonl"))
    anchor = samples["OpenTelemetry SDK, input and output"]
    print(
        f"Python {platform.python_version()}, {rounds} rounds of {CALLS} calls each; {stored:,} spans stored,"
    )
    print(f"{on_disk / stored:.0f} bytes a span on disk\n")
    print(f"{'caller CPU, us a call':38} {'median':>8} {'10 %':>8} {'90 %':>8} {'of OpenTelemetry':>18}")
    for name, values in samples.items():
        cuts = statistics.quantiles(values, n=10)
        ratio = statistics.median(a / b for a, b in zip(values, anchor, strict=True))
        print(f"{name:38} {statistics.median(values):8.2f} {cuts[0]:8.2f} {cuts[-1]:8.2f} {ratio:18.3f}")
    print(f"\n{'CPU of an import, ms (least of 7)':38}")
    for statement in (
        "import millstream",
        "from millstream import track_function",
        "import opentelemetry.sdk.trace.export",
    ):
        print(f"{statement:38} {import_ms(statement):8.1f}")


if __name__ == "__main__":
    main()
