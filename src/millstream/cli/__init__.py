"""The command line: it prints, asks and shows progress; nothing below it does.

Exit codes: 0 done, 1 a gate failed, 2 wrong usage, configuration or input, 3 some items failed, 4 something
needed is missing or unreachable, 130 interrupted.
"""

import contextlib
import errno
import os
import sys
import traceback
from importlib import import_module
from typing import Any, Final

import click

from millstream import __version__, interrupts
from millstream.cli import stopping
from millstream.errors import MillstreamError, StorageError

_COMMANDS: Final = {
    "compare": "millstream.cli.compare",
    "doctor": "millstream.cli.doctor",
    "eval": "millstream.cli.eval",
    "info": "millstream.cli.info",
    "journal": "millstream.cli.journal",
    "profile": "millstream.cli.profile",
    "record": "millstream.cli.record",
    "run": "millstream.cli.run",
    "ship": "millstream.cli.ship",
    "simulate": "millstream.cli.simulate",
    "validate": "millstream.cli.run",
}
_ATTRIBUTES: Final = {"eval": "eval_command"}
_STOPPED_GENTLY: Final = ("ship",)
"""Commands that look at `stopping.wanted`."""
_ENDED_AT_ONCE: Final = ("eval",)
"""Commands that take the signals over where they have something to clean up."""


class _ReaderGoneError(Exception):
    """Nobody reads our output any more, as after `head`; click itself would exit with 1."""


class _LazyGroup(click.Group):
    """Imports a command's module when it is asked for, so that each command pays for itself only."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(_COMMANDS[cmd_name])
        command: click.Command = getattr(module, _ATTRIBUTES.get(cmd_name, cmd_name))
        if cmd_name not in _ENDED_AT_ONCE:
            interrupts.work_begins()
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, but for a pipe that was closed."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGoneError from error


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="millstream")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, *, debug: bool) -> None:
    """Record, profile and evaluate LLM workflows."""
    ctx.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; errors are plain sentences on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    ours = given[: _end_of_ours(given)]
    debug = "--debug" in ours
    if next((argument for argument in ours if argument != "--debug"), None) in _STOPPED_GENTLY:
        stopping.catch()  # before its module is imported, which takes a second
    code = _run([argument for argument in ours if argument != "--debug"] + given[len(ours) :], debug=debug)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = code or _output_failed(error)
        with contextlib.suppress(OSError):  # Python flushes again when it exits, and would complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _end_of_ours(given: list[str]) -> int:
    """Where the command line of another program begins, after `record`; its options are not ours."""
    end = next((at for at, argument in enumerate(given) if argument != "--debug"), 0)
    if given[end : end + 1] != ["record"]:
        return len(given)
    return next((at for at in range(end + 1, len(given)) if given[at] != "--debug"), len(given))


def _run(given: list[str], *, debug: bool) -> int:
    """The exit code."""
    try:
        result: Any = cli.main(args=given, prog_name="millstream", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return interrupts.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except MillstreamError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"millstream: {error.told}", err=True)
        return error.exit_code
    except _ReaderGoneError:
        return 0
    except OSError as error:
        if error.errno not in _OUTPUT_FAILURES or error.filename is not None:
            raise
        return _output_failed(error)
    return result if isinstance(result, int) else 0


_OUTPUT_FAILURES: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _output_failed(error: OSError) -> int:
    if isinstance(error, BrokenPipeError):
        return 0
    failure = StorageError(f"the output cannot be written: {error.strerror}. Make room, or write elsewhere")
    click.echo(f"millstream: {failure}", err=True)
    return failure.exit_code
