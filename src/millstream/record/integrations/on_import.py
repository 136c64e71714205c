"""Do something once a module is imported: at once where it is, else right after, never by importing it."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

from millstream.record import faults

_waiting: Final[dict[str, list[Callable[[], None]]]] = {}
"""What is to be done, by the module that is waited for."""


def when_imported(module: str, action: Callable[[], None]) -> None:
    """Call `action` once, when `module` has been imported; now, if it is.

    What it raises is counted and said; the import goes on.
    """
    loaded = sys.modules.get(module)
    if loaded is not None and not getattr(getattr(loaded, "__spec__", None), "_initializing", False):
        _do(action, module)
        return
    _waiting.setdefault(module, []).append(action)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def forget(action: Callable[[], None]) -> None:
    """Wait no longer to call `action`."""
    for module, actions in list(_waiting.items()):
        if action in actions:
            actions.remove(action)
        if not actions:
            del _waiting[module]
    if not _waiting and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def is_installed(module: str) -> bool:
    """Whether `module` could be imported, found out without importing it or what is around it."""
    path: Sequence[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        if (loaded := sys.modules.get(name)) is not None:
            path = getattr(loaded, "__path__", None)
            continue
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return True


class _Finder(MetaPathFinder):
    """Finds nothing itself: has the loader that the others find tell when it has executed the module."""

    def __init__(self) -> None:
        self._looking: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _waiting or fullname in self._looking:
            return None
        self._looking.add(fullname)
        try:
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                if finder is not self and find is not None and (spec := find(fullname, path, target)):
                    _tell_when_executed(spec)
                    return spec  # type: ignore[no-any-return]
        finally:
            self._looking.discard(fullname)
        return None


_finder: Final = _Finder()


def _tell_when_executed(spec: ModuleSpec) -> None:
    """Shadow `exec_module` on the loader itself, so that the module keeps its own loader and spec."""
    loader: Any = spec.loader
    execute = getattr(loader, "exec_module", None)
    if execute is None or isinstance(loader, type):  # a namespace, or built in
        return
    name = spec.name

    def exec_module(module: ModuleType) -> None:
        execute(module)
        if module.__name__ == name:
            vars(loader).pop("exec_module", None)
            for action in _waiting.pop(name, ()):
                _do(action, name)

    try:
        loader.exec_module = exec_module
    except AttributeError as fault:  # a loader with slots
        faults.swallow(fault, f"the import of {name} could not be watched")


def _do(action: Callable[[], None], module: str) -> None:
    try:
        action()
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, f"calls of {module} could not be instrumented")
