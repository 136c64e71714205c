"""Langfuse: `@observe`, which captures arguments and result."""

from langfuse import Langfuse, observe

from benchmarks.recording.adapters import Adapter, Scene


async def open_adapter(scene: Scene) -> Adapter:
    exporter = None
    if scene.kept is not None:
        from benchmarks.recording.adapters.keep import Keep  # noqa: PLC0415  # not timed with it

        exporter = Keep(scene.kept)
    client = Langfuse(public_key="pk", secret_key="sk", base_url=scene.sink, span_exporter=exporter)  # noqa: S106  # of nobody
    return Adapter(trace=observe(), flush=client.flush)
