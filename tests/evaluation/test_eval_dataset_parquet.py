"""Parquet datasets: what pyarrow and pandas write comes back as JSON values; a damaged file is refused."""

import contextlib
import datetime as dt
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import InputError

from .packages import package
from .test_eval_dataset import load, quick, texts

pa = package("pyarrow")
pq = package("pyarrow.parquet")

UTC = dt.UTC


def written(path, table, **options):
    pq.write_table(table, path, **options)
    return path


@quick
@given(
    rows=st.lists(
        st.tuples(texts, st.none() | texts, st.none() | st.integers(-(2**63), 2**63 - 1)), min_size=1
    )
)
def test_what_pandas_writes_comes_back(tmp_path, rows):
    pandas = package("pandas")
    path = tmp_path / "d.parquet"
    columns = {
        "id": [f"x{n}" for n in range(len(rows))],
        "question": [question for question, _, _ in rows],
        "answer": pandas.array([answer for _, answer, _ in rows], dtype="str"),
        "n": pandas.array([n for _, _, n in rows], dtype="Int64"),
    }
    pandas.DataFrame(columns).to_parquet(path)
    items = load(path).items
    assert [(item.question, item.expected, item.row["n"]) for item in items] == rows


@quick
@given(values=st.lists(st.lists(st.none() | texts) | st.none(), min_size=1, max_size=5))
def test_lists_come_back(tmp_path, values):
    table = pa.table(
        {
            "id": [str(n) for n in range(len(values))],
            "question": ["q"] * len(values),
            "list": pa.array(values, pa.list_(pa.string())),
            "inside": pa.array([{"a": {"b": one}} for one in values]),
        }
    )
    rows = [item.row for item in load(written(tmp_path / "d.parquet", table)).items]
    assert [row["list"] for row in rows] == values
    assert [row["inside"]["a"]["b"] for row in rows] == values


def test_what_is_not_json_has_its_documented_form(tmp_path):
    table = pa.table(
        {
            "id": pa.array([7]),
            "question": pa.array([[{"role": "user", "content": "hi"}]]),
            "day": pa.array([dt.date(2026, 1, 2)]),
            "naive": pa.array([1], pa.timestamp("ns")),
            "aware": pa.array([dt.datetime(2026, 1, 2, 3, 4, 5, 6, UTC)]),
            "time": pa.array([dt.time(1, 2, 3)]),
            "long": pa.array([dt.timedelta(hours=1.5)]),
            "nested": pa.array([[1_000_000_000_000_001_999]], pa.list_(pa.timestamp("ns", "UTC"))),
            "price": pa.array([Decimal("1.50")]),
            "tiny": pa.array([Decimal("0.000000000")]),
            "nan": pa.array([float("nan")]),
            "text": pa.array([b"plain"]),
            "bytes": pa.array([b"\xff\x00"]),
            "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "category": pa.array(["a"]).dictionary_encode(),
            "half": pa.array([0.5], pa.float16()),
            "null": pa.nulls(1),
        }
    )
    (item,) = load(written(tmp_path / "d.parquet", table)).items
    assert item.id == "7"
    assert item.question == [{"role": "user", "content": "hi"}]
    assert {key: value for key, value in item.row.items() if key not in ("id", "question")} == {
        "day": "2026-01-02",
        "naive": "1970-01-01T00:00:00",
        "aware": "2026-01-02T03:04:05.000006+00:00",
        "time": "01:02:03",
        "long": 5400.0,
        "nested": ["2001-09-09T01:46:40.000001+00:00"],
        "price": "1.50",
        "tiny": "0.000000000",
        "nan": None,
        "text": "plain",
        "bytes": "/wA=",
        "map": {"k": 1},
        "category": "a",
        "half": 0.5,
        "null": None,
    }
    json.dumps(item.row, allow_nan=False)


def test_rows_are_numbered_across_batches(tmp_path):
    ids = [str(n) for n in range(1000)]
    ids[700] = None
    table = pa.table({"id": pa.array(ids, pa.string()), "question": ["q"] * 1000})
    with pytest.raises(InputError, match=r"row 701 has no id \(column 'id'\)"):
        load(written(tmp_path / "d.parquet", table, row_group_size=100))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"id": ["a"], "question": [float("inf")]}, "row 1, column 'question': it is an infinite number"),
        ({"id": [], "question": []}, "has no rows"),
        ({"id": ["a", "a"], "question": ["x", "y"]}, "ids more than once in column 'id': 'a'"),
        ({"id": ["a"], "qestion": ["x"]}, "no column 'question'.*did you mean 'qestion'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, table, words):
    with pytest.raises(InputError, match=words):
        load(written(tmp_path / "d.parquet", pa.table(table)))


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["id", "question", "question"])
    with pytest.raises(InputError, match="more than one column named question"):
        load(written(tmp_path / "d.parquet", table))


def test_a_file_of_another_kind_is_refused(write):
    with pytest.raises(InputError, match=r"is not a Parquet file\.$"):
        load(write("d.parquet", "id,question\n1,a\n"))
    with pytest.raises(InputError, match=r"looks like an Excel file: set _type: xls"):
        load(write("d.parquet", b"PK\x03\x04 and so on"))
    with pytest.raises(InputError, match=r"looks like a Parquet file: set _type: parquet"):
        load(write("d.csv", b"PAR1 and so on\xff"))


@quick
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read(tmp_path, data):
    path = tmp_path / "d.parquet"
    if not path.exists():
        rows = 300
        table = pa.table(
            {"id": [f"i{n}" for n in range(rows)], "question": [f"question {n}" * 5 for n in range(rows)]}
        )
        written(tmp_path / "whole", table)
    content = bytearray((tmp_path / "whole").read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(4, len(content) - 1)) :]
    else:
        at = data.draw(st.integers(4, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        load(path)


def test_pandas_is_not_loaded(tmp_path):
    import subprocess
    import sys

    table = pa.table({"id": ["a"], "question": ["q"], "t": pa.array([1], pa.timestamp("ns"))})
    path = written(tmp_path / "d.parquet", table)
    code = (
        "import sys; from millstream.evaluation.config import parse_eval;"
        "from millstream.evaluation.dataset import load_dataset;"
        f"d = load_dataset(parse_eval({{}}, {str(path)!r}).dataset);"
        "print(d.items[0].row['t'], 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1970-01-01T00:00:00 False\n"
