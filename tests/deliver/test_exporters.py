"""Exporters and processors from a workflow file: both forms, and what is wrong told with its place."""

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import msgspec
import pytest
import trustme
import yaml

from millstream import Redaction, SpanKind, Status
from millstream.deliver import plugins
from millstream.deliver.exporters import build, build_all
from millstream.deliver.file import FileSink
from millstream.deliver.options import Accepted
from millstream.deliver.processors import process
from millstream.deliver.sink import Sink
from millstream.errors import ConfigError, MissingExtraError
from millstream.record import faults
from millstream.record.processors.sampling import SamplingProcessor
from millstream.record.processors.tagging import TaggingProcessor
from millstream.span import Span, SpanError, SpanEvent, SpanLink

HERE = "general.telemetry.tracing.out"


def problems(section, **others):
    with pytest.raises(ConfigError) as caught:
        build_all({"out": section, **others})
    return str(caught.value).splitlines()


class Plugin:
    """A third party's exporter."""

    def __init__(self, *, url: str, retries: int = 3, batch_size: int = 7) -> None:
        if url == "bad":
            raise ValueError("the url is bad")
        if url == "extra":
            raise MissingExtraError("This exporter", "extra")
        self.given = (url, retries, batch_size)

    def send(self, batch):
        return [None] * len(batch)

    def close(self):
        pass


def no_exporter():
    return object()


def loose(**options):
    plugin = Plugin(url="loose")
    plugin.given = options
    return plugin


def fails(span):
    raise RuntimeError("a processor failed")


@pytest.fixture
def plugin(monkeypatch):
    """Installs plugins as packages do, by entry points."""
    known = plugins.available
    names = {"plugin": "Plugin", "no_exporter": "no_exporter", "loose": "loose", "gone": "is_not_there"}

    def available(group):
        ours = {name: EntryPoint(name, f"{__name__}:{value}", group) for name, value in names.items()}
        return {**known(group), **ours}

    monkeypatch.setattr(plugins, "available", available)


def test_both_forms_mean_the_same():
    flat = {
        "_type": "file",
        "path": "t.jsonl",
        "batch_size": 10,
        "processors": [{"_type": "sampling", "rate": 0.5}, "redaction"],
    }
    nested = {
        "type": "file_exporter",
        "config": {
            "file_path": "t.jsonl",
            "batch_size": 10,
            "processors": [{"type": "sampling", "config": {"rate": 0.5}}, {"type": "redaction"}],
        },
    }
    for section in (flat, nested):
        name, sink, policy, processors = build("out", section)
        assert (name, type(sink), str(sink.path), policy.batch_size) == ("out", FileSink, "t.jsonl", 10)
        assert [type(processor) for processor in processors] == [SamplingProcessor, Redaction]
        assert isinstance(sink, Sink)


def test_what_every_exporter_takes():
    options = {"batch_size": "20", "flush_interval": "0.5", "max_retries": 3, "shutdown_timeout": 4}
    policy = build("out", {"_type": "file", "path": "t", **options}).policy
    assert (policy.batch_size, policy.flush_interval_s, policy.shutdown_timeout_s) == (20, 0.5, 4.0)


@pytest.mark.parametrize(
    ("section", "lines"),
    [
        (
            "file",
            [f"{HERE}: a mapping with a _type is needed here, not 'file'; did you mean {{_type: file}}?"],
        ),
        (None, [f"{HERE}: a mapping with a _type is needed here, not nothing"]),
        ({"_type": 3}, [f"{HERE}._type: text is needed here, not 3"]),
        (
            {"type": "file", "config": ["t"]},
            [f"{HERE}.config: a mapping of keys is needed here, not a list"],
        ),
        (
            {"type": "file", "config": "t"},
            [f"{HERE}.config: a mapping of keys is needed here, not 't'"],
        ),
        ({"type": "file", "config": None}, [f"{HERE}: the key 'path' is missing"]),
        ({"path": "t"}, [f"{HERE}: the key '_type' is missing; it says which component this is"]),
        (
            {"_type": "otlp", "endpoint": "https://x", "tls": {"ca_file": 5, "insecure": "perhaps"}},
            [
                f"{HERE}: tls.ca_file: text is needed here, not a whole number; put it in quotes",
                f"{HERE}: tls.insecure: true or false is needed here, not 'perhaps'",
            ],
        ),
        (
            {"_type": "mlflow", "experiment_id": "abc"},
            [
                (
                    f"{HERE}.experiment_id: 'abc' is no id of an experiment, which is a number;"
                    " MLflow shows it on the experiment's page and in its address"
                )
            ],
        ),
        (
            {"_type": "fil", "path": "t"},
            [f"{HERE}._type: unknown exporter 'fil'; did you mean 'file'? Known: "],
        ),
        ({"_type": "file"}, [f"{HERE}: the key 'path' is missing"]),
        (
            {"type": "file", "config": {"path": "a"}, "path": "b"},
            [f"{HERE}: path is given both in config and beside it; keep one"],
        ),
        (
            {"_type": "file", "path": "t", "file_path": "u"},
            [f"{HERE}.file_path: it is another name of path, which is given too; keep one"],
        ),
        (
            {"_type": "file", "path": "t", "batchsize": 1},
            [f"{HERE}.batchsize: unknown key; did you mean 'batch_size'"],
        ),
        (
            {"_type": "file", "path": "t", "batch_size": "x"},
            [f"{HERE}.batch_size: a whole number is needed here, not 'x'"],
        ),
        (
            {"_type": "file", "path": "t", "batch_size": 0},
            [f"{HERE}.batch_size: a whole number >= 1 is needed here, not 0"],
        ),
        (
            {"_type": "file", "path": "t", "flush_interval": float("inf")},
            [f"{HERE}.flush_interval: a number <= 3600.0 is needed here, not inf"],
        ),
        ({"_type": "file", "path": ["t"]}, [f"{HERE}.path: a path is needed here, not a list"]),
        ({"_type": "file", "path": ""}, [f"{HERE}.path: a path is needed here"]),
        ({"_type": "file", "path": "/"}, [f"{HERE}.path: / is a folder; give a file"]),
        (
            {"_type": "file", "path": "t", "mode": "overwite"},
            [f"{HERE}.mode: 'overwite' is none of its values; did you mean 'overwrite'?"],
        ),
        (
            {"_type": "file", "path": "t", "enable_rolling": "perhaps", "max_files": True},
            [
                f"{HERE}.enable_rolling: true or false is needed here, not 'perhaps'",
                f"{HERE}.max_files: a whole number is needed here, not true",
            ],
        ),
        (
            {"_type": "file", "path": "t", "processors": "redaction"},
            [f"{HERE}.processors: a list is needed here"],
        ),
        (
            {"_type": "file", "paht": "t", "processors": ["redact", {"_type": "sampling", "rat": 1}, 3]},
            [
                f"{HERE}.processors.0._type: unknown processor 'redact'; did you mean 'redaction'? Known: ",
                f"{HERE}.processors.1.rat: unknown key; did you mean 'rate'? Known: rate",
                f"{HERE}.processors.1: the key 'rate' is missing",
                f"{HERE}.processors.2: a mapping with a _type is needed here, not 3",
                f"{HERE}.paht: unknown key; did you mean 'path'? Known: ",
                f"{HERE}: the key 'path' is missing",
            ],
        ),
        (
            {"_type": "file", "path": "t", "processors": [{"_type": "sampling", "rate": 2}]},
            [f"{HERE}.processors.0: sampling: rate must be a share from 0 to 1, not 2.0"],
        ),
        (
            {"_type": "file", "path": "t", "processors": [{"_type": "tagging", "tags": {}}]},
            [f"{HERE}.processors.0.tags: give at least one"],
        ),
        (
            {"_type": "file", "path": "t", "processors": [{"_type": "truncation", "max_length": 0}]},
            [f"{HERE}.processors.0.max_length: characters that a text may have, at least 1, not 0"],
        ),
        (
            {"_type": "file", "path": "t", "processors": [{"_type": "redaction", "patterns": ["("]}]},
            [f"{HERE}.processors.0: redaction: '(' is no regular expression"],
        ),
        (
            {"_type": "file", "path": "t", "processors": [{"_type": "redaction", "fields": [1]}]},
            [f"{HERE}.processors.0.fields.0: text is needed here, not a whole number; put it in quotes"],
        ),
    ],
)
def test_everything_that_is_wrong_is_told_with_its_place(section, lines):
    found = problems(section)
    assert len(found) == len(lines), found
    for line, beginning in zip(found, lines, strict=True):
        assert line.startswith(beginning)


NO_URL = "is no URL: it begins with http:// or https://, as in http://localhost"
FLYWHEEL = "data_flywheel_elasticsearch"


@pytest.mark.parametrize(
    ("section", "lines"),
    [
        (
            {
                "_type": FLYWHEEL,
                "client_id": "",
                "endpoint": "ftp://x",
                "index": "A",
                "contract_version": "9",
                "api_key": "a",
                "username": "b",
                "password": "c",
                "headers": {"a b": "x", "c": "x\ny"},
                "ca_certs": "/no/ca.pem",
                "ssl_assert_fingerprint": "ab",
            },
            [
                f"{HERE}: the key 'client_id' is missing; give it, or set the environment variable ELASTIC",
                f"{HERE}.contract_version: '9' is none of 1.0, 1.1",
                f"{HERE}: `index` 'A' is no name of an index",
                f"{HERE}: `endpoint` 'ftp://x' {NO_URL}:9200",
                f"{HERE}: `username` and `api_key` are two ways to say who asks",
                f"{HERE}: `headers`: 'a b' is no name of a header",
                f"{HERE}: `headers: c` holds characters that cannot stand in a header",
                f"{HERE}: `ssl_assert_fingerprint` is not a SHA-256 fingerprint",
                f"{HERE}: `ca_certs`: /no/ca.pem cannot be read",
            ],
        ),
        (
            {
                "_type": "elasticsearch",
                "index": "A",
                "endpoint": "htp://me:hunter2@x",
                "password": "x",
                "client_key": "k",
                "ca_certs": "/no/ca.pem",
            },
            [
                f"{HERE}: `index` 'A' is no name",
                f"{HERE}: `endpoint` 'htp://x' {NO_URL}:9200",
                f"{HERE}: `ca_certs`: /no/ca.pem cannot be read",
                f"{HERE}: `client_key` is given without `client_cert`",
            ],
        ),
        (
            {
                "_type": "otlp",
                "endpoint": "localhost:4318",
                "headers": {"a b": "x"},
                "tls": {"ca_flie": "x", "cert_file": "/no/cert.pem", "ca_file": "/no/ca.pem"},
            },
            [
                f"{HERE}: tls.ca_flie: unknown key; did you mean 'ca_file'?",
                f"{HERE}: tls.ca_file: /no/ca.pem cannot be read",
                f"{HERE}: tls.cert_file: /no/cert.pem cannot be read",
                f"{HERE}: `headers`: 'a b' is no name of a header",
                f"{HERE}: `endpoint` 'localhost:4318' {NO_URL}:4318",
            ],
        ),
        (
            {"_type": "otlp", "endpoint": "http://", "tls": {"ca_file": 3, "insecure": "perhaps"}},
            [
                f"{HERE}: tls.ca_file: text is needed here, not a whole number; put it in quotes",
                f"{HERE}: tls.insecure: true or false is needed here, not 'perhaps'",
                f"{HERE}: `endpoint` 'http://' names no server: write its host, as in http://localhost:4318",
            ],
        ),
        (
            {"_type": "langsmith", "api_key": "k", "endpoint": "http://"},
            [f"{HERE}: `endpoint` 'http:///otel' names no server"],
        ),
        (
            {"_type": "langfuse", "endpoint": "cloud.langfuse.com"},
            [
                f"{HERE}: public_key is missing: give it, or set LANGFUSE_PUBLIC_KEY",
                f"{HERE}: secret_key is missing: give it, or set LANGFUSE_SECRET_KEY",
                f"{HERE}: `endpoint` 'cloud.langfuse.com/api/public/otel' is no URL: it begins with",
            ],
        ),
        (
            {"_type": "langsmith", "headers": {"a b": "x"}},
            [
                f"{HERE}: api_key is missing: give it, or set LANGSMITH_API_KEY",
                f"{HERE}: `headers`: 'a b' is no name of a header",
            ],
        ),
        (
            {"_type": "mlflow", "username": "ann", "endpoint": "localhost:5000"},
            [
                f"{HERE}: username is given without password",
                f"{HERE}: `endpoint` 'localhost:5000' {NO_URL}:5000",
            ],
        ),
        ({"_type": "phoenix", "endpoint": "x:6006"}, [f"{HERE}: `endpoint` 'x:6006' {NO_URL}:6006"]),
        (
            {"_type": "otlp", "protocol": "grpc", "endpoint": "htp://x"},
            [f"{HERE}: `endpoint` 'htp://x' {NO_URL}:4317"],
        ),
        (
            {"_type": "otlp", "endpoint": "http://x", "headers": {"x": 3, "good": "text", "y": None}},
            [
                f"{HERE}.headers.x: text is needed here, not a whole number; put it in quotes",
                f"{HERE}.headers.y: text is needed here, not nothing",
            ],
        ),
    ],
)
def test_everything_that_is_wrong_with_one_is_told_together(section, lines, monkeypatch):
    for name in (
        "ELASTICSEARCH_CLIENT_ID",
        "LANGFUSE_PUBLIC_KEY",
        "LANGFUSE_SECRET_KEY",
        "LANGSMITH_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    found = problems(section)
    assert len(found) == len(lines), found
    for line, beginning in zip(found, lines, strict=True):
        assert line.startswith(beginning)
    assert "hunter2" not in str(found)


def test_a_folder_that_holds_no_certificates(tmp_path):
    section = {"_type": "elasticsearch", "endpoint": "https://x", "index": "a", "ca_certs": str(tmp_path)}
    said = [f"{HERE}: `ca_certs`: {tmp_path} holds no usable certificate (PEM)"]
    assert problems(section) == said
    (tmp_path / "ca.pem").write_text("a file that is no certificate")
    (tmp_path / "5ed36f99.0").write_text("")
    assert problems(section) == said
    trustme.CA().cert_pem.write_to_path(tmp_path / "one.txt")
    build("out", section).sink.close()


def test_the_options_of_delivery_hide_nothing_of_the_sink():
    found = problems({"_type": "file", "path": "/", "batch_size": 0})
    assert found == [
        f"{HERE}.batch_size: a whole number >= 1 is needed here, not 0",
        f"{HERE}.path: / is a folder; give a file in it",
    ]


def test_names_that_cannot_be_files():
    with pytest.raises(ConfigError, match=r"tracing\.a/b: 'a/b' names files; use letters"):
        build_all({"a/b": {"_type": "file", "path": "t"}})


def test_two_that_write_one_file():
    (line,) = problems({"_type": "file", "path": "t"}, other={"_type": "file", "path": "./t"})
    assert line == "general.telemetry.tracing.other.path: out writes to t already"


def test_all_problems_of_all_exporters():
    lines = problems({"_type": "file"}, other={"_type": "none"})
    assert len(lines) == 2
    assert lines[1].startswith("general.telemetry.tracing.other._type: unknown exporter 'none'")


def test_a_third_party_plugs_in(plugin):
    sink, policy = build("out", {"_type": "plugin", "url": "u", "retries": "5"})[1:3]
    assert sink.given == ("u", 5, 7)
    assert policy.batch_size != 7
    sink, policy = build("out", {"_type": "plugin", "url": "u", "batch_size": 9})[1:3]
    assert (sink.given, policy.batch_size) == (("u", 3, 9), 9)
    assert build("out", {"_type": "loose", "anything": {"a": 1}}).sink.given["anything"] == {"a": 1}


def test_a_third_party_that_is_wrong(plugin):
    assert problems({"_type": "plugin", "url": "bad"}) == [f"{HERE}: ValueError: the url is bad"]
    (line,) = problems({"_type": "no_exporter"})
    assert line == f"{HERE}: the plugin 'no_exporter' made a object, which has no send()"
    (line,) = problems({"_type": "gone"})
    assert line.startswith(f"{HERE}: the entry point 'gone'")
    assert "repair or uninstall" in line
    with pytest.raises(MissingExtraError, match=r"pip install 'millstream\[extra\]'"):
        build("out", {"_type": "plugin", "url": "extra"})


def test_no_secret_is_shown():
    (line,) = problems({"_type": "file", "path": "t", "password": "hunter2"})
    assert "hunter2" not in line


# What processors do to what is sent


def span(**fields):
    return Span("a" * 32, "b" * 16, None, "call", SpanKind.LLM, 1, 2, Status.OK, **fields)


def test_processors_run_in_turn_and_one_may_drop():
    tag, keep = TaggingProcessor(tags={"team": "search"}), SamplingProcessor(rate=0)
    assert process(span(), [tag]).span.attributes == {"team": "search"}
    assert process(span(), [tag, keep, fails]) == (None, None)


def test_one_that_raises_leaves_no_content(monkeypatch):
    monkeypatch.setattr(faults, "strict", False)
    secret = {"secret": "secret"}
    one = span(
        error=SpanError("ValueError", "secret"),
        input="secret",
        output=["secret"],
        attributes={"gen_ai.request.model": "small", "user": "secret"},
        events=[SpanEvent("secret", 1, secret)],
        links=[SpanLink("c" * 32, "d" * 16, secret)],
    )
    sent, fault = process(one, [fails])
    assert fault == "fails raised RuntimeError"
    assert b"secret" not in msgspec.json.encode(sent)
    assert (sent.span_id, sent.error.type, sent.status) == (one.span_id, "ValueError", Status.OK)
    assert sent.attributes == {"gen_ai.request.model": "small", "millstream.incomplete": True}
    assert list(faults.counts) == ["a processor of an exporter raised; its span was sent without content"]


# The page


PAGE = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text(encoding="utf-8")


def test_the_example_of_the_page_is_right():
    (example, *_) = re.findall(r"## Exporters\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    built = build_all(yaml.safe_load(example)["general"]["telemetry"]["tracing"])
    assert [(one.name, len(one.processors)) for one in built] == [("everything", 0), ("some", 2)]


@pytest.mark.parametrize("name", ["file", "redaction", "tagging", "sampling", "truncation"])
def test_every_option_is_on_the_page(name):
    known = plugins.available(plugins.EXPORTERS) | plugins.available(plugins.PROCESSORS)
    for option in Accepted(known[name].load()).names:
        assert f"`{option}`" in PAGE, option
