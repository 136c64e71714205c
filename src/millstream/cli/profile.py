"""`millstream profile`: where the time and the tokens of recorded runs went."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import millstream.profiler as profiler_room
from millstream.cli.options import option
from millstream.errors import ConfigError, InputError, MillstreamError, StorageError
from millstream.profiler.results import Source
from millstream.store import Store, open_store
from millstream.store.journal_store import JournalStore

if TYPE_CHECKING:
    from millstream.profiler import Profile
    from millstream.profiler.config import ProfilerConfig
    from millstream.store.table import SpanTable

_ROWS = (
    ("cache", "concurrency", "forecast"),
    ("latency", "tokens", "self_time", "critical_path", "cost", "retries"),
)
"""Findings that take about as long as each other; those that need most memory come one after the other."""


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@option("--output_dir", type=click.Path(path_type=Path), help="Write the report and all other files here.")
@option(
    "--config_file",
    type=click.Path(path_type=Path),
    help="A workflow file: its eval.general.profiler is used.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--forecast", is_flag=True, help="Forecast the next request, too; seconds more.")
def profile(
    source: Path, output_dir: Path | None, config_file: Path | None, *, as_json: bool, forecast: bool
) -> None:
    """Show where the time and the tokens of recorded runs went.

    SOURCE is the folder that was recorded into (by default .millstream), or a file of spans. Without
    --output_dir no file is written.
    """
    with_forecast = forecast or output_dir is not None
    found = _profile(source, lambda: _config(config_file, with_forecast=with_forecast))
    if as_json:
        from millstream.profiler.renderers.files import json_bytes  # noqa: PLC0415  # each way loads its own

        found.prepare(*_ROWS)
        click.echo(json_bytes(profiler_room.findings(found)))
    else:
        from millstream.cli.profile_tables import print_tables  # noqa: PLC0415  # likewise

        print_tables(found)
    if output_dir is not None:
        _write(found, output_dir, quiet=as_json)


def _config(path: Path | None, *, with_forecast: bool) -> "ProfilerConfig":
    """What to compute: what a file says, else everything."""
    from millstream.profiler.config import ProfilerConfig  # noqa: PLC0415  # a file is read meanwhile

    if path is not None:
        return read_config(path)
    return ProfilerConfig.everything().model_copy(update={"token_usage_forecast": with_forecast})


def read_config(path: Path) -> "ProfilerConfig":
    """The section `eval.general.profiler` of a workflow file; the rest of the file is not looked at.

    Raises:
        ConfigError: the file cannot be read, has no such section, or a key in it is wrong.
    """
    from millstream.profiler.config import ProfilerConfig  # noqa: PLC0415
    from millstream.workflow.environment import expand  # noqa: PLC0415  # with all that workflows need
    from millstream.workflow.validation import parse_model  # noqa: PLC0415
    from millstream.workflow.yaml_file import read_yaml  # noqa: PLC0415

    tree: Any = read_yaml(path)
    for key in ("eval", "general", "profiler"):
        tree = tree.get(key) if isinstance(tree, dict) else None
    if tree is None:
        raise ConfigError(
            f"{path} has no section eval.general.profiler; without --config_file every analysis is on"
        )
    return parse_model(ProfilerConfig, expand(tree, os.environ)[0], "eval.general.profiler")


def _profile(source: Path, config: Callable[[], "ProfilerConfig"]) -> "Profile":
    found = _found(open_store(source), source, config)
    if len(found.table) == 0:
        unread = sum(found.source.rejected.values())
        unreadable = f"; {unread} lines could not be read" if unread else ""
        raise InputError(f"{source} holds no spans{unreadable}. Record a run first, or give another source.")
    return found


def _found(store: Store, source: Path, config: Callable[[], "ProfilerConfig"]) -> "Profile":
    if store.format == "parquet" and (of_file := _of_file(source, config)) is not None:
        return of_file
    wanted = config()
    if isinstance(store, JournalStore):
        return profiler_room.profile_journal(store.home, wanted)
    spans = list(store.spans())
    found = profiler_room.profile(spans, wanted, trace_order=store.trace_order)
    found.source = Source(store.format, found.source.spans, dict(store.rejected))
    return found


def _of_file(path: Path, config: Callable[[], "ProfilerConfig"]) -> "Profile | None":
    """The profile of a table in a file; `None` where there is none. It is read while analyses are loaded."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_table, path)
        wanted, make = config(), profiler_room.Profile
        table = reading.result()
    return None if table is None else make(table, wanted, Source("parquet", len(table)))


def _table(path: Path) -> "SpanTable | None":
    from millstream.store.parquet_table import read_table  # noqa: PLC0415  # needs the extra

    return read_table(path)


def _write(found: "Profile", output_dir: Path, *, quiet: bool) -> None:
    """Write all files; those that failed are named, the others are there."""
    failed: dict[str, list[str]] = {}
    written = profiler_room.write_profile(
        found, output_dir, on_error=lambda name, error: failed.setdefault(_told(error), []).append(name)
    )
    report = output_dir / "report.html"
    hint = f"; open {report}" if report in written else ""
    click.echo(f"{len(written)} files in {output_dir}{hint}", err=quiet)
    if failed:
        each = " ".join(f"{', '.join(names)}: {why}." for why, names in failed.items())
        raise StorageError(f"These files could not be written: {each}")


def _told(error: Exception) -> str:
    """Ours are sentences; of others the type says more."""
    return str(error) if isinstance(error, MillstreamError) else f"{type(error).__name__}: {error}"
