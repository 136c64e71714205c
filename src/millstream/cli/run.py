"""`millstream run` and `validate`: a workflow file run, and checked."""

import asyncio
import json
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from millstream.cli.options import option
from millstream.errors import ConfigError, InputError, MillstreamError, UnreachableError
from millstream.record.recorder import require_stored

_config_file = option(
    "--config_file",
    required=True,
    type=click.Path(path_type=Path),
    metavar="F",
    help="The workflow file (YAML).",
)
_override = option(
    "--override",
    "overrides",
    multiple=True,
    nargs=2,
    metavar="PATH VALUE",
    help="Set a value of the file, such as llms.main.temperature 0.",
)


@click.command()
@_config_file
@option("--input", "text", metavar="S", help="What the workflow is asked.")
@option(
    "--input_file", type=click.Path(path_type=Path), metavar="P", help="A file with it; - is standard input."
)
@_override
def run(
    config_file: Path, text: str | None, input_file: Path | None, overrides: Sequence[tuple[str, str]]
) -> None:
    """Run a workflow on one input and print its result. Its spans are recorded in the journal."""
    from millstream.workflow.config import load_config  # noqa: PLC0415  # other commands need none of it

    if (text is None) == (input_file is None):
        raise click.UsageError("give one of --input and --input_file")
    message = _read(input_file) if input_file is not None else text
    sections = ("general", "llms", "embedders", "functions", "workflow")
    config = load_config(config_file, overrides, sections=sections)
    asyncio.run(_run(config, message))
    require_stored()


@click.command()
@_config_file
@_override
@option("--json", "as_json", is_flag=True, help="Print JSON.")
def validate(config_file: Path, overrides: Sequence[tuple[str, str]], *, as_json: bool) -> int:
    """Check a workflow file and its dataset; no workflow and no model is asked. Exit code 2: it is wrong."""
    from millstream.workflow.config import load_config  # noqa: PLC0415  # other commands need none of it
    from millstream.workflow.validation import Problems  # noqa: PLC0415

    problems = Problems()
    title = str(config_file)
    try:
        config = load_config(config_file, overrides)
        _check(config, problems)
        problems.raise_if_any(title)
    except ConfigError as error:
        if not as_json:
            raise
        lines = list(dict.fromkeys(problems.lines)) or [line.strip() for line in str(error).splitlines()]
        click.echo(json.dumps({"ok": False, "problems": lines}))
        return error.exit_code
    parts = [f"{len(config.functions)} functions", f"{len(config.llms)} llms"]
    if config.embedders:
        parts.append(f"{len(config.embedders)} embedders")
    if config.workflow is not None:
        parts.insert(0, f"workflow {config.name}")
    click.echo(json.dumps({"ok": True, "problems": []}) if as_json else f"OK: {title} ({', '.join(parts)})")
    return 0


async def _run(config: Any, message: str | None) -> None:
    """Print the answer, and only then wait for what is still to be delivered."""
    from millstream.workflow.answers import answer_text  # noqa: PLC0415
    from millstream.workflow.delivery import delivering  # noqa: PLC0415
    from millstream.workflow.logging import log_messages  # noqa: PLC0415

    with _saying_how_to_stop(), log_messages(config):
        async with delivering(config):
            click.echo(answer_text(await _answer(config, message)))


async def _answer(config: Any, message: str | None) -> Any:
    from millstream.workflow.explain import as_millstream_error  # noqa: PLC0415
    from millstream.workflow.runner import open_workflow  # noqa: PLC0415
    from millstream.workflow.validation import in_file  # noqa: PLC0415

    with in_file(config.path, UnreachableError):
        try:
            async with open_workflow(config) as workflow:
                return await workflow.run(message)
        except MillstreamError:
            raise
        except Exception as error:
            raise as_millstream_error(error) from error


@contextmanager
def _saying_how_to_stop() -> Iterator[None]:
    """Answer the first Ctrl-C at once: a function that holds up the event loop would do so much later."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    first = True

    def say(number: int, frame: types.FrameType | None) -> None:
        nonlocal first
        if first:
            first = False
            with suppress(OSError):  # the terminal may be gone; print is not safe inside a signal handler
                os.write(2, b"stopping; press Ctrl-C again to stop at once\n")
        before(number, frame)

    signal.signal(signal.SIGINT, say)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _read(path: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"--input_file: {path} is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"--input_file: {path} cannot be read: {error.strerror}") from None


def _check(config: Any, problems: Any) -> None:
    from millstream.workflow.checks import check_config  # noqa: PLC0415

    with problems.collect():
        check_config(config)
    if config.workflow is None and config.eval is None:
        problems.lines.append("the file has neither a workflow nor an eval section: there is nothing to do")
    if config.eval is not None:
        from millstream.evaluation.prepare import prepare  # noqa: PLC0415

        with problems.collect():
            prepare(config)
