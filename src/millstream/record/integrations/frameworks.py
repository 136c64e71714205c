"""The frameworks that we know: each is recorded by hooks of its own, loaded when it is imported."""

from typing import Final

import msgspec


class Framework(msgspec.Struct, frozen=True):
    """What an entry point of the group `millstream.integrations` names.

    Attributes:
        module: the framework's module whose import says that it is used.
        hooks: a module with `install()` and `uninstall()`, which may import the framework; loaded and
            installed right after `module` has been imported. `uninstall` puts everything back; both may be
            called again.
    """

    module: str
    hooks: str


_HERE: Final = "millstream.record.integrations"

agent_framework: Final = Framework("agent_framework", f"{_HERE}.agent_framework")
celery: Final = Framework("celery.app.base", f"{_HERE}.celery")
crewai: Final = Framework("crewai", f"{_HERE}.crewai")
google_adk: Final = Framework("google.adk", f"{_HERE}.google_adk")
langchain: Final = Framework("langchain_core.callbacks", f"{_HERE}.langchain")
llama_index: Final = Framework("llama_index.core", f"{_HERE}.llama_index")
mcp: Final = Framework("mcp", f"{_HERE}.mcp")
openai: Final = Framework("openai", f"{_HERE}.openai")
openai_agents: Final = Framework("agents", f"{_HERE}.openai_agents")
pydantic_ai: Final = Framework("pydantic_ai", f"{_HERE}.pydantic_ai")
semantic_kernel: Final = Framework("semantic_kernel", f"{_HERE}.semantic_kernel")
