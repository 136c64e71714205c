import pytest

from millstream.workflow.agents.react_text import Action, FinalAnswer, Malformed, parse_turn

TOOLS = ["search", "Look_up"]


@pytest.mark.parametrize(
    ("text", "tool", "arguments"),
    [
        ('Thought: x\nAction: search\nAction Input: {"q": "a"}', "search", {"q": "a"}),
        ('action: SEARCH\naction input: {"q": "a"}\nObservation: made up', "search", {"q": "a"}),
        ('**Action:** `look_up`\n**Action Input:** {"q": 1}', "Look_up", {"q": 1}),
        ('Action: [search]\nAction Input:\n```json\n{"q": "a"}\n```', "search", {"q": "a"}),
        ('Action: search\nAction Input: {"q": "a"} and then I wait', "search", {"q": "a"}),
        ('Action: search\nAction Input: {"q": "a\nb"}', "search", {"q": "a\nb"}),
        ("Action: search\nAction Input: plain words", "search", "plain words"),
        ('Action: search\nAction Input: "quoted"', "search", "quoted"),
        ("Action: search\nAction Input:", "search", ""),
        ("Action: search\nAction Input: 42", "search", 42),
        ('Action: search\nAction Input: {"q": "a"}\nFinal Answer: too early', "search", {"q": "a"}),
    ],
)
def test_actions(text, tool, arguments):
    turn = parse_turn(text, TOOLS)
    assert isinstance(turn, Action)
    assert (turn.tool, turn.arguments) == (tool, arguments)
    assert "made up" not in turn.kept
    assert "too early" not in turn.kept


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Thought: done\nFinal Answer: 42", "42"),
        ("**Final answer**: many\nlines", "many\nlines"),
        ("final_answer: x\nAction: search\nAction Input: y", "x\nAction: search\nAction Input: y"),
    ],
)
def test_answers(text, answer):
    assert parse_turn(text, TOOLS) == FinalAnswer(answer)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "neither an 'Action:' nor a 'Final Answer:'"),
        ("My action is good", "neither an 'Action:'"),
        ("Action: dance\nAction Input: {}", "There is no tool 'dance'"),
        ("Action: search", "'Action Input:' is missing"),
    ],
)
def test_what_is_neither(text, problem):
    turn = parse_turn(text, TOOLS)
    assert isinstance(turn, Malformed)
    assert problem in turn.problem
