"""What a file is, by what is in it."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from millstream.errors import InputError
from millstream.store.readers.json_file import JsonFile
from millstream.store.readers.json_lines import JsonLinesStore
from millstream.store.readers.nat_traces import NatTracesStore
from millstream.store.readers.otlp_json import OtlpJsonStore

if TYPE_CHECKING:
    from millstream.store.readers.parquet import ParquetStore

READABLE: Final = (
    "What can be read: a folder that was recorded into, spans as JSON lines or Parquet, "
    "all_requests_profiler_traces.json, and OTLP as JSON"
)
_PARQUET: Final = b"PAR1"
_SHOWN_KEYS: Final = 6
_OTHERS: Final = (
    ({"event_type", "event_timestamp"}, "START and END events without the requests that they belong to"),
    ({"payload", "function_ancestry"}, "START and END events without the requests that they belong to"),
    ({"traceEvents"}, "a Chrome trace"),
    ({"data", "total"}, "a trace of Jaeger's API"),
    ({"traceID", "spanID"}, "spans of Jaeger"),
    ({"traceId", "id", "timestamp"}, "spans of Zipkin"),
    ({"timestamp", "workload_id", "request"}, "flywheel records, which have no spans"),
    ({"confidence_intervals"}, "the result of a profile, not what was recorded"),
    ({"simple_stack_analysis"}, "the result of a profile, not what was recorded"),
    ({"average_score"}, "the result of an evaluator, not what was recorded"),
)
"""Keys of files that a user may have at hand."""


def recognise(path: Path) -> "JsonLinesStore | NatTracesStore | OtlpJsonStore | ParquetStore":
    """A reader of a file.

    Raises:
        InputError: it is of a kind that cannot be read, and says of which; or it is not a file.
        MissingExtraError: it is Parquet, and that extra is not installed.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file. {READABLE}")
    try:
        with path.open("rb") as file:
            head = file.read(len(_PARQUET))
        if head == _PARQUET:
            from millstream.store.readers.parquet import ParquetStore  # noqa: PLC0415  # it needs an extra

            return ParquetStore(path)
        found = JsonFile(path)
    except PermissionError as error:
        raise InputError(f"{path} may not be read: it belongs to another user") from error
    return _of_json(found)


def _of_json(file: JsonFile) -> JsonLinesStore | NatTracesStore | OtlpJsonStore:
    keys = set(file.keys)
    if {"trace_id", "span_id"} <= keys:
        return JsonLinesStore(file)
    if "intermediate_steps" in keys and "request_number" in keys:
        return NatTracesStore(file)
    if not OtlpJsonStore.KEYS.isdisjoint(keys):
        return OtlpJsonStore(file)
    if keys:
        raise InputError(f"{file.path} holds {_described(file.keys)}. {READABLE}")
    if file.empty or ".jsonl" in file.path.suffixes or ".ndjson" in file.path.suffixes:
        return JsonLinesStore(file)
    raise InputError(f"{file.path} cannot be read: it is neither JSON nor Parquet. {READABLE}")


def _described(keys: list[str]) -> str:
    for known, what in _OTHERS:
        if known <= set(keys):
            return what
    return f"JSON objects with {_listed(keys)}, which no spans have"


def _listed(keys: Iterable[str]) -> str:
    names = [name if name.isprintable() else "?" for name in keys]
    more = len(names) - _SHOWN_KEYS
    return ", ".join(names[:_SHOWN_KEYS]) + (f" and {more} more keys" if more > 0 else "")
