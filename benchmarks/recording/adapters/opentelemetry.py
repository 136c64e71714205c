"""The OpenTelemetry SDK and its batch processor, with its defaults."""

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import Tracer

from benchmarks.recording.adapters import Adapter, Scene
from benchmarks.recording.adapters.keep import Discard, Keep


async def open_adapter(
    scene: Scene, *, export: str = "otlp", content: bool = True, sampled: bool = True
) -> Adapter:
    """Trace with a span's attributes `input.value` and `output.value` as JSON, or without."""
    provider = TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF)
    provider.add_span_processor(BatchSpanProcessor(_exporter(scene, export)))
    tracer = provider.get_tracer("benchmark")

    def trace(function: Callable[..., Any]) -> Callable[..., Any]:
        return _with_content(tracer, function) if content else _without(tracer, function)

    def flush() -> None:
        provider.force_flush()

    return Adapter(trace=trace, flush=flush)


def _exporter(scene: Scene, export: str) -> SpanExporter:
    if scene.kept is not None:
        return Keep(scene.kept)
    if export == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  # a package of its own
            OTLPSpanExporter,
        )

        return OTLPSpanExporter(endpoint=f"{scene.sink}/v1/traces")
    if export == "jsonl":
        file = (scene.folder / "spans.jsonl").open("a", encoding="utf-8")
        return ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\n")
    return Discard()


def _with_content(tracer: Tracer, function: Callable[..., Any]) -> Callable[..., Any]:
    name = function.__name__
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(a: int, b: int) -> Any:
            with tracer.start_as_current_span(name) as span:
                span.set_attribute("input.value", json.dumps({"a": a, "b": b}))
                result = await function(a, b)
                span.set_attribute("output.value", json.dumps(result))
                return result

        return call_async

    @functools.wraps(function)
    def call(a: int, b: int) -> Any:
        with tracer.start_as_current_span(name) as span:
            span.set_attribute("input.value", json.dumps({"a": a, "b": b}))
            result = function(a, b)
            span.set_attribute("output.value", json.dumps(result))
            return result

    return call


def _without(tracer: Tracer, function: Callable[..., Any]) -> Callable[..., Any]:
    name = function.__name__
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any) -> Any:
            with tracer.start_as_current_span(name):
                return await function(*args)

        return call_async

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        with tracer.start_as_current_span(name):
            return function(*args)

    return call
