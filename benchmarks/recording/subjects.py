"""What is measured: the rows of the table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final


@dataclass(frozen=True)
class Subject:
    """One way of tracing a function.

    Attributes:
        name: of its row.
        adapter: module of `benchmarks.recording.adapters`.
        needs: the packages that must be installed for it.
        options: of its `open_adapter`.
        calls: in a burst; few where one costs much.
        bursts: in a process.
        told: what its spans are found in after a kill: the "sink", the "journal", "jsonl"; empty where that
            is not asked, as for variants of what is there already.
        weighed: how many spans are made to find what they take in memory; 0 where that is not asked.
    """

    name: str
    adapter: str
    needs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    calls: int = 400
    bursts: int = 8
    told: str = ""
    weighed: int = 0

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [package for package in self.needs if not version_of(package)]


def version_of(package: str) -> str:
    """Its version; empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


_SDK: Final = ("opentelemetry-sdk",)
_OTLP: Final = ("opentelemetry-exporter-otlp-proto-http",)
_LANGFUSE: Final = ("langfuse",)
_LOGFIRE: Final = ("logfire",)
_MLFLOW: Final = ("mlflow-tracing",)  # of which mlflow has need, too
_NAT: Final = ("nvidia-nat-profiler",)
_NAT_OTLP: Final = ("nvidia-nat-profiler", "nvidia-nat-opentelemetry")

OURS: Final = Subject("millstream @track_function", "millstream", told="journal", weighed=100_000)
ANCHOR: Final = Subject(
    "OpenTelemetry + input/output + OTLP", "opentelemetry", _OTLP, told="sink", weighed=100_000
)
SUBJECTS: Final = (
    Subject("plain call", "plain"),
    OURS,
    Subject("millstream @track_function, no content", "millstream", options={"capture_content": False}),
    Subject("millstream start_span, no content", "millstream", options={"block": True}),
    Subject("millstream @track_function, sampled out", "millstream", options={"sampling": 0.0}),
    Subject("millstream @track_function, disabled", "millstream", options={"enabled": False}),
    ANCHOR,
    Subject("OpenTelemetry + input/output + JSONL", "opentelemetry", _SDK, {"export": "jsonl"}, told="jsonl"),
    Subject("OpenTelemetry + input/output, no export", "opentelemetry", _SDK, {"export": "none"}),
    Subject(
        "OpenTelemetry, no content, no export", "opentelemetry", _SDK, {"export": "none", "content": False}
    ),
    Subject("OpenTelemetry, sampled out", "opentelemetry", _SDK, {"export": "none", "sampled": False}),
    Subject("Langfuse @observe", "langfuse", _LANGFUSE, told="sink", weighed=20_000),
    Subject("Logfire @instrument + OTLP", "logfire", _LOGFIRE, told="sink", weighed=20_000),
    Subject("MLflow @trace", "mlflow", _MLFLOW, calls=60, bursts=4, told="sink", weighed=4_000),
    Subject("NAT @track_function, nobody listens", "nat", _NAT, {"listened": False}, calls=200),
    Subject(
        "NAT @track_function + OTLP", "nat", _NAT_OTLP, {"listened": True}, 100, told="sink", weighed=10_000
    ),
)
