"""Rows that Python functions give, and those of plugins."""

import json
import sys
from importlib.metadata import EntryPoint

import pytest

from millstream.deliver import plugins
from millstream.errors import ConfigError, InputError, MissingExtraError
from millstream.evaluation.config import parse_eval
from millstream.evaluation.dataset import load_dataset

ROWS = """
import asyncio, datetime, decimal
PRICE = decimal.Decimal("1.50")
ROWS = [{"id": 1, "question": "a", "answer": PRICE}, {"id": 2, "question": "b", "answer": None}]

def listed(file_path, **keys): return ROWS
def yielded(file_path): yield from ROWS
async def awaited(file_path): await asyncio.sleep(0); return ROWS
async def streamed(file_path):
    for row in ROWS:
        await asyncio.sleep(0)
        yield row
async def awaits_a_stream(file_path): return streamed(file_path)
class Made:
    def __init__(self, file_path): self.path = file_path
    def __iter__(self): return iter(ROWS)

def told(file_path, number, nested):
    return [{"id": file_path, "question": [number, nested], "at": datetime.date(2026, 1, 2)}]

def breaks(file_path):
    yield ROWS[0]
    raise LookupError("the archive is empty")  # line 23
async def breaks_too(file_path):
    raise LookupError("the archive is empty")
def leaves(file_path): raise SystemExit("enough")
def gives_text(file_path): return "id,question"
def gives_none(file_path): pass
def gives_lists(file_path): return [[1, 2]]
def gives_objects(file_path): return [{"id": 1, "question": object()}]
def gives_itself(file_path):
    row = {"id": 1}
    row["question"] = row
    return [row]
NUMBER = 7
"""


@pytest.fixture
def load(tmp_path):
    (tmp_path / "rows_here.py").write_text(ROWS)

    def loaded(name, **keys):
        dataset = {"_type": "custom", "function": f"rows_here.py:{name}", **keys}
        return load_dataset(parse_eval({"general": {"dataset": dataset}}).dataset, tmp_path)

    return loaded


@pytest.mark.parametrize("name", ["listed", "yielded", "awaited", "streamed", "awaits_a_stream", "Made"])
def test_rows_are_returned_yielded_or_awaited(load, name):
    loaded = load(name)
    assert [(item.id, item.question, item.expected) for item in loaded.items] == [
        ("1", "a", "1.50"),
        ("2", "b", None),
    ]
    assert [loaded.without_answer] == ["1 of 2 items has no expected answer ('answer')."]
    assert loaded.sha256 == load("listed").sha256


async def test_within_a_running_event_loop(load):
    assert len(load("streamed").items) == 2


def test_the_function_gets_file_path_and_the_other_keys(load):
    loaded = load("told", file_path="some/where", number=3, nested={"a": [1]})
    assert loaded.path == "some/where"
    assert loaded.items[0].row == {"id": "some/where", "question": [3, {"a": [1]}], "at": "2026-01-02"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "breaks",
            r"The function rows_here.py:breaks raised LookupError: the archive.* \(.*rows_here.py, line 23\)",
        ),
        ("breaks_too", r"raised LookupError: the archive is empty \(.*rows_here.py, line 25\)"),
        ("leaves", "raised SystemExit: enough"),
        ("gives_text", "returned a text; it must return rows"),
        ("gives_none", "returned null; it must return rows"),
        ("gives_lists", "row 1 is a list; each row must be an object"),
        ("gives_objects", "row 1, column 'question': it is of the type object, which JSON has no form for"),
        ("gives_itself", "row 1, column 'question' is nested too deeply"),
        ("told", "raised TypeError: told.. missing 2 required"),
    ],
)
def test_what_goes_wrong_is_told_with_its_place(load, name, words):
    with pytest.raises(InputError, match=words):
        load(name)


def test_what_cannot_be_called_or_found(load):
    with pytest.raises(
        ConfigError,
        match=r"eval.general.dataset.function: rows_here.py has no 'listd'; did you mean 'listed'",
    ):
        load("listd")
    with pytest.raises(ConfigError, match="is of the type int; it must be callable"):
        load("NUMBER")
    with pytest.raises(ConfigError, match=r"eval.general.dataset: the key 'function' is missing"):
        parse_eval({"general": {"dataset": {"_type": "custom"}}})
    with pytest.raises(ConfigError, match=r"eval.general.dataset: function must be a text"):
        parse_eval({"general": {"dataset": {"_type": "custom", "function": 7}}})


def test_a_function_in_a_whole_run(runs):
    (runs.folder / "rows_here.py").write_text(ROWS)
    runs.config(dataset={"_type": "custom", "function": "rows_here.py:yielded"})
    assert runs.run().returncode == 3  # one has no expected answer
    assert [row["answer"] for row in runs.json("workflow_output.json")] == ["1.50", None]
    runs.config(dataset={"_type": "custom", "function": "rows_here.py:breaks"})
    done = runs.run()
    assert done.returncode == 2
    assert "LookupError: the archive is empty" in done.stderr


def test_an_installed_package_brings_a_type(monkeypatch, tmp_path):
    module = type(sys)("warehouse")
    module.rows = lambda file_path, table: [{"id": file_path, "question": table}]
    monkeypatch.setitem(sys.modules, "warehouse", module)
    point = EntryPoint("warehouse", "warehouse:rows", "millstream.datasets")
    installed = plugins.entry_points
    monkeypatch.setattr(
        plugins,
        "entry_points",
        lambda group: [point] if group == "millstream.datasets" else installed(group=group),
    )
    section = {"general": {"dataset": {"_type": "warehouse", "file_path": "db", "table": "t"}}}
    (item,) = load_dataset(parse_eval(section).dataset).items
    assert (item.id, item.question) == ("db", "t")
    section["general"]["dataset"]["tabel"] = "t"
    with pytest.raises(InputError, match=r"The dataset 'warehouse' raised TypeError.*'tabel'"):
        load_dataset(parse_eval(section).dataset)
    with pytest.raises(ConfigError, match=r"_type: unknown dataset 'warehous'; did you mean 'warehouse'"):
        parse_eval({"general": {"dataset": {"_type": "warehous", "file_path": "db"}}})


def test_keys_that_a_type_does_not_have():
    def parse(**keys):
        return parse_eval({"general": {"dataset": {"file_path": "f", **keys}}})

    with pytest.raises(ConfigError, match=r"eval.general.dataset.id_kye: unknown key; did you mean 'id_key'"):
        parse(_type="csv", id_kye="x")
    with pytest.raises(ConfigError, match=r"eval.general.dataset.sheet: unknown key"):
        parse(_type="csv", sheet="x")
    with pytest.raises(ConfigError, match=r"eval.general.dataset: sheet must be a text; put it in quotes"):
        parse(_type="xls", sheet=2026)
    with pytest.raises(ConfigError, match=r"eval.general.dataset: the key 'file_path' is missing"):
        parse_eval({"general": {"dataset": {"_type": "csv"}}})
    with pytest.raises(ConfigError, match=r"the key '_type' is missing"):
        parse()


def test_another_file_takes_the_place_of_the_configured(write):
    section = {"general": {"dataset": {"_type": "xls", "sheet": "One", "file_path": "f.xls", "id_key": "n"}}}
    config = parse_eval(section, write("d.ndjson", '{"n": 1, "question": "a"}\n')).dataset
    assert load_dataset(config).items[0].id == "1"
    assert parse_eval(section, "other.xlsx").dataset.options == {"sheet": "One"}
    assert parse_eval(section, "https://h/d.parquet?sig=x#y").dataset.file_type == "parquet"
    with pytest.raises(InputError, match=r"--dataset d.txt: its suffix must be one of .json, .*\.xlsx"):
        parse_eval(section, "d.txt")


def test_extras_that_are_not_installed_are_named(write, monkeypatch):
    for kind, module, extra in (("parquet", "pyarrow", "profiling"), ("xls", "python_calamine", "datasets")):
        path = write(f"d.{kind}", b"")
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(MissingExtraError, match=rf"pip install 'millstream\[{extra}\]'"):
                load_dataset(parse_eval({}, path).dataset)


def test_the_whole_row_as_the_question_keeps_its_answer(write):
    path = write("d.json", json.dumps([{"id": 1, "text": "a", "label": "x"}, {"id": 2, "text": "b"}]))
    structure = {"disable": True, "answer_key": "label"}
    loaded = load_dataset(
        parse_eval(
            {"general": {"dataset": {"_type": "json", "file_path": str(path), "structure": structure}}}
        ).dataset
    )
    assert [item.expected for item in loaded.items] == ["x", None]
    assert json.loads(loaded.items[0].question) == loaded.items[0].row == {"id": 1, "text": "a", "label": "x"}
    assert loaded.notes == [
        "The question is the whole row, its expected answer ('label') too.",
    ]
    assert loaded.without_answer == "1 of 2 items has no expected answer ('label')."
