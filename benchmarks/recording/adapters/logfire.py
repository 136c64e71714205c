"""Logfire: `@instrument` with arguments and result, sent to an OTLP address as its documentation shows."""

import os

import logfire
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from benchmarks.recording.adapters import Adapter, Scene
from benchmarks.recording.adapters.keep import Keep


async def open_adapter(scene: Scene) -> Adapter:
    processors = None
    if scene.kept is None:
        os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = f"{scene.sink}/v1/traces"
    else:
        processors = [BatchSpanProcessor(Keep(scene.kept))]
    logfire.configure(
        send_to_logfire=False, console=False, metrics=False, additional_span_processors=processors
    )

    def flush() -> None:
        logfire.force_flush()

    return Adapter(trace=logfire.instrument(record_return=True), flush=flush)
