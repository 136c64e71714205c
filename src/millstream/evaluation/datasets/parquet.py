"""Parquet to rows, a few at a time. Nested columns and lists are JSON values; see `rows.json_value`."""

from collections.abc import Iterator
from typing import Any, Final

from millstream.errors import InputError, MissingExtraError
from millstream.evaluation.datasets.rows import Row, Source, json_row
from millstream.evaluation.datasets.text import looks_like

_BATCH_ROWS: Final = 128


def read_parquet(source: Source) -> Iterator[Row]:
    """The rows of a Parquet file. Times are kept to the microsecond.

    Raises:
        InputError: it is none, it is damaged, or a value has no form in JSON.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415  # slow, and an extra
    except ImportError:
        raise MissingExtraError("A dataset of _type: parquet", "profiling") from None
    name = source.name
    _check_sign(source)
    try:
        file = parquet.ParquetFile(source.file)
        schema = _schema(name, file.schema_arrow)
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            for values in _to_microseconds(batch, schema).to_pylist(maps_as_pydicts="strict"):
                number += 1
                yield json_row(name, f"row {number}", values)
    except InputError:
        raise
    except (ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{name} cannot be read as Parquet; is it damaged? {reason}") from None


def _check_sign(source: Source) -> None:
    source.file.seek(0)
    if source.file.read(4) != b"PAR1":
        raise InputError(f"{source.name} is not a Parquet file. {looks_like(source.file)}".strip())
    source.file.seek(0)


def _schema(name: str, schema: Any) -> Any:
    """The schema with times to the microsecond, which Python's have."""
    import pyarrow as pa  # noqa: PLC0415

    twice = sorted({column for column in schema.names if schema.names.count(column) > 1})
    if twice:
        raise InputError(f"{name} has more than one column named {', '.join(twice)}. Give each its own name.")
    return pa.schema([field.with_type(_readable(pa, field.type)) for field in schema])


def _to_microseconds(batch: Any, schema: Any) -> Any:
    for place, field in enumerate(schema):
        if batch.schema.field(place).type != field.type:
            column = batch.column(place).cast(field.type, safe=False)
            batch = batch.set_column(place, field, column)
    return batch


def _readable(pa: Any, kind: Any) -> Any:
    types = pa.types
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if types.is_struct(kind):
        return pa.struct([field.with_type(_readable(pa, field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_readable(pa, kind.key_type), _readable(pa, kind.item_type))
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_readable(pa, kind.value_type)))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_readable(pa, kind.value_type)))
    return kind
