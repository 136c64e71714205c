"""Which kinds of datasets there are: ours, and those that installed packages bring."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from millstream.deliver.options import Accepted
from millstream.deliver.plugins import available, load_entry_point
from millstream.errors import ConfigError, nearest
from millstream.evaluation.datasets.csv_rows import read_csv
from millstream.evaluation.datasets.custom import rows_of_function
from millstream.evaluation.datasets.excel import read_xls
from millstream.evaluation.datasets.json_rows import read_json, read_jsonl
from millstream.evaluation.datasets.parquet import read_parquet
from millstream.evaluation.datasets.remote import is_url, shown
from millstream.evaluation.datasets.rows import Row
from millstream.evaluation.datasets.source import opened_source, sha256_of
from millstream.workflow.modules import load_target

GROUP: Final = "millstream.datasets"
CUSTOM: Final = "custom"
_READERS: Final[dict[str, Callable[..., Iterator[Row]]]] = {
    "json": read_json,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
    "xls": read_xls,
}
FILE_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset({"sheet"} if kind == "xls" else ()) for kind in _READERS
}
"""The `_type`s that read a file, and the keys of their own that they have."""
CELLS_OF_TEXT: Final = frozenset({"csv", "xls"})
"""The `_type`s whose cells cannot hold a list or an object."""
SUFFIXES: Final = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".xls": "xls",
    ".xlsx": "xls",
}
"""The `_type` that a file name means where none is given."""


def dataset_types() -> list[str]:
    """Every `_type` of a dataset, sorted."""
    return sorted({*_READERS, CUSTOM, *available(GROUP)})


def type_of(file_path: str) -> str | None:
    """The `_type` that the suffix of a path or a URL means; `None` where it means none."""
    path = urlsplit(file_path.partition("::")[0]).path if is_url(file_path) else file_path
    return SUFFIXES.get(Path(path).suffix.lower())


def own_keys(kind: str) -> list[dict[str, Any]]:
    """The keys that only this `_type` has, as `Accepted.keys`; `custom` takes those of its function, too.

    Raises:
        ConfigError: the package that brings it is broken.
    """
    if kind == CUSTOM:
        return [{"name": "function", "type": str, "required": True, "default": None, "aliases": []}]
    if kind in _READERS:
        return [key for key in Accepted(_READERS[kind]).keys if key["name"] in FILE_OPTIONS[kind]]
    keys = Accepted(load_entry_point(available(GROUP)[kind])).keys
    return [key for key in keys if key["name"] != "file_path"]


class Reading:
    """A dataset that is being read.

    Attributes:
        name: of the dataset, as it may be shown.
        rows: one after the other.
    """

    def __init__(self, name: str, rows: Iterator[Row], sha256: Callable[[], str]) -> None:
        self.name = name
        self.rows = rows
        self._sha256 = sha256

    def sha256(self) -> str:
        """Of the file's bytes, or of the rows of a function as JSON lines: when they have all been read."""
        return self._sha256()


@contextmanager
def reading(
    kind: str, file_path: str | None, options: Mapping[str, Any], directory: Path
) -> Iterator[Reading]:
    """Open a dataset.

    Args:
        kind: one of `dataset_types()`.
        file_path: a path or a URL; functions may do without.
        options: the other keys.
        directory: what files of Python functions are relative to.

    Raises:
        ConfigError: a function cannot be loaded.
        InputError: it cannot be read.
        MissingExtraError: what reads it is not installed.
        UnreachableError: the server that has it does not answer.
    """
    if kind in _READERS:
        with opened_source(str(file_path)) as source:
            rows = _READERS[kind](source, **options)
            yield Reading(source.name, rows, lambda: sha256_of(source.file))
        return
    keywords = dict(options)
    if kind == CUSTOM:
        target = keywords.pop("function")
        function = load_target(target, directory, where="eval.general.dataset.function")
        name = f"The function {target}"
    else:
        function = load_entry_point(available(GROUP)[kind])
        name = f"The dataset {kind!r}"
    if not callable(function):
        raise ConfigError(
            f"eval.general.dataset: {name} is of the type {type(function).__name__}; it must be callable"
        )
    digest = hashlib.sha256()
    rows = _digested(rows_of_function(function, {"file_path": file_path, **keywords}, name), digest)
    yield Reading(shown(file_path) if file_path else name, rows, digest.hexdigest)


def check_type(kind: str) -> str:
    """The `_type`, when there is such a one.

    Raises:
        ValueError: there is none; names the nearest.
    """
    known = dataset_types()
    if kind not in known:
        raise ValueError(f"unknown dataset {kind!r}{nearest(kind, known)}")
    return kind


def _digested(rows: Iterator[Row], digest: Any) -> Iterator[Row]:
    for row in rows:
        digest.update(json.dumps(row.values).encode() + b"\n")
        yield row
