"""The user's own Python: files and modules named in a workflow file, without packaging."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from millstream.errors import ConfigError, nearest


def import_modules(names: Sequence[str], directory: Path) -> list[ModuleType]:
    """Import modules so that what they register is known; a module is imported once a process.

    Args:
        names: Python files (`tools.py`, `lib/tools.py`) or module names (`package.tools`).
        directory: what they are relative to; modules beside a file can be imported by it.

    Raises:
        ConfigError: one cannot be imported; names the file, the line and the exception.
    """
    return [
        import_module(name, directory, where=f"general.modules.{index}") for index, name in enumerate(names)
    ]


def import_module(name: str, directory: Path, *, where: str) -> ModuleType:
    """Import one file or module; see `import_modules`."""
    if name.endswith(".py") or "/" in name:
        path = (directory / name).resolve()
        if not path.is_file():
            raise ConfigError(
                f"{where}: there is no Python file {path} (paths are relative to the workflow file)"
            )
        return _import(name, where, path)
    return _import(name, where, None, directory.resolve())


def load_target(target: str, directory: Path, *, where: str = "target") -> Any:
    """The object of `module:attribute` or `path/to/file.py:attribute`; attributes may have dots.

    Args:
        target: what to load.
        directory: what files and modules are relative to.
        where: path of the option, for errors.

    Raises:
        ConfigError: it is not of this form, cannot be imported, or has no such attribute.
    """
    module_name, colon, attribute = target.rpartition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f"{where}: {target!r} must be module:attribute or path/to/file.py:attribute")
    here: Any = import_module(module_name, directory, where=where)
    for part in attribute.split("."):
        if not hasattr(here, part):
            known = (
                [name for name in vars(here) if not name.startswith("_")] if hasattr(here, "__dict__") else []
            )
            raise ConfigError(f"{where}: {module_name} has no {attribute!r}{nearest(part, known)}")
        if inspect.isclass(here) and inspect.isfunction(inspect.getattr_static(here, part)):
            here = _instance(here, where)  # a method needs an object
        here = getattr(here, part)
    return here


def _instance(kind: type, where: str) -> Any:
    try:
        return kind()
    except Exception as error:
        raise ConfigError(f"{where}: {kind.__name__}() failed: {type(error).__name__}: {error}") from error


def _import(name: str, where: str, path: Path | None, directory: Path | None = None) -> ModuleType:
    folder = str(path.parent if path is not None else directory)
    if folder not in sys.path:
        sys.path.append(folder)  # at the end: a user's random.py does not hide the standard library's
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name) if path is None else _import_file(path)
    except ConfigError as error:  # of a registration
        raise ConfigError(f"{where}: {name}: {error}") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0] and path is None:
            raise ConfigError(
                f"{where}: there is no module {name!r}; for a file write its path, such as {name}.py"
            ) from error
        raise ConfigError(
            f"{where}: {path or name} cannot be imported: {type(error).__name__}: {error}{_place(error)}"
        ) from error


def _import_file(path: Path) -> ModuleType:
    for module in list(sys.modules.values()):
        if _is_from(module, path):
            return module
    spec = None if path.stem in sys.modules else importlib.util.find_spec(path.stem)
    if spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path:
        return importlib.import_module(
            path.stem
        )  # so that `import <stem>` in another file is the same module
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_from(module: object, path: Path) -> bool:
    file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    if not isinstance(file, str) or not file.endswith(path.name):
        return False
    return vars(module).get("__name__") != "__main__" and Path(file).resolve() == path


def _place(error: BaseException) -> str:
    """Where in the user's files an import failed."""
    if isinstance(error, SyntaxError):
        return ""  # its text says so
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
    ]
    if len(frames) <= 1:
        return ""
    return f" ({frames[-1].filename}, line {frames[-1].lineno})"
