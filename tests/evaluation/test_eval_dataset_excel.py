"""Excel datasets, .xlsx and .xls: what openpyxl and xlwt write comes back; what is no table is refused."""

import datetime as dt
import re
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import InputError
from millstream.evaluation.datasets import excel

from .packages import package
from .test_eval_dataset import load, quick

package("python_calamine")
openpyxl = package("openpyxl")
xlwt = package("xlwt")

cells = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
    | st.text(
        st.characters(min_codepoint=32, exclude_categories=["Cs", "Cn"], exclude_characters="_#=\x7f"),
        min_size=1,
    )
    | st.dates(dt.date(1950, 1, 1), dt.date(2100, 1, 1))
)


def workbook(path, rows, *, sheet=None, at=(1, 1)):
    """Written with the suffix's library; `at` is the place of the first cell."""
    if path.suffix == ".xls":
        book = xlwt.Workbook()
        page = book.add_sheet(sheet or "Sheet")
        day = xlwt.easyxf(num_format_str="YYYY-MM-DD")
        for r, row in enumerate(rows):
            for c, value in enumerate(row):
                if value is not None:
                    style = (day,) if isinstance(value, dt.date) else ()
                    page.write(r + at[0] - 1, c + at[1] - 1, value, *style)
    else:
        book = openpyxl.Workbook()
        page = book.active
        page.title = sheet or "Sheet"
        for r, row in enumerate(rows):
            for c, value in enumerate(row):
                page.cell(r + at[0], c + at[1], value)
    book.save(path)
    return path


@pytest.fixture(params=["d.xlsx", "d.xls"])
def path(request, tmp_path):
    return tmp_path / request.param


@settings(quick, max_examples=15)
@given(
    rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=4),
    right=st.integers(1, 3),
    down=st.integers(1, 3),
)
def test_what_is_written_comes_back(path, rows, right, down):
    table = [("id", "question", "answer"), *((f"0{n}", *row) for n, row in enumerate(rows))]
    items = load(workbook(path, table, at=(down, right)), "xls").items
    assert [item.id for item in items] == [f"0{n}" for n in range(len(rows))]
    for item, (question, answer) in zip(items, rows, strict=True):
        for found, put in ((item.row["question"], question), (item.expected, answer)):
            expected = put.isoformat() if isinstance(put, dt.date) else put
            assert found == (pytest.approx(expected, rel=1e-14) if isinstance(put, float) else expected)
            assert type(found) is type(expected)


def test_numbers_texts_times_and_empty_cells(path):
    moment = dt.datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001  # Excel has no time zones
    rows = [
        ["id", "question", 2026, "when"],
        ["007", "x", 7, None],
        [7, "", 7.5, None],
        ["b", "y", True, None],
    ]
    if path.suffix == ".xlsx":
        rows.append(["c", "z", dt.time(1, 2, 3), moment])
    one, two, three, *rest = load(workbook(path, rows), "xls").items
    assert (one.id, one.row["2026"], one.row["when"]) == ("007", 7, None)
    assert type(one.row["2026"]) is int
    assert (two.id, two.question, two.row["2026"]) == ("7", "", 7.5)
    assert three.row["2026"] is True
    assert [item.row for item in rest] == [
        {"id": "c", "question": "z", "2026": "01:02:03", "when": "2026-01-02T03:04:05"}
    ][: len(rest)]


def test_a_sheet_by_its_name(path):
    workbook(path, [["id", "question"], ["a", "first"]], sheet="One")
    assert load(path, "xls", sheet="One").items[0].question == "first"
    with pytest.raises(InputError, match=r"it has no sheet 'Two'; it has 'One'"):
        load(path, "xls", sheet="Two")


def test_the_first_sheet_that_is_shown(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["id", "question"])
    book.active.sheet_state = "hidden"
    second = book.create_sheet("Second")
    second.append(["id", "question"])
    second.append(["a", "here"])
    book.save(tmp_path / "d.xlsx")
    assert load(tmp_path / "d.xlsx", "xls").items[0].question == "here"


def test_formulas_have_their_last_value(tmp_path):
    workbook(tmp_path / "d.xlsx", [["id", "question"], ["a", "=1+1"]])
    edited(
        tmp_path / "d.xlsx", "xl/worksheets/sheet1.xml", r"<f>1\+1</f><v\s*/?>(</v>)?", "<f>1+1</f><v>2</v>"
    )
    assert load(tmp_path / "d.xlsx", "xls").items[0].question == 2


def edited(path, member, pattern, replacement):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text, count = re.subn(pattern, replacement, members[member].decode())
    assert count
    members[member] = text.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "has no rows"),
        ([["id", "question"]], "has no rows"),
        ([["id", "question"], ["a", "x"], [None, None], ["b", "y", "more"]], "row 4 has a value in column C"),
        ([["id", None, "question"], ["a", "b", "x"]], "row 2 has a value in column B"),
        ([["id", "question", "id"], ["a", "x", "b"]], "row 1 has more than one column named id"),
        ([["id", "question"], ["a", "x"], [None, "y"]], "row 3 has no id"),
        ([["id", "question"], ["a", "x"], ["a", "y"]], "ids more than once in column 'id': 'a'"),
        ([["id", "question"], [True, "x"]], "row 2 has an id that is neither text nor number"),
    ],
)
def test_what_is_no_table_is_named(path, rows, words):
    with pytest.raises(InputError, match=words):
        load(workbook(path, rows), "xls")


def test_merged_cells_are_refused(tmp_path):
    book = openpyxl.Workbook()
    for row in (["id", "question"], ["a", "x"], ["b", "y"]):
        book.active.append(row)
    book.active.merge_cells("A2:A3")
    book.save(tmp_path / "d.xlsx")
    with pytest.raises(InputError, match="in row 2 the cells A2:A3 are merged"):
        load(tmp_path / "d.xlsx", "xls")


def test_a_cell_far_away_is_refused(tmp_path):
    """Its rectangle would need 500 GB; the library then ends the process that it runs in."""
    book = openpyxl.Workbook()
    book.active["A1"] = "id"
    book.active["XFD1048576"] = "z"
    book.save(tmp_path / "d.xlsx")
    with pytest.raises(InputError, match="a cell far away from the table"):
        load(tmp_path / "d.xlsx", "xls")


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(excel, "_MAX_UNPACKED", 16 << 20)  # a whole GiB takes half a minute
    workbook(tmp_path / "d.xlsx", [["id", "question"], ["a", "x"]])
    with (
        zipfile.ZipFile(tmp_path / "d.xlsx", "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("xl/worksheets/sheet2.xml", "w", force_zip64=True) as member,
    ):
        for _ in range(20):
            member.write(b" " * (1 << 20))
    assert (tmp_path / "d.xlsx").stat().st_size < 1 << 20
    with pytest.raises(InputError, match=r"unpacks to 20,\d+,\d+ bytes; the most is 16,777,216"):
        load(tmp_path / "d.xlsx", "xls")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not an Excel workbook"),
        (b"id,question\n1,a\n", "is not an Excel workbook"),
        (b"PAR1....", "looks like a Parquet file: set _type: parquet"),
        (b"PK\x03\x04 torn", "is damaged"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000), "cannot be read"),
    ],
)
def test_what_is_no_workbook_is_refused(write, content, words):
    with pytest.raises(InputError, match=words):
        load(write("d.xlsx", content), "xls")


def test_a_zip_that_is_no_workbook_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.xlsx", "w") as archive:
        archive.writestr("content.xml", "<x/>")
    with pytest.raises(InputError, match="is not an Excel workbook"):
        load(tmp_path / "d.xlsx", "xls")


@pytest.mark.parametrize("name", ["d.xlsx", "d.xls"])
def test_a_damaged_workbook_is_refused_or_read(tmp_path, name):
    whole = workbook(
        tmp_path / name, [["id", "question"], *([f"i{n}", f"q{n}"] for n in range(50))]
    ).read_bytes()
    refused = 0
    for at in range(9, len(whole), len(whole) // 12):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]):
            (tmp_path / name).write_bytes(content)
            try:
                load(tmp_path / name, "xls")
            except InputError:
                refused += 1
    assert refused >= 10


def test_a_cell_of_messages(path):
    turns = '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]'
    first, second = load(workbook(path, [["id", "question"], ["a", turns], ["b", "[1, 2]"]]), "xls").items
    assert [one["content"] for one in first.question] == ["hi", "yes?"]
    assert second.question == "[1, 2]"
