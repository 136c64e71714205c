"""`spans.parquet`: the spans with all their fields, and what the table worked out."""

from pathlib import Path

from millstream.profiler.engine import Profile
from millstream.profiler.renderers.files import replacing
from millstream.store.parquet import write_table


def write(profile: Profile, path: Path) -> None:
    """Write the spans of a profile; the file appears whole or not at all."""
    with replacing(path) as file:
        write_table(profile.table, file)
