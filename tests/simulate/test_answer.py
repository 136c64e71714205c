import json

import pytest

from millstream.simulate.answer import plan_answer
from millstream.simulate.chat import parse_chat_request
from millstream.simulate.draws import Draw
from millstream.simulate.rules import Rules
from millstream.simulate.tokens import count_tokens
from millstream.simulate.wording import padding, stretch

SCHEMA = {
    "type": "object",
    "required": ["text", "kind", "parts", "n"],
    "properties": {
        "text": {"type": "string", "default": "costs $5"},
        "kind": {"enum": ["a", "b"]},
        "parts": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/part"}},
        "n": {"anyOf": [{"type": "integer", "minimum": 2}, {"type": "null"}]},
        "extra": {"type": "string"},
    },
    "$defs": {
        "part": {"type": "object", "required": ["ok", "self"], "properties": {"ok": {"type": "boolean"}}}
    },
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("check", "look_up")
]


def plan(rules, content="hi", *, times_seen=0, number=1, seed=0, **body):
    rules = rules if isinstance(rules, dict) else {"rules": rules}
    rules = Rules.model_validate({"models": {"m": None}, **rules})
    messages = [{"role": "user", "content": content}] if isinstance(content, str) else content
    request = parse_chat_request(json.dumps({"model": "m", "messages": messages, **body}).encode())
    return plan_answer(rules, request, Draw(seed, request.fingerprint, times_seen), number)


def model(**fields):
    return {"models": {"m": fields}}


def test_the_first_rule_that_fits_answers():
    rules = [
        {"when": {"last_user_matches": "bye"}, "reply": "one"},
        {"when": {"last_user_matches": "hi"}, "reply": "two"},
        {"reply": "three"},
    ]
    assert (plan(rules).content, plan(rules).rule) == ("two", "rule 2")
    assert plan(rules, "what?").content == "three"
    assert plan(rules[:1]).content == "This is the default answer of the stand-in model m."
    assert plan(rules[:1]).rule == "default"


@pytest.mark.parametrize(
    ("when", "fits"),
    [
        ({"model": "m*"}, True),
        ({"model": "[!n]"}, True),
        ({"system_contains": "polite"}, True),
        ({"system_contains": "rude"}, False),
        ({"last_message_role": "tool"}, True),
        ({"last_message_role": "user"}, False),
        ({"last_message_matches": "^sunny$"}, True),
        ({"last_user_matches": "sunny"}, False),
        ({"last_user_matches": "weather", "last_message_matches": "rain"}, False),
        ({"has_tool": "check"}, True),
        ({"has_tool": "cheque"}, False),
        ({"turn": 2}, True),
        ({"turn": [2, 5]}, True),
        ({"turn": [3, 5]}, False),
        ({"chance": 1}, True),
        ({"chance": 0}, False),
    ],
)
def test_each_condition(when, fits):
    call = {"id": "c", "type": "function", "function": {"name": "check", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be polite."},
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "c"},
    ]
    answer = plan([{"when": when, "reply": "yes"}], messages, tools=TOOLS)
    assert answer.rule == ("rule 1" if fits else "default")


def test_templates_take_named_groups_and_the_conversation():
    rules = [
        {
            "when": {"last_user_matches": r"\bin (?P<city>\w+)( or (?P<other>\w+))?"},
            "reply": "$city${other}: $user ($model, $turn) $$1",
        }
    ]
    assert plan(rules, "rain in Oslo?").content == "Oslo: rain in Oslo? (m, 1) $1"


def test_text_of_the_user_is_never_a_template():
    assert plan([{"reply": "you said $user"}], "$model ${turn} $$").content == "you said $model ${turn} $$"


def test_json_replies_and_arguments_stay_valid_whatever_the_user_writes():
    nasty = 'a "quote", a \\ and\na line'
    assert json.loads(plan([{"reply": {"json": {"seen": ["$user"], "n": 3}}}], nasty).content) == {
        "seen": [nasty],
        "n": 3,
    }
    rules = [{"reply": {"tool_calls": [{"name": "check", "arguments": {"text": "$user"}}]}}]
    answer = plan(rules, nasty, tools=TOOLS)
    assert json.loads(answer.tool_calls[0].arguments) == {"text": nasty}
    assert (answer.content, answer.finish_reason) == (None, "tool_calls")


def test_arguments_may_be_json_text_of_ones_own():
    rules = [
        {
            "when": {"last_user_matches": r"(?P<n>\d+)"},
            "reply": {"tool_calls": [{"name": "check", "arguments": '{"n": $n}'}]},
        }
    ]
    assert plan(rules, "take 7", tools=TOOLS).tool_calls[0].arguments == '{"n": 7}'


CHECK = {"tool_calls": [{"name": "check", "arguments": {"text": "$user"}}]}
PARALLEL = [
    {
        "reply": {
            "text": "Both.",
            "tool_calls": [{"name": "check", "arguments": {"a": 1}}, {"name": "look_up"}],
        }
    }
]


def test_several_calls_at_once_beside_text():
    answer = plan(PARALLEL, tools=TOOLS)
    assert answer.content == "Both."
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [
        ("check", '{"a": 1}'),
        ("look_up", "{}"),
    ]
    assert len({call.id for call in answer.tool_calls}) == 2


def test_parallel_calls_can_be_forbidden():
    assert [call.name for call in plan(PARALLEL, tools=TOOLS, parallel_tool_calls=False).tool_calls] == [
        "check"
    ]


def test_tools_that_are_not_offered_are_not_called():
    assert plan(PARALLEL).rule == "default"
    assert plan(PARALLEL, tools=TOOLS[:1]).rule == "default"
    assert plan(PARALLEL, tools=TOOLS, tool_choice="none").rule == "default"


def test_a_demanded_call_is_made_from_a_rule_or_from_the_schema():
    named = {"type": "function", "function": {"name": "look_up"}}
    rules = [{"reply": "words"}, {"reply": {"tool_calls": [{"name": "look_up", "arguments": {"q": 1}}]}}]
    assert plan(rules, tools=TOOLS, tool_choice=named).tool_calls[0].arguments == '{"q": 1}'
    answer = plan([{"reply": "words"}], tools=TOOLS, tool_choice="required")
    assert (answer.rule, answer.tool_calls[0].name) == ("schema", "check")
    assert json.loads(answer.tool_calls[0].arguments) == {
        "text": "costs $5",
        "kind": "a",
        "parts": [{"ok": False, "self": None}],
        "n": 2,
    }


def test_a_demanded_form_is_filled_from_its_schema_when_no_rule_answers():
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    assert json.loads(plan([], response_format=form).content)["kind"] == "a"
    assert plan([{"reply": "mine"}], response_format=form).content == "mine"


def test_a_schema_that_contains_itself_ends():
    loop = {"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": loop}}
    assert json.loads(plan([], response_format=form).content)["next"]["next"]["next"]


def test_wanted_calls_go_wrong_as_often_as_said():
    rules = {**model(tool_calling={"malformed": 0.2, "prose": 0.3}), "rules": PARALLEL}
    kinds = {"prose": 0, "malformed": 0, "good": 0}
    for seed in range(400):
        answer = plan(rules, tools=TOOLS, seed=seed)
        if not answer.tool_calls:
            kinds["prose"] += 1
            assert answer.content == "I would use check and look_up for this."
            assert answer.finish_reason == "stop"
            continue
        try:
            json.loads(answer.tool_calls[0].arguments)
            kinds["good"] += 1
        except ValueError:
            kinds["malformed"] += 1
    assert abs(kinds["prose"] / 400 - 0.3) < 0.07
    assert abs(kinds["malformed"] / 400 - 0.2) < 0.07


def test_the_words_in_place_of_a_call_can_be_given():
    rules = {
        **model(tool_calling={"prose": 1}),
        "rules": [{"reply": {"tool_calls": [{"name": "check"}], "prose": "Looks bad: $user"}}],
    }
    assert plan(rules, tools=TOOLS).content == "Looks bad: hi"


def test_picks_and_chances_follow_the_seed_the_text_and_the_repetition():
    rules = [{"reply": ["a", "b", "c", "d", "e", "f"]}]
    assert plan(rules).content == plan(rules).content
    assert len({plan(rules, seed=seed).content for seed in range(40)}) == 6
    assert len({plan(rules, times_seen=n).content for n in range(40)}) == 6
    assert plan(rules, stream=True).content == plan(rules).content


def test_max_tokens_cuts_text_and_calls():
    answer = plan([{"reply": "one two three four"}], max_tokens=2)
    assert (answer.content, answer.finish_reason, answer.completion_tokens) == ("one two", "length", 2)
    cut = plan(
        [{"reply": {"tool_calls": [{"name": "check", "arguments": {"text": "$user"}}]}}],
        tools=TOOLS,
        max_tokens=3,
    )
    assert (cut.tool_calls[0].arguments, cut.finish_reason) == ('{"text', "length")
    assert plan([{"reply": "one two"}], max_tokens=2).finish_reason == "stop"


def test_reasoning_tokens_count_against_max_tokens():
    rules = {
        **model(reasoning_tokens=5),
        "rules": [{"reply": {"text": "one two three", "reasoning_tokens": 2}}],
    }
    answer = plan(rules)
    assert (answer.reasoning_tokens, answer.completion_tokens) == (7, 10)
    answer = plan(rules, max_tokens=8)
    assert (answer.content, answer.reasoning_tokens, answer.finish_reason) == ("one", 7, "length")
    answer = plan(rules, max_completion_tokens=3)
    assert (answer.content, answer.completion_tokens, answer.finish_reason) == ("", 3, "length")


def test_stop_ends_the_text_before_it():
    answer = plan([{"reply": "Thought: x\nObservation: y\nEnd"}], stop=["\nEnd", "\nObservation"])
    assert (answer.content, answer.finish_reason) == ("Thought: x", "stop")


@pytest.mark.parametrize("factor", [0.25, 0.5, 1, 2, 5])
def test_verbosity_multiplies_the_length(factor):
    text = "This message asks for a password and threatens to close the account within a day."
    rules = {**model(verbosity=factor), "rules": [{"reply": text}]}
    answer = plan(rules)
    assert answer.completion_tokens == pytest.approx(count_tokens(text) * factor, abs=1)
    assert answer.content.endswith(text) if factor >= 1 else text.startswith(answer.content)


@pytest.mark.parametrize("factor", [0.6, 3])
def test_verbosity_keeps_json_valid(factor):
    value = {
        "bad": True,
        "why": "it asks for a password and wants it right now, which no bank does",
        "tag": "x",
    }
    rules = {**model(verbosity=factor), "rules": [{"reply": {"json": value}}]}
    answer = plan(rules)
    told = json.loads(answer.content)
    assert (told["bad"], told["tag"]) == (True, "x")
    assert answer.completion_tokens == pytest.approx(count_tokens(json.dumps(value)) * factor, rel=0.2)


def test_padding_of_a_given_length():
    assert [count_tokens(padding(n)) for n in range(300)] == list(range(300))
    assert padding(0) == ""
    lengths = {plan([{"reply": {"tokens": [10, 12]}}], seed=seed).completion_tokens for seed in range(50)}
    assert lengths == {10, 11, 12}
    assert stretch("", 3) == ""


def test_a_chunk_may_hold_several_tokens_but_the_first():
    rules = {**model(tokens_per_chunk=3), "rules": [{"reply": {"text": "a b c d e f", **CHECK}}]}
    answer = plan(rules, tools=TOOLS)
    assert [piece.text for piece in answer.pieces] == ["a", " b c d", " e f", "check", '{"text":', ' "hi"}']
    assert answer.completion_tokens == 6 + 1 + 6
    assert answer.content == "a b c d e f"
    assert plan(rules, tools=TOOLS, max_tokens=3).content == "a b c"


def test_errors_by_rule_by_number_and_by_chance():
    assert plan([{"reply": {"error": {"status": 503}}}]).failure.status == 503
    every = model(errors=[{"status": 500, "every": 3}])
    assert [plan(every, number=n).failure is not None for n in (1, 2, 3, 4, 5, 6)] == [False, False, True] * 2
    chance = model(errors=[{"fault": "reset", "probability": 0.25}])
    assert abs(sum(plan(chance, seed=seed).failure is not None for seed in range(400)) / 400 - 0.25) < 0.07


def test_a_failure_after_some_tokens_keeps_what_came_before():
    answer = plan([{"reply": {"text": "one two three", "error": {"fault": "reset", "after_tokens": 2}}}])
    assert [piece.text for piece in answer.pieces] == ["one", " two"]
    assert plan([{"reply": {"error": {"status": 500}}}]).pieces == []
