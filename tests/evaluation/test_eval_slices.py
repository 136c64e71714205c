"""Parts of a dataset by the values of a field, each with its figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import ConfigError
from millstream.evaluation.slices import MAX_VALUES, check_fields, slices_note, slices_of
from tests.evaluation.test_eval_values import FAILED, scored, summary_of

ROWS = [{"id": str(n), "lang": lang} for n, lang in enumerate(["en", "de", "en", None, "en"])]


def test_each_slice_has_the_figures_that_its_items_alone_would_have():
    of_items = [1.0, 0.0, 0.0, None, FAILED]
    found = summary_of(scored(*of_items), rows=ROWS, slices=["lang"]).metrics[0].slices
    assert [(one.value, one.items, one.failed) for one in found] == [
        ("en", 3, 1),
        ("(none)", 1, 0),
        ("de", 1, 0),
    ]
    for part, members in zip(found, ([0, 2, 4], [3], [1]), strict=True):
        alone = summary_of(scored(*(of_items[n] for n in members))).metrics[0]
        (figure,) = part.figures
        assert (figure.average, figure.n, figure.missing, figure.interval, figure.note) == (
            alone.average,
            alone.n,
            alone.missing,
            alone.interval,
            alone.note,
        )


@given(st.lists(st.none() | st.booleans() | st.integers(0, 3) | st.text(max_size=2), max_size=40))
def test_every_item_is_in_one_slice_of_a_field(of_items):
    found = slices_of(["x"], [{"x": value} for value in of_items]).slices
    assert sorted(n for one in found for n in one.members.tolist()) == list(range(len(of_items)))
    assert len({one.value for one in found}) == len(found)


def test_true_is_not_the_number_1():
    found = slices_of(["x"], [{"x": True}, {"x": 1}, {"x": 1.0}]).slices
    assert sorted((one.value, len(one.members)) for one in found) == [("1", 1), ("1.0", 1), ("true", 1)]


def test_all_takes_fields_with_few_values():
    rows = [
        {"id": n, "lang": "en" if n % 2 else "de", "same": 1, "tags": ["a"], "topic": n % 21}
        for n in range(60)
    ]
    assert {one.field for one in slices_of(["all"], rows).slices} == {"lang"}
    assert next(one.field for one in slices_of(["topic", "all"], rows).slices) == "topic"
    named = [{**row, "all": n % 3} for n, row in enumerate(rows)]
    assert {one.field for one in slices_of(["all"], named).slices} == {"all"}


def test_how_many_were_looked_at_is_said():
    many = slices_of(["x"], [{"x": n} for n in range(MAX_VALUES + 5)])
    assert len(many.slices) == MAX_VALUES
    assert slices_note(many, 0.9) == (
        "50 slices were looked at. Of so many intervals of one figure, at 90 %, about 5 miss by chance "
        "alone. "
        "x has 55 values; the 50 with the most items were looked at."
    )
    assert slices_note(slices_of(["x"], [{"x": 1}]), 0.9) == "1 slice was looked at."
    assert slices_note(slices_of([], [{"x": 1}]), 0.9) is None


def test_a_field_that_is_not_there_is_an_error_with_the_nearest():
    with pytest.raises(ConfigError, match="no field 'langg'; did you mean 'lang'"):
        check_fields(["langg"], ROWS)
    check_fields(["lang", "all"], ROWS)


def test_slices_of_a_run(runs):
    runs.config(slices=["question"])
    runs.data(("a", "one", "ONE"), ("b", "one", "x"), ("c", "two", "TWO"))
    done = runs.run("--slices", "answer")
    assert done.returncode == 0, done.stderr
    assert "5 slices were looked at." in done.stdout
    assert "question = one" in done.stdout
    content = runs.json("accuracy_output.json")
    assert content["slices_note"].startswith("5 slices were looked at.")
    first = content["slices"][0]
    assert (first["field"], first["value"], first["items"], first["average_score"]) == (
        "question",
        "one",
        2,
        0.5,
    )
    assert (first["interval"]["method"], first["note"]) == (
        "wilson",
        "2 items: too few for an interval that holds",
    )
    assert runs.run("--slices", "no_such").returncode == 2
    runs.config()
    runs.run()
    assert runs.json("accuracy_output.json")["slices"] == []
