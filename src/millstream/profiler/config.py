"""The section `eval.general.profiler` of a workflow file: keys and defaults of the reference.

Dynamo metrics are not in this version: their keys are accepted and give null.
"""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from millstream.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptCachingPrefixes(_Section):
    """Common prompt prefixes."""

    enable: bool = False
    min_frequency: float = Field(0.5, ge=0, le=1)


class BottleneckAnalysis(_Section):
    """Where time goes: per operation (simple) and by self time in the call tree (nested)."""

    enable_simple_stack: bool = False
    enable_nested_stack: bool = False


class ConcurrencySpikeAnalysis(_Section):
    """Stretches of time with `spike_threshold` or more LLM and TOOL calls at once."""

    enable: bool = False
    spike_threshold: int | None = Field(1, ge=1)


class PrefixSpanAnalysis(_Section):
    """Frequent sequences of calls."""

    enable: bool = False
    min_support: int | float = Field(2, gt=0)
    min_coverage: float = Field(0, ge=0, le=1)
    max_text_len: int = Field(1000, ge=0)
    top_k: int = Field(10, ge=1)
    chain_with_common_prefixes: bool = False

    @field_validator("min_support")
    @classmethod
    def _number_or_share(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("give a whole number of requests, or the share of them up to 1.0")
        return value


class PredictionTrie(_Section):
    """Predictions by position in the call tree."""

    enable: bool = False
    output_filename: str = Field("prediction_trie.json", pattern=r"^[\w][\w.-]*$")  # in the output folder
    auto_sensitivity: bool = True
    sensitivity_scale: int = Field(5, ge=1)
    w_critical: float = 0.5
    w_fanout: float = 0.3
    w_position: float = 0.2
    w_parallel: float = 0.0


class DynamoMetrics(_Section):
    """Metrics of a Dynamo server, by Prometheus."""

    enable: bool = False
    prometheus_url: str = "http://localhost:9090"
    collect_kv_cache: bool = True
    collect_ttft: bool = True
    collect_itl: bool = True
    collect_inflight_requests: bool = True
    collect_throughput: bool = True
    collect_token_throughput: bool = True
    query_range: str = "30s"
    lookback_seconds: float = 0
    workflow_start_timestamp: float | None = None
    workflow_end_timestamp: float | None = None


class ProfilerConfig(_Section):
    """What to compute; see `docs/profiler.md` for each figure."""

    base_metrics: bool = False
    token_usage_forecast: bool = False
    token_uniqueness_forecast: bool = False
    workflow_runtime_forecast: bool = False
    compute_llm_metrics: bool = False
    csv_exclude_io_text: bool = False
    prompt_caching_prefixes: PromptCachingPrefixes = PromptCachingPrefixes()
    bottleneck_analysis: BottleneckAnalysis = BottleneckAnalysis()
    concurrency_spike_analysis: ConcurrencySpikeAnalysis = ConcurrencySpikeAnalysis()
    prefix_span_analysis: PrefixSpanAnalysis = PrefixSpanAnalysis()
    prediction_trie: PredictionTrie = PredictionTrie()
    dynamo_metrics: DynamoMetrics = DynamoMetrics()
    prices: Path | dict[str, Any] | None = None
    """The user's own price table, over ours: a file or the table itself."""

    @field_validator("prices", mode="before")
    @classmethod
    def _known_form(cls, value: Any) -> Any:
        """A path or a table that can be read."""
        if value is None:
            return None
        if not isinstance(value, str | Path | dict):
            raise ValueError("give the path of a price table, or the table itself")  # noqa: TRY004  # for pydantic
        try:
            from millstream.profiler.cost import price_table  # noqa: PLC0415  # loads NumPy and SciPy
        except ModuleNotFoundError:
            return value  # the profile itself will say which extra is missing
        users = Path(value) if isinstance(value, str) else value
        try:
            price_table(users)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return users

    @classmethod
    def everything(cls) -> Self:
        """All analyses on: what `millstream profile` does without a config file.

        The spike threshold is then None: the 90th percentile of the concurrency itself.
        """
        return cls(
            base_metrics=True,
            token_usage_forecast=True,
            token_uniqueness_forecast=True,
            workflow_runtime_forecast=True,
            compute_llm_metrics=True,
            prompt_caching_prefixes=PromptCachingPrefixes(enable=True),
            bottleneck_analysis=BottleneckAnalysis(enable_simple_stack=True, enable_nested_stack=True),
            concurrency_spike_analysis=ConcurrencySpikeAnalysis(enable=True, spike_threshold=None),
            prefix_span_analysis=PrefixSpanAnalysis(enable=True),
            prediction_trie=PredictionTrie(enable=True),
        )
