"""OpenAI's Agents SDK: runs of agents, model calls, function tools, guardrails and handoffs.

Its own tracing is neither used nor touched: it can be off, and what it records goes to OpenAI. Its module is
called `agents`, as many a program's own is; that is left alone.
"""

from typing import Final

from millstream.record.integrations.on_import import is_installed

_OURS_ALONE: Final = "agents.models.openai_chatcompletions"
"""A module that no program's own `agents` has."""


def install() -> None:
    """Record the SDK, if it is what is called `agents` here."""
    if is_installed(_OURS_ALONE):
        from millstream.record.integrations.openai_agents import hooks  # noqa: PLC0415  # needs the SDK

        hooks.install()


def uninstall() -> None:
    """Put the SDK back as it was; runs that have begun are recorded to their end."""
    if is_installed(_OURS_ALONE):
        from millstream.record.integrations.openai_agents import hooks  # noqa: PLC0415  # needs the SDK

        hooks.uninstall()
