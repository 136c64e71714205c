"""Frameworks that record themselves once instrumented, found by entry point.

A framework costs nothing until the program imports it: only then are its hooks loaded. A package adds one
under the entry point group `millstream.integrations`, as a `frameworks.Framework`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from millstream.errors import ConfigError, MissingExtraError
from millstream.record import faults
from millstream.record.integrations.frameworks import Framework
from millstream.record.integrations.on_import import forget, is_installed, when_imported

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "millstream.integrations"


class _Instrumented:
    """A framework that is recorded from its import on."""

    def __init__(self, framework: Framework) -> None:
        self._framework = framework
        self._hooks: Any = None

    def begin(self) -> None:
        when_imported(self._framework.module, self._install)

    def end(self) -> None:
        forget(self._install)
        if self._hooks is not None:
            self._hooks.uninstall()

    def _install(self) -> None:
        hooks = import_module(self._framework.hooks)
        hooks.install()
        self._hooks = hooks


_instrumented: Final[dict[str, _Instrumented]] = {}


def available() -> "dict[str, EntryPoint]":
    """The integrations that are known, by name; their frameworks may be absent."""
    from importlib.metadata import entry_points  # noqa: PLC0415  # a third of the cost of importing us

    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def instrument(*names: str) -> list[str]:
    """Record the calls of frameworks, from now on: those that are imported, and others when they will be.

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
        if name in _instrumented:
            continue
        try:
            framework: Framework = known[name].load()
            if is_installed(framework.module):
                _instrumented[name] = _Instrumented(framework)
                _instrumented[name].begin()
                continue
        except Exception as error:  # noqa: BLE001  # a third party's integration never breaks the user's program
            faults.swallow(error, f"the integration {name} could not be installed")
            continue
        if names:
            raise MissingExtraError(f"instrument({name!r})", name)
    return sorted(_instrumented)


def uninstrument(*names: str) -> None:
    """Stop recording the calls of frameworks; none named means all."""
    for name in names or list(_instrumented):
        if instrumented := _instrumented.pop(name, None):
            instrumented.end()
