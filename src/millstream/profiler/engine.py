"""All analyses over one set of spans; one that raises is reported in its place, the others are there."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from millstream.profiler.bottlenecks import (
    NestedStack,
    SelfTimeRow,
    SimpleOperation,
    nested_stack,
    self_time,
    simple_stack,
)
from millstream.profiler.cache_opportunity import CacheOpportunity, cache_opportunity
from millstream.profiler.concurrency import Concurrency, Spike, concurrency, spikes
from millstream.profiler.confidence import (
    ConfidenceIntervals,
    Percentiles,
    confidence_intervals,
    runtime_percentiles,
)
from millstream.profiler.config import ProfilerConfig
from millstream.profiler.cost import Cost, cost, price_table
from millstream.profiler.critical_path import CriticalPath, critical_path
from millstream.profiler.forecast.finding import Finding, forecast
from millstream.profiler.latency import LatencyRow, latency
from millstream.profiler.patterns import Patterns, patterns
from millstream.profiler.prefixes import ModelPrefixes, prefixes_by_share
from millstream.profiler.requests import RequestCounts, request_counts
from millstream.profiler.results import Failure, Source
from millstream.profiler.retries import RetryRow, retries
from millstream.profiler.tokens import ModelRow, tokens
from millstream.profiler.uniqueness import Uniqueness, uniqueness
from millstream.span import Span
from millstream.store.journal_table import journal_table
from millstream.store.prompt_blocks import PromptBlocks, prompt_blocks
from millstream.store.table import SpanTable

T = TypeVar("T")
LEAST_SHARE = 0.05
"""Of a model's calls: a start that fewer share is not in the tree of prompts."""


class Profile:
    """The spans as a table, and what the analyses find.

    An analysis is run when it is first asked for, and never raises: where one does, a `Failure` is in the
    place of its result. None: switched off by the configuration.

    Attributes:
        table: the spans; `table.trace_ids` is the order of the requests.
        config: what was asked for.
        source: where the spans came from.
        forecaster: makes the forecast.
    """

    def __init__(self, table: SpanTable, config: ProfilerConfig, source: Source) -> None:
        self.table = table
        self.config = config
        self.source = source
        self.forecaster: Callable[[], Finding] = lambda: forecast(table)

    @property
    def order(self) -> Sequence[str]:
        """Trace ids by request number."""
        return self.table.trace_ids

    @property
    def failures(self) -> dict[str, str]:
        """Analyses that were asked for and raised, with their error."""
        return {name: found.error for name, found in vars(self).items() if isinstance(found, Failure)}

    def complete(self) -> None:
        """Run all analyses that are on and were not asked for yet."""
        for name, member in vars(Profile).items():
            if isinstance(member, cached_property) and not name.startswith("_"):
                getattr(self, name)

    def prepare(self, *rows: Sequence[str]) -> None:
        """Run analyses, those of each row one after the other, and the rows side by side.

        Most of their work is done outside the interpreter. None may build on one of another row.
        """
        with ThreadPoolExecutor(max(len(rows), 1)) as pool:
            list(pool.map(lambda names: [getattr(self, name) for name in names], rows))

    @cached_property
    def requests(self) -> RequestCounts | Failure:
        """How many there are, and how they ended."""
        return _attempt(lambda: request_counts(self.table))

    @cached_property
    def latency(self) -> list[LatencyRow] | Failure:
        """Of each kind and name."""
        return _attempt(lambda: latency(self.table))

    @cached_property
    def tokens(self) -> list[ModelRow] | Failure:
        """Of each model."""
        return _attempt(lambda: tokens(self.table))

    @cached_property
    def self_time(self) -> list[SelfTimeRow] | Failure:
        """Of each kind and name."""
        return _attempt(lambda: self_time(self.table))

    @cached_property
    def critical_path(self) -> CriticalPath | Failure:
        """Of all requests."""
        return _attempt(lambda: critical_path(self.table))

    @cached_property
    def concurrency(self) -> Concurrency | Failure:
        """Of LLM and TOOL calls."""
        return _attempt(
            lambda: concurrency(self.table, self.config.concurrency_spike_analysis.spike_threshold)
        )

    @cached_property
    def spikes(self) -> list[Spike] | Failure:
        """The stretches of high concurrency that `concurrency` counts."""
        found = self.concurrency
        if isinstance(found, Failure):
            return found
        return _attempt(lambda: spikes(self.table, found.spike_threshold))

    @cached_property
    def confidence(self) -> ConfidenceIntervals | Failure:
        """Of run time, LLM latency and throughput."""
        return _attempt(lambda: confidence_intervals(self.table))

    @cached_property
    def workflow_runtimes(self) -> Percentiles | Failure | None:
        """Of requests."""
        if not self.config.workflow_runtime_forecast:
            return None
        return _attempt(lambda: runtime_percentiles(self.table))

    @cached_property
    def retries(self) -> list[RetryRow] | Failure:
        """Errors and retries of each kind and name."""
        return _attempt(lambda: retries(self.table))

    @cached_property
    def cost(self) -> Cost | Failure:
        """Of the LLM calls, by the table of prices."""
        return _attempt(lambda: cost(self.table, price_table(self.config.prices)))

    @cached_property
    def token_uniqueness(self) -> dict[str, Uniqueness] | Failure | None:
        """What is new in the next query to each model."""
        return _attempt(lambda: uniqueness(self.table)) if self.config.token_uniqueness_forecast else None

    @cached_property
    def common_prefixes(self) -> dict[str, ModelPrefixes] | Failure | None:
        """What the prompts of each model begin with."""
        wanted = self.config.prompt_caching_prefixes
        return _attempt(lambda: self._prefixes[0]) if wanted.enable else None

    @cached_property
    def prompt_starts(self) -> dict[str, ModelPrefixes] | Failure | None:
        """The same down to starts that few calls share, for the tree of the report."""
        wanted = self.config.prompt_caching_prefixes
        return _attempt(lambda: self._prefixes[1]) if wanted.enable else None

    @cached_property
    def _prefixes(self) -> list[dict[str, ModelPrefixes]]:
        share = self.config.prompt_caching_prefixes.min_frequency
        return prefixes_by_share(self.table, [share, min(share, LEAST_SHARE)], self._prompt_blocks)

    @cached_property
    def cache(self) -> list[CacheOpportunity] | Failure | None:
        """What providers' caches read, and what they could have read, of each model."""
        if not self.config.prompt_caching_prefixes.enable:
            return None
        return _attempt(lambda: cache_opportunity(self.table, self._prompt_blocks))

    @cached_property
    def _prompt_blocks(self) -> PromptBlocks:
        hashed = getattr(self.table.spans, "prompt_blocks", None)  # a file's, of which no text is read
        return prompt_blocks(self.table.spans) if hashed is None else hashed()

    @cached_property
    def patterns(self) -> Patterns | Failure | None:
        """Frequent sequences of calls."""
        wanted = self.config.prefix_span_analysis
        if not wanted.enable:
            return None
        return _attempt(lambda: patterns(self.table, wanted, self._prefix_texts()))

    def _prefix_texts(self) -> dict[str, list[str]]:
        found = self.common_prefixes
        if found is None or isinstance(found, Failure):
            return {}
        return {model: [one.prefix for one in prefixes.prefix_info] for model, prefixes in found.items()}

    @cached_property
    def simple_stack(self) -> dict[str, SimpleOperation] | Failure | None:
        """Bottlenecks by operation."""
        if not self.config.bottleneck_analysis.enable_simple_stack:
            return None
        return _attempt(lambda: simple_stack(self.table))

    @cached_property
    def nested_stack(self) -> NestedStack | Failure | None:
        """Bottlenecks by call."""
        if not self.config.bottleneck_analysis.enable_nested_stack:
            return None
        return _attempt(lambda: nested_stack(self.table))

    @cached_property
    def forecast(self) -> Finding | Failure | None:
        """Of the next request, or why there is none. The last of all: another process may be at it."""
        if not self.config.token_usage_forecast:
            return None
        return _attempt(self.forecaster)


def profile(
    spans: Iterable[Span],
    config: ProfilerConfig | None = None,
    *,
    trace_order: Sequence[str] | None = None,
    source: Source | None = None,
) -> Profile:
    """Profile spans.

    Args:
        spans: any spans, in any order; each trace is a request.
        config: what to compute; all analyses when None.
        trace_order: trace ids by request number; by first start when None.
        source: where the spans came from, for the findings.
    """
    table = SpanTable.from_spans(spans, trace_order)
    source = source or Source("spans", len(table) + table.oddities.duplicate_span_ids)
    return Profile(table, config or ProfilerConfig.everything(), source)


def profile_journal(home: Path, config: ProfilerConfig | None = None) -> Profile:
    """Profile all that was recorded into a folder, by its numbers: text is read where it is looked at.

    Args:
        home: the folder of recordings.
        config: what to compute; all analyses when None.

    Raises:
        InputError: the folder may not be read.
    """
    table, rejected = journal_table(home)
    source = Source("journal", len(table) + table.oddities.duplicate_span_ids, dict(rejected))
    return Profile(table, config or ProfilerConfig.everything(), source)


def _attempt(analysis: Callable[[], T]) -> T | Failure:
    try:
        return analysis()
    except Exception as error:  # noqa: BLE001  # one analysis must not lose the others
        return Failure(f"{type(error).__name__}: {error}")
