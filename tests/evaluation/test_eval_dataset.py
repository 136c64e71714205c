"""The dataset reader: what goes in comes out, and what is wrong is named."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.errors import InputError
from millstream.evaluation.config import parse_eval
from millstream.evaluation.dataset import Dataset, load_dataset

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load(path: Path, file_type: str | None = None, **keys: object) -> Dataset:
    section = {"_type": file_type or path.suffix[1:], "file_path": str(path), **keys}
    return load_dataset(parse_eval({"general": {"dataset": section}}).dataset)


@quick
@given(rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=5), bom=st.booleans())
def test_csv_round_trip(tmp_path, rows, bom):
    content = io.StringIO(newline="")
    writer = csv.writer(content)
    writer.writerows([("id", "question", "answer"), *((number, *row) for number, row in enumerate(rows))])
    path = tmp_path / "d.csv"
    path.write_bytes(content.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    items = load(path).items
    assert [item.id for item in items] == [str(number) for number in range(len(rows))]
    assert [(item.question, item.expected) for item in items] == [(q, a or None) for q, a in rows]


@quick
@given(rows=st.lists(st.tuples(json_values, json_values), min_size=1, max_size=4), lines=st.booleans())
def test_json_round_trip(tmp_path, rows, lines):
    objects = [{"id": f"x{n}", "question": q, "answer": a} for n, (q, a) in enumerate(rows)]
    path = tmp_path / ("d.jsonl" if lines else "d.json")
    path.write_text("\n".join(map(json.dumps, objects)) if lines else json.dumps(objects))
    items = load(path).items
    assert [item.expected for item in items] == [a for _, a in rows]
    assert [item.question for item in items] == ["" if q is None else q for q, _ in rows]
    assert [item.row for item in items] == objects


@quick
@given(data=st.binary(max_size=200), file_type=st.sampled_from(["csv", "json", "jsonl"]))
def test_any_bytes_are_read_or_refused_in_words(tmp_path, data, file_type):
    path = tmp_path / "d"
    path.write_bytes(data)
    with pytest.raises(InputError):  # no random bytes have the columns id and question
        load(path, file_type)


def test_ids_stay_text(write):
    assert [item.id for item in load(write("d.csv", "id,question\n007,a\n1.50,b\n")).items] == ["007", "1.50"]
    rows = '[{"id": 7, "question": "a"}, {"id": "007", "question": "b"}, {"id": 1.5, "question": "c"}]'
    assert [item.id for item in load(write("d.json", rows)).items] == ["7", "007", "1.5"]


def test_structure_and_quoted_line_breaks(write):
    path = write(
        "d.csv", '\ufeffsubject,body,label\r\n"Hello, you","line 1\r\nline ""2""",spam\r\n\r\nBye,x,\r\n'
    )
    loaded = load(path, id_key="subject", structure={"question_key": "body", "answer_key": "label"})
    first, second = loaded.items
    assert (first.id, first.question, first.expected) == ("Hello, you", 'line 1\r\nline "2"', "spam")
    assert second.expected is None
    assert loaded.notes == ["1 of 2 items has no expected answer ('label')."]


def test_the_whole_row_as_the_question(write):
    item = load(write("d.csv", "id,mail\n1,hi\n"), structure={"disable": True}).items[0]
    assert json.loads(item.question) == {"id": "1", "mail": "hi"}
    assert item.expected is None


def test_filters(write):
    path = write("d.csv", "id,question,kind\n[x] 1,a,spam\n2,b,spam2\n3,c,ham\n4,d,\n")

    def ids(**rules: object) -> list[str]:
        return [item.id for item in load(path, filter=rules).items]

    assert ids(allowlist={"field": {"kind": ["spam*"]}}) == ["[x] 1", "2"]
    assert ids(allowlist={"field": {"kind": ["spam*"], "id": [2]}}) == ["2"]
    assert ids(allowlist={"field": {"id": ["[x] 1"]}}) == ["[x] 1"]
    assert ids(denylist={"field": {"kind": ["sp?m", ""]}}) == ["2", "3"]
    with pytest.raises(InputError, match="leaves none of the 4 rows"):
        ids(allowlist={"field": {"kind": ["nothing"]}})
    with pytest.raises(InputError, match=r"no column 'kinds'.*allowlist.*did you mean 'kind'"):
        ids(allowlist={"field": {"kinds": ["spam"]}})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.csv", "id,question\n", "has no rows"),
        ("d.csv", "", "has no rows"),
        ("d.csv", "id,questoin\n1,a\n", "no column 'question'.*did you mean 'questoin'.*Known: id, questoin"),
        ("d.csv", "id;question\n1;a\n", "separated by ';'"),
        ("d.csv", "id,question\n1,a\n2,b,c\n", "line 3 has 3 fields, the header 2"),
        ("d.csv", "id,question\n1\n", "line 2 has 1 fields"),
        ("d.csv", 'id,question\n1,"open\n', "line 2 is not CSV"),
        ("d.csv", "id,id,question\n1,2,a\n", "more than one column named id"),
        ("d.csv", "id,question\n1,a\n1,b\n2,c\n", "more than once in column 'id': '1'"),
        ("d.csv", "id,question\n ,a\n", "line 2 has no id"),
        ("d.csv", b"id,question\n1,\xff\n", "not UTF-8 text .byte 14"),
        ("d.json", '{"id": 1}', "holds an object"),
        ("d.json", '[{"id": 1}, 2]', "item 2 is a number"),
        ("d.json", '{"id": 1, "question": "a"}\n{"id": 2, "question": "b"}\n', "set _type: jsonl"),
        ("d.json", '[{"id": true, "question": "a"}]', "neither text nor number"),
        ("d.json", "[" * 100_000, "nested too deeply"),
        ("d.jsonl", '{"id": 1, "question": "a"}\n\n{"id": 2,', "line 3 is not JSON"),
        ("d.jsonl", '{"id": NaN, "question": "a"}', "line 1.*NaN is not a JSON value"),
        ("d.jsonl", '{"id": 1e999, "question": "a"}', "line 1.*too large"),
    ],
)
def test_what_is_wrong_is_named(write, name, content, words):
    with pytest.raises(InputError, match=words):
        load(write(name, content))


def test_a_configured_answer_column_must_exist(write):
    path = write("d.csv", "id,question\n1,a\n")
    assert load(path).items[0].expected is None
    with pytest.raises(
        InputError, match=r"no column 'label', which eval.general.dataset.structure.answer_key"
    ):
        load(path, structure={"answer_key": "label"})


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "d.csv")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load(tmp_path, "csv")


def test_long_fields_and_lone_surrogates(write):
    long = "x" * 500_000
    assert load(write("d.csv", f"id,question\n1,{long}\n")).items[0].question == long
    assert csv.field_size_limit() < 500_000
    assert load(write("d.json", '[{"id": "a", "question": "\\ud800"}]')).items[0].question == "\ud800"
