"""`millstream record`: any Python program, recorded without a change to it."""

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

import millstream
from millstream.cli import record_process
from millstream.cli.options import option
from millstream.errors import InputError, StorageError

_STARTUP: Final = str(Path(millstream.__file__).absolute().parent / "record" / "startup")
"""The folder of the `sitecustomize` that every Python of the program runs; never imported here."""
_GROUP: Final = "millstream.integrations"
_OURS: Final = "millstream.record.integrations.frameworks"
_SWITCHES: Final = ("MILLSTREAM_DISABLED", "OTEL_SDK_DISABLED")
_ON: Final = frozenset({"true", "1", "yes", "on"})


class _NotFoundError(InputError):
    """As a shell says it."""

    exit_code = 127


class _NotExecutableError(InputError):
    """As a shell says it."""

    exit_code = 126


@click.command(context_settings={"allow_interspersed_args": False})
@option("--name", metavar="N", help="What the recording is called.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def record(name: str | None, command: tuple[str, ...]) -> int:
    r"""Run COMMAND and record what it and its child processes do with LLM frameworks.

    \b
    millstream record -- python app.py
    millstream record -- pytest

    No line of the program is changed; its exit code, signals, input and output stay as they are. The last
    line on stderr says what was recorded. Exit code 127 when COMMAND is not found, 126 when it cannot be
    executed.
    """
    home = Path(os.environ.get("MILLSTREAM_HOME") or ".millstream").absolute()
    with _notes_file() as notes:
        before = frozenset(path.name for path in (home / "journal").glob("*.jsonl"))
        off = [switch for switch in _SWITCHES if os.environ.get(switch, "").lower() in _ON]
        environment = dict(os.environ) if off else _environment(home, notes, name)
        process = _start(command, environment)
        from millstream.cli import record_summary  # noqa: PLC0415  # loaded while the program starts

        status = process.wait()
        if off:
            _say(name, lambda: f"nothing was recorded, for {off[0]} is set")
        else:
            _say(name, lambda: record_summary.summarise(home, before, notes))
    return record_process.end_like(status)


@contextlib.contextmanager
def _notes_file() -> Iterator[Path]:
    """The file in which the processes of the program say what the summary has to know of them."""
    try:
        number, name = tempfile.mkstemp(prefix="millstream-record-")
    except OSError as error:
        raise StorageError(f"no temporary file can be written: {error.strerror}. Set TMPDIR") from error
    os.close(number)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _environment(home: Path, notes: Path, name: str | None) -> dict[str, str]:
    """The program's: ours, and what makes each Python in it, at any depth, record to this home."""
    environment = dict(os.environ)
    path = environment.get("PYTHONPATH")
    others = [entry for entry in path.split(os.pathsep) if entry != _STARTUP] if path else []
    environment["PYTHONPATH"] = os.pathsep.join([_STARTUP, *others])
    environment["MILLSTREAM_HOME"] = str(home)
    around = environment.get("MILLSTREAM_RECORD")  # a recording that this one is part of
    environment["MILLSTREAM_RECORD"] = os.pathsep.join([*([around] if around else []), str(notes)])
    if modules := _modules_of_plugins():
        environment["MILLSTREAM_RECORD_MODULES"] = ",".join(modules)
    if name:
        environment["MILLSTREAM_NAME"] = name
    return environment


def _modules_of_plugins() -> list[str]:
    """The modules that other packages' integrations wait for; ours are known at startup."""
    if not any(map(_declares_integrations, sys.path)):
        return []
    from importlib.metadata import entry_points  # noqa: PLC0415  # longer than all else before the program starts

    modules = []
    for entry in entry_points(group=_GROUP):
        if entry.module != _OURS:
            with contextlib.suppress(Exception):  # the program says it, where it is to be loaded
                modules.append(entry.load().module)
    return modules


def _declares_integrations(folder: str) -> bool:
    """Whether another package in a folder of `sys.path` has integrations."""
    try:
        return any(
            _GROUP.encode() in file.read_bytes()
            for file in Path(folder).glob("*-info/entry_points.txt")
            if not file.parent.name.startswith("millstream-")
        )
    except OSError:
        return False


def _start(command: tuple[str, ...], environment: dict[str, str]) -> record_process.Process:
    try:
        return record_process.Process(command, environment)
    except OSError as error:
        program, reason = command[0], error.strerror
        if error.errno != errno.ENOENT:
            hint = "; for a Python script: python SCRIPT" if error.errno == errno.ENOEXEC else ""
            raise _NotExecutableError(f"{program} cannot be executed: {reason}{hint}") from error
        if os.sep not in program:
            hint = f"; to run the script: python {program}" if Path(program).is_file() else ""
            raise _NotFoundError(f"there is no command {program} on PATH{hint}") from error
        if Path(program).is_file():
            raise _NotExecutableError(
                f"{program}: its first line names a program that is not there"
            ) from error
        raise _NotFoundError(f"{program} is not there") from error


def _say(name: str | None, summarise: Callable[[], str]) -> None:
    """The last line. Nothing that goes wrong with it may cost the program's exit code."""
    try:
        line = summarise()
    except KeyboardInterrupt:
        line = "interrupted while the recording was summed up"
    except Exception as error:  # noqa: BLE001  # a fault of ours, or of the disk
        line = f"the recording could not be summed up ({type(error).__name__}: {error})"
    with contextlib.suppress(OSError):  # nobody reads it
        click.echo(f"millstream: {f'{name}: ' if name else ''}{line}", err=True)
