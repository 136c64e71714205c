"""Do something once a module is imported: at once where it is, else right after, never by importing it.

A finder of ours, before all others, takes the spec that they find and changes its class, until the import
system notes on it that the module has been executed. The module's loader, its resources and the frames of an
import that fails are the same as without us.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from millstream.record import faults

_waiting: Final[dict[str, list[Callable[[], None]]]] = {}
"""What is to be done, by the module that is waited for."""


def when_imported(module: str, action: Callable[[], None]) -> None:
    """Call `action` once, when `module` has been imported; now, if it is.

    While other modules of its package are being imported it waits for them, too: they may import each other.
    What it raises is counted and said; the import goes on.
    """
    _waiting.setdefault(module, []).append(action)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _settle()


def forget(action: Callable[[], None]) -> None:
    """Wait no longer to call `action`."""
    for module, actions in list(_waiting.items()):
        if action in actions:
            actions.remove(action)
        if not actions:
            _waiting.pop(module, None)
    _leave_if_done()


def is_installed(module: str) -> bool:
    """Whether `module` could be imported, found out without importing it or what is around it."""
    path: Sequence[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        if depth > 1 and path is None:  # what is around it is no package
            return False
        name = ".".join(parts[:depth])
        if (loaded := sys.modules.get(name)) is not None:
            path = getattr(loaded, "__path__", None)
            continue
        spec = _find(name, path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return True


def _find(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
    """What all finders but ours find."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if finder is not _finder and find is not None:
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                return spec
    return None


class _Finder(MetaPathFinder):
    """Finds nothing itself: has the import system tell when a module that others find has been executed."""

    def __init__(self) -> None:
        self._looking: set[str] = set()  # the import system looks under a lock

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _waiting or fullname in self._looking:  # another finder may ask us all in turn
            return None
        self._looking.add(fullname)
        try:
            spec = _find(fullname, path, target)
        finally:
            self._looking.discard(fullname)
        if spec is not None:
            _await(spec)
        return spec


_finder: Final = _Finder()


class _Awaited:
    """Mixed into the class of a spec until its module has been executed, or has failed."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_initializing" and not value:
            self.__class__ = type(self).__mro__[2]  # as it was
            try:
                _settle()
            except Exception as fault:  # noqa: BLE001  # the user's import goes on
                faults.swallow(fault, "an import could not be watched")


@functools.cache
def _awaited(kind: Any) -> Any:
    """The class of awaited specs of a kind; it looks the same."""
    same = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (_Awaited, kind), same)


def _await(spec: Any) -> None:
    kind: Any = type(spec)
    if issubclass(kind, _Awaited):
        return
    try:
        spec.__class__ = _awaited(kind)
    except Exception as fault:  # noqa: BLE001  # a spec of somebody's own making
        faults.swallow(fault, "an import could not be watched")


def _settle() -> None:
    """Do what was waiting for modules that are there now."""
    for module in _waiting.copy():
        while module in sys.modules:
            busy = _importing_with(module)
            if busy is None:
                for action in _waiting.pop(module, ()):
                    _do(action, module)
                break
            _await(busy)
            if _is_importing(busy) or not isinstance(busy, _Awaited):
                break  # it will tell; else another thread has finished it just now
    _leave_if_done()


def _importing_with(module: str) -> Any:
    """The spec of a module of the same package that is being imported; none where all of it is there."""
    package = module.partition(".")[0]
    for name, loaded in sys.modules.copy().items():  # in one piece: other threads import
        if name == package or name.startswith(f"{package}."):
            spec = getattr(loaded, "__spec__", None)
            if _is_importing(spec):
                return spec
    return None


def _is_importing(spec: Any) -> bool:
    return getattr(spec, "_initializing", False) is True


def _leave_if_done() -> None:
    """Take the finder away by putting a new list in place: other threads may be going through the old one."""
    if not _waiting and _finder in sys.meta_path:
        sys.meta_path = [finder for finder in sys.meta_path if finder is not _finder]


def _do(action: Callable[[], None], module: str) -> None:
    try:
        action()
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, f"calls of {module} could not be instrumented")
