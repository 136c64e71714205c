"""`millstream profile`: where the time and the tokens of recorded runs went."""

import gc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import millstream.profiler as profiler_room
from millstream.cli.options import option
from millstream.errors import ConfigError, InputError, MillstreamError, StorageError
from millstream.profiler.forecast.beside import Beside
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
_OBJECTS_BEFORE_CYCLES = 100_000


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
    with _hardly_collecting(), Beside() if with_forecast else nullcontext() as beside:
        found = _profile(source, lambda: _config(config_file, with_forecast=with_forecast))
        if beside is not None and found.config.token_usage_forecast:
            found.forecaster = beside.begin(found.table)
        files = None if output_dir is None else _Files.of(found, output_dir)
        _print(found, as_json=as_json)
    if files is not None:
        files.tell(quiet=as_json)


@contextmanager
def _hardly_collecting() -> Iterator[None]:
    """Spans refer to nothing that refers back: looking for cycles among them takes a tenth of the time.

    At its end the process would look through all of them once more.
    """
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BEFORE_CYCLES)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.freeze()


def _print(found: "Profile", *, as_json: bool) -> None:
    if as_json:
        from millstream.profiler.renderers.files import json_bytes  # noqa: PLC0415  # each way loads its own

        found.prepare(*_ROWS)
        click.echo(json_bytes(profiler_room.findings(found)))
    else:
        from millstream.cli.profile_tables import print_tables  # noqa: PLC0415  # likewise

        print_tables(found)


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


class _Files(NamedTuple):
    """What was written into a folder, and what could not be, by reason."""

    folder: Path
    written: list[Path]
    failed: dict[str, list[str]]

    @classmethod
    def of(cls, found: "Profile", folder: Path) -> "_Files":
        """Write all files."""
        failed: dict[str, list[str]] = {}
        written = profiler_room.write_profile(
            found, folder, on_error=lambda name, error: failed.setdefault(_told(error), []).append(name)
        )
        return cls(folder, written, failed)

    def tell(self, *, quiet: bool) -> None:
        """Say what is there.

        Raises:
            StorageError: for the files that are not.
        """
        report = self.folder / "report.html"
        hint = f"; open {report}" if report in self.written else ""
        click.echo(f"{len(self.written)} files in {self.folder}{hint}", err=quiet)
        if self.failed:
            each = " ".join(f"{', '.join(names)}: {why}." for why, names in self.failed.items())
            raise StorageError(f"These files could not be written: {each}")


def _told(error: Exception) -> str:
    """Ours are sentences; of others the type says more."""
    return str(error) if isinstance(error, MillstreamError) else f"{type(error).__name__}: {error}"
