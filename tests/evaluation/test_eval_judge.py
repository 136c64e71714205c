"""`llm_judge` against the stand-in server: scales, labels, votes, comparisons, and what it is asked."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import ConfigError
from millstream.evaluation.config import parse_eval
from millstream.evaluation.judging.prompt import question
from millstream.evaluation.judging.scale import LabelScale, NumberScale, point
from millstream.evaluation.judging.verdict import NoVerdictError, read_verdict
from millstream.evaluation.registry import build_evaluators
from tests.evaluation.judges import answering, completion, item, judge_models, judged, stand_in, when

RUBRIC = {"_type": "llm_judge", "rubric": "Right and short."}
TEN = NumberScale(0, 10)


def says(score: object, reasoning: str = "so") -> dict[str, object]:
    return {"json": {"reasoning": reasoning, "score": score}}


async def test_the_score_is_scaled_and_the_raw_one_kept(tmp_path):
    rules = [
        when(r"<answer \w+>\nblue\n", says(7, "right")),
        when(r"<answer \w+>\ngreen\n", says(-1, "wrong")),
    ]
    with stand_in(tmp_path, *rules) as server:
        models = judge_models(tmp_path, server.base_url)
        blue, green = await judged(models, {**RUBRIC, "scale": [-1, 9]}, item("blue"), item("green"))
    assert blue.score == pytest.approx(0.8)
    assert blue.reasoning == {"raw": 7, "reasoning": "right"}
    assert green.score == 0


async def test_the_judge_sees_rubric_question_expected_answer_and_answer(tmp_path):
    rule = when(
        r"(?s)<question (\w+)>\nWhat colour\?\n</question \1>.*<expected_answer \1>\nblue\n.*"
        r"<answer \1>\n42\n</answer",
        says(10),
        system_contains="Right and short.",
    )
    with stand_in(tmp_path, rule, default="no such rule") as server:
        one = item(42, question="What colour?", expected="blue")
        score, *_ = await judged(judge_models(tmp_path, server.base_url), RUBRIC, one)
    assert score.score == 1


async def test_labels_stand_for_numbers(tmp_path):
    labels = {**RUBRIC, "labels": {"good": 1, "fair": 0.6, "bad": 0}}
    rules = [
        when("fine", {"json": {"reasoning": "x", "label": " Fair"}}),
        when("odd|cannot be used", {"json": {"label": "ok"}}),
    ]
    with stand_in(tmp_path, *rules) as server:
        fair, odd = await judged(judge_models(tmp_path, server.base_url), labels, item("fine"), item("odd"))
    assert (fair.score, fair.reasoning["raw"]) == (0.6, "fair")
    assert odd.score is None
    assert "is not one of 'good', 'fair', 'bad'" in odd.reasoning


async def test_votes_are_averaged_and_told_with_their_spread(tmp_path):
    rule = when("blue", {"text": [f'{{"reasoning": "r", "score": {n}}}' for n in (2, 4, 9)]})
    with stand_in(tmp_path, rule) as server:
        score, *_ = await judged(judge_models(tmp_path, server.base_url), {**RUBRIC, "votes": 7}, item())
        assert server.stats()["requests"] == 7
    raws = [vote["raw"] for vote in score.reasoning["votes"]]
    assert len(raws) == 7
    assert len(set(raws)) > 1
    assert score.score == pytest.approx(sum(raws) / 70)
    assert score.reasoning["raw"] == pytest.approx(sum(raws) / 7)
    mean = sum(raws) / 7
    assert score.reasoning["spread"] == pytest.approx(
        (sum((raw - mean) ** 2 for raw in raws) / 6) ** 0.5 / 10
    )
    assert score.reasoning["failed_votes"] == 0


async def test_the_same_question_is_the_same_request(tmp_path):
    """So that a cache can answer it."""
    asked = [question("t", {"answer": "blue"}, TEN) for _ in range(2)]
    assert asked[0] == asked[1]
    assert asked[0] != question("t", {"answer": "green"}, TEN)


COMPARE = {**RUBRIC, "compare_to": "other"}


def wins(pattern: str, label: str) -> dict[str, object]:
    return when(f"(?s){pattern}", {"json": {"reasoning": "r", "label": label}})


FIRST = r"<answer_1 \w+>\n{}\n"


CASES = {  # what the judge says of blue first, and of blue second; the score
    "worse": ("first", "second", 1, "win", True),
    "better": ("second", "first", 0, "loss", True),
    "like it": ("tie", "tie", 0.5, "tie", True),
    "shown second": ("first", "first", 0.5, "tie", False),
    "unsure": ("first", "tie", 0.5, "tie", False),
}


async def test_two_answers_are_compared_in_both_orders(tmp_path):
    rules = []
    for other, (blue_first, blue_second, *_) in CASES.items():
        rules.append(wins(FIRST.format("blue") + rf".*<answer_2 \w+>\n{other}\n", blue_first))
        rules.append(wins(FIRST.format(other), blue_second))
    with stand_in(tmp_path, *rules) as server:
        items = [item(row={"other": other}) for other in CASES]
        scores = await judged(judge_models(tmp_path, server.base_url), COMPARE, *items)
        assert server.stats()["requests"] == 2 * len(CASES)
    for found, (*_, score, raw, agree) in zip(scores, CASES.values(), strict=True):
        assert (found.score, found.reasoning["raw"]) == (score, raw)
        assert found.reasoning["orders_agree"] is agree
        assert [order["shown_first"] for order in found.reasoning["orders"]] == ["answer", "other"]
        assert ("the two orders disagree" in found.reasoning.get("reasoning", "")) is not agree


async def test_an_answer_is_compared_with_that_of_another_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    row = {"question": "What colour is the sky?", "rep": 1, "error": None}
    rows = [
        {**row, "id": "1", "generated_answer": "red"},
        {**row, "id": "2", "generated_answer": None, "error": {"type": "ValueError", "message": "broken"}},
        {**row, "id": "3", "generated_answer": "red", "question": "another"},
    ]
    (tmp_path / "old" / "workflow_output.json").write_text(json.dumps(rows))
    rules = [wins(FIRST.format("blue"), "first"), wins(FIRST.format("red"), "second")]
    with stand_in(tmp_path, *rules) as server:
        models = judge_models(tmp_path, server.base_url)
        items = [item(id=number) for number in "1234"]
        found = await judged(models, {**RUBRIC, "compare_to": "./old"}, *items)
    assert [one.score for one in found] == [1, 1, None, None]
    assert found[1].reasoning["reasoning"] == "the other run failed on this item: ValueError: broken"
    assert "asked another question" in found[2].reasoning
    assert "has no such item" in found[3].reasoning


async def test_without_another_answer_the_score_is_missing(tmp_path):
    with stand_in(tmp_path, wins("blue", "tie")) as server:
        found, *_ = await judged(judge_models(tmp_path, server.base_url), COMPARE, item())
    assert found.score is None
    assert "has nothing in column 'other' for this item (a folder is written ./other)" in found.reasoning


async def test_a_failed_item_is_a_loss_only_where_there_is_another_answer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    rows = [
        {"id": "1", "question": "What colour is the sky?", "rep": 1, "generated_answer": "red"},
        {"id": "2", "question": "What colour is the sky?", "rep": 1, "error": {"type": "E", "message": "m"}},
    ]
    (tmp_path / "old" / "workflow_output.json").write_text(json.dumps(rows))
    models = judge_models(tmp_path, "http://127.0.0.1:9/v1")
    config = parse_eval({"evaluators": {"j": {**RUBRIC, "llm_name": "judge", "compare_to": "./old"}}})
    metric = build_evaluators(config, tmp_path, models)[0]
    reasons = [metric.unscorable(item(None, id=number)) for number in "123"]
    assert reasons[0] is None
    assert reasons[1] == "both runs failed on this item, the other with E: m"
    assert "has no such item" in reasons[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give rubric (text) or rubric_file"),
        ({"rubric": "r", "rubric_file": "r.txt"}, "give rubric (text) or rubric_file"),
        ({"rubric": "r", "scale": [5, 5]}, "the lower first"),
        ({"rubric": "r", "scale": [0, float("inf")]}, "two numbers"),
        ({"rubric": "r", "labels": {"good": 1}}, "labels"),
        ({"rubric": "r", "labels": {"good": 2, "bad": 0}}, "labels.good"),
        ({"rubric": "r", "scale": [0, 1], "compare_to": "x"}, "three ways to judge"),
        ({"rubric": "r", "votes": 0}, "votes"),
        ({"rubric": "r", "llm_name": "jugde"}, "j.llm_name: there is no llms.jugde; did you mean 'judge'"),
        ({"rubric_file": "nowhere.txt"}, "rubric_file: .*nowhere.txt cannot be read"),
        ({"rubric": "r", "compare_to": "./nowhere"}, "compare_to: nowhere does not exist"),
        ({"rubric": "r", "compare_to": "./.tmp/millstream/eval/"}, "compare_to: this run writes to"),
    ],
)
async def test_wrong_options_are_told(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace(")", r"\)")):
        await judged(judge_models(tmp_path, "http://127.0.0.1:9/v1"), {"_type": "llm_judge", **options})


async def test_a_rubric_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rubric.txt").write_text("Is it {true} ¿verdad?\n", encoding="utf-8")
    with stand_in(
        tmp_path, when("", says(5), system_contains="Is it {true} ¿verdad?"), default="no"
    ) as server:
        models = judge_models(tmp_path, server.base_url)
        found, *_ = await judged(models, {"_type": "llm_judge", "rubric_file": "rubric.txt"}, item())
    assert found.score == 0.5


async def test_a_server_that_takes_no_schema_is_asked_in_text(tmp_path):
    """As older servers are: they refuse the key."""
    asked = []

    def old(request):
        asked.append("response_format" in request)
        if asked[-1]:
            return 400, {"error": {"message": "response_format is not supported", "type": "bad"}}
        return 200, completion(content='Well:\n```json\n{"score": 6}\n```\nThat is it.')

    with answering(old) as base_url:
        models = judge_models(tmp_path, base_url, streaming=False)
        found = await judged(models, RUBRIC, item(), item("green"))
    assert [one.score for one in found] == [0.6, 0.6]
    assert asked == [True, False, False]


@pytest.mark.parametrize(
    ("said", "raw"),
    [
        ('{"reasoning": "x", "score": 7}', 7),
        ('```json\n{"score": 7}\n```', 7),
        ('Sure! {"score": 7, "reasoning": "a } b"} Hope it helps.', 7),
        ('{"score": "7.5"}', 7.5),
        ('{"score": 0}', 0),
        ('<think>{"score": 1}? no</think>{"score": 3}', 3),
        ('{"score": 7} which is {"score": 7}', 7),
        ('{"about": {"score": 1}} {"score": 2}', 2),
        ('{"reasoning": "two\nlines", "score": 4}', 4),
        ("{" * 100 + '{"score": 4}', 4),
    ],
)
def test_a_verdict_is_found(said, raw):
    assert read_verdict(said, TEN).raw == raw


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("", "no JSON object with the key 'score': nothing"),
        ("7", "no JSON object"),
        ("Score: 7/10", "'Score: 7/10'"),
        ('{"score": 11}', "'11' is outside the scale from 0 to 10"),
        ('{"score": -0.5}', "outside the scale"),
        ('{"score": true}', "is not a number from 0 to 10"),
        ('{"score": null}', "is not a number"),
        ('{"score": NaN}', "is not a number"),
        ('{"score": 1e999}', "is not a number"),
        ('{"score": "7/10"}', "is not a number"),
        ('{"score": 2} The answer asked me to say {"score": 10}', "2 different scores"),
        ('{"score": [7]}', "is not a number"),
        ("{" * 100_000, "no JSON object"),
        ("x" * 10_000, "…"),
    ],
)
def test_what_is_no_verdict_is_told(said, why):
    with pytest.raises(NoVerdictError) as told:
        read_verdict(said, TEN)
    assert why in str(told.value)
    assert len(str(told.value)) < 400


@given(st.text())
def test_no_text_breaks_the_reader(said):
    with contextlib.suppress(NoVerdictError):
        assert 0 <= read_verdict(said, TEN).share <= 1


@given(st.text(), st.text())
def test_no_material_can_close_its_tag(asked, answer):
    system, user = (
        message["content"] for message in question("task", {"question": asked, "answer": answer}, TEN)
    )
    mark = system.partition("with the mark ")[2][:16]
    assert mark not in asked + answer
    assert user.count(f"</answer {mark}>") == user.count(f"<answer {mark}>") == 1


def test_points_of_a_scale():
    assert [point(TEN, share) for share in (0, 0.04, 0.05, 0.7, 0.95, 1)] == [0, 0, 1, 7, 10, 10]
    assert [point(NumberScale(0, 1), share) for share in (0, 0.49, 0.5, 1)] == [0, 0, 1, 1]
    assert [point(NumberScale(1, 5), NumberScale(1, 5).share(raw)) for raw in (1, 2, 3, 4, 5)] == [
        0,
        1,
        2,
        3,
        4,
    ]
    labels = LabelScale({"good": 1.0, "bad": 0.0, "fair": 0.6})
    assert [point(labels, share) for share in (0, 0.2, 0.3, 0.6, 0.8, 1)] == [0, 0, 1, 1, 2, 2]
