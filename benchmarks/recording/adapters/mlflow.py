"""MLflow: `@trace`, which makes a trace of each call that is in no other."""

import mlflow
from mlflow.entities.trace_location import MlflowExperimentLocation

from benchmarks.recording.adapters import Adapter, Scene


async def open_adapter(scene: Scene) -> Adapter:
    mlflow.set_tracking_uri(scene.sink)
    mlflow.tracing.set_destination(MlflowExperimentLocation(experiment_id="0"))
    if scene.kept is None:
        return Adapter(trace=mlflow.trace, flush=mlflow.flush_trace_async_logging)
    # It holds the spans of a trace until the trace is done: this one is not.
    root = mlflow.start_span("root")
    root.__enter__()
    scene.kept.append(root)
    return Adapter(trace=mlflow.trace)
