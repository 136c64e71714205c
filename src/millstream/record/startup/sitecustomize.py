"""Run by Python itself at its start, in every process of a program under `millstream record`.

It waits for a framework to be imported, and only then loads millstream. It gives way to the `sitecustomize`
that would have run without it. What the command has to know of this process, it notes in a file.

The Python that runs it may be any: one where millstream is not installed, or an old one. So it uses no syntax
of recent versions and imports nothing that Python has not loaded by itself.
"""

import _thread
import atexit
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # pathlib is not loaded yet
_MODULES = (
    "agent_framework",
    "agents",
    "celery",
    "crewai",
    "google.adk",
    "langchain_core",
    "llama_index",
    "mcp",
    "openai",
    "pydantic_ai",
    "semantic_kernel",
)
"""Whose import says that a framework is used; a test holds them to those of `integrations.frameworks`."""


class _Watch:
    """Finds no module itself: has millstream begin when a framework is about to be imported."""

    def __init__(self, modules: "tuple[str, ...]") -> None:
        self._modules = frozenset(modules)
        self._lock = _thread.allocate_lock()

    def find_spec(self, fullname: str, path: "Any" = None, target: "Any" = None) -> "Any":
        """The module as all others find it; for most, none: then Python asks them itself."""
        if fullname not in self._modules:
            return None
        self.begin(fullname)
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = None if find is None or finder is self else find(fullname, path, target)
            if spec is not None:
                return spec
        return None

    def begin(self, module: str) -> None:
        """Instrument everything, once; another thread's import of a framework waits for it."""
        held = self._lock.acquire(True, 5)  # noqa: FBT003  # not for ever, should imports wait for each other
        try:
            if self in sys.meta_path:
                # A new list, for other threads may be going through the old one.
                sys.meta_path = [finder for finder in sys.meta_path if finder is not self]
                _instrument(module)
        finally:
            if held:
                self._lock.release()


def _instrument(module: str) -> None:
    _note("imported", module)
    try:
        from millstream.record import instrument  # noqa: PLC0415  # the point of it all
        from millstream.record.startup.tracebacks import hide_our_frames  # noqa: PLC0415

        instrument()
        hide_our_frames()
    except Exception as error:  # noqa: BLE001  # telemetry never breaks the user's program
        _note("failed", _version(), sys.executable or "", type(error).__name__ + ": " + str(error))


def _version() -> str:
    return ".".join(str(part) for part in sys.version_info[:3])


def _note(*fields: str) -> None:
    """Append a line to the command's file; where that is gone, so is who would read it."""
    line = " ".join("\t".join(fields).splitlines()) + "\n"
    for path in os.environ.get("MILLSTREAM_RECORD", "").split(os.pathsep):
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, os.fsencode(line))
            finally:
                os.close(file)
        except Exception:  # noqa: BLE001, S112  # telemetry never breaks the user's program
            continue


def _note_process() -> None:
    _note("process", str(os.getpid()), _version(), sys.executable or "")


def _note_end() -> None:
    """What became of this process's spans, where it recorded any."""
    recorder = sys.modules.get("millstream.record.recorder")
    try:
        if recorder is not None and recorder.state.resolved:
            stats = recorder.stats()
            _note("ended", str(stats["made"]), str(recorder.journal_home()))
            for reason, count in stats["dropped"].items():
                _note("dropped", str(count), reason)
    except Exception:  # noqa: BLE001  # telemetry never breaks the user's program
        return


def _start() -> None:
    _note_process()
    atexit.register(_note_end)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_note_process)
    others = os.environ.get("MILLSTREAM_RECORD_MODULES", "")
    modules = _MODULES + tuple(name for name in others.split(",") if name)
    watch = _Watch(modules)
    sys.meta_path.insert(0, watch)
    for module in modules:
        if module in sys.modules:  # a .pth file has imported it
            watch.begin(module)
    sys.path[:] = [entry for entry in sys.path if entry != _HERE]
    sys.path_importer_cache.pop(_HERE, None)


if __name__ == "sitecustomize":
    _start()
    del sys.modules["sitecustomize"]
    # The next one's turn. Where there is none, Python expects the very ImportError that this raises.
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
