"""`router_agent` and `sequential_executor`, over a real model server."""

import pytest

from millstream.errors import ConfigError, InputError, WorkflowError
from millstream.workflow import load_config, open_workflow
from millstream.workflow.agents.router import chosen_name
from millstream.workflow.checks import check_config

PARTS = '''
def shout(text: str) -> str:
    """Shouts."""
    return text.upper()

def count(text: str) -> int:
    """Counts letters."""
    return len(text)

def double(number: int) -> int:
    return number * 2

def pair(number: int) -> dict:
    return {"first": number, "second": str(number)}

def join(first: int, second: str) -> str:
    return f"{first}/{second}"

def fail(text: str) -> str:
    raise ValueError("no")
'''
FUNCTIONS = """
functions:
""" + "".join(
    f"  {name}: {{_type: python, target: 'parts.py:{name}'}}\n"
    for name in ("shout", "count", "double", "pair", "join", "fail")
)
ROUTER = FUNCTIONS + "workflow: {_type: router_agent, llm_name: able, branches: [shout, count]}\n"


async def run(path, message, *overrides):
    async with open_workflow(load_config(path, overrides)) as workflow:
        return await workflow.run(message)


def shape(spans):
    by_id = {span.span_id: span for span in spans}
    return [(s.kind.value, s.name, by_id[s.parent_id].name if s.parent_id else None) for s in spans]


async def test_the_model_chooses_one_function(write, llms, spans):
    path = write(llms + ROUTER, parts=PARTS)
    assert await run(path, "route to count please") == 21
    assert shape(spans()) == [
        ("WORKFLOW", "router_agent", None),
        ("LLM", "able", "router_agent"),
        ("FUNCTION", "count", "router_agent"),
    ]
    asked = spans()[1].input
    assert asked[0]["content"].startswith("Choose which one of these")
    assert "shout: Shouts.\ncount: Counts letters.\n" in asked[0]["content"]
    assert asked[1] == {"role": "user", "content": "route to count please"}


async def test_an_unknown_choice_is_told_once(write, llms, spans):
    path = write(llms + ROUTER, parts=PARTS)
    assert await run(path, "route to nobody") == "ROUTE TO NOBODY"
    names = [name for _, name, _ in shape(spans())]
    assert names == ["router_agent", "able", "able", "shout"]
    assert "none of them" in spans()[2].input[-1]["content"]
    assert "shout, count" in spans()[2].input[-1]["content"]


async def test_a_second_unknown_choice_fails(write, llms, spans):
    path = write(llms + ROUTER, parts=PARTS)
    with pytest.raises(WorkflowError, match=r"chose 'nobody', which is not exactly one of shout, count"):
        await run(path, "route to count", ("workflow.system_prompt", "Be stubborn"))
    assert [name for _, name, _ in shape(spans())] == ["router_agent", "able", "able"]


async def test_the_system_prompt_comes_first(write, llms, spans):
    path = write(llms + ROUTER, parts=PARTS)
    await run(path, "route to count", ("workflow.system_prompt", "You are a porter."))
    assert spans()[1].input[0]["content"].startswith("You are a porter.\n\nChoose which one")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("count", "count"),
        (" **Count**.\n", "count"),
        ("I choose `shout`, since it is loud.", "shout"),
        ("shout or count", None),
        ("counting", None),
        ("count-all", None),
        ("", None),
        ("shout. shout!", "shout"),
    ],
)
def test_what_a_model_chose(text, name):
    assert chosen_name(text, ["shout", "count"]) == name


def test_names_that_are_in_each_other():
    assert chosen_name("calc.add", ["calc", "calc.add"]) == "calc.add"
    assert chosen_name("use calc.add here", ["calc", "calc.add"]) == "calc.add"
    assert chosen_name("A", ["A", "a"]) == "A"


def sequence(names):
    return FUNCTIONS + f"workflow: {{_type: sequential_executor, tool_list: [{names}]}}\n"


async def test_each_step_gets_what_the_one_before_gave(write, spans):
    path = write(sequence("shout, count, double, pair, join"), parts=PARTS)
    assert await run(path, "four") == "8/8"
    assert shape(spans()) == [
        ("WORKFLOW", "sequential_executor", None),
        *[("FUNCTION", name, "sequential_executor") for name in ("shout", "count", "double", "pair", "join")],
    ]
    assert [span.input for span in spans()][2:5] == [{"text": "FOUR"}, {"number": 4}, {"number": 8}]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "count, shout",
            r"step 2 of 2 \(shout\) cannot take what count gave: .*text: Input should be a valid str",
        ),
        ("double, count", r"step 1 of 2 \(double\) cannot take the input: .*number: .*valid integer"),
        ("shout, join", r"step 2 of 2 \(join\) cannot take what shout gave: join needs first, second"),
    ],
)
async def test_what_a_step_cannot_take_is_told_with_its_name(write, names, message):
    with pytest.raises(InputError, match=message):
        await run(write(sequence(names), parts=PARTS), "four")


async def test_a_step_that_fails_ends_the_sequence(write, spans):
    with pytest.raises(ValueError, match="no"):
        await run(write(sequence("shout, fail, count"), parts=PARTS), "four")
    assert [(span.name, span.status.value) for span in spans()] == [
        ("sequential_executor", "error"),
        ("shout", "ok"),
        ("fail", "error"),
    ]


@pytest.mark.parametrize("kind", ["sequential_executor", "router_agent, llm_name: able"])
def test_validate_checks_whom_they_name(write, llms, kind):
    text = llms + FUNCTIONS + f"workflow: {{_type: {kind}, tool_names: [shuot]}}"
    with pytest.raises(ConfigError, match=r"workflow.tool_names: there is no functions.shuot; did you mean"):
        check_config(load_config(write(text, parts=PARTS)))
    with pytest.raises(
        ConfigError, match=r"workflow.tool_names: a list with at least 1 entry is needed here"
    ):
        check_config(load_config(write(text.replace("[shuot]", "[]"), parts=PARTS)))
    with pytest.raises(ConfigError, match=r"workflow: the key 'tool_names' is missing"):
        check_config(load_config(write(text.replace(", tool_names: [shuot]", ""), parts=PARTS)))


@pytest.mark.parametrize(
    ("kind", "other"),
    [("router_agent, llm_name: able", "branches"), ("sequential_executor", "tool_list")],
)
def test_two_keys_that_mean_the_same_are_told(write, llms, kind, other):
    text = llms + FUNCTIONS + f"workflow: {{_type: {kind}, tool_names: [shout], {other}: [count]}}"
    with pytest.raises(
        ConfigError, match=rf"^workflow: {other} is another name of tool_names; give one of them$"
    ):
        check_config(load_config(write(text, parts=PARTS)))
    wrong = text.replace("tool_names: [shout], ", "").replace(f"{other}:", f"{other[:-1]}:")
    with pytest.raises(
        ConfigError, match=rf"workflow\.{other[:-1]}: unknown key; did you mean '{other}'\? Known: "
    ):
        check_config(load_config(write(wrong, parts=PARTS)))


CIRCLES = """
functions:
  shout: {_type: python, target: 'parts.py:shout'}
  a: {_type: A}
  b: {_type: B}
workflow: {_type: sequential_executor, tool_names: [shout, a]}
"""


@pytest.mark.parametrize(
    ("a", "b", "circle"),
    [
        (
            "sequential_executor, tool_list: [a]",
            "sequential_executor, tool_list: [shout]",
            "a -> functions.a",
        ),
        (
            "router_agent, llm_name: able, branches: [shout, b]",
            "tool_calling_agent, llm_name: able, tool_names: [a]",
            "a -> functions.b -> functions.a",
        ),
    ],
)
def test_validate_and_run_name_a_circle_in_the_same_words(write, llms, millstream, a, b, circle):
    path = str(write(llms + CIRCLES.replace("A}", f"{a}}}").replace("B}", f"{b}}}"), parts=PARTS))
    checked = millstream("validate", "--config_file", path)
    ran = millstream("run", "--config_file", path, "--input", "x")
    words = f"millstream: {path}: components need each other in a circle: functions.{circle}\n"
    assert (checked.returncode, checked.stderr) == (2, words)
    assert (ran.returncode, ran.stderr) == (2, words)


def test_functions_that_several_need_are_no_circle(write):
    steps = "{{_type: sequential_executor, tool_names: [{}]}}".format
    text = FUNCTIONS + f"  a: {steps('shout, b')}\n  b: {steps('shout')}\nworkflow: {steps('a, b, shout')}\n"
    check_config(load_config(write(text, parts=PARTS)))
