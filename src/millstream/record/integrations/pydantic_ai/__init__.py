"""Pydantic AI: runs of agents, requests to models, tools, embeddings.

The framework's own instrumentation is for OpenTelemetry and is left alone. Its capabilities, which see as
much, have to be given to each agent; so the few methods that all runs go through are wrapped.
"""

from millstream.record.integrations.pydantic_ai import models, runs, tools


def install() -> None:
    """Record every agent and model of this process."""
    for part in (runs, models, tools):
        part.install()


def uninstall() -> None:
    """Put Pydantic AI back as it was; what has begun is recorded to its end."""
    for part in (tools, models, runs):
        part.uninstall()
