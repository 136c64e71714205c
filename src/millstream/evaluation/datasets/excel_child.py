"""Runs in a process of its own: prints the rows of an Excel workbook (standard input) as JSON, a row a line.

A file can make the library ask for more memory than there is, which ends its process at once; here it ends
only this one. Nothing of millstream is imported.

The arguments are the name of the sheet (empty: the first that is shown) and the most memory in bytes.
The last line is `{"end": true}`, or `{"problem": …}`.
"""

import json
import sys
from datetime import timedelta
from typing import Any, NoReturn

_EXACT = 2**53


def main(sheet: str, memory_bytes: int) -> None:
    """Print the rows of the sheet."""
    import resource  # noqa: PLC0415

    from python_calamine import CalamineError, CalamineWorkbook, PasswordError  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    try:
        with open(0, "rb") as file, CalamineWorkbook.from_filelike(file) as workbook:
            _print_rows(workbook, sheet)
    except PasswordError:
        _refuse("it is protected with a password; save it without one")
    except (CalamineError, MemoryError, ValueError, OverflowError) as error:
        _refuse(f"{type(error).__name__}: {error}")
    _print({"end": True})


def _print_rows(workbook: Any, name: str) -> None:
    from python_calamine import SheetTypeEnum, SheetVisibleEnum  # noqa: PLC0415

    tables = [sheet for sheet in workbook.sheets_metadata if sheet.typ == SheetTypeEnum.WorkSheet]
    shown = [sheet.name for sheet in tables if sheet.visible == SheetVisibleEnum.Visible]
    known = [sheet.name for sheet in tables]
    if name and name not in known:
        _refuse(f"it has no sheet {name!r}; it has {', '.join(map(repr, known))}")
    if not name and not shown:
        _refuse("it has no sheet that is shown")
    sheet = workbook.get_sheet_by_name(name or shown[0])
    if sheet.start is None:
        return
    _check_merged(sheet)
    _print({"first_column": sheet.start[1]})
    for row in sheet.iter_rows():
        _print([_value(cell) for cell in row])


def _check_merged(sheet: Any) -> None:
    (top, left), (bottom, right) = sheet.start, sheet.end
    for (first_row, first_column), (last_row, last_column) in sheet.merged_cell_ranges or []:
        if first_row <= bottom and last_row >= top and first_column <= right and last_column >= left:
            cells = f"{_letters(first_column)}{first_row + 1}:{_letters(last_column)}{last_row + 1}"
            _refuse(
                f"in row {first_row + 1} the cells {cells} are merged; a dataset has one header row and one "
                "value a cell: unmerge them"
            )


def _letters(column: int) -> str:
    text = ""
    number = column + 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(65 + rest) + text
    return text


def _value(cell: Any) -> Any:
    if cell == "" or isinstance(cell, str | bool | int):
        return None if cell == "" else cell
    if isinstance(cell, float):
        if cell != cell or cell in (float("inf"), float("-inf")):  # noqa: PLR0124  # NaN
            return None
        return int(cell) if cell.is_integer() and abs(cell) <= _EXACT else cell
    return cell.total_seconds() if isinstance(cell, timedelta) else cell.isoformat()


def _print(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


def _refuse(problem: str) -> NoReturn:
    _print({"problem": problem})
    sys.stdout.flush()
    raise SystemExit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
