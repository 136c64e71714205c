"""The dataset reader: what goes in comes out, and what is wrong is named."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.errors import InputError
from millstream.evaluation.config import parse_eval
from millstream.evaluation.dataset import Dataset, load_dataset
from millstream.evaluation.messages import transcript

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
    assert loaded.notes == []
    assert loaded.without_answer == "1 of 2 items has no expected answer ('label')."


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
        ("d.json", '[{"id": 1,\n"question": 1e400}]', "the number 1e400 is too large"),
        ("d.json", f'[{{"id": {"9" * 5000}}}]', "a whole number of too many digits"),
        ("d.json", '[{"id": 1, "id": 2}]', "has the key 'id' twice"),
        ("d.jsonl", '{"id": 1, "question": {"a": 1, "a": 2}}', "line 1.*has the key 'a' twice"),
        ("d.json", '[{"id": 1},\n {"id": 2,}]', r"line 2, column \d+"),
        ("d.json", '[{"id": 1},\n]', "Expecting value .line 2, column 1"),
        ("d.json", '[{"id": 1} {"id": 2}]', "Expecting ',' delimiter .column 12"),
        ("d.json", '[{"id": 1}', "Expecting ',' delimiter .column 11"),
        ("d.json", '[{"id": 1}] x', "Extra data .column 13"),
        ("d.json", "", "Expecting value .column 1"),
        ("d.jsonl", '{"id": 1} {"id": 2}', "line 1 is not JSON: Extra data .column 11"),
        ("d.jsonl", "\ufeff[1]", "line 1 is a list"),
        (
            "d.csv",
            'id,question\n1,a\n2,"open\n3,b\n4,c\n',
            "line 3 is not CSV: a quote that opens there is never",
        ),
        ("d.csv", b"i\0d\0,\0", "byte 1 is NUL"),
        ("d.csv", "id,question\n1,a\n".encode("utf-16"), "looks like UTF-16; save it as UTF-8"),
        ("d.csv", b"PK\x03\x04\x00", "looks like an Excel file: set _type: xls"),
        ("d.jsonl", b"\x1f\x8b\x08\x00", "packed with gzip"),
        ("d.json", b'[{"id": "a\0"}]', "byte 10 is NUL"),
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


def test_a_configured_column_of_expected_steps_must_exist_unless_it_is_the_default(write):
    path = write("d.csv", "id,question\n1,a\n")
    with pytest.raises(InputError, match=r"no column 'calls', which .*structure.expected_trajectory_key"):
        load(path, structure={"expected_trajectory_key": "calls"})
    assert load(path, structure={"expected_trajectory_key": "expected_intermediate_steps"}).items


def test_columns_that_a_run_writes_need_not_be_there(write):
    path = write("d.csv", "id,question\n1,a\n")
    written = {"generated_answer_key": "said", "trajectory_key": "steps"}
    assert load(path, structure=written).items[0].generated is None


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


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_marks_and_line_ends(write, end):
    rows = ['{"id": "a", "question": "x"}', "", '{"id": "b", "question": "y"}', ""]
    for name, lines in (
        ("d.jsonl", rows),
        ("d.json", ["[", rows[0], ",", rows[2], "]"]),
        ("d.csv", ["id,question", "a,x", "", "b,y"]),
    ):
        items = load(write(name, "\ufeff" + end.join(lines))).items
        assert [(item.id, item.question) for item in items] == [("a", "x"), ("b", "y")]


def test_places_beyond_the_first_block(write):
    """The list is read in blocks: places are those in the whole file, and any cut falls anywhere."""
    rows = [{"id": n, "question": "é" * (n % 700), "n": -1.5e-3 * n} for n in range(2000)]
    path = write("d.json", json.dumps(rows, ensure_ascii=False, indent=1))
    assert [item.row for item in load(path).items] == rows
    write("d.json", path.read_bytes()[:-2] + b",\n  nul]")
    with pytest.raises(InputError, match=rf"Expecting value .line {1 + 5 * 2000 + 1}, column 3"):
        load(path)


def test_a_field_of_5_megabytes(write):
    long = "x, \n" * 1_250_000
    for name, content in (
        ("d.json", json.dumps([{"id": 1, "question": long}])),
        ("d.jsonl", json.dumps({"id": 1, "question": long})),
        ("d.csv", f'id,question\n1,"{long}"\n'),
    ):
        assert load(write(name, content)).items[0].question == long


def test_items_are_a_sequence(write):
    items = load(
        write("d.csv", "id,question\n" + "".join(f"{n},{'q' * 500}{n}\n" for n in range(2000)))
    ).items
    assert len(items) == 2000  # more than a block
    assert [item.index for item in items] == [*range(2000)]
    assert items[-1].id == items[1999].id == "1999"
    assert [item.id for item in items[5:1:-2]] == ["5", "3"]
    assert items[7] in items
    with pytest.raises(IndexError, match="no member 2000"):
        items[2000]


MESSAGES = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]},
]


def test_questions_of_several_turns(write):
    rows = [
        ("a", json.dumps(MESSAGES)),
        ("b", "[1]"),
        ("c", '[{"role": "user"}]'),
        ("d", "[not json"),
        ("e", "[]"),
    ]
    content = io.StringIO(newline="")
    csv.writer(content).writerows([("id", "question"), *rows])
    first, *others = load(write("d.csv", content.getvalue())).items
    assert first.question == first.row["question"] == MESSAGES
    assert [item.question for item in others] == [text for _, text in rows[1:]]
    assert load(write("d.json", json.dumps([{"id": 1, "question": MESSAGES}]))).items[0].question == MESSAGES
    text = json.dumps(MESSAGES)
    assert load(write("d.json", json.dumps([{"id": 1, "question": text}]))).items[0].question == text
    assert transcript(MESSAGES) == 'user: hi\n\nassistant: {"tool_calls": [{"name": "f"}]}'


def test_messages_are_asked_scored_and_shown(runs):
    (runs.folder / "last.py").write_text("def answer(messages): return messages[-1]['content'].upper()\n")
    turns = [{"role": "user", "content": "hi"}, {"role": "user", "content": "who are you?"}]
    with (runs.folder / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "question", "answer"), ("a", json.dumps(turns), "WHO ARE YOU?")])
    runs.config(target="last.py:answer")
    assert runs.run().returncode == 0
    (row,) = runs.json("workflow_output.json")
    assert (row["question"], row["generated_answer"]) == (turns, "WHO ARE YOU?")
    assert runs.run("--skip_workflow").returncode == 0
    assert "user: hi" in (runs.out / "report.html").read_text()


def test_a_hundred_thousand_rows_are_not_held(tmp_path):
    """40 MB of rows in another process, which may not grow by half of that."""
    rows = [{"id": str(n), "question": f"{n} " + "x" * 350, "answer": str(n)} for n in range(100_000)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "d.json").write_text(json.dumps(rows))
    with (tmp_path / "d.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for name in ("d.jsonl", "d.json", "d.csv"):
        code = (
            "import resource; from millstream.evaluation.config import parse_eval;"
            "from millstream.evaluation.dataset import load_dataset;"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024; before = peak();"
            f"items = load_dataset(parse_eval({{}}, {str(tmp_path / name)!r}).dataset).items;"
            "print(sum(len(item.question) > 350 for item in items), peak() - before)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        count, grown_mb = map(int, done.stdout.split())
        assert count == 100_000
        assert grown_mb < 20, name


def test_steps_in_a_cell(write):
    steps = [{"name": "search", "arguments": {"q": "x"}}]
    content = io.StringIO(newline="")
    csv.writer(content).writerows(
        [
            ("id", "question", "expected_intermediate_steps"),
            ("a", "q", json.dumps(steps)),
            ("b", "q", "[1, 2]"),
        ]
    )
    rows = [
        item.row["expected_intermediate_steps"] for item in load(write("d.csv", content.getvalue())).items
    ]
    assert rows == [steps, "[1, 2]"]
