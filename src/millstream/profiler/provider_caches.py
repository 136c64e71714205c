"""How long providers keep prompts, and of which size on: what they documented in November 2026.

OpenAI: developers.openai.com/api/docs/guides/prompt-caching; Anthropic: platform.claude.com/docs, "Prompt
caching". Google's implicit caches are left out: how long they keep a prompt is not documented.
"""

import re
from typing import Final

import msgspec

AS_OF: Final = "2026-11"


class ProviderCache(msgspec.Struct, frozen=True):
    """One kind of cache. It finds what was used at most `ttl_s` ago; each use starts the time anew.

    Attributes:
        provider: as in `gen_ai.provider.name`.
        name: what the provider calls the lifetime.
        minimum_tokens: shorter prompts, and shorter starts of prompts, are not cached.
        step_tokens: hits are counted in steps of so many tokens.
        explicit: requests have to say what is cached.
    """

    provider: str
    name: str
    ttl_s: float
    minimum_tokens: int
    step_tokens: int
    explicit: bool


OPENAI_SHORTEST: Final = ProviderCache("openai", "in_memory, 5 min", 300, 1024, 128, explicit=False)
OPENAI_IN_MEMORY: Final = ProviderCache("openai", "in_memory, 10 min", 600, 1024, 128, explicit=False)
OPENAI_30M: Final = ProviderCache("openai", "30m", 1800, 1024, 1, explicit=False)
OPENAI_24H: Final = ProviderCache("openai", "24h", 86_400, 1024, 128, explicit=False)
ANTHROPIC_5M: Final = ProviderCache("anthropic", "5m", 300, 1024, 1, explicit=True)
ANTHROPIC_1H: Final = ProviderCache("anthropic", "1h", 3600, 1024, 1, explicit=True)
CACHES: Final = (OPENAI_SHORTEST, OPENAI_IN_MEMORY, OPENAI_30M, OPENAI_24H, ANTHROPIC_5M, ANTHROPIC_1H)

_OPENAI: Final = re.compile(r"(?:^|[/.:])(?:gpt-(\d+)(?:\.(\d+))?(o?)|chatgpt-|o[134](?:-|$)|codex-)")
_CLAUDE: Final = re.compile(r"claude")
# The first that matches a model's name; sources other than the provider's page name 4,096 for Opus 4.7, too.
_CLAUDE_MINIMUMS: Final = (
    (re.compile(r"(?:opus|fable|mythos)-5"), 512),
    (re.compile(r"opus-4[-.][567]|haiku-4[-.]5"), 4096),
    (re.compile(r"3[-.]5-haiku|3-haiku|haiku-3"), 2048),
)


def own_cache(model: str) -> ProviderCache | None:
    """The cache that a model's requests use without asking for another; None where there is none we know.

    OpenAI keeps prompts in memory for 5 to 10 minutes: for the longer of these. Anthropic's shorter
    lifetime is the default.
    """
    name = model.lower()
    if _CLAUDE.search(name):
        return with_minimum(ANTHROPIC_5M, name)
    found = _OPENAI.search(name)
    if found is None:
        return None
    if found[1] is None:
        return OPENAI_IN_MEMORY
    version = (int(found[1]), int(found[2] or 0))
    if version >= (5, 6):
        return OPENAI_30M
    if version == (5, 5):
        return OPENAI_24H
    cached = version > (4, 0) or found[3]  # gpt-4o is the first that has one
    return OPENAI_IN_MEMORY if cached else None


def with_minimum(cache: ProviderCache, model: str) -> ProviderCache:
    """A cache with the minimum that it has for a model."""
    if cache.provider != "anthropic" or not _CLAUDE.search(model.lower()):
        return cache
    for pattern, minimum in _CLAUDE_MINIMUMS:
        if pattern.search(model.lower()):
            return msgspec.structs.replace(cache, minimum_tokens=minimum)
    return cache
