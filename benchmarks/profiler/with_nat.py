"""The ProfilerRunner of NeMo Agent Toolkit (NAT) on the requests of a file in its own step model.

    python benchmarks/profiler/with_nat.py STEPS.JSON FOLDER

runs in an environment that has `nvidia-nat-profiler`, with the analyses that examples/email_phishing_analyzer
asks for, and leaves NAT's files in the folder.
"""

import asyncio
import json
import sys
from pathlib import Path

from nat.data_models.intermediate_step import IntermediateStep
from nat.data_models.profiler import ProfilerConfig
from nat.plugins.profiler.profile_runner import ProfilerRunner

ANALYSES = {
    "token_uniqueness_forecast": True,
    "workflow_runtime_forecast": True,
    "compute_llm_metrics": True,
    "csv_exclude_io_text": True,
    "prompt_caching_prefixes": {"enable": True, "min_frequency": 0.1},
    "bottleneck_analysis": {"enable_nested_stack": True},
    "concurrency_spike_analysis": {"enable": True, "spike_threshold": 7},
}


def main(steps: Path, folder: Path) -> None:
    requests = json.loads(steps.read_bytes())
    runner = ProfilerRunner(ProfilerConfig(**ANALYSES), folder)
    asyncio.run(runner.run([[IntermediateStep(**step) for step in request] for request in requests]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
