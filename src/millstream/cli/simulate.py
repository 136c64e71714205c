"""`millstream simulate`: stand-ins for what is slow, dear or not there."""

from pathlib import Path

import click

from millstream.cli.options import option


@click.group()
def simulate() -> None:
    """Stand-ins for what is slow, dear or not there."""


@simulate.command()
@option(
    "--config", type=click.Path(path_type=Path), required=True, metavar="RULES.yml", help="The rules file."
)
@option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@option("--port", default=0, type=click.IntRange(0, 65535), show_default=True, help="0 takes a free port.")
@option("--seed", default=0, show_default=True, help="Equal seeds give equal answers to equal requests.")
@option("--exit-with-parent", is_flag=True, help="Stop when the process that started this one is gone.")
def llm(config: Path, host: str, port: int, seed: int, *, exit_with_parent: bool) -> None:
    """An OpenAI-compatible model server that answers by rules and takes its time.

    The first line on stdout is the base URL, printed when connections are accepted. SIGTERM and Ctrl-C stop
    it.
    """
    from millstream.simulate.llm_server import serve_llm  # noqa: PLC0415  # other commands need none of it
    from millstream.simulate.rules import load_rules  # noqa: PLC0415

    rules = load_rules(config)
    serve_llm(rules, host=host, port=port, seed=seed, ready=click.echo, exit_with_parent=exit_with_parent)
