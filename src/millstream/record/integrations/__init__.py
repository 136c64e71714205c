"""Frameworks that record themselves once instrumented. One file a framework, found by entry point.

An integration is a class without arguments with `install()` and `uninstall()`; both may be called at any
time and twice. `install` raises ImportError where its framework is not installed. A package adds one under
the entry point group `millstream.integrations`.
"""

from typing import TYPE_CHECKING, Final, Protocol

from millstream.errors import ConfigError, MissingExtraError
from millstream.record import faults

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "millstream.integrations"


class Integration(Protocol):
    """What an entry point of the group names."""

    def install(self) -> None:
        """Begin to record the framework's calls."""
        ...

    def uninstall(self) -> None:
        """Put everything back."""
        ...


_installed: Final[dict[str, Integration]] = {}


def available() -> "dict[str, EntryPoint]":
    """The integrations that are known, by name; their frameworks may be absent."""
    from importlib.metadata import entry_points  # noqa: PLC0415  # a third of the cost of importing us

    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def instrument(*names: str) -> list[str]:
    """Record the calls of frameworks, from now on.

    Args:
        *names: the frameworks; none means every one that is installed.

    Returns:
        The names of the frameworks that are instrumented now.

    Raises:
        ConfigError: no integration has this name.
        MissingExtraError: a named framework is not installed.
    """
    known = available()
    for name in names:
        if name not in known:
            raise ConfigError(f"no integration is called {name!r}; there are: {', '.join(known) or 'none'}")
    for name in names or known:
        if name in _installed:
            continue
        try:
            integration = known[name].load()()
            integration.install()
        except ImportError as error:
            if names:
                raise MissingExtraError(f"instrument({name!r})", name) from error
        except Exception as error:  # noqa: BLE001  # a third party's integration never breaks the user's program
            faults.swallow(error, f"the integration {name} could not be installed")
        else:
            _installed[name] = integration
    return sorted(_installed)


def uninstrument(*names: str) -> None:
    """Stop recording the calls of frameworks; none named means all."""
    for name in names or list(_installed):
        if integration := _installed.pop(name, None):
            integration.uninstall()
