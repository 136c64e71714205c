"""Scores that are categories or several at once: figures, files, gates, and the worst items."""

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import ConfigError
from millstream.evaluation.gates import broken_gates, parse_gate
from millstream.evaluation.ranking import worst_first
from millstream.evaluation.registry import Metric
from millstream.evaluation.results import ItemError, ItemResult
from millstream.evaluation.scoring import ItemScore
from millstream.evaluation.statistics import wilson
from millstream.evaluation.summary import summarise
from millstream.evaluation.values import MAX_CATEGORIES, columns, read_value

FAILED = "failed"
"""Stands for the 0 of a failed item."""


def scored(*values, reps=1):
    return [
        ItemScore(str(n // reps), n % reps + 1, 0.0, "the item failed", "E", True)
        if value is FAILED
        else ItemScore(
            str(n // reps), n % reps + 1, value, f"because {n}", None if value is not None else "why", False
        )
        for n, value in enumerate(values)
    ]


def metric(name="judge", **flags):
    return Metric(
        name, print, **({"needs_expected": False, "score_failed": False, "lower_is_better": False} | flags)
    )


def summary_of(*scores, metrics=None, **options):
    """The summary of evaluators of which each has these scores."""
    metrics = metrics or [metric(f"m{number}" if number else "judge") for number in range(len(scores))]
    results = [
        ItemResult(
            one.id, one.rep, n, "q", None, None, ItemError("E", "") if one.failed else None, None, None, None
        )
        for n, one in enumerate(scores[0])
    ]
    return summarise(
        metrics, results, {one.name: of for one, of in zip(metrics, scores, strict=True)}, {}, **options
    )


def figures(*values):
    (found,) = summary_of(scored(*values)).metrics
    return {one.key: one for one in found.figures}


def test_categories_are_shares_with_wilsons_interval():
    found = figures("polite", "rude", "polite", None, FAILED, "polite")
    assert list(found) == ["polite", "rude"]
    polite = found["polite"]
    assert (polite.average, polite.n, polite.missing, polite.count) == (3 / 5, 5, 1, 3)
    assert polite.interval == wilson(3, 5)
    assert (found["rude"].average, found["rude"].count) == (1 / 5, 1)


def test_several_values_have_a_figure_each_and_failed_items_count_in_all():
    found = figures({"near": 1.0, "tone": "a", "n": 4.0}, {"near": 0.5, "tone": None, "n": 2.0}, FAILED)
    assert {key: (one.average, one.n, one.missing) for key, one in found.items()} == {
        "near": (0.5, 3, 0),
        "tone.a": (0.5, 2, 1),
        "n": (2, 3, 0),
    }
    assert found["n"].interval.method == "skew_corrected_t"


def test_a_value_that_some_items_lack_is_missing_there_and_said():
    (found,) = summary_of(scored({"a": 1.0, "b": 2.0}, {"a": 1.0})).metrics
    assert (found.average, found.interval, found.n, found.missing) == (None, None, 1, 1)
    assert found.missing_reason == "item '1': it has not all of the values that others have"
    assert [one.missing for one in found.figures] == [0, 1]


def test_a_number_between_texts_is_a_category():
    assert {key: one.count for key, one in figures("yes", 1.0, 0.0).items()} == {"0": 1, "1": 1, "yes": 1}


def test_rare_categories_are_counted():
    found = columns(scored(*("common", "common", *map(str, range(MAX_CATEGORIES)))))
    assert len(found.columns) == MAX_CATEGORIES
    assert found.columns[0].key == "common"
    assert found.more_categories == 1


values = st.recursive(
    st.none() | st.floats(allow_nan=True) | st.booleans() | st.text(max_size=120) | st.integers(),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=5,
)


@given(values)
def test_what_is_kept_goes_through_json_and_back(value):
    score, problem = read_value(value)
    assert score is not None or problem
    kept = ItemScore("1", 1, score, {"why": 1}, problem, False)
    assert (
        msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(kept), allow_nan=False)), ItemScore) == kept
    )


@given(st.lists(st.none() | st.sampled_from(["a", "b", "c"]) | st.just(FAILED), min_size=1, max_size=30))
def test_shares_add_up_to_what_has_not_failed(categories):
    found = columns(scored(*categories)).columns
    known = [one for one in categories if one is not None]
    if any(one in ("a", "b", "c") for one in known):
        total = sum(float(column.values[~_nan(column.values)].sum()) for column in found)
        assert total == sum(one is not FAILED for one in known)
        assert all((~_nan(column.values)).sum() == len(known) for column in found)


def _nan(array):
    return array != array  # noqa: PLR0124  # only NaN is not itself


def gates(*texts, summary, names=("judge",)):
    return broken_gates([parse_gate(text, names) for text in texts], summary)


def test_gates_on_one_of_several():
    found = summary_of(scored({"near": 0.5, "tone": "rude"}, {"near": 1.0, "tone": "polite"}))
    assert gates("judge.near=0.75", "judge.tone.rude=0.5", summary=found) == []
    assert gates("judge.near=0.8", summary=found) == ["judge.near is 0.75, under 0.8"]
    (no_average,) = gates("judge=0.5", summary=found)
    assert no_average == (
        "judge has no average of its own; write one of judge.near, judge.tone.polite, judge.tone.rude"
    )
    (unknown,) = gates("judge.nearr=0.5", summary=found)
    assert unknown.startswith("judge.nearr is not there; did you mean 'judge.near'?")
    (one_number,) = gates("judge.near=0.5", summary=summary_of(scored(0.5, 1.0)))
    assert one_number == "judge.near is not there: judge gives one number; write judge=0.5"
    assert gates("judge.near=0.5", summary=summary_of(scored(FAILED, FAILED))) == [
        "judge.near has no score; 0.5 was asked for"
    ]


def test_a_gate_names_the_evaluator_whose_name_is_longest():
    assert parse_gate("a.b.c=1", ["a", "a.b"]).metric == "a.b"
    assert parse_gate("a.b=1", ["a", "a.b"]).key == ""
    with pytest.raises(ConfigError, match=r"no evaluator is called 'b\.c'"):
        parse_gate("b.c=1", ["a"])


def rank(*scores, metrics=None):
    metrics = metrics or [metric(f"m{number}") for number in range(len(scores))]
    given = {one.name: columns(of).columns for one, of in zip(metrics, scores, strict=True)}
    return worst_first(metrics, [one.failed for one in scores[0]], given)


def test_failed_then_missing_then_the_lowest_and_equals_in_order():
    assert rank(scored(1.0, 0.2, None, 0.0, FAILED, 0.2, 1.0)).order == [4, 2, 3, 1, 5, 0, 6]
    assert rank(scored(1.0, 0.2, None, 0.0, FAILED, 0.2, 1.0)).wrong == 5
    assert rank(scored("a", "b")) == ([0, 1], 0), "categories have no order"


def test_lower_is_better_is_turned_round_and_runs_count_only_alone():
    slow = metric("m1", score_failed=True, lower_is_better=True)
    assert rank(scored(1.0, 3.0, 2.0), metrics=[slow]).order == [1, 2, 0]
    assert rank(scored(1.0, 0.5, 1.0), scored(9.0, 1.0, 5.0), metrics=[metric("m0"), slow]).order == [1, 0, 2]
    assert rank(scored(4.0, 4.0), metrics=[slow]) == ([0, 1], 0)


@given(st.lists(st.none() | st.floats(0, 1) | st.just(FAILED), min_size=1, max_size=20))
def test_the_order_is_that_of_a_plain_sort(of_items):
    def key(n):
        value = of_items[n]
        return (value is not FAILED, value is not None, 0 if value in (None, FAILED) else value, n)

    assert rank(scored(*of_items)).order == sorted(range(len(of_items)), key=key)


def test_a_run_with_categories_and_several_values(runs):
    (runs.folder / "judge.py").write_text(
        "def judge(item):\n"
        "    if item.id == 'c': return {'near': float('nan'), 'tone': 'rude'}\n"
        "    return {'score': {'near': item.output == item.expected, 'tone': 'polite'}, 'reasoning': 'so'}\n"
        "def kind(item): return 'long' if len(item.output) > 4 else 'short'\n"
    )
    python = {"_type": "python"}
    runs.config(evaluators={name: {**python, "target": f"judge.py:{name}"} for name in ("judge", "kind")})
    runs.data(("a", "one", "ONE"), ("b", "two", "x"), ("c", "three", "THREE"), ("d", "boom", "BOOM"))
    done = runs.run("--fail-under", "kind.long=0.9", "--fail-under", "judge.near=0.1")
    assert done.returncode == 1
    assert "gate broken: kind.long is 0.25, under 0.9" in done.stderr
    assert "judge.near" not in done.stderr
    judge = runs.json("judge_output.json")
    assert (judge["average_score"], judge["interval"], judge["n"], judge["missing"]) == (None, None, 3, 1)
    assert {key: (one["average_score"], one["n"]) for key, one in judge["scores"].items()} == {
        "near": (pytest.approx(1 / 3), 3),
        "tone.polite": (0.5, 4),
        "tone.rude": (0.25, 4),
    }
    assert judge["scores"]["tone.polite"]["count"] == 2
    assert "4 items: too few for an interval that holds" in judge["scores"]["tone.polite"]["note"]
    assert [one["score"] for one in judge["eval_output_items"]] == [
        {"near": 1, "tone": "polite"},
        {"near": 0, "tone": "polite"},
        {"near": None, "tone": "rude"},
        0,
    ]
    assert "near: the evaluator returned nan" in judge["eval_output_items"][2]["error"]
    assert "judge: 1 score is missing (item 'c': near: the evaluator returned nan" in done.stdout
    assert "worst: 'c': judge near missing, tone rude" in done.stdout
    assert done.stdout.index("worst: 'c'") < done.stdout.index("worst: 'b': judge near 0, tone polite (so)")
    assert runs.json("kind_output.json")["eval_output_items"][0]["score"] == "short"


def test_the_level_is_in_files_and_tables(runs):
    runs.config(interval_level=0.8)
    runs.data(*((str(n), f"q{n}", f"Q{n}") for n in range(12)))
    done = runs.run()
    assert "80 % interval" in done.stdout
    assert runs.json("accuracy_output.json")["interval"]["level"] == 0.8
    runs.config(interval_level=1.0)
    assert runs.run().returncode == 2


def test_summaries_have_intervals_of_run_times():
    results = [ItemResult(str(n), 1, n, "q", None, "a", None, None, 0, float(n + 1)) for n in range(30)]
    found = summarise([], results, {}, {}, level=0.9)
    low, high = found.runtime_p50_interval_s
    assert low < found.runtime_p50_s == 15.5 < high
    assert found.runtime_p95_interval_s[0] < found.runtime_p95_s
    assert found.runtime_p95_interval_s[1] is None
    assert math.isclose(found.level, 0.9)
