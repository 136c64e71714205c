"""The judge of recorded steps: what it is shown, what of that is cut, and what it says of real runs."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from millstream.cli import main
from millstream.evaluation.judging.steps import steps_of, tools_of
from millstream.span import Span, SpanError, SpanKind, Status
from tests.evaluation.judges import item, judge_models, judged, stand_in, when

AGENT = """\
from millstream import Builder, FunctionBaseConfig, FunctionInfo, register_function


class WeatherConfig(FunctionBaseConfig, name="weather_of_the_test"):
    pass


@register_function(config_type=WeatherConfig)
async def weather(config: WeatherConfig, builder: Builder):
    async def get(city: str) -> str:
        if city == "Atlantis":
            raise LookupError("no such city")
        return f"snow in {city}"

    yield FunctionInfo.from_fn(get, description="The weather of a city.")
"""


def span(number: int, kind: SpanKind, name: str, **fields) -> Span:
    content = {"trace_id": "t", "span_id": str(number), "parent_id": None, "name": name, "kind": kind}
    return Span(**{**content, "start_ns": number, "end_ns": number + 1, "status": Status.OK, **fields})


CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "search", "arguments": '{"q":"sky"}'}}],
}
OFFERED = [
    {"type": "function", "function": {"name": "search", "description": "Finds\n pages."}},
    {"name": "add"},
]


def test_the_steps_as_a_judge_reads_them():
    spans = [
        span(4, SpanKind.LLM, "able", output={"role": "assistant", "content": "blue"}),
        span(0, SpanKind.WORKFLOW, "agent", input="q", output="blue"),
        span(1, SpanKind.LLM, "able", output=CALL, attributes={"gen_ai.tool.definitions": OFFERED}),
        span(2, SpanKind.TOOL, "search", input={"q": "sky"}, output="it is blue"),
        span(3, SpanKind.FUNCTION, "search", parent_id="2", input={"q": "sky"}, output="it is blue"),
        span(5, SpanKind.RETRIEVER, "pages", input="sky", output=[{"content": "blue sky"}]),
        span(
            6,
            SpanKind.TOOL,
            "add",
            status=Status.ERROR,
            error=SpanError("ValueError", "no numbers"),
            input={},
        ),
    ]
    steps = steps_of(spans)
    assert steps.text == (
        'step 1: the model able\n  gave: call of search with {"q":"sky"}\n\n'
        'step 2: the tool search\n  was given: {"q": "sky"}\n  gave: it is blue\n\n'
        "step 3: the model able\n  gave: blue\n\n"
        'step 4: the retriever pages\n  was given: sky\n  gave: [{"content": "blue sky"}]\n\n'
        "step 5: the tool add\n  was given: {}\n  failed with: ValueError: no numbers"
    )
    assert (steps.n, steps.cut) == (5, "")
    assert tools_of(spans) == "search: Finds pages.\nadd"


def test_what_is_cut_is_said():
    long = steps_of([span(1, SpanKind.TOOL, "read", input="x", output="a" * 5_000 + "end")])
    assert long.cut == "3003 characters of long values"
    assert "[3003 characters left out]" in long.text
    assert long.text.endswith("end")
    many = steps_of([span(n, SpanKind.TOOL, "read", input=n, output="a" * 400) for n in range(1, 201)])
    assert "step 1:" in many.text
    assert "step 200:" in many.text
    left_out = 200 - many.text.count("the tool read")
    assert f"[{left_out} steps are left out here]" in many.text
    assert many.cut == f"{left_out} of 200 steps"


@given(st.lists(st.integers(0, 5_000), max_size=60), st.integers(3_000, 30_000))
def test_the_steps_fit_into_the_budget(sizes, budget):
    spans = [span(n, SpanKind.TOOL, "t", output="a" * size) for n, size in enumerate(sizes, start=1)]
    steps = steps_of(spans, budget)
    assert len(steps.text) <= budget
    assert steps.n == len(sizes)
    assert bool(steps.cut) is (steps.text.count("left out") > 0)


async def test_the_judge_sees_the_steps_the_answer_and_what_was_expected(tmp_path):
    expected = [{"name": "search", "arguments": {"q": "sky"}}]
    spans = [
        span(1, SpanKind.LLM, "able", output=CALL, attributes={"gen_ai.tool.definitions": OFFERED}),
        span(2, SpanKind.TOOL, "search", input={"q": "sky"}, output="it is blue"),
    ]
    pattern = (
        r"(?s)<question \w+>\nWhat colour is the sky\?.*<tools_offered \w+>\nsearch: Finds pages.*"
        r'<expected_steps \w+>\n\[\{"name": "search".*<expected_answer \w+>\nblue\n.*'
        r"<steps \w+>\nstep 1: the model able.*<final_answer \w+>\nit is blue"
    )
    rules = [
        when(pattern, {"json": {"reasoning": "straight", "score": 5}}, system_contains="6. The steps"),
        when("final_answer", {"json": {"score": 1}}),
    ]
    one = item("it is blue", expected="blue", expected_trajectory=expected, spans=spans)
    with stand_in(tmp_path, *rules) as server:
        full, bare = await judged(
            judge_models(tmp_path, server.base_url),
            {"_type": "trajectory"},
            one,
            item("blue", spans=spans[1:]),
        )
    assert (full.score, full.reasoning) == (1, {"raw": 5, "reasoning": "straight", "steps": 2})
    assert (bare.score, bare.reasoning["steps"]) == (0, 1)


async def test_without_steps_the_score_is_missing_and_nobody_is_asked(tmp_path):
    with stand_in(tmp_path, when("", {"json": {"score": 5}})) as server:
        score, *_ = await judged(judge_models(tmp_path, server.base_url), {"_type": "trajectory"}, item())
        assert server.stats()["requests"] == 0
    assert score.score is None
    assert score.reasoning == "no model call, tool, retrieval or function was recorded for this item"


def test_an_agent_is_judged_by_what_it_did(runs, tmp_path):
    """The agent and its judge on one server: the judge sees the tool's arguments, result and failure."""
    agent = [
        {
            "when": {
                "has_tool": "weather",
                "last_message_role": "user",
                "last_user_matches": r"in (?P<c>\w+)",
            },
            "reply": {"tool_calls": [{"name": "weather", "arguments": {"city": "$c"}}]},
        },
        {"when": {"last_message_role": "tool"}, "reply": "It says: $last"},
    ]
    steps = r"(?s)<steps \w+>\nstep 1: the model judge\n  gave: call of weather with .*Oslo.*step 2: "
    good = (
        steps
        + r'the tool weather\n  was given: \{"city": "Oslo"\}\n  gave: snow in Oslo\n\nstep 3: the model'
    )
    rules = [
        *agent,
        when(good, {"json": {"reasoning": "straight", "score": 5}}),
        when("(?s)<steps .*failed with: LookupError: no such city", {"json": {"score": 2}}),
    ]
    (runs.folder / "agent.py").write_text(AGENT)
    runs.data(("oslo", "weather in Oslo?", "snow"), ("sunk", "weather in Atlantis?", "none"))
    with stand_in(tmp_path, *rules, default="no rule") as server:
        content = {
            "general": {"modules": ["agent.py"]},
            "llms": {"main": {"_type": "openai", "model_name": "judge", "base_url": server.base_url}},
            "functions": {"weather": {"_type": "weather_of_the_test"}},
            "workflow": {"_type": "tool_calling_agent", "llm_name": "main", "tool_names": ["weather"]},
            "eval": {
                "general": {"output_dir": "out", "dataset": {"_type": "csv", "file_path": "data.csv"}},
                "evaluators": {"way": {"_type": "trajectory", "llm_name": "main"}},
            },
        }
        (runs.folder / "config.yml").write_text(yaml.safe_dump(content))
        done = runs.run()
        scores = (runs.out / "way_output.json").read_bytes()
        (runs.out / "way_output.json").unlink()  # so that the judge is asked again, about what was recorded
        (runs.folder / "labels.csv").write_text("id,score\noslo,5\nsunk,2\n")
        with pytest.raises(SystemExit) as left:
            main(["eval", "calibrate", "--config_file", "config.yml", "--labels", "labels.csv"])
        assert left.value.code == 0
        (runs.out / "way_output.json").write_bytes(scores)
    calibration = runs.json("calibration.json")
    assert (calibration["n"], calibration["scores_from"]) == (2, "judge")
    assert calibration["figures"]["agreement"]["value"] == 1
    items = {one["id"]: one for one in runs.json("way_output.json")["eval_output_items"]}
    assert done.returncode == 0, (done, items)
    assert items["oslo"]["score"] == 1
    assert items["sunk"]["score"] == pytest.approx(0.25)
