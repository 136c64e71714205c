import re
import textwrap

import pytest

from millstream.errors import ConfigError
from millstream.simulate.rules import load_rules


def write(tmp_path, text):
    path = tmp_path / "rules.yml"
    path.write_text(textwrap.dedent(text))
    return path


def test_short_forms(tmp_path):
    rules = load_rules(
        write(
            tmp_path,
            """
            models: {small: }
            rules:
              - {when: {turn: 2}, reply: hello}
              - reply: [yes indeed, not so]
            default: {tokens: 20}
            """,
        ),
    )
    assert rules.models["small"].verbosity == 1
    assert rules.rules[0].reply.text == "hello"
    assert rules.rules[0].when.turn == (2, 2)
    assert rules.default.tokens == (20, 20)


def test_a_list_of_texts_must_be_texts(tmp_path):
    with pytest.raises(ConfigError, match=r"rules\.0\.reply"):
        load_rules(write(tmp_path, "{models: {m: }, rules: [{reply: [true]}]}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {m: {latenzy: {}}}", "models.m.latenzy: unknown key; did you mean 'latency'?"),
        ("{models: {m: }, rules: [{wen: {}, reply: x}]}", "rules.0.wen: unknown key; did you mean 'when'?"),
        (
            "{models: {m: }, rules: [{reply: {txt: x}}]}",
            "rules.0.reply.txt: unknown key; did you mean 'text'?",
        ),
        ("models: {}", "models: a mapping of keys with at least 1 key is needed here, not 0"),
        ("rules: []", "the key 'models' is missing"),
        ("- models", "needs a mapping with the key 'models'"),
        ("", "needs a mapping with the key 'models'"),
        ("models: {m: [}", "line 1, column"),
        ("models: {m: {latency: {jitter: -1}}}", "models.m.latency.jitter"),
        ("models: {m: {latency: {time_to_first_token_s: .inf}}}", "models.m.latency.time_to_first_token_s"),
        ("models: {m: {tool_calling: {malformed: 0.7, prose: 0.7}}}", "together are more than 1"),
        ("models: {m: {errors: [{status: 500}]}}", "give one of probability (0 to 1) and every"),
        ("models: {m: {errors: [{every: 2}]}}", "give one of status (400 to 599) and fault"),
        ("models: {m: {errors: [{status: 200, every: 2}]}}", "models.m.errors.0.status"),
        ("{models: {m: }, rules: [{reply: {text: a, json: {}}}]}", "give only one of text and json"),
        ("{models: {m: }, rules: [{reply: {}}]}", "give one of text, json, tokens, tool_calls and error"),
        ("{models: {m: }, rules: [{reply: {text: a, error: {status: 500}}}]}", "with its after_tokens"),
        (
            "{models: {m: }, rules: [{when: {last_user_matches: '('}, reply: a}]}",
            "rules.0.when.last_user_matches",
        ),
        ("{models: {m: }, rules: [{when: {model: n*}, reply: a}]}", "'n*' fits none of the models (m)"),
        ("{models: {m: }, rules: [{reply: 'for $name'}]}", "the reply names $name, which is none of"),
        ("{models: {m: }, rules: [{reply: {json: {a: ['$b']}}}]}", "the reply names $b"),
        ("{models: {m: }, default: 'costs $ 5'}", "write $$ for a dollar sign"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_rules(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=re.escape(f"there is no rules file {tmp_path / 'none.yml'}")):
        load_rules(tmp_path / "none.yml")


def test_a_folder_and_bytes_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rules(tmp_path)
    (tmp_path / "rules.yml").write_bytes(b"models: \xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_rules(tmp_path / "rules.yml")


def test_named_groups_of_a_rule_are_its_placeholders(tmp_path):
    text = r"""
        models: {m: }
        rules:
          - when: {last_user_matches: '(?P<a>\d)', last_message_matches: '(?P<b>x)'}
            reply: $a $b $user $$5
        """
    assert load_rules(write(tmp_path, text)).rules[0].reply.text == "$a $b $user $$5"
