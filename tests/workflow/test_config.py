import re
from pathlib import Path

import pytest

from millstream.errors import ConfigError
from millstream.workflow import load_config
from millstream.workflow.environment import expand
from millstream.workflow.secrets import is_secret_key, is_secret_variable, masked


def error_of(path, *overrides, **options):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"- a\n", "holds a list, not a mapping"),
        (b"llms: [1\nworkflow: 2\n", "line 2, column 9 is not valid YAML"),
        (
            b"workflow:\n  _type: a\nworkflow:\n  _type: b\n",
            "line 3, column 1.*the key 'workflow' is given twice",
        ),
        (b"workflow: {_type: \xff}\n", r"is not UTF-8 text \(byte 18\)"),
        (
            b"workflow: {_type: !!python/object/apply:os.system [x]}\n",
            "is not valid YAML: could not determine",
        ),
        (b"workflows: {_type: a}\n", "workflows: unknown section; did you mean 'workflow'?"),
        (b"llms: {a: {model_name: x}}\n", "llms.a: the key '_type' is missing"),
        (b"llms: {a: 3}\n", "llms.a: a mapping with a _type is needed here, not 3"),
        (b"functions: 3\n", "functions: a mapping of keys is needed here, not 3"),
        (b"general: {module: [a.py]}\n", "general.module: unknown key; did you mean 'modules'?"),
        (b"general: {modules: a.py}\n", "general.modules: a list is needed here, not 'a.py'"),
    ],
)
def test_a_bad_file_is_told_by_place_and_reason(tmp_path, content, message):
    path = tmp_path / "flow.yml"
    path.write_bytes(content)
    text = error_of(path)
    assert str(path) in text
    assert re.search(message, text)


def test_a_missing_file_and_a_folder(tmp_path):
    assert "there is no file" in error_of(tmp_path / "no.yml")
    assert "is a folder" in error_of(tmp_path)


def test_merge_keys_may_be_overridden(write):
    config = load_config(write("functions: {a: &a {_type: x, k: 1}, b: {<<: *a, k: 2}, c: {<<: *a, k: 3}}"))
    assert config.functions["b"] == {"_type": "x", "k": 2}


def test_both_forms_of_a_component_mean_the_same(write):
    one = load_config(write("llms: {a: {_type: nim, model_name: m}}\nworkflow: {_type: w, k: 1}"))
    two = load_config(
        write("llms: {a: {type: nim, config: {model_name: m}}}\nworkflow: {type: w, config: {k: 1}}")
    )
    assert one.raw == two.raw
    evaluators = (
        "eval: {general: {dataset: {type: csv, config: {file_path: x}}}, evaluators: {e: {type: regex}}}"
    )
    config = load_config(write(evaluators))
    assert config.eval["general"]["dataset"] == {"_type": "csv", "file_path": "x"}
    assert config.eval["evaluators"] == {"e": {"_type": "regex"}}
    assert "is given both in config and beside it" in error_of(
        write("workflow: {type: w, config: {k: 1}, k: 2}")
    )


def test_environment_variables_expand_in_strings(write):
    path = write(
        'functions: {a: {_type: x, t: "<${ONE}> ${TWO:-two} ${EMPTY:-full} $${ONE} $5 $$", n: ["${ONE}"]}}'
    )
    config = load_config(path, environ={"ONE": "1", "EMPTY": ""})
    assert config.functions["a"] == {"_type": "x", "t": "<1> two full ${ONE} $5 $$", "n": ["1"]}


def test_all_missing_variables_are_named_with_their_places(write):
    text = error_of(
        write("llms: {a: {_type: x, k: '${ONE}', l: [0, '${TWO}']}, b: {_type: '${a b}'}}"), environ={}
    )
    assert "has 3 problems" in text
    assert "llms.a.k: the environment variable ONE is not set" in text
    assert "llms.a.l.1: the environment variable TWO is not set" in text
    assert "llms.b._type: ${a b} is not a variable" in text


def test_an_override_replaces_a_missing_variable_and_is_parsed_as_yaml(write):
    path = write("llms: {gpt-4.1: {_type: openai, base_url: '${MISSING}', stop: [a, b]}}")
    config = load_config(
        path,
        [
            ("llms.gpt-4.1.base_url", "http://x/v1"),
            ("llms.gpt-4.1.stop.1", "[c, 4]"),
            ("llms.gpt-4.1.temperature", "0.5"),
        ],
        environ={},
    )
    assert config.llms["gpt-4.1"] == {
        "_type": "openai",
        "base_url": "http://x/v1",
        "stop": ["a", ["c", 4]],
        "temperature": 0.5,
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("llm.a.k", "the file has no key 'llm'; did you mean 'llms'?"),
        ("llms.b.k", "llms has no key 'b'; known: main"),
        ("llms.main.stop.7", "llms.main.stop is a list with indexes 0 to 0, not '7'"),
        ("llms.main.k.z", "llms.main.k is a single value and has no 'z'"),
        ("llms..k", "write keys with dots between them"),
        (
            "llms.main.init.greeting",
            "no key 'init'; to add it give the mapping: --override llms.main.init '{greeting: 1}'",
        ),
    ],
)
def test_an_override_that_leads_nowhere(write, override, message):
    text = error_of(write("llms: {main: {_type: x, k: 1, stop: [a]}}"), (override, "1"))
    assert message in text


def test_an_override_with_bad_yaml(write):
    text = error_of(write("workflow: {_type: x}"), ("workflow.k", "it's: [1"))
    assert "the value of --override workflow.k" in text
    quoted = """"'it''s: [1'\""""
    assert text.endswith(f"; a text with signs of YAML needs quotes of YAML too: {quoted}")
    config = load_config(write("workflow: {_type: x}"), [("workflow.k", "'it''s: [1'")])
    assert config.workflow["k"] == "it's: [1"


def test_secrets_are_masked_in_what_is_written_down(write):
    path = write(
        """
        llms:
          a: {_type: openai, api_key: sk-1, headers: {X-Id: me}, max_tokens: 7, base_url: "http://u:pw@h/v1"}
          b: {_type: openai, api_key: "${MY_KEY}", base_url: "http://${HOST}/v1", note: "${MY_TOKEN:-sk-2}"}
        eval: {general: {profiler: {token_usage_forecast: true}}}
        """
    )
    environ = {"MY_KEY": "sk-3", "HOST": "here"}
    config = load_config(path, environ=environ)
    assert config.llms["b"]["api_key"] == "sk-3"
    assert config.raw_effective["llms"] == {
        "a": {
            "_type": "openai",
            "api_key": "********",
            "headers": {"X-Id": "********"},
            "max_tokens": 7,
            "base_url": "http://u:********@h/v1",
        },
        "b": {
            "_type": "openai",
            "api_key": "${MY_KEY}",
            "base_url": "http://here/v1",
            "note": "${MY_TOKEN:-}",
        },
    }
    assert config.raw_effective["eval"] == {"general": {"profiler": {"token_usage_forecast": True}}}
    assert "sk-" not in repr(config.raw_effective)


def test_what_is_written_down_expands_to_the_same_again():
    value, shown = expand({"t": "$${X} ${Y}"}, {"Y": "${Z}"})
    assert value == {"t": "${X} ${Z}"}
    assert expand(shown, {})[0] == value


@pytest.mark.parametrize(
    "key", ["api_key", "apiKey", "password", "hf_token", "Authorization", "client_secret", "headers"]
)
def test_keys_of_secrets(key):
    assert is_secret_key(key)


@pytest.mark.parametrize(
    "key", ["max_tokens", "token_usage_forecast", "author", "base_url", "id_key", "question_key"]
)
def test_keys_that_only_look_so(key):
    assert not is_secret_key(key)


def test_variables_of_secrets():
    assert all(map(is_secret_variable, ["OPENAI_API_KEY", "HF_TOKEN", "DB_PASSWORD", "KEY", "SECRET_NAME"]))
    assert not any(map(is_secret_variable, ["HOME", "OPENAI_BASE_URL", "MODEL", "KEYBOARD"]))


def test_only_the_sections_that_are_needed_are_looked_at(write):
    path = write("llms: {a: {_type: openai, api_key: '${MISSING}'}}\neval: {general: {}}")
    config = load_config(path, sections=("eval",), environ={})
    assert config.eval == {"general": {}}
    assert config.llms == {}


def test_exporters_have_two_forms(write):
    flat = "general: {telemetry: {tracing: {out: {_type: file, path: x, processors: [redaction]}}}}"
    nested = """
general:
  telemetry:
    tracing:
      out:
        type: file
        config:
          path: x
          processors: [redaction]
"""
    for text in (flat, nested):
        tracing = load_config(write(text)).general.telemetry.tracing
        assert tracing == {"out": {"_type": "file", "path": "x", "processors": ["redaction"]}}
    assert load_config(write("general: {telemetry: {tracing: {}}}")).general.telemetry.tracing == {}
    for written, shown in (
        ("file", "'file'; did you mean {_type: file}?"),
        ("[file]", "a list"),
        ("", "nothing"),
    ):
        path = write(f"general: {{telemetry: {{tracing: {{out: {written}}}}}}}")
        assert error_of(path) == (
            f"{path}: general.telemetry.tracing.out: a mapping with a _type is needed here, not {shown}"
        )


def test_secrets_of_exporters_are_not_written_down(write):
    section = "{_type: otlp, endpoint: 'http://me:hunter2@host', password: hunter2, headers: {a: hunter2}}"
    config = load_config(write(f"general: {{telemetry: {{tracing: {{out: {section}}}}}}}"))
    assert "hunter2" not in str(config.raw_effective)


WRONG = ("[]", "[1]", "x", "5", "true", "1.5", "{a: b}", "", "{a: [1]}", "[[1]]", "''", ".nan", "2026-01-01")
PLACES = (
    "general: {}",
    "general: {{workflow_name: {}}}",
    "general: {{modules: {}}}",
    "general: {{modules: [{}]}}",
    "general: {{telemetry: {}}}",
    "general: {{telemetry: {{tracing: {}}}}}",
    "general: {{telemetry: {{tracing: {{a: {}}}}}}}",
    "general: {{telemetry: {{logging: {}}}}}",
    "general: {{telemetry: {{logging: {{a: {}}}}}}}",
    "general: {{telemetry: {{logging: {{a: {{_type: {}}}}}}}}}",
    "general: {{telemetry: {{logging: {{a: {{_type: file, path: x, level: {}}}}}}}}}",
    "general: {{telemetry: {{logging: {{a: {{_type: file, path: {}}}}}}}}}",
    "general: {{telemetry: {{journal: {}}}}}",
    "general: {{telemetry: {{journal: {{max_bytes: {}}}}}}}",
    "general: {{telemetry: {{journal: {{max_age_s: {}}}}}}}",
    "llms: {}",
    "functions: {{a: {}}}",
    "workflow: {}",
    "eval: {}",
)
JARGON = (
    "pydantic",
    "dictionary",
    "instance of",
    "nput should",
    "string",
    "integer",
    "NoneType",
    "class '",
    "Config",
)


@pytest.mark.parametrize("place", PLACES)
def test_wrong_values_are_told_once_in_the_words_of_a_file(write, place):
    for wrong in WRONG:
        path = write(place.format(wrong))
        try:
            load_config(path)
        except ConfigError as error:
            (line,) = str(error).replace(str(path), "FILE").splitlines()  # one problem
            assert not [word for word in JARGON if word in line], line


def test_limits_of_the_journal(write):
    limits = "general: {telemetry: {journal: {max_bytes: 1000, max_age_s: 3600}}}"
    journal = load_config(write(limits)).general.telemetry.journal
    assert (journal.max_bytes, journal.max_age_s) == (1000, 3600)
    for written, max_bytes in (
        ("2GiB", 2 << 30),
        ("500 MB", 500_000_000),
        ("1.5 mb", 1_500_000),
        ("1.5kib", 1536),
        ("'77'", 77),
    ):
        text = f"general: {{telemetry: {{journal: {{max_bytes: {written}}}}}}}"
        assert load_config(write(text)).general.telemetry.journal.max_bytes == max_bytes
    for written in ("2 lemons", "2,5GB", "-1MB", "true", "[1]", "{}", "1.5", "0kb"):
        error_of(write(f"general: {{telemetry: {{journal: {{max_bytes: {written}}}}}}}"))
    text = error_of(write("general: {telemetry: {journal: {max_bytes: 0, max_age: 1}}}"))
    assert "general.telemetry.journal.max_bytes: a number >= 1 is needed here" in text
    assert "general.telemetry.journal.max_age: unknown key; did you mean 'max_age_s'?" in text


@pytest.mark.parametrize(
    ("general", "said"),
    [
        ("[]", "general: a mapping of keys is needed here, not a list"),
        ("{workflow_name: 3}", "workflow_name: text is needed here, not 3; put it in quotes"),
        (
            "{workflow_name: 2026-11-28}",
            "workflow_name: text is needed here, not the date 2026-11-28; put it",
        ),
        ("{workflow_name: ' '}", "workflow_name: a name is needed here, but it is ' '"),
        ("{modules: [3]}", "modules.0: text is needed here, not 3; put it in quotes"),
        ("{telemetry: x}", "telemetry: a mapping of keys is needed here, not 'x'"),
        ("{telemetry: {journal: []}}", "journal: a mapping of keys is needed here, not a list"),
        ("{telemetry: {journal: 2GiB}}", "journal: a mapping of keys is needed here, not '2GiB'"),
        ("{telemetry: {journal: {max_bytes: 1.5}}}", "max_bytes: a whole number is needed here, not 1.5"),
        (
            "{telemetry: {journal: {max_bytes: lots}}}",
            "max_bytes: 'lots' is no amount; write 2GiB (units: kb, mb, gb, tb, kib, mib, gib, tib)",
        ),
        ("{telemetry: {journal: {max_bytes: true}}}", "max_bytes: 'true' is no amount; write 2GiB"),
        ("{telemetry: {journal: {max_age_s: .inf}}}", "max_age_s: a finite number is needed here, not inf"),
        ("{telemetry: {tracing: file}}", "tracing: a mapping of keys is needed here, not 'file'"),
        ("{telemetry: {logging: {a: {_type: file, path: 3}}}}", "path: a path is needed here, not 3"),
        ("{telemetry: {logging: {a: {_type: file, path: ''}}}}", "path: the path of a file is needed here"),
    ],
)
def test_each_problem_is_one_plain_sentence(write, general, said):
    path = write(f"general: {general}")
    text = error_of(path)
    assert said in text
    assert "\n" not in text
    assert not re.search(r"input should|valid|instance of|Config|NoneType|class", text)


@pytest.mark.parametrize(
    ("yaml", "name"),
    [
        ("workflow: {_type: react_agent}", "react_agent"),
        ("workflow: {_type: python, target: 'app.py:graph'}", "graph"),
        ("general: {workflow_name: mine}\nworkflow: {_type: python, target: 'app.py:graph'}", "mine"),
        ("eval: {}", "workflow"),
    ],
)
def test_the_name_of_a_workflow(write, yaml, name):
    assert load_config(write(yaml)).name == name


@pytest.mark.parametrize(
    ("logging", "message"),
    [
        ("{a: {_type: file}}", "logging.a: a file needs a path"),
        ("{a: {_type: console, path: x}}", "logging.a: the console has no path"),
        ("{a: {_type: syslog}}", "logging.a._type: 'syslog' is none of its values; known: console, file"),
        ("{a: {_type: console, level: loud}}", "logging.a.level: 'LOUD' is none of its values; known: C"),
    ],
)
def test_bad_logging(write, logging, message):
    assert message in error_of(write(f"general: {{telemetry: {{logging: {logging}}}}}"))


def test_paths_of_the_config_are_kept(write):
    path = write("workflow: {_type: x}")
    assert load_config(path).directory == path.parent
    assert isinstance(load_config(str(path)).path, Path)


def test_a_password_in_a_url_is_masked_with_and_without_a_user():
    assert masked("https://user:hidden@host/x") == "https://user:********@host/x"
    assert masked("https://:hidden@host/x") == "https://:********@host/x"
    assert masked("https://host:8080/x@y") == "https://host:8080/x@y"
