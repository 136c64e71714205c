"""Excel workbooks (.xlsx, .xls) to rows: a header, then a row an item."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from millstream.errors import InputError, MissingExtraError
from millstream.evaluation.datasets.rows import Row, Source
from millstream.evaluation.datasets.text import looks_like

_CHILD: Final = Path(__file__).with_name("excel_child.py")
_MAX_UNPACKED: Final = 1 << 30
_MAX_MEMORY: Final = 4 << 30
_ZIP: Final = b"PK\x03\x04"
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def read_xls(source: Source, sheet: str | None = None) -> Iterator[Row]:
    """The rows of a sheet. Empty rows are passed over.

    Args:
        source: the workbook.
        sheet: name of the sheet; `None` is the first that is shown.

    Raises:
        InputError: it is no workbook, there is no such sheet, or its cells are no table; names the row.
        MissingExtraError: python-calamine is not installed.
    """
    if importlib.util.find_spec("python_calamine") is None:
        raise MissingExtraError("A dataset of _type: xls", "datasets")
    _check(source)
    columns: dict[int, str] = {}
    for number, first, cells in _numbered(source, sheet or ""):
        if all(cell is None for cell in cells):
            continue
        if not columns:
            columns = _columns(source.name, number, cells)
            continue
        for place, cell in enumerate(cells):
            if cell is not None and place not in columns:
                raise InputError(
                    f"{source.name}, row {number} has a value in column {_letters(first + place)}, which has "
                    "no name in the header row."
                )
        yield Row(f"row {number}", {title: cells[place] for place, title in columns.items()})


def _columns(name: str, number: int, header: Sequence[Any]) -> dict[int, str]:
    columns = {place: _title(cell) for place, cell in enumerate(header) if cell is not None}
    titles = list(columns.values())
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice:
        raise InputError(
            f"{name}, row {number} has more than one column named {', '.join(twice)}. Give each its own name."
        )
    return columns


def _title(cell: Any) -> str:
    return cell if isinstance(cell, str) else json.dumps(cell)


def _check(source: Source) -> None:
    source.file.seek(0)
    head = source.file.read(8)
    if head == _OLE:
        return
    if not head.startswith(_ZIP):
        raise InputError(
            f"{source.name} is not an Excel workbook (.xlsx or .xls). {looks_like(source.file)}".strip()
        )
    try:
        with zipfile.ZipFile(source.file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, NotImplementedError) as error:
        raise InputError(f"{source.name} is damaged: {error}.") from None
    if not any(member.filename.endswith("workbook.xml") for member in members):
        raise InputError(f"{source.name} is not an Excel workbook (.xlsx or .xls).")
    unpacked = sum(member.file_size for member in members)
    if unpacked > _MAX_UNPACKED:
        raise InputError(
            f"{source.name} unpacks to {unpacked:,} bytes; the most is {_MAX_UNPACKED:,}. "
            "Save it as CSV or Parquet."
        )


def _numbered(source: Source, sheet: str) -> Iterator[tuple[int, int, list[Any]]]:
    """Each row with its number in the sheet and the place of its first column, read by a child process."""
    os.lseek(source.file.fileno(), 0, os.SEEK_SET)
    child = subprocess.Popen(  # noqa: S603  # our own file, and no shell
        [sys.executable, "-P", str(_CHILD), sheet, str(_MAX_MEMORY)],
        stdin=source.file,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C is for this process to answer
    )
    number = first = 0
    with child:
        try:
            for line in child.stdout or ():
                value = json.loads(line)
                if isinstance(value, list):
                    number += 1
                    yield number, first, value
                elif "problem" in value:
                    raise InputError(f"{source.name} cannot be read: {value['problem']}.")
                elif "end" in value:
                    return
                else:
                    first = value["first_column"]
            killed = child.wait() < 0
        finally:
            child.kill()
    why = f"it is damaged, or a cell far away from the table makes it need more than {_MAX_MEMORY >> 30} GiB"
    raise InputError(f"{source.name} cannot be read: {why if killed else 'it is damaged'}. Save it as CSV.")


def _letters(column: int) -> str:
    text, number = "", column + 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("A") + rest) + text
    return text
