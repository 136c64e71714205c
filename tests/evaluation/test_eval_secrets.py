"""`--override` may hold keys and passwords; no file of an evaluation does."""

import json

import pytest

from millstream.evaluation.metadata import masked_overrides

MASK = "********"


@pytest.mark.parametrize(
    ("path", "text", "kept"),
    [
        ("llms.main.api_key", "sk-SECRET", MASK),
        ("llms.main.api_key", "${MY_KEY}", "${MY_KEY}"),
        ("llms.main.api_key", "null", "null"),
        ("llms.main.headers.X-Auth", "SECRET", MASK),
        ("llms.main.default_headers.X.Other", "SECRET", MASK),
        ("llms.main.api_key.0", "SECRET", MASK),
        ("llms.main.headers", "{X-Auth: SECRET}", "{X-Auth: '********'}"),
        ("llms.main", "{api_key: SECRET, model_name: able}", "{api_key: '********', model_name: able}"),
        ("llms", "[{deep: {password: SECRET}}]", "[{deep: {password: '********'}}]"),
        ("llms.main.base_url", "http://user:SECRET@host/v1", "http://user:********@host/v1"),
        ("llms.main.base_url", "http://host/${API_TOKEN:-SECRET}", "http://host/${API_TOKEN:-}"),
        ("llms.main.temperature", "0.10", "0.10"),
        ("eval.general.output_dir", "out", "out"),
        ("llms.main.max_tokens", "5", "5"),
    ],
)
def test_what_is_kept_of_an_override(path, text, kept):
    assert masked_overrides([(path, text)]) == [[path, kept]]


def test_no_file_holds_the_key_of_an_override(runs):
    content = {
        "llms": {"main": {"_type": "openai", "model_name": "m", "base_url": "http://127.0.0.1:9/v1"}},
        "workflow": {"_type": "python", "target": "flow.py:answer"},
        "eval": {"general": {"output_dir": "out", "dataset": {"_type": "csv", "file_path": "data.csv"}}},
    }
    (runs.folder / "config.yml").write_text(json.dumps(content))
    runs.data(("a", "one", "ONE"))
    secrets = ("sk-SECRETKEY", "SECRETPW", "SECRETHEADER")
    done = runs.run(
        *("--override", "llms.main.api_key", secrets[0]),
        *("--override", "llms.main.base_url", f"http://user:{secrets[1]}@127.0.0.1:9/v1"),
        *("--override", "llms.main.default_headers", f"{{X-Auth: {secrets[2]}}}"),
    )
    assert done.returncode == 0, done.stderr
    for path in runs.out.rglob("*"):
        if path.is_file():
            assert not [secret for secret in secrets if secret.encode() in path.read_bytes()], path
    assert len(runs.json("config_metadata.json")["overrides"]) == 3
