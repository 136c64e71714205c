"""NVIDIA NeMo Agent Toolkit: `@track_function`, which emits two steps a call to whoever listens.

Its exporters make a span of them on the calling thread, and turn that into the one that is sent, and send it,
in tasks of the same thread's event loop.
"""

from collections.abc import Callable
from typing import Any

from nat.plugins.opentelemetry import OTLPSpanAdapterExporter
from nat.plugins.opentelemetry.otel_span import OtelSpan
from nat.plugins.opentelemetry.otel_span_exporter import OtelSpanBatchProcessor
from nat.plugins.profiler.decorators.function_tracking import track_function

from benchmarks.recording.adapters import Adapter, Scene


class _Kept(OTLPSpanAdapterExporter):
    """Keeps the spans that it is to send."""

    kept: list[Any]

    async def export_otel_spans(self, spans: list[OtelSpan]) -> None:
        self.kept.extend(spans)


async def open_adapter(scene: Scene, *, listened: bool) -> Adapter:
    """Trace with its OTLP exporter listening, or with nobody."""
    if not listened:
        return Adapter(trace=track_function)
    kind: Callable[..., Any] = OTLPSpanAdapterExporter if scene.kept is None else _Kept
    exporter = kind(endpoint=f"{scene.sink}/v1/traces")
    exporter.kept = scene.kept
    started = exporter.start()
    await started.__aenter__()
    processor = next(one for one in exporter._processors if isinstance(one, OtelSpanBatchProcessor))  # noqa: SLF001

    async def flush() -> None:
        await exporter.wait_for_tasks(timeout=60)
        if batch := await processor.force_flush():
            await exporter.export_processed(batch)

    return Adapter(trace=track_function, flush=flush, held=started)  # without, it would stop
